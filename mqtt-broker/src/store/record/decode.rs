//! Bytes to records: whatever the bytes are, a record or an error.

use mqtt_proto::packet::{Properties, Property, SubscriptionOptions};
use mqtt_proto::types::{Qos, SharedFilter, TopicName};

use super::wire::{Fault, Reader};
use super::{Identifiers, KINDS_PER_VERSION, Record, RecordError, VERSION, flag, kind};
use crate::message::MessageRef;
use crate::store::cold::{CHUNK_HEAD, Chunk, Place};

const NUMBER: &str = "number of a message";

impl<'a> Record<'a> {
    /// The record of this kind that `bytes` are, by reference.
    ///
    /// # Errors
    /// [`RecordError`] says in what they are none.
    pub fn decode(kind: u8, bytes: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let mut reader = Reader::new(bytes);
        let record = match read(kind, &mut reader) {
            Some(record) => record,
            None if kind / KINDS_PER_VERSION >= VERSION => {
                return Err(RecordError::Newer { kind, version: kind / KINDS_PER_VERSION + 1 });
            }
            None => return Err(RecordError::NoSuchKind { kind }),
        };
        match record {
            Ok(record) if reader.is_empty() => Ok(record),
            Ok(_) | Err(Fault::Length) => Err(RecordError::Length { kind }),
            Err(Fault::Field(field)) => Err(RecordError::Field { kind, field }),
        }
    }
}

/// `None` for a kind that there is not.
fn read<'a>(kind: u8, reader: &mut Reader<'a>) -> Option<Result<Record<'a>, Fault>> {
    Some(match kind {
        kind::STARTED..=kind::AGAIN => read_general(kind, reader),
        kind::OPENED..=kind::UNSUBSCRIBED | kind::WILL | kind::WILL_REMOVED => read_session(kind, reader),
        kind::ENQUEUED..=kind::COMPLETED => read_delivery(kind, reader),
        kind::RETAINED => Ok(Record::Retained),
        kind::RETAINED_REMOVED => {
            topic(reader).map(|topic| Record::RetainedRemoved { topic: topic.as_str() })
        }
        kind::HAND_ON..=kind::HANDLED => read_handing_on(kind, reader),
        kind::GROUP_BEGUN => read_begun(reader),
        kind::GROUP_QUEUED | kind::GROUP_TAKEN => read_group(kind, reader),
        kind::PARKED | kind::TAKEN | kind::MOVED => read_parked(kind, reader),
        _ => return None,
    })
}

fn read_general<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    Ok(match kind {
        kind::STARTED => Record::Started { at: reader.number()? },
        kind::TIME => Record::Time { at: reader.number()? },
        kind::MESSAGE => return message(reader),
        _ => Record::Again { number: reader.number_u32(NUMBER)? },
    })
}

fn read_session<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    let client_id = client_id(reader)?;
    Ok(match kind {
        kind::OPENED => {
            Record::Opened { client_id, expiry_seconds: expiry(reader)?, next_packet_id: reader.packet_id()? }
        }
        kind::EXPIRY => Record::Expiry { client_id, expiry_seconds: expiry(reader)? },
        kind::CLOSED => Record::Closed { client_id, at: reader.number()? },
        kind::ENDED => Record::Ended { client_id },
        kind::SUBSCRIBED => Record::Subscribed {
            client_id,
            filter: filter(reader)?,
            options: SubscriptionOptions::from_byte(reader.byte()?)
                .ok_or(Fault::Field("Subscription Options byte"))?,
            identifier: Identifiers::decode_one(reader)?,
        },
        kind::UNSUBSCRIBED => Record::Unsubscribed { client_id, filter: filter(reader)? },
        kind::WILL => Record::Will {
            client_id,
            delay_seconds: reader.number_u32("Will Delay Interval")?,
            expiry_seconds: match reader.is_empty() {
                true => None,
                false => Some(reader.number_u32("Message Expiry Interval")?),
            },
        },
        _ => Record::WillRemoved { client_id },
    })
}

fn read_delivery<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    let client_id = client_id(reader)?;
    if kind == kind::ENQUEUED {
        const FLAGS: u8 = flag::QOS | flag::RETAIN | flag::SENT;
        let flags = reader.byte()?;
        let qos = Qos::from_bits(flags & flag::QOS).filter(|&qos| qos != Qos::AtMostOnce);
        let qos = qos.filter(|_| flags & !FLAGS == 0).ok_or(Fault::Field("byte of flags"))?;
        return Ok(Record::Enqueued {
            client_id,
            qos,
            retain: flags & flag::RETAIN != 0,
            packet_id: (flags & flag::SENT != 0).then(|| reader.packet_id()).transpose()?,
            identifiers: Identifiers::decode(reader.rest())?,
        });
    }
    if kind == kind::DROPPED {
        return Ok(Record::Dropped { client_id, place: reader.number_u32("place in a queue")? });
    }
    let packet_id = reader.packet_id()?;
    Ok(match kind {
        kind::SENT => Record::Sent { client_id, packet_id },
        kind::ACKNOWLEDGED => Record::Acknowledged { client_id, packet_id },
        kind::RELEASED => Record::Released { client_id, packet_id },
        kind::RECEIVED => Record::Received { client_id, packet_id },
        _ => Record::Completed { client_id, packet_id },
    })
}

