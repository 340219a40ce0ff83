//! Messages for clients that are away: what queueing one costs, what it costs to deliver it later, what it occupies.
//!
//! Clients with sessions that outlive their connection subscribe and leave; QoS 1 messages are published for them; they
//! come back and must get every one, in order. The sessions are ended in the end.

use std::io::{self, ErrorKind};

use mqtt_proto::{Packet, PacketId, PacketType, Qos};

use crate::load::fleet::{Fleet, KEEP_ALIVE, PATIENCE, Stay, acknowledge};
use crate::load::frame::Template;
use crate::load::payload::{self, Header};
use crate::load::report::{Report, Usage};

/// What is to be queued.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Sessions.
    pub(crate) sessions: usize,
    /// Messages for each.
    pub(crate) messages: u64,
    /// Bytes of a payload.
    pub(crate) payload_len: usize,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
}

/// Messages without a PUBACK, at most.
const UNACKNOWLEDGED_MAX: u64 = 500;

/// Runs `plan` over connections of `fleet`, which has none yet.
pub(crate) fn run(plan: &Plan, mut fleet: Fleet) -> io::Result<Report> {
    let mut report = Report::new();
    connect_sessions(plan, &mut fleet, Stay::After)?;
    let run = fleet.run.clone();
    let topic = |session: usize| format!("load/{run}/offline/{session}");
    fleet.subscribe_all(0..plan.sessions, Qos::AtLeastOnce, topic)?;
    fleet.leave()?;

    fleet.connect_all(1, KEEP_ALIVE)?;
    let templates: Vec<Template> = (0..plan.sessions)
        .map(|session| Template::new(topic(session), Qos::AtLeastOnce, plan.payload_len, fleet.version))
        .collect::<io::Result<_>>()?;
    let before = Usage::now(plan.pid)?;
    publish(plan, &mut fleet, &templates)?;
    let queued = Usage::now(plan.pid)?;
    fleet.leave()?;

    let back = Usage::now(plan.pid)?;
    let received = receive(plan, &mut fleet, &templates, &mut report)?;
    let drained = Usage::now(plan.pid)?;
    fleet.leave()?;
    // A clean session in the place of each ends it.
    connect_sessions(plan, &mut fleet, Stay::No)?;

    let count = plan.sessions as u64 * plan.messages;
    report.points = fleet.progress.finish();
    report.add("sessions", plan.sessions);
    report.add("messages_per_session", plan.messages);
    report.add("payload_bytes", plan.payload_len);
    report.add_cpu(&before, &queued, count, ["broker_cpu_us_per_queued", "own_cpu_us_per_queued"]);
    report.add_written(&before, &queued, count, "broker_written_bytes_per_queued");
    report.add_growth(&before, &queued, count, ["rss_bytes_per_message", "rss_anon_bytes_per_message"]);
    report.add_cpu(&back, &drained, received, ["broker_cpu_us_per_drained", "own_cpu_us_per_drained"]);
    report.add("lost", count - received);
    Ok(report)
}

fn client_id(fleet: &Fleet, session: usize) -> String {
    format!("offline-{}-{session}", fleet.run)
}

/// Opens a connection for each session, without anything that may wait for it.
fn connect_sessions(plan: &Plan, fleet: &mut Fleet, stay: Stay) -> io::Result<()> {
    fleet.progress.begin(fleet.clock, "connecting", Some(plan.sessions as u64));
    fleet.request_all(0..plan.sessions, PacketType::ConnAck, |fleet, at| {
        open(fleet, at, stay)?;
        Ok(at)
    })
}

fn open(fleet: &mut Fleet, session: usize, stay: Stay) -> io::Result<()> {
    let client_id = client_id(fleet, session);
    fleet.open(session as u64, &client_id, KEEP_ALIVE, stay)
}

