//! `mqttd store import`: lines to a store that begins with what they say.
//!
//! Invariant: all lines are right and are in the store, or there is no store.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use clap::Args;
use mqtt_broker::CoreId;
use mqtt_broker::runtime::OfflineStore;
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::types::PacketId;

use super::line::{self, Line};
use super::{Output, Place, count, failure, progress, written};
use crate::serve::Failure;

/// What to import, and how.
#[derive(Debug, Args)]
pub(crate) struct ImportFlags {
    #[command(flatten)]
    place: Place,
    /// What `mqttd store export` wrote
    file: PathBuf,
    /// Lays the store out for so many cores; a broker with another number deals it out anew
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = cores)]
    cores: u16,
}

fn cores(text: &str) -> Result<u16, String> {
    let possible = |cores: &u16| (1..=CoreId::MAX).contains(&usize::from(*cores));
    text.parse().ok().filter(possible).ok_or_else(|| format!("expected a number of 1 to {}", CoreId::MAX))
}

pub(super) fn run(flags: &ImportFlags) -> Result<(), Failure> {
    let path = &flags.file;
    let cannot = |error: &dyn std::fmt::Display| {
        Failure::start(format_args!("cannot read {}: {error}", path.display()))
    };
    let directory = flags.place.directory()?;
    let file = File::open(path).map_err(|error| cannot(&error))?;
    let metadata = file.metadata().map_err(|error| cannot(&error))?;
    if metadata.is_dir() {
        return Err(cannot(&"it is a directory; give the file that `mqttd store export` wrote"));
    }
    let bytes = metadata.len();
    let bar = progress::bytes("reading", bytes);
    let image = read(BufReader::new(bar.wrap_read(file)));
    bar.finish_and_clear();
    let (image, lines) = image.map_err(|error| {
        let Wrong { line, what } = error;
        Failure::start(format_args!("{}:{line}: {what}; nothing was imported", path.display()))
    })?;
    let (sessions, retained) = (image.session_count(), image.retained().len());
    let store = OfflineStore::create(&directory, flags.cores, image).map_err(failure)?;
    let mut output = Output::new();
    let told = output.line(format_args!(
        "{} has {} and {} now, from {}",
        store.path().display(),
        count(sessions, "session"),
        count(retained, "retained message"),
        count(lines, "line"),
    ));
    written(told.and_then(|()| output.end()))
}

/// Said of a file that begins in another way.
const NO_EXPORT: &str =
    "this is no export: a file that `mqttd store export` wrote begins with {\"mqttd_export\"";

/// A line that cannot be taken.
#[derive(Debug)]
struct Wrong {
    line: usize,
    what: String,
}

/// Reads lines to an image, and counts them.
fn read(mut input: impl BufRead) -> Result<(Image, usize), Wrong> {
    let mut importing = Importing::default();
    let (mut line, mut text) = (0, Vec::new());
    loop {
        text.clear();
        let wrong = |what| Wrong { line: line + 1, what };
        let length = input.read_until(b'\n', &mut text).map_err(|error| wrong(error.to_string()))?;
        if length == 0 {
            break;
        }
        let told = serde_json::from_slice(&text).map_err(|error| {
            if line == 0 {
                return wrong(NO_EXPORT.to_owned());
            }
            // It knows of this line alone, so its own line number says nothing.
            let text = error.to_string();
            wrong(text.split(" at line ").next().unwrap_or_default().to_owned())
        })?;
        importing.take(&told).map_err(wrong)?;
        line += 1;
    }
    match importing.has_begun {
        true => Ok((importing.image, line)),
        false => Err(Wrong { line: 1, what: format!("the file is empty: {NO_EXPORT}") }),
    }
}

/// An image that is being made.
struct Importing {
    image: Image,
    has_begun: bool,
    /// Whose lines may come, and the Packet Identifiers that they have used.
    client_id: Option<String>,
    used: BTreeSet<u16>,
    /// The number of the last message of a group.
    number: u64,
    /// Memory for a record.
    bytes: Vec<u8>,
}

impl Default for Importing {
    fn default() -> Importing {
        // Hashes that others foresee make only this import slow.
        let image = Image::new([0; 4]);
        Importing {
            image,
            has_begun: false,
            client_id: None,
            used: BTreeSet::new(),
            number: 0,
            bytes: Vec::new(),
        }
    }
}

impl Importing {
    fn take(&mut self, line: &Line) -> Result<(), String> {
        match line {
            Line::MqttdExport(header) => return self.begin(header),
            _ if !self.has_begun => {
                return Err(NO_EXPORT.to_owned());
            }
            _ => {}
        }
        match line {
            Line::MqttdExport(_) => unreachable!("it was taken above"),
            Line::Retained(message) => {
                if self.image.find_retained(&message.topic).is_some() {
                    return Err(format!("{:?} has a retained message already", message.topic));
                }
                self.message(message)?;
                self.record(&Record::Retained)
            }
            Line::GroupMessage(line::GroupMessage { group, message }) => {
                self.message(message)?;
                self.number += 1;
                self.record(&Record::GroupQueued { group, number: self.number })
            }
            Line::Session(session) => self.session(session),
            Line::Delivery(delivery) => self.delivery(delivery),
            Line::Released(line::Released { client_id, packet_id }) => {
                self.belongs(client_id)?;
                let packet_id = self.packet_id(*packet_id)?;
                self.record(&Record::Released { client_id, packet_id })
            }
        }
    }

    fn begin(&mut self, header: &line::Header) -> Result<(), String> {
        if self.has_begun {
            return Err("another export begins here: import one file alone".to_owned());
        }
        if header.version != line::VERSION {
            return Err(format!(
                "the export has version {} and this program reads {}: use the version that wrote it, or a newer one",
                header.version,
                line::VERSION
            ));
        }
        self.has_begun = true;
        self.record(&Record::Time { at: header.time })
    }

