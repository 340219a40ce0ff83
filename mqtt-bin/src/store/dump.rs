//! `mqttd store dump-log`: the records of the log, one a line.

use std::fmt::Write as _;
use std::io;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use mqtt_broker::message::MessageRef;
use mqtt_broker::runtime::{LogRead, OfflineStore};
use mqtt_broker::store::record::Record;
use mqtt_proto::types::Qos;

use super::{Output, Place, count, failure, progress, written};
use crate::serve::Failure;

/// Which records.
#[derive(Debug, Args)]
pub(crate) struct DumpFlags {
    #[command(flatten)]
    place: Place,
    /// Of this core alone, counted from 0 [default: all cores]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u16>)]
    core: Option<u16>,
    /// From the record with this number on
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1,
        allow_negative_numbers = true,
        value_parser = number::<u64>
    )]
    from: u64,
    /// Up to the record with this number [default: the last one]
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = u64::MAX,
        hide_default_value = true,
        allow_negative_numbers = true,
        value_parser = number::<u64>
    )]
    to: u64,
}

/// Bytes of a payload that are shown.
const SHOWN: usize = 64;

fn number<T: FromStr>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|_| "expected a whole number of 0 or more")
}

pub(super) fn run(flags: &DumpFlags) -> Result<(), Failure> {
    if flags.from > flags.to {
        let DumpFlags { from, to, .. } = flags;
        return Err(Failure::start(format_args!(
            "--from {from} is behind --to {to}: give the lower number first"
        )));
    }
    let store = flags.place.open()?;
    let mut output = Output::new();
    let records = Arc::new(AtomicU64::new(0));
    let bar = output.leaves_room().then(|| progress::counting("reading", "records", Arc::clone(&records)));
    let cores = flags.core.map_or(0..store.cores(), |core| core..core.saturating_add(1));
    let mut damage = 0;
    for core in cores {
        let (log, told) = dump(&store, core, flags, &mut output, &records).map_err(failure)?;
        damage += log.damage.len();
        let told = told.and_then(|()| rest(core, &log, &mut output));
        if told.is_err() {
            return written(told);
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    written(output.end())?;
    match damage {
        0 => Ok(()),
        damage => Err(Failure::damage(format_args!(
            "the log is damaged in {}: `mqttd store check` says what to do",
            count(damage, "place")
        ))),
    }
}

/// Prints the records of a core. Nothing more is read once they cannot be printed.
fn dump(
    store: &OfflineStore,
    core: u16,
    flags: &DumpFlags,
    output: &mut Output,
    records: &AtomicU64,
) -> Result<(LogRead, io::Result<()>), mqtt_broker::runtime::StoreError> {
    let mut told = Ok(());
    let log = store.read_log(core, flags.from, |number, record| {
        if number > flags.to {
            return ControlFlow::Break(());
        }
        records.fetch_add(1, Ordering::Relaxed);
        let text = record.map_or_else(|error| format!("cannot be read: {error}"), |record| describe(&record));
        told = output.line(format_args!("{core} {number} {text}"));
        if told.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok((log, told))
}

/// What is at the end, and what is wrong.
fn rest(core: u16, log: &LogRead, output: &mut Output) -> io::Result<()> {
    for damage in &log.damage {
        output.line(format_args!("{core} - damaged: {damage}"))?;
    }
    if let Some(torn) = log.torn {
        let (segment, offset, bytes) = (torn.segment, torn.offset, torn.bytes);
        output.line(format_args!(
            "{core} - torn: segment {segment}, byte {offset}: {bytes} bytes were not finished"
        ))?;
    }
    Ok(())
}

/// A record in words: its kind, then its fields.
fn describe(record: &Record<'_>) -> String {
    match *record {
        Record::Started { at } => format!("Started at={at}"),
        Record::Time { at } => format!("Time at={at}"),
        Record::Message { message, publisher, .. } => describe_message(&message, publisher),
        Record::Again { number } => format!("Again number={number}"),
        Record::Opened { client_id, expiry_seconds, next_packet_id } => {
            let next = next_packet_id.get();
            format!("Opened client={client_id:?} expiry_seconds={expiry_seconds} next_packet_id={next}")
        }
        Record::Expiry { client_id, expiry_seconds } => {
            format!("Expiry client={client_id:?} expiry_seconds={expiry_seconds}")
        }
        Record::Closed { client_id, at } => format!("Closed client={client_id:?} at={at}"),
        Record::Ended { client_id } => format!("Ended client={client_id:?}"),
        Record::Subscribed { client_id, filter, options, identifier } => {
            let mut text =
                format!("Subscribed client={client_id:?} filter={filter:?} qos={}", options.qos.bits());
            for (flag, name) in
                [(options.no_local, "no_local"), (options.retain_as_published, "retain_as_published")]
            {
                if flag {
                    text.extend([" ", name]);
                }
            }
            put(
                &mut text,
                "retain_handling",
                (options.retain_handling as u8 > 0).then_some(options.retain_handling as u8),
            );
            put(&mut text, "identifier", (identifier > 0).then_some(identifier));
            text
        }
        Record::Unsubscribed { client_id, filter } => {
            format!("Unsubscribed client={client_id:?} filter={filter:?}")
        }
        Record::Enqueued { client_id, qos, retain, identifiers, packet_id } => {
            let mut text = format!("Enqueued client={client_id:?} {}", delivered(qos, retain));
            put(&mut text, "packet_id", packet_id.map(|id| id.get()));
            for identifier in identifiers.iter() {
                put(&mut text, "identifier", Some(identifier));
            }
            text
        }
        Record::Dropped { client_id, place } => format!("Dropped client={client_id:?} place={place}"),
        Record::Sent { client_id, packet_id } => of_packet("Sent", client_id, packet_id.get()),
        Record::Acknowledged { client_id, packet_id } => {
            of_packet("Acknowledged", client_id, packet_id.get())
        }
        Record::Released { client_id, packet_id } => of_packet("Released", client_id, packet_id.get()),
        Record::Received { client_id, packet_id } => of_packet("Received", client_id, packet_id.get()),
        Record::Completed { client_id, packet_id } => of_packet("Completed", client_id, packet_id.get()),
        Record::Will { client_id, delay_seconds, expiry_seconds } => {
            let mut text = format!("Will client={client_id:?} delay_seconds={delay_seconds}");
            put(&mut text, "expiry_seconds", expiry_seconds);
            text
        }
        Record::WillRemoved { client_id } => format!("WillRemoved client={client_id:?}"),
        Record::Retained => "Retained".to_owned(),
        Record::RetainedRemoved { topic } => format!("RetainedRemoved topic={topic:?}"),
        Record::HandOn { number } => format!("HandOn number={number}"),
        Record::HandedOn { number } => format!("HandedOn number={number}"),
        Record::Handled { core, number } => format!("Handled core={core} number={number}"),
        Record::GroupQueued { group, number } => format!("GroupQueued group={group:?} number={number}"),
        Record::GroupBegun { core, number } => format!("GroupBegun core={core} number={number}"),
        Record::GroupTaken { group, number } => format!("GroupTaken group={group:?} number={number}"),
        Record::Parked { client_id, chunk } => {
            let (file, offset, bytes, messages) = (chunk.file, chunk.offset, chunk.bytes, chunk.messages);
            format!(
                "Parked client={client_id:?} file={file} offset={offset} bytes={bytes} messages={messages}"
            )
        }
        Record::Taken { client_id, count } => format!("Taken client={client_id:?} count={count}"),
        Record::Moved { client_id, from, to } => format!(
            "Moved client={client_id:?} file={} offset={} to_file={} to_offset={}",
            from.file, from.offset, to.file, to.offset
        ),
    }
}

fn of_packet(kind: &str, client_id: &str, packet_id: u16) -> String {
    format!("{kind} client={client_id:?} packet_id={packet_id}")
}

fn delivered(qos: Qos, retain: bool) -> String {
    format!("qos={}{}", qos.bits(), if retain { " retain" } else { "" })
}

fn put(text: &mut String, name: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        let _ = write!(text, " {name}={value}");
    }
}

fn describe_message(message: &MessageRef<'_>, publisher: u32) -> String {
    let mut text =
        format!("Message topic={:?} {}", message.topic.as_str(), delivered(message.qos, message.retain));
    put(&mut text, "expires_at", message.expires_at);
    put(&mut text, "publisher", (publisher > 0).then_some(publisher));
    put(&mut text, "property_bytes", Some(message.properties.len()).filter(|&bytes| bytes > 0));
    let payload = message.payload;
    let shown = &payload[..payload.len().min(SHOWN)];
    put(&mut text, "payload_bytes", Some(payload.len()));
    let _ = write!(text, " payload=\"{}\"", shown.escape_ascii());
    if shown.len() < payload.len() {
        text.push_str("...");
    }
    text
}