fn read_handing_on<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    Ok(match kind {
        kind::HAND_ON => Record::HandOn { number: counted(reader)? },
        kind::HANDED_ON => Record::HandedOn { number: number(reader)? },
        _ => Record::Handled { core: core(reader)?, number: number(reader)? },
    })
}

fn read_begun<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    Ok(Record::GroupBegun { core: core(reader)?, number: counted(reader)? })
}

fn read_group<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    const FIELD: &str = "shared group";
    let group = reader.text(FIELD)?;
    if !SharedFilter::new(group).is_ok_and(|shared| shared.share_name.is_some()) {
        return Err(Fault::Field(FIELD));
    }
    let number = counted(reader)?;
    Ok(match kind {
        kind::GROUP_QUEUED => Record::GroupQueued { group, number },
        _ => Record::GroupTaken { group, number },
    })
}

fn read_parked<'a>(kind: u8, reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    let client_id = client_id(reader)?;
    let counted = |reader: &mut Reader<'a>| {
        const FIELD: &str = "number of messages";
        Some(reader.number_u32(FIELD)?).filter(|&count| count > 0).ok_or(Fault::Field(FIELD))
    };
    if kind == kind::TAKEN {
        return Ok(Record::Taken { client_id, count: counted(reader)? });
    }
    const FIELD: &str = "place in a file";
    let number = |reader: &mut Reader<'a>| {
        Some(reader.number()?).filter(|&number| number <= u64::MAX / 2).ok_or(Fault::Field(FIELD))
    };
    let place = |reader: &mut Reader<'a>| Ok(Place { file: number(reader)?, offset: number(reader)? });
    let from = place(reader)?;
    if kind == kind::MOVED {
        return Ok(Record::Moved { client_id, from, to: place(reader)? });
    }
    let (Place { file, offset }, bytes) = (from, reader.number_u32(FIELD)?);
    if (bytes as usize) <= CHUNK_HEAD {
        return Err(Fault::Field(FIELD));
    }
    Ok(Record::Parked { client_id, chunk: Chunk { file, offset, bytes, messages: counted(reader)? } })
}

fn client_id<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
    reader.text("ClientID")
}

fn expiry(reader: &mut Reader<'_>) -> Result<u32, Fault> {
    reader.number_u32("Session Expiry Interval")
}

fn core(reader: &mut Reader<'_>) -> Result<u16, Fault> {
    reader.number_u16("core")
}

/// A number of those that a core counts from 1 on, or 0 for none. None gets so high that the next could not be told.
fn number(reader: &mut Reader<'_>) -> Result<u64, Fault> {
    Some(reader.number()?).filter(|&number| number <= u64::MAX / 2).ok_or(Fault::Field(NUMBER))
}

/// The same where there is one.
fn counted(reader: &mut Reader<'_>) -> Result<u64, Fault> {
    Some(number(reader)?).filter(|&number| number > 0).ok_or(Fault::Field(NUMBER))
}

fn filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, Fault> {
    const FIELD: &str = "Topic Filter";
    let filter = reader.text(FIELD)?;
    SharedFilter::new(filter).map(|_| filter).map_err(|_| Fault::Field(FIELD))
}

fn topic<'a>(reader: &mut Reader<'a>) -> Result<TopicName<'a>, Fault> {
    const FIELD: &str = "Topic Name";
    TopicName::new(reader.text(FIELD)?).map_err(|_| Fault::Field(FIELD))
}

fn message<'a>(reader: &mut Reader<'a>) -> Result<Record<'a>, Fault> {
    const FLAGS: &str = "byte of flags";
    let flags = reader.byte()?;
    let qos = Qos::from_bits(flags & flag::QOS).filter(|_| flags & 0x80 == 0).ok_or(Fault::Field(FLAGS))?;
    let has = |flag| flags & flag != 0;
    let expires_at = has(flag::EXPIRES).then(|| reader.number()).transpose()?;
    let publisher = match has(flag::PUBLISHER) {
        true => Some(reader.number_u32("publisher")?).filter(|&hash| hash != 0).ok_or(Fault::Field(FLAGS))?,
        false => 0,
    };
    let topic = topic(reader)?;
    let properties = match has(flag::PROPERTIES) {
        true => properties(reader.bytes()?)?,
        false => &[],
    };
    let retain = has(flag::RETAIN);
    let message = MessageRef { topic, properties, payload: reader.rest(), qos, retain, expires_at };
    Ok(Record::Message { message, publisher, shared: has(flag::SHARED) })
}

/// Properties of the kinds that are forwarded, and nothing else: they go to Clients as they are.
fn properties(wire: &[u8]) -> Result<&[u8], Fault> {
    let mut seen = 0u64;
    let lens = Properties::from_wire(wire).iter().map(|property| {
        let bit = 1 << property.id() as u8;
        let is_first = seen & bit == 0;
        seen |= bit;
        match property {
            Property::UserProperty(name, value) => Some(5 + name.len() + value.len()),
            Property::PayloadFormatIndicator(_) if is_first => Some(2),
            Property::ContentType(text) | Property::ResponseTopic(text) if is_first => Some(3 + text.len()),
            Property::CorrelationData(data) if is_first => Some(3 + data.len()),
            _ => None,
        }
    });
    // Reading them ends at the first byte that is no property: then they are shorter together.
    let len: Option<usize> = lens.sum();
    match len {
        Some(len) if len == wire.len() && len > 0 => Ok(wire),
        _ => Err(Fault::Field("list of properties")),
    }
}
