//! Records to bytes.

use super::wire::{put_bytes, put_number};
use super::{Record, flag, kind};
use crate::message::MessageRef;

impl Record<'_> {
    /// Its kind, which the log keeps beside its bytes.
    pub fn kind(&self) -> u8 {
        match self {
            Record::Started { .. } => kind::STARTED,
            Record::Time { .. } => kind::TIME,
            Record::Message { .. } => kind::MESSAGE,
            Record::Again { .. } => kind::AGAIN,
            Record::Opened { .. } => kind::OPENED,
            Record::Expiry { .. } => kind::EXPIRY,
            Record::Closed { .. } => kind::CLOSED,
            Record::Ended { .. } => kind::ENDED,
            Record::Subscribed { .. } => kind::SUBSCRIBED,
            Record::Unsubscribed { .. } => kind::UNSUBSCRIBED,
            Record::Enqueued { .. } => kind::ENQUEUED,
            Record::Sent { .. } => kind::SENT,
            Record::Dropped { .. } => kind::DROPPED,
            Record::Acknowledged { .. } => kind::ACKNOWLEDGED,
            Record::Released { .. } => kind::RELEASED,
            Record::Received { .. } => kind::RECEIVED,
            Record::Completed { .. } => kind::COMPLETED,
            Record::Will { .. } => kind::WILL,
            Record::WillRemoved { .. } => kind::WILL_REMOVED,
            Record::Retained => kind::RETAINED,
            Record::RetainedRemoved { .. } => kind::RETAINED_REMOVED,
            Record::HandOn { .. } => kind::HAND_ON,
            Record::HandedOn { .. } => kind::HANDED_ON,
            Record::Handled { .. } => kind::HANDLED,
            Record::GroupQueued { .. } => kind::GROUP_QUEUED,
            Record::GroupBegun { .. } => kind::GROUP_BEGUN,
            Record::GroupTaken { .. } => kind::GROUP_TAKEN,
            Record::Parked { .. } => kind::PARKED,
            Record::Taken { .. } => kind::TAKEN,
            Record::Moved { .. } => kind::MOVED,
        }
    }

    /// Appends its bytes, all but its kind.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Record::Started { at } | Record::Time { at } => put_number(out, at),
            Record::Message { ref message, publisher, shared } => {
                put_message(out, message, publisher, shared)
            }
            Record::Again { number } => put_number(out, number.into()),
            Record::Opened { client_id, expiry_seconds, next_packet_id } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, expiry_seconds.into());
                put_number(out, next_packet_id.get().into());
            }
            Record::Expiry { client_id, expiry_seconds } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, expiry_seconds.into());
            }
            Record::Closed { client_id, at } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, at);
            }
            Record::Ended { client_id } | Record::WillRemoved { client_id } => {
                put_bytes(out, client_id.as_bytes());
            }
            Record::Subscribed { client_id, filter, options, identifier } => {
                put_bytes(out, client_id.as_bytes());
                put_bytes(out, filter.as_bytes());
                out.push(options.to_byte());
                put_number(out, identifier.into());
            }
            Record::Unsubscribed { client_id, filter } => {
                put_bytes(out, client_id.as_bytes());
                put_bytes(out, filter.as_bytes());
            }
            Record::Enqueued { client_id, qos, retain, identifiers, packet_id } => {
                put_bytes(out, client_id.as_bytes());
                out.push(
                    qos.bits() | flag_if(retain, flag::RETAIN) | flag_if(packet_id.is_some(), flag::SENT),
                );
                if let Some(packet_id) = packet_id {
                    put_number(out, packet_id.get().into());
                }
                identifiers.encode(out);
            }
            Record::Sent { client_id, packet_id }
            | Record::Acknowledged { client_id, packet_id }
            | Record::Released { client_id, packet_id }
            | Record::Received { client_id, packet_id }
            | Record::Completed { client_id, packet_id } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, packet_id.get().into());
            }
            Record::Dropped { client_id, place } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, place.into());
            }
            Record::Will { client_id, delay_seconds, expiry_seconds } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, delay_seconds.into());
                if let Some(expiry_seconds) = expiry_seconds {
                    put_number(out, expiry_seconds.into());
                }
            }
            Record::Retained => {}
            Record::RetainedRemoved { topic } => put_bytes(out, topic.as_bytes()),
            Record::HandOn { number } | Record::HandedOn { number } => put_number(out, number),
            Record::Handled { core, number } | Record::GroupBegun { core, number } => {
                put_number(out, core.into());
                put_number(out, number);
            }
            Record::GroupQueued { group, number } | Record::GroupTaken { group, number } => {
                put_bytes(out, group.as_bytes());
                put_number(out, number);
            }
            Record::Parked { client_id, chunk } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, chunk.file);
                put_number(out, chunk.offset);
                put_number(out, chunk.bytes.into());
                put_number(out, chunk.messages.into());
            }
            Record::Taken { client_id, count } => {
                put_bytes(out, client_id.as_bytes());
                put_number(out, count.into());
            }
            Record::Moved { client_id, from, to } => {
                put_bytes(out, client_id.as_bytes());
                for place in [from, to] {
                    put_number(out, place.file);
                    put_number(out, place.offset);
                }
            }
        }
    }
}

fn put_message(out: &mut Vec<u8>, message: &MessageRef<'_>, publisher: u32, shared: bool) {
    out.push(
        message.qos.bits()
            | flag_if(message.retain, flag::RETAIN)
            | flag_if(!message.properties.is_empty(), flag::PROPERTIES)
            | flag_if(message.expires_at.is_some(), flag::EXPIRES)
            | flag_if(publisher != 0, flag::PUBLISHER)
            | flag_if(shared, flag::SHARED),
    );
    if let Some(expires_at) = message.expires_at {
        put_number(out, expires_at);
    }
    if publisher != 0 {
        put_number(out, publisher.into());
    }
    put_bytes(out, message.topic.as_bytes());
    if !message.properties.is_empty() {
        put_bytes(out, message.properties);
    }
    out.extend_from_slice(message.payload);
}

fn flag_if(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}