    fn session(&mut self, session: &line::Session) -> Result<(), String> {
        let client_id = &*session.client_id;
        if self.image.find_session(client_id).is_some() {
            return Err(format!("the session of {client_id:?} is there already"));
        }
        let next_packet_id = packet_id(session.next_packet_id)?;
        self.record(&Record::Opened { client_id, expiry_seconds: session.expiry_seconds, next_packet_id })?;
        if let Some(at) = session.away_since {
            self.record(&Record::Closed { client_id, at })?;
        }
        for subscription in &session.subscriptions {
            let (options, filter) = (subscription.options()?, &*subscription.filter);
            self.record(&Record::Subscribed {
                client_id,
                filter,
                options,
                identifier: subscription.identifier,
            })?;
        }
        for &received in &session.received {
            self.record(&Record::Received { client_id, packet_id: packet_id(received)? })?;
        }
        if let Some(line::Will { delay_seconds, expiry_seconds, message }) = &session.will {
            self.message(message)?;
            let (delay_seconds, expiry_seconds) = (*delay_seconds, *expiry_seconds);
            self.record(&Record::Will { client_id, delay_seconds, expiry_seconds })?;
        }
        self.client_id = Some(client_id.to_owned());
        self.used.clear();
        Ok(())
    }

    fn delivery(&mut self, delivery: &line::Delivery) -> Result<(), String> {
        let line::Delivery { client_id, retain, identifiers, message, .. } = delivery;
        self.belongs(client_id)?;
        let packet_id = delivery.packet_id.map(|id| self.packet_id(id)).transpose()?;
        let qos = line::qos(delivery.qos)?;
        self.message(message)?;
        let identifiers = Identifiers::new(identifiers);
        self.record(&Record::Enqueued { client_id, qos, retain: *retain, identifiers, packet_id })
    }

    /// Whether a line of this Client may come now.
    fn belongs(&self, client_id: &str) -> Result<(), String> {
        match self.client_id.as_deref() == Some(client_id) {
            true => Ok(()),
            false => Err(format!("the line is not behind the session of {client_id:?}, to which it belongs")),
        }
    }

    /// A Packet Identifier that was not used yet.
    fn packet_id(&mut self, number: u16) -> Result<PacketId, String> {
        let id = packet_id(number)?;
        match self.used.insert(number) {
            true => Ok(id),
            false => Err(format!("Packet Identifier {number} is used twice in one session")),
        }
    }

    fn message(&mut self, message: &line::Message) -> Result<(), String> {
        message.with(|message| self.record(&Record::Message { message, publisher: 0, shared: false }))?
    }

    /// Takes a record as if it had been read from a snapshot: so it is checked like one.
    fn record(&mut self, record: &Record<'_>) -> Result<(), String> {
        self.bytes.clear();
        record.encode(&mut self.bytes);
        let record = Record::decode(record.kind(), &self.bytes).map_err(|error| error.to_string())?;
        self.image.apply_snapshot(0, &record).map_err(|error| error.to_string())
    }
}

fn packet_id(number: u16) -> Result<PacketId, String> {
    PacketId::new(number).ok_or_else(|| "a Packet Identifier is 0: it must be 1 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"mqttd_export":{"version":1,"time":5}}"#;
    const SESSION: &str = r#"{"session":{"client_id":"c","expiry_seconds":9,"next_packet_id":1}}"#;

    fn wrong(lines: &[&str]) -> (usize, String) {
        let Wrong { line, what } = read(lines.join("\n").as_bytes()).err().expect("it is wrong");
        (line, what)
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let delivery = r#"{"delivery":{"client_id":"c","packet_id":1,"qos":1,"message":{"topic":"a","qos":1,"payload":""}}}"#;
        let other = delivery.replace("\"c\"", "\"d\"");
        let none = delivery.replace(r#""qos":1,"message""#, r#""qos":0,"message""#);
        let wildcard = delivery.replace(r#""topic":"a""#, r##""topic":"#""##);
        let retained = r#"{"retained":{"topic":"a","qos":1,"payload":{"base64":"?"}}}"#;
        let group = r#"{"group_message":{"group":"a","message":{"topic":"a","qos":1,"payload":""}}}"#;
        for (lines, line, what) in [
            (&[][..], 1, "no export"),
            (&[SESSION], 1, "no export"),
            (&["cores = 2"], 1, "no export"),
            (&[r#"{"name":"mqttd"}"#], 1, "no export"),
            (&[HEADER, HEADER], 2, "another export"),
            (&[&HEADER.replace("1,", "2,")], 1, "version 2"),
            (&[HEADER, SESSION, SESSION], 3, "there already"),
            (&[HEADER, delivery], 2, "not behind the session"),
            (&[HEADER, SESSION, &other], 3, "not behind the session"),
            (&[HEADER, SESSION, delivery, delivery], 4, "used twice"),
            (&[HEADER, SESSION, &none], 3, "flags"),
            (&[HEADER, SESSION, &wildcard], 3, "topic"),
            (&[HEADER, retained], 2, "base64"),
            (&[HEADER, group], 2, "shared group"),
            (&[HEADER, &SESSION.replace(":1}", ":0}")], 2, "Packet Identifier is 0"),
            (&[HEADER, &SESSION.replace("expiry", "expire")], 2, "expire_seconds"),
            (&[HEADER, "{"], 2, "EOF"),
        ] {
            let (at, said) = wrong(lines);
            assert!(at == line && said.contains(what), "{lines:?}: line {at}: {said}");
        }
    }
}
