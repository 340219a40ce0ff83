//! `mqttd store stat`: counts what is in a store.

use std::fmt::Display;
use std::io;
use std::time::SystemTime;

use clap::Args;
use mqtt_broker::runtime::{OfflineStore, OnDamage, StoreError, StoredCore};
use mqtt_broker::store::image::{Image, Session};
use mqtt_broker::store::{log, record};
use serde::Serialize;

use super::{Output, Place, count, failure, read, written};
use crate::serve::Failure;

/// How to tell it.
#[derive(Debug, Args)]
pub(crate) struct StatFlags {
    #[command(flatten)]
    place: Place,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &StatFlags) -> Result<(), Failure> {
    let store = flags.place.open()?;
    let cores = read(&store, OnDamage::Refuse)?;
    let stat = Stat::new(&store, &cores, wall_millis()).map_err(failure)?;
    let mut output = Output::new();
    let told = match flags.json {
        true => {
            serde_json::to_string_pretty(&stat).map_err(io::Error::from).and_then(|json| output.line(json))
        }
        false => stat.tell(&mut output),
    };
    written(told.and_then(|()| output.end()))
}

/// What is told.
#[derive(Debug, Serialize)]
struct Stat {
    store: String,
    directory: String,
    layout: u64,
    directory_version: u32,
    log_version: u32,
    record_version: u8,
    sessions: Sessions,
    retained: Amount,
    groups: Groups,
    /// Messages that some cores have not yet taken from another.
    between_cores: Amount,
    cores: Vec<Core>,
}

#[derive(Debug, Default, Serialize)]
struct Sessions {
    total: usize,
    /// When the log ended.
    connected: usize,
    away: usize,
    /// Of those away, the ones whose time is over: the next start ends them, or publishes their Wills first.
    expired: usize,
    subscriptions: usize,
    /// Messages that wait.
    queued: Amount,
    /// Messages under way.
    in_flight: Amount,
    wills: usize,
}

#[derive(Debug, Default, Serialize)]
struct Groups {
    total: usize,
    messages: Amount,
}

/// Messages, and the bytes of their topics, properties and payloads.
#[derive(Debug, Default, Serialize)]
struct Amount {
    messages: usize,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct Core {
    core: usize,
    segments: usize,
    log_bytes: u64,
    snapshot_bytes: u64,
    /// Of the log behind the snapshot.
    first_record: Option<u64>,
    last_record: Option<u64>,
    sessions: usize,
    /// Whether the log was ended by a stop.
    clean: bool,
}

impl Amount {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
    }
}

impl Stat {
    /// What is in these cores at `now`, wall time in milliseconds.
    fn new(store: &OfflineStore, cores: &[StoredCore], now: u64) -> Result<Stat, StoreError> {
        let mut stat = Stat {
            store: store.id().iter().map(|byte| format!("{byte:02x}")).collect(),
            directory: store.path().display().to_string(),
            layout: store.layout(),
            directory_version: OfflineStore::VERSION,
            log_version: log::VERSION,
            record_version: record::VERSION,
            sessions: Sessions::default(),
            retained: Amount::default(),
            groups: Groups::default(),
            between_cores: Amount::default(),
            cores: cores.iter().enumerate().map(|(core, stored)| Core::new(core, stored)).collect(),
        };
        for image in cores.iter().map(StoredCore::image) {
            stat.add(store, image, now)?;
        }
        Ok(stat)
    }

    fn add(&mut self, store: &OfflineStore, image: &Image, now: u64) -> Result<(), StoreError> {
        for session in image.sessions() {
            self.sessions.add(session, image.away_since(session), now);
            for delivery in store.waiting(session) {
                self.sessions.queued.add(delivery?.message.as_ref().len());
            }
        }
        for message in image.retained() {
            self.retained.add(message.as_ref().len());
        }
        for (_, group) in image.groups() {
            self.groups.total += 1;
            for message in group.messages() {
                self.groups.messages.add(message.message.as_ref().len());
            }
        }
        for pending in image.pending() {
            self.between_cores.add(pending.message.as_ref().len());
        }
        Ok(())
    }

    fn tell(&self, output: &mut Output) -> io::Result<()> {
        let mut row = |name: &str, value: &dyn Display| output.line(format_args!("{name:<15}{value}"));
        let amount = |amount: &Amount| format!("{} ({} bytes)", amount.messages, amount.bytes);
        let sessions = &self.sessions;
        row("store", &self.store)?;
        row("directory", &format_args!("{}, layout {}", self.directory, self.layout))?;
        row(
            "versions",
            &format_args!(
                "directory {}, log {}, records {}",
                self.directory_version, self.log_version, self.record_version
            ),
        )?;
        row(
            "sessions",
            &format_args!(
                "{}: {} connected when the log ended, {} away, of which {} expired",
                sessions.total, sessions.connected, sessions.away, sessions.expired
            ),
        )?;
        row("subscriptions", &sessions.subscriptions)?;
        row("queued", &amount(&sessions.queued))?;
        row("in flight", &amount(&sessions.in_flight))?;
        row("wills", &sessions.wills)?;
        row("retained", &amount(&self.retained))?;
        row(
            "shared groups",
            &format_args!("{} with messages: {}", self.groups.total, amount(&self.groups.messages)),
        )?;
        row("between cores", &amount(&self.between_cores))?;
        for core in &self.cores {
            let records = super::log(core.first_record.zip(core.last_record), core.clean);
            row(
                &format!("core {}", core.core),
                &format_args!(
                    "{}; log of {} in {}, {records}; snapshot of {}",
                    count(core.sessions, "session"),
                    count(core.log_bytes, "byte"),
                    count(core.segments, "segment"),
                    count(core.snapshot_bytes, "byte")
                ),
            )?;
        }
        Ok(())
    }
}

impl Sessions {
    fn add(&mut self, session: &Session, away_since: Option<u64>, now: u64) {
        self.total += 1;
        match away_since {
            None => self.connected += 1,
            Some(since) => {
                self.away += 1;
                let expiry_millis = u64::from(session.expiry_seconds()) * 1000;
                let ends = session.expiry_seconds() != u32::MAX;
                self.expired += usize::from(ends && since.saturating_add(expiry_millis) <= now);
            }
        }
        self.subscriptions += session.subscriptions().len();
        for (_, _, delivery) in session.under_way() {
            self.in_flight.add(delivery.map_or(0, |delivery| delivery.message.as_ref().len()));
        }
        self.wills += usize::from(session.will().is_some());
    }
}

impl Core {
    fn new(core: usize, stored: &StoredCore) -> Core {
        let (segments, log_bytes) = stored.segments();
        let records = stored.records();
        Core {
            core,
            segments,
            log_bytes,
            snapshot_bytes: stored.snapshot_bytes(),
            first_record: records.map(|(first, _)| first),
            last_record: records.map(|(_, last)| last),
            sessions: stored.image().session_count(),
            clean: stored.is_clean(),
        }
    }
}

/// Milliseconds since the beginning of 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "what has expired depends on the real time, and nothing else here does"
)]
fn wall_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
