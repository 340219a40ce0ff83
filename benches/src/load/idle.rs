//! Connections that do nothing: what a client costs while it is merely there, and whether it is still served.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use mqtt_proto::{Packet, Properties, Publish, Qos, TopicName};

use crate::load::clock::Random;
use crate::load::fleet::{Fleet, KEEP_ALIVE, PATIENCE};
use crate::load::payload::{self, Header};
use crate::load::report::{Report, Usage};

/// What is to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Connections.
    pub(crate) connections: usize,
    /// Seconds.
    pub(crate) keep_alive: u16,
    /// Connections, chosen at random, that must receive a message at the end.
    pub(crate) probes: usize,
    /// How long all of them stay before memory is looked at.
    pub(crate) hold: Duration,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
}

/// Bytes of a probe's payload.
const PAYLOAD_LEN: usize = 64;

/// Runs `plan` over connections of `fleet`, which has none yet.
pub(crate) fn run(plan: &Plan, mut fleet: Fleet) -> io::Result<Report> {
    let mut report = Report::new();
    let count = plan.connections;
    // What the broker sets up once for its first client is not counted for the others.
    fleet.connect_all(1, KEEP_ALIVE)?;
    fleet.subscribe_all(0..1, Qos::AtMostOnce, |at| format!("load/idle/{at}"))?;
    let before = Usage::now(plan.pid)?;
    let begin = fleet.clock.elapsed();
    fleet.connect_all(count, plan.keep_alive)?;
    let connected = Usage::now(plan.pid)?;
    let connect_seconds = (fleet.clock.elapsed() - begin).as_secs_f64();
    fleet.subscribe_all(1..1 + count, Qos::AtMostOnce, |at| format!("load/idle/{at}"))?;
    let subscribed = Usage::now(plan.pid)?;
    hold(plan, &mut fleet)?;
    let held = Usage::now(plan.pid)?;
    let served = probe(plan, &mut fleet, &mut report)?;

    report.add("connections", count);
    report.add_rounded("connect_seconds", connect_seconds);
    report.add_cpu(
        &before,
        &connected,
        count as u64,
        ["broker_cpu_us_per_connect", "own_cpu_us_per_connect"],
    );
    report.add_cpu(
        &connected,
        &subscribed,
        count as u64,
        ["broker_cpu_us_per_subscribe", "own_cpu_us_per_subscribe"],
    );
    report.add_growth(
        &before,
        &held,
        count as u64,
        ["rss_bytes_per_connection", "rss_anon_bytes_per_connection"],
    );
    if let (Some(before), Some(held)) = (before.broker, held.broker) {
        report.add("fds_before", before.fds);
        report.add("fds_after", held.fds);
    }
    report.points = fleet.progress.finish();
    report.add("probes", plan.probes.min(count));
    report.add("probes_served", served);
    Ok(report)
}

/// Waits, with PINGREQs often enough for the keep alive.
fn hold(plan: &Plan, fleet: &mut Fleet) -> io::Result<()> {
    let end = fleet.clock.elapsed() + plan.hold;
    let ping_every = Duration::from_secs(u64::from(plan.keep_alive)) / 2;
    let mut ping_at = fleet.clock.elapsed() + ping_every;
    loop {
        let now = fleet.clock.elapsed();
        if now >= end {
            return Ok(());
        }
        if plan.keep_alive > 0 && now >= ping_at {
            for link in &mut fleet.links {
                link.push(&Packet::PingReq, fleet.version)?;
                link.flush(&fleet.net)?;
            }
            ping_at = now + ping_every;
        }
        let wake = if plan.keep_alive > 0 { end.min(ping_at) } else { end };
        fleet.turn(wake - now, |_, _, _| Ok(()))?;
    }
}

/// Publishes to some of the connections, each on its own topic; returns how many had exactly that message.
fn probe(plan: &Plan, fleet: &mut Fleet, report: &mut Report) -> io::Result<usize> {
    let mut random = Random(plan.connections as u64);
    let probes = plan.probes.min(plan.connections);
    let mut waiting = HashSet::new();
    let mut bytes = Vec::new();
    while waiting.len() < probes {
        let at = random.between(1, 1 + plan.connections as u64);
        if !waiting.insert(at) {
            continue;
        }
        payload::write(
            Header { stream: at as u32, sequence: 0, sent_ns: fleet.clock.ns() },
            PAYLOAD_LEN,
            &mut bytes,
        );
        let topic = format!("load/idle/{at}");
        let publish = Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: TopicName::new(&topic).ok(),
            packet_id: None,
            properties: Properties::EMPTY,
            payload: &bytes,
        };
        fleet.links[0].push(&Packet::Publish(publish), fleet.version)?;
    }
    fleet.links[0].flush(&fleet.net)?;
    let end = fleet.clock.elapsed() + PATIENCE;
    while !waiting.is_empty() {
        let now = fleet.clock.elapsed();
        if now >= end {
            report.violation(format!("{} idle connections were not served", waiting.len()));
            break;
        }
        fleet.turn(end - now, |at, packet, _| {
            let at = at as u64;
            if let Packet::Publish(publish) = packet {
                let header = payload::read(publish.payload, PAYLOAD_LEN);
                if header.is_none_or(|header| u64::from(header.stream) != at) || !waiting.remove(&at) {
                    report.violation(format!("connection {at} was given a message that is not its own"));
                }
            }
            Ok(())
        })?;
    }
    Ok(probes - waiting.len())
}
