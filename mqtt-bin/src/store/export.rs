//! `mqttd store export`: everything that a store holds, as lines.
//!
//! Invariant: the same contents give the same bytes, whatever the number of cores and the order in which they came.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;
use mqtt_broker::message::MessageRef;
use mqtt_broker::runtime::{OfflineStore, OnDamage};
use mqtt_broker::store::image::{Delivery, Image, Session};
use mqtt_proto::types::{PacketId, TopicFilter};

use super::line::{self, Line};
use super::{Place, progress, read, written};
use crate::serve::Failure;

/// What to export, and where to.
#[derive(Debug, Args)]
pub(crate) struct ExportFlags {
    #[command(flatten)]
    place: Place,
    /// Exports this session alone
    #[arg(long, value_name = "CLIENT_ID")]
    client: Option<String>,
    /// Exports only messages whose topics match this Topic Filter, and the sessions that hold any
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    topic: Option<String>,
    /// Writes to this file, which must not exist yet [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

fn filter(text: &str) -> Result<String, String> {
    TopicFilter::new(text).map(|filter| filter.as_str().to_owned()).map_err(|error| error.to_string())
}

pub(super) fn run(flags: &ExportFlags) -> Result<(), Failure> {
    let store = flags.place.open()?;
    let cores = read(&store, OnDamage::Refuse)?;
    let image = store.merge(cores);
    let wanted = Wanted {
        client_id: flags.client.as_deref(),
        filter: flags.topic.as_deref().and_then(|text| TopicFilter::new(text).ok()),
    };
    if let Some(client_id) = wanted.client_id
        && image.find_session(client_id).is_none()
    {
        return Err(Failure::start(format_args!(
            "the store has no session of {client_id:?}: see `mqttd store export`"
        )));
    }
    let source = Source { store: &store, image: &image, wanted };
    match &flags.output {
        Some(path) => to_file(path, source).map_err(|error| {
            Failure::start(format_args!("cannot write {}: {error}{}", path.display(), remedy(&error)))
        }),
        None => written(write(source, BufWriter::new(io::stdout().lock()), &AtomicU64::new(0))),
    }
}

/// What to do about a file that cannot be written.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => {
            ". An export writes over nothing: remove it, or give a name that no file has yet"
        }
        io::ErrorKind::NotFound => ". Give a file in a folder that there is",
        _ => "",
    }
}

/// Writes to a file that only its owner can read, or to none.
fn to_file(path: &Path, source: Source<'_>) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let done = fill(&file, source).and_then(|()| file.sync_all());
    if done.is_err() {
        // What was written is of no use; that it failed is said.
        let _ = fs::remove_file(path);
    }
    done
}

fn fill(file: &File, source: Source<'_>) -> io::Result<()> {
    let lines = Arc::new(AtomicU64::new(0));
    let bar = progress::counting("writing", "lines", Arc::clone(&lines));
    let done = write(source, BufWriter::new(file), &lines);
    bar.finish_and_clear();
    done
}

/// What of an image is wanted.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    client_id: Option<&'a str>,
    filter: Option<TopicFilter<'a>>,
}

impl Wanted<'_> {
    fn message(self, message: MessageRef<'_>) -> bool {
        self.filter.is_none_or(|filter| filter.matches(message.topic))
    }
}

/// What is exported.
#[derive(Clone, Copy)]
struct Source<'a> {
    store: &'a OfflineStore,
    image: &'a Image,
    wanted: Wanted<'a>,
}

