//! Connections that do nothing: what a client costs while it is merely there, and whether it is still served.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use mqtt_proto::Qos;
use serde_json::{Value, json};

use crate::load::clock::Random;
use crate::load::crowd::{Crowd, SAID, Tally};
use crate::load::fleet::{Fleet, KEEP_ALIVE, PATIENCE, publish};
use crate::load::observe::{self, Kernel};
use crate::load::payload::Header;
use crate::load::report::{Report, Usage};

/// What is to be opened.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Connections, in growing numbers: memory is looked at at each.
    pub(crate) steps: Vec<usize>,
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
pub(crate) const PAYLOAD_LEN: usize = 64;

/// Probes that are not delivered yet, at most.
const UNDELIVERED_MAX: usize = 4096;

/// Time between two looks whether all have come.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The topic of connection `at`, which nobody else subscribes to.
pub(crate) fn topic(at: usize) -> String {
    format!("load/idle/{at}")
}

/// What was used with so many connections.
struct Point {
    connections: usize,
    usage: Usage,
    kernel: Option<Kernel>,
}

impl Point {
    fn now(connections: usize, crowd: &Crowd, pid: Option<u32>) -> io::Result<Point> {
        let mut usage = Usage::now(pid)?;
        usage.own.cpu_ns += crowd.cpu_ns()?;
        Ok(Point { connections, usage, kernel: observe::kernel() })
    }
}

/// Runs `plan` with connections of other processes; `fleet`, which has none yet, gets the publisher.
pub(crate) fn run(plan: &Plan, mut fleet: Fleet) -> io::Result<Report> {
    let mut report = Report::new();
    let mut crowd = Crowd::new(&fleet, plan.keep_alive)?;
    // What the broker sets up once for its first client is not counted for the others.
    fleet.connect_all(1, KEEP_ALIVE)?;
    fleet.subscribe_all(0..1, Qos::AtMostOnce, topic)?;
    let (mut connect_seconds, mut count) = (0.0, 0);
    let (mut connecting, mut subscribing) = (Cost::default(), Cost::default());
    let mut points = vec![Point::now(0, &crowd, plan.pid)?];
    for &step in &plan.steps {
        let before = Point::now(count, &crowd, plan.pid)?;
        let begin = fleet.clock.elapsed();
        crowd.connect(step - count, &mut fleet)?;
        connect_seconds += (fleet.clock.elapsed() - begin).as_secs_f64();
        let connected = Point::now(step, &crowd, plan.pid)?;
        crowd.subscribe(step - count, &mut fleet)?;
        let subscribed = Point::now(step, &crowd, plan.pid)?;
        connecting.add(&before, &connected);
        subscribing.add(&connected, &subscribed);
        count = step;
        stay(plan.hold, count, &mut crowd, &mut fleet)?;
        points.push(Point::now(count, &crowd, plan.pid)?);
    }

    report.add("connections", count);
    report.add("processes", crowd.processes());
    report.add_rounded("connect_seconds", connect_seconds);
    connecting.report(&mut report, count, ["broker_cpu_us_per_connect", "own_cpu_us_per_connect"]);
    subscribing.report(&mut report, count, ["broker_cpu_us_per_subscribe", "own_cpu_us_per_subscribe"]);
    report_memory(&points, &mut report);
    let begin = fleet.clock.elapsed();
    let served = probe(plan, count, &mut crowd, &mut fleet, &mut report)?;
    report.add("probes", plan.probes.min(count));
    report.add("probes_served", served);
    report.add_rounded("probe_seconds", (fleet.clock.elapsed() - begin).as_secs_f64());
    let Tally { pings, pongs, .. } = crowd.tally()?;
    report.add("pings", pings);
    report.add("pongs", pongs);
    fleet.progress.begin(fleet.clock, "leaving", None);
    drop(crowd);
    let phase = |&(phase, begin)| json!({ "phase": phase, "begin_unix_s": fleet.clock.unix_seconds(begin) });
    report.add_detail("phases", fleet.progress.phases().iter().map(phase).collect::<Value>());
    fleet.progress.finish();
    Ok(report)
}

/// Lets all connections be there for `hold`; fails as soon as the broker or one of them does not last.
fn stay(hold: Duration, count: usize, crowd: &mut Crowd, fleet: &mut Fleet) -> io::Result<()> {
    fleet.progress.begin(fleet.clock, "holding", None);
    let end = fleet.clock.elapsed() + hold;
    let mut stay_on = || {
        while fleet.clock.elapsed() < end {
            fleet.turn(end.saturating_sub(fleet.clock.elapsed()), |_, _, _| Ok(()))?;
            if fleet.ready.iter().any(|ready| ready.key == SAID) {
                crowd.tally()?;
            }
        }
        crowd.tally().map(drop)
    };
    stay_on().map_err(|error: io::Error| {
        io::Error::new(error.kind(), format!("{error} while {count} connections were held"))
    })
}

/// CPU over the steps.
#[derive(Default)]
struct Cost {
    broker_ns: Option<u64>,
    own_ns: u64,
}

impl Cost {
    fn add(&mut self, before: &Point, after: &Point) {
        if let (Some(before), Some(after)) = (before.usage.broker, after.usage.broker) {
            *self.broker_ns.get_or_insert(0) += after.cpu_ns - before.cpu_ns;
        }
        self.own_ns += after.usage.own.cpu_ns - before.usage.own.cpu_ns;
    }

