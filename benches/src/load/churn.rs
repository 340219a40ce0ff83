//! Clients that come, subscribe, publish, receive their own message and go: what a cycle costs and what it leaves.

use std::io;
use std::time::Duration;

use mqtt_proto::{Disconnect, Packet, PacketType, Qos, ReasonCode, decode};

use crate::load::fleet::{Fleet, PACKET_MAX, PATIENCE, accept, connect, publish, silent, subscribe};
use crate::load::net::Link;
use crate::load::payload::{self, Header};
use crate::load::report::{Report, Usage};

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Cycles that are measured.
    pub(crate) cycles: u64,
    /// Cycles before these.
    pub(crate) warm_up: u64,
    /// Clients that go through their cycles at the same time.
    pub(crate) clients: usize,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
}

/// Bytes of a message's payload.
const PAYLOAD_LEN: usize = 64;

/// A client within its cycle.
struct Visitor {
    link: Link,
    cycle: u64,
    /// What it waits for.
    waits_for: PacketType,
}

struct Churn {
    fleet: Fleet,
    visitors: Vec<Option<Visitor>>,
    begun: u64,
    completed: u64,
    report: Report,
}

/// Runs `plan`; of `fleet` only the network is used.
pub(crate) fn run(plan: &Plan, fleet: Fleet) -> io::Result<Report> {
    let visitors = (0..plan.clients).map(|_| None).collect();
    let mut churn = Churn { fleet, visitors, begun: 0, completed: 0, report: Report::new() };
    churn.fleet.progress.begin(churn.fleet.clock, "cycles", Some(plan.warm_up + plan.cycles));
    churn.run_to(plan.warm_up)?;
    let before = Usage::now(plan.pid)?;
    let begin = churn.fleet.clock.elapsed();
    churn.run_to(plan.warm_up + plan.cycles)?;
    let took = churn.fleet.clock.elapsed() - begin;
    let after = Usage::now(plan.pid)?;
    let mut report = churn.report;
    report.points = churn.fleet.progress.finish();
    report.add("cycles", plan.cycles);
    report.add("clients", plan.clients);
    report.add_rounded("cycles_per_s", plan.cycles as f64 / took.as_secs_f64());
    report.add_cpu(&before, &after, plan.cycles, ["broker_cpu_us_per_cycle", "own_cpu_us_per_cycle"]);
    if let (Some(before), Some(after)) = (before.broker, after.broker) {
        report.add("rss_growth_bytes", after.rss as i64 - before.rss as i64);
        report.add("fd_growth", after.fds as i64 - before.fds as i64);
    }
    Ok(report)
}

impl Churn {
    /// Goes on until `cycles` cycles are completed and nobody is connected.
    fn run_to(&mut self, cycles: u64) -> io::Result<()> {
        for at in 0..self.visitors.len() {
            self.begin(at, cycles)?;
        }
        let mut heard = self.fleet.clock.elapsed();
        while self.completed < cycles {
            self.fleet.net.wait(Duration::from_secs(1), &mut self.fleet.ready)?;
            for at in 0..self.fleet.ready.len() {
                let ready = self.fleet.ready[at];
                let at = ready.key as usize;
                if ready.writable
                    && let Some(visitor) = &mut self.visitors[at]
                {
                    visitor.link.flush(&self.fleet.net)?;
                }
                if ready.readable && self.receive(at)? {
                    self.visitors[at] = None;
                    self.completed += 1;
                    self.begin(at, cycles)?;
                }
                heard = self.fleet.clock.elapsed();
            }
            let now = self.fleet.clock.elapsed();
            self.fleet.progress.note(now, self.completed);
            if now - heard > PATIENCE {
                return Err(silent());
            }
        }
        Ok(())
    }

    /// Begins a cycle as client `at`, unless `cycles` have begun.
    fn begin(&mut self, at: usize, cycles: u64) -> io::Result<()> {
        if self.begun == cycles {
            return Ok(());
        }
        let cycle = self.begun;
        self.begun += 1;
        let version = self.fleet.version;
        let mut link = self.fleet.net.connect(at as u64)?;
        let client_id = format!("churn-{}-{cycle}", self.fleet.run);
        link.push(&Packet::Connect(connect(&client_id, 60, version)), version)?;
        link.flush(&self.fleet.net)?;
        self.visitors[at] = Some(Visitor { link, cycle, waits_for: PacketType::ConnAck });
        Ok(())
    }

    /// Takes the client `at` on through its cycle; whether that is over.
    fn receive(&mut self, at: usize) -> io::Result<bool> {
        let Churn { fleet, visitors, report, .. } = self;
        let Some(Visitor { link, cycle, waits_for }) = &mut visitors[at] else { return Ok(false) };
        let Some(len) = link.read(&mut fleet.buffer)? else { return Ok(false) };
        let mut input = &fleet.buffer[..len];
        let mut answer = None;
        while let Some(frame) = link.framer.next_frame(&mut input, PACKET_MAX).map_err(io::Error::other)? {
            let packet = decode(fleet.version, frame).map_err(io::Error::other)?;
            accept(&packet, *waits_for)?;
            if let Packet::Publish(publish) = packet {
                let header = payload::read(publish.payload, PAYLOAD_LEN);
                if header.is_none_or(|header| header.sequence != *cycle) {
                    report.violation(format!("cycle {cycle}: not the message that was sent"));
                }
            }
            answer = Some(*waits_for);
        }
        let topic = format!("load/churn/{}/{cycle}", fleet.run);
        let version = fleet.version;
        match answer {
            Some(PacketType::ConnAck) => {
                subscribe(link, &topic, Qos::AtMostOnce, version)?;
                *waits_for = PacketType::SubAck;
            }
            Some(PacketType::SubAck) => {
                let header = Header { stream: at as u32, sequence: *cycle, sent_ns: fleet.clock.ns() };
                publish(link, &topic, header, PAYLOAD_LEN, version)?;
                *waits_for = PacketType::Publish;
            }
            Some(_) => {
                link.push(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)), version)?;
                link.flush(&fleet.net)?;
                return Ok(true);
            }
            None => return Ok(false),
        }
        link.flush(&fleet.net)?;
        Ok(false)
    }
}