impl Source<'_> {
    fn wants(self, session: &Session) -> io::Result<bool> {
        let Wanted { client_id, filter } = self.wanted;
        if client_id.is_some_and(|client_id| client_id != session.client_id()) {
            return Ok(false);
        }
        if filter.is_none() {
            return Ok(true);
        }
        let under_way = session.under_way().filter_map(|(_, _, delivery)| Some(Ok(delivery?.clone())));
        for delivery in under_way.chain(self.store.waiting(session)) {
            if self.wanted.message(delivery.map_err(io::Error::other)?.message.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Writes the lines of an image; `lines` counts them.
fn write(source: Source<'_>, out: impl Write, lines: &AtomicU64) -> io::Result<()> {
    let Source { image, wanted, .. } = source;
    let mut out = Lines { out, lines };
    out.put(&Line::MqttdExport(line::Header { version: line::VERSION, time: image.last_time() }))?;
    if wanted.client_id.is_none() {
        write_messages(image, wanted, &mut out)?;
    }
    let mut sessions: Vec<_> = image.sessions().collect();
    sessions.sort_unstable_by_key(|session| session.client_id());
    for session in sessions {
        if source.wants(session)? {
            write_session(source, session, &mut out)?;
        }
    }
    out.out.flush()
}

/// What belongs to no session.
fn write_messages(image: &Image, wanted: Wanted<'_>, out: &mut Lines<'_, impl Write>) -> io::Result<()> {
    let mut retained: Vec<_> = image.retained().map(|message| message.as_ref()).collect();
    retained.retain(|message| wanted.message(*message));
    retained.sort_unstable_by_key(|message| message.topic.as_bytes());
    for message in retained {
        out.put(&Line::Retained(line::Message::new(message)))?;
    }
    for (group, messages) in image.groups() {
        for message in messages.messages().filter(|message| wanted.message(message.message.as_ref())) {
            let message = line::Message::new(message.message.as_ref());
            out.put(&Line::GroupMessage(line::GroupMessage { group: group.to_owned(), message }))?;
        }
    }
    Ok(())
}

fn write_session(source: Source<'_>, session: &Session, out: &mut Lines<'_, impl Write>) -> io::Result<()> {
    let Source { store, image, wanted } = source;
    let mut subscriptions: Vec<_> = session.subscriptions().iter().collect();
    subscriptions.sort_unstable_by_key(|&(filter, _)| filter);
    let subscription = |(filter, of): (&str, mqtt_broker::store::image::Subscription)| {
        line::Subscription::new(filter, of.options, of.identifier)
    };
    let will = session.will().map(|will| line::Will {
        delay_seconds: will.delay_seconds,
        expiry_seconds: will.expiry_seconds,
        message: line::Message::new(will.message.as_ref()),
    });
    out.put(&Line::Session(line::Session {
        client_id: session.client_id().to_owned(),
        expiry_seconds: session.expiry_seconds(),
        away_since: image.away_since(session),
        next_packet_id: session.next_packet_id().get(),
        subscriptions: subscriptions.into_iter().map(subscription).collect(),
        received: session.received().iter().map(|id| id.get()).collect(),
        will,
    }))?;
    let client_id = session.client_id();
    for (packet_id, _, delivery) in session.under_way() {
        match delivery {
            Some(delivery) if wanted.message(delivery.message.as_ref()) => {
                out.put(&told(client_id, delivery, Some(packet_id)))?;
            }
            Some(_) => {}
            None => {
                let (client_id, packet_id) = (client_id.to_owned(), packet_id.get());
                out.put(&Line::Released(line::Released { client_id, packet_id }))?;
            }
        }
    }
    for delivery in store.waiting(session) {
        let delivery = delivery.map_err(io::Error::other)?;
        if wanted.message(delivery.message.as_ref()) {
            out.put(&told(client_id, &delivery, None))?;
        }
    }
    Ok(())
}

fn told(client_id: &str, delivery: &Delivery, packet_id: Option<PacketId>) -> Line {
    Line::Delivery(line::Delivery {
        client_id: client_id.to_owned(),
        packet_id: packet_id.map(PacketId::get),
        qos: delivery.qos.bits(),
        retain: delivery.retain,
        identifiers: delivery.identifiers().to_vec(),
        message: line::Message::new(delivery.message.as_ref()),
    })
}

/// Where lines go.
struct Lines<'a, W> {
    out: W,
    lines: &'a AtomicU64,
}

impl<W: Write> Lines<'_, W> {
    fn put(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.lines.fetch_add(1, Ordering::Relaxed);
        self.out.write_all(b"\n")
    }
}