    fn report(&self, report: &mut Report, count: usize, names: [&'static str; 2]) {
        let each = |ns: u64| ns as f64 / 1_000.0 / count.max(1) as f64;
        if let Some(ns) = self.broker_ns {
            report.add_rounded(names[0], each(ns));
        }
        report.add_rounded(names[1], each(self.own_ns));
    }
}

/// Bytes a connection: from nothing to the only step, or the slope of the line through several.
fn report_memory(points: &[Point], report: &mut Report) {
    let counted = if points.len() > 2 { &points[1..] } else { points };
    let slope = |of: &dyn Fn(&Point) -> Option<u64>| {
        let found: Option<Vec<(f64, f64)>> =
            counted.iter().map(|point| Some((point.connections as f64, of(point)? as f64))).collect();
        found.map(|line| slope(&line))
    };
    let broker = |point: &Point| point.usage.broker;
    for (name, of) in [
        (
            "rss_bytes_per_connection",
            &(|point: &Point| Some(broker(point)?.rss)) as &dyn Fn(&Point) -> Option<u64>,
        ),
        ("rss_anon_bytes_per_connection", &|point| Some(broker(point)?.rss_anon)),
        ("slab_bytes_per_connection_both_ends", &|point| Some(point.kernel?.slab)),
        ("slab_bytes_per_connection_io_uring", &|point| Some(point.kernel?.io_uring)),
    ] {
        if let Some(bytes) = slope(of) {
            report.add_rounded(name, bytes);
        }
    }
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    if let (Some(before), Some(held)) = (broker(first), broker(last)) {
        report.add("rss_bytes", held.rss);
        report.add("fds_before", before.fds);
        report.add("fds_after", held.fds);
    }
    if let Some(kernel) = last.kernel {
        report.add("tcp_buffer_bytes", kernel.tcp_buffers);
    }
    if points.len() > 2 {
        let steps = points[1..].iter().map(|point| {
            json!({
                "connections": point.connections,
                "rss": broker(point).map(|sample| sample.rss),
                "slab": point.kernel.map(|kernel| kernel.slab),
            })
        });
        report.add("steps", steps.collect::<Value>());
    }
}

/// The slope of the line that lies closest to these points, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut together, mut square) = (0.0, 0.0);
    for point in points {
        together += (point.0 - x) * (point.1 - y);
        square += (point.0 - x) * (point.0 - x);
    }
    together / square
}

/// Publishes to some of the connections, each on its own topic; returns how many messages arrived. Whether they are
/// the right ones at the right connections, their sums say.
fn probe(
    plan: &Plan,
    count: usize,
    crowd: &mut Crowd,
    fleet: &mut Fleet,
    report: &mut Report,
) -> io::Result<usize> {
    let probes = choose(plan.probes.min(count), count);
    fleet.progress.begin(fleet.clock, "probing", Some(probes.len() as u64));
    let mut expected = Tally::default();
    let mut arrived = Tally::default();
    for batch in probes.chunks(UNDELIVERED_MAX) {
        for &at in batch {
            let header = Header { stream: at as u32, sequence: 0, sent_ns: fleet.clock.ns() };
            publish(&mut fleet.links[0], &topic(at), header, PAYLOAD_LEN, fleet.version)?;
            fleet.links[0].flush(&fleet.net)?;
            expected.note(at);
        }
        let mut heard = fleet.clock.elapsed();
        loop {
            // Writes what is left to be written, and waits.
            fleet.turn(LOOK_EVERY, |_, _, _| Ok(()))?;
            let before = arrived.messages;
            arrived = crowd.tally()?;
            let now = fleet.clock.elapsed();
            fleet.progress.note(now, arrived.messages);
            if arrived.messages >= expected.messages {
                break;
            }
            if arrived.messages > before {
                heard = now;
            }
            if now - heard > PATIENCE {
                report.violation(format!(
                    "{} idle connections were not served",
                    expected.messages - arrived.messages
                ));
                return Ok(arrived.messages as usize);
            }
        }
    }
    if arrived.wrong > 0 || (arrived.messages, arrived.sum) != (expected.messages, expected.sum) {
        report.violation(format!(
            "of {} messages to idle connections {} were altered, or came to others than were meant",
            expected.messages, arrived.wrong
        ));
    }
    Ok(arrived.messages as usize)
}

/// So many different numbers from 1 to `count`.
fn choose(probes: usize, count: usize) -> Vec<usize> {
    if probes == count {
        return (1..=count).collect();
    }
    let mut random = Random(count as u64);
    let mut chosen = HashSet::new();
    let mut order = Vec::new();
    while order.len() < probes {
        let at = random.between(1, 1 + count as u64) as usize;
        if chosen.insert(at) {
            order.push(at);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_is_that_of_the_line_through_the_points() {
        assert!((slope(&[(0.0, 100.0), (1_000.0, 400_100.0)]) - 400.0).abs() < 1e-6);
        let line = [(1_000.0, 1_500.0), (2_000.0, 2_400.0), (3_000.0, 3_600.0), (4_000.0, 4_500.0)];
        assert!((slope(&line) - 1.02).abs() < 1e-9);
    }

    #[test]
    fn chosen_connections_differ_and_all_means_all() {
        assert_eq!(choose(3, 3), [1, 2, 3]);
        let some = choose(500, 1_000);
        let different: HashSet<_> = some.iter().collect();
        assert_eq!((some.len(), different.len()), (500, 500));
        assert!(some.iter().all(|at| (1..=1_000).contains(at)));
    }
}