/// Publishes every message, to the sessions in turn, and waits for all PUBACKs.
fn publish(plan: &Plan, fleet: &mut Fleet, templates: &[Template]) -> io::Result<()> {
    let count = plan.sessions as u64 * plan.messages;
    fleet.progress.begin(fleet.clock, "queueing", Some(count));
    let (mut sent, mut acknowledged) = (0, 0);
    let mut packet_id = PacketId::FIRST;
    let mut heard = fleet.clock.elapsed();
    while acknowledged < count {
        // Half a window at least, so that messages leave in batches.
        if sent - acknowledged <= UNACKNOWLEDGED_MAX / 2 {
            while sent < count && sent - acknowledged < UNACKNOWLEDGED_MAX {
                let session = sent % plan.sessions as u64;
                let sequence = sent / plan.sessions as u64;
                let header = Header { stream: session as u32, sequence, sent_ns: 0 };
                templates[session as usize].write(header, packet_id, &mut fleet.links[0].out);
                packet_id = packet_id.next();
                sent += 1;
            }
            fleet.links[0].flush(&fleet.net)?;
        }
        let before = acknowledged;
        fleet.turn(PATIENCE, |_, packet, _| match packet {
            Packet::PubAck(ack) if !ack.reason.is_error() => {
                acknowledged += 1;
                Ok(())
            }
            other => Err(io::Error::other(format!("{other:?} instead of a PUBACK"))),
        })?;
        let now = fleet.clock.elapsed();
        fleet.progress.note(now, acknowledged);
        if acknowledged > before {
            heard = now;
        } else if now - heard >= PATIENCE {
            return Err(io::Error::new(ErrorKind::TimedOut, "a PUBACK did not come"));
        }
    }
    Ok(())
}

/// Lets every session come back and take what waits for it; returns how many messages came.
fn receive(plan: &Plan, fleet: &mut Fleet, templates: &[Template], report: &mut Report) -> io::Result<u64> {
    let count = plan.sessions as u64 * plan.messages;
    fleet.progress.begin(fleet.clock, "draining", Some(count));
    for session in 0..plan.sessions {
        open(fleet, session, Stay::After)?;
        fleet.links[session].flush(&fleet.net)?;
    }
    let version = fleet.version;
    let mut next = vec![0; plan.sessions];
    let (mut received, mut unanswered) = (0, plan.sessions);
    let mut heard = fleet.clock.elapsed();
    while received < count || unanswered > 0 {
        let before = (received, unanswered);
        fleet.turn(PATIENCE, |session, packet, out| {
            match packet {
                Packet::ConnAck(connack) => {
                    unanswered -= 1;
                    if !connack.session_present {
                        report.violation(format!("session {session} was not kept"));
                    }
                }
                Packet::Publish(publish) => {
                    let header = payload::read(publish.payload, plan.payload_len);
                    let topic = publish.topic.map(|topic| topic.as_str());
                    let is_its_own = header.is_some_and(|header| header.stream as usize == session)
                        && topic == Some(templates[session].topic())
                        && publish.qos == Qos::AtLeastOnce;
                    match header {
                        Some(header) if is_its_own && header.sequence == next[session] => {
                            received += 1;
                            next[session] += 1;
                        }
                        Some(header) if is_its_own && header.sequence > next[session] => {
                            report.violation(format!(
                                "session {session}: {} lost before {}",
                                header.sequence - next[session],
                                header.sequence
                            ));
                            received += 1;
                            next[session] = header.sequence + 1;
                        }
                        _ => report.violation(format!(
                            "session {session}: {topic:?}, {header:?} instead of message {}",
                            next[session]
                        )),
                    }
                    acknowledge(publish.qos, publish.packet_id, version, out)?;
                }
                other => return Err(io::Error::other(format!("unexpected {:?}", other.packet_type()))),
            }
            Ok(())
        })?;
        let now = fleet.clock.elapsed();
        fleet.progress.note(now, received);
        if (received, unanswered) != before {
            heard = now;
        } else if now - heard >= PATIENCE {
            report.violation(format!("{} queued messages did not come", count - received));
            break;
        }
    }
    Ok(received)
}
