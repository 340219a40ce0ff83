//! Retained messages: what setting one costs, what it costs to read it, and what it occupies.
//!
//! A PINGREQ behind every batch says when the broker has taken it: messages at QoS 0 have no answer of their own. The
//! topics are cleared at the end.

use std::io;
use std::time::Duration;

use mqtt_proto::{Packet, PacketType, Properties, Publish, Qos, TopicName};

use crate::load::fleet::{Fleet, KEEP_ALIVE, PATIENCE, accept, subscribe};
use crate::load::payload::{self, Header};
use crate::load::report::{Report, Usage};

/// What is to be set and read.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Topics.
    pub(crate) topics: u32,
    /// How often each is set anew.
    pub(crate) overwrites: u64,
    /// Clients that read all of them, one after the other.
    pub(crate) readers: usize,
    /// Bytes of a payload.
    pub(crate) payload_len: usize,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
}

/// Messages between two PINGREQ.
const BATCH: u32 = 500;
/// Silence after which a reader gets nothing more.
const QUIET: Duration = Duration::from_secs(2);

fn topic(run: &str, at: u32) -> String {
    format!("load/{run}/retained/{}/{at}", at / 100)
}

/// Runs `plan` over connections of `fleet`, which has none yet.
pub(crate) fn run(plan: &Plan, mut fleet: Fleet) -> io::Result<Report> {
    let mut report = Report::new();
    fleet.connect_all(1 + plan.readers, KEEP_ALIVE)?;
    let topics: Vec<String> = (0..plan.topics).map(|at| topic(&fleet.run, at)).collect();
    // What the broker sets up once for its first message is not counted for the others.
    set(&mut fleet, &topics[..1], 0, plan.payload_len)?;
    let before = Usage::now(plan.pid)?;
    fleet.progress.begin(fleet.clock, "setting", Some(u64::from(plan.topics)));
    set(&mut fleet, &topics, 0, plan.payload_len)?;
    let stored = Usage::now(plan.pid)?;
    for round in 1..=plan.overwrites {
        fleet.progress.begin(fleet.clock, "overwriting", Some(u64::from(plan.topics)));
        set(&mut fleet, &topics, round, plan.payload_len)?;
    }
    let overwritten = Usage::now(plan.pid)?;
    let mut read = 0;
    for reader in 1..=plan.readers {
        fleet.progress.begin(fleet.clock, "reading", Some(u64::from(plan.topics)));
        read += read_all(plan, &mut fleet, &topics, reader, &mut report)?;
    }
    let after = Usage::now(plan.pid)?;
    // The readers would be told of it.
    fleet.links.truncate(1);
    set(&mut fleet, &topics, 0, 0)?;

    let count = u64::from(plan.topics);
    report.points = fleet.progress.finish();
    report.add("topics", plan.topics);
    report.add("payload_bytes", plan.payload_len);
    report.add_cpu(&before, &stored, count, ["broker_cpu_us_per_set", "own_cpu_us_per_set"]);
    report.add_growth(&before, &stored, count, ["rss_bytes_per_topic", "rss_anon_bytes_per_topic"]);
    report.add_cpu(
        &stored,
        &overwritten,
        count * plan.overwrites,
        ["broker_cpu_us_per_overwrite", "own_cpu_us_per_overwrite"],
    );
    report.add("read", read);
    report.add_cpu(&overwritten, &after, read, ["broker_cpu_us_per_read", "own_cpu_us_per_read"]);
    report.add("lost", count * plan.readers as u64 - read);
    Ok(report)
}

/// Sets all topics to the payload of `round`, or clears them if a payload has no bytes.
fn set(fleet: &mut Fleet, topics: &[String], round: u64, payload_len: usize) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut answers = 0;
    for (batch, topics) in (0..).zip(topics.chunks(BATCH as usize)) {
        for (nth, topic) in (0..).zip(topics) {
            if payload_len > 0 {
                let header = Header { stream: batch * BATCH + nth, sequence: round, sent_ns: 0 };
                payload::write(header, payload_len, &mut bytes);
            }
            let publish = Publish {
                dup: false,
                qos: Qos::AtMostOnce,
                retain: true,
                topic: TopicName::new(topic).ok(),
                packet_id: None,
                properties: Properties::EMPTY,
                payload: &bytes,
            };
            fleet.links[0].push(&Packet::Publish(publish), fleet.version)?;
        }
        fleet.links[0].push(&Packet::PingReq, fleet.version)?;
        fleet.links[0].flush(&fleet.net)?;
        let expected = answers + 1;
        let end = fleet.clock.elapsed() + PATIENCE;
        while answers < expected {
            let now = fleet.clock.elapsed();
            if now >= end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a PINGRESP did not come"));
            }
            fleet.turn(end - now, |_, packet, _| match packet {
                Packet::PingResp => {
                    answers += 1;
                    Ok(())
                }
                other => Err(io::Error::other(format!("unexpected {:?}", other.packet_type()))),
            })?;
        }
        fleet.progress.note(fleet.clock.elapsed(), u64::from(batch * BATCH) + topics.len() as u64);
    }
    Ok(())
}

/// Lets one client subscribe to all topics; returns how many retained messages came.
fn read_all(
    plan: &Plan,
    fleet: &mut Fleet,
    topics: &[String],
    reader: usize,
    report: &mut Report,
) -> io::Result<u64> {
    let filter = format!("load/{}/retained/#", fleet.run);
    subscribe(&mut fleet.links[reader], &filter, Qos::AtMostOnce, fleet.version)?;
    fleet.links[reader].flush(&fleet.net)?;
    let mut seen = vec![false; topics.len()];
    let mut read = 0;
    let mut heard = fleet.clock.elapsed();
    while read < topics.len() as u64 {
        let before = read;
        fleet.turn(QUIET, |_, packet, _| {
            let Packet::Publish(publish) = packet else { return accept(packet, PacketType::SubAck) };
            let header = payload::read(publish.payload, plan.payload_len);
            let at = header.map_or(usize::MAX, |header| header.stream as usize);
            let is_right = header.is_some_and(|header| header.sequence == plan.overwrites)
                && publish.retain
                && publish.topic.map(|topic| topic.as_str()) == topics.get(at).map(String::as_str);
            if !is_right {
                report.violation(format!("{:?}: not its retained message", publish.topic));
            } else if std::mem::replace(&mut seen[at], true) {
                report.violation(format!("{:?} came twice", publish.topic));
            } else {
                read += 1;
            }
            Ok(())
        })?;
        let now = fleet.clock.elapsed();
        fleet.progress.note(now, read);
        if read > before {
            heard = now;
        } else if now - heard >= QUIET {
            break;
        }
    }
    Ok(read)
}
