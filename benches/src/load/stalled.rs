//! A subscriber that stops reading while it is sent very much: what that does to the broker's memory and to the others.
//!
//! Pairs go on at a fixed rate all the time. First alone; then another client publishes a flood to a subscriber that
//! reads nothing; then that one reads again. A broker may drop messages of QoS 0 for it and may end its connection. What
//! it must not do is to alter the order, or to make the pairs wait.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::load::fleet::Fleet;
use crate::load::flow::{self, Flood, Flow, Shape};
use crate::load::observe;
use crate::load::report::{Report, Usage};

/// What is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Pairs beside the stalled subscriber, their messages and rate; the flood has the same payload and QoS.
    pub(crate) pairs: usize,
    /// The plan of the pairs.
    pub(crate) flow: flow::Plan,
    /// Messages a second to the subscriber that does not read.
    pub(crate) flood_rate: u64,
}

/// Time between two looks at the broker's memory.
const LOOK: Duration = Duration::from_millis(100);

/// Runs `plan` over connections of `fleet`, which has none yet.
pub(crate) fn run(plan: &Plan, fleet: Fleet) -> io::Result<Report> {
    let pid = plan.flow.pid;
    let everybody = flow::Plan { shape: Shape::Pairs(plan.pairs + 1), ..plan.flow.clone() };
    let mut flow = Flow::open(&everybody, fleet)?;
    flow.paced = plan.pairs;
    let stalled = flow.streams.len() + plan.pairs;
    let clock = flow.fleet.clock;

    let begin = clock.elapsed();
    flow.fleet.progress.begin(clock, "warming up", None);
    flow.send_until(begin, begin + plan.flow.warm_up, None)?;
    flow.tally.latency.reset();
    flow.fleet.progress.begin(clock, "pairs alone", None);
    flow.tally.deliveries = 0;
    flow.send_until(begin, clock.elapsed() + plan.flow.duration, None)?;
    let alone = take(&mut flow.tally.latency);

    let before = Usage::now(pid)?;
    flow.fleet.links[stalled].set_reading(&flow.fleet.net, false)?;
    flow.may_end = Some(stalled);
    flow.flood = Some(Flood { rate: plan.flood_rate, begin: clock.elapsed(), due: 0, held_back: 0 });
    flow.fleet.progress.begin(clock, "one is stalled", None);
    flow.tally.deliveries = 0;
    let end = clock.elapsed() + plan.flow.duration;
    let mut rss_max = 0;
    while clock.elapsed() < end {
        flow.send_until(begin, end.min(clock.elapsed() + LOOK), None)?;
        if let Some(pid) = pid {
            rss_max = rss_max.max(observe::sample(pid)?.rss);
        }
    }
    let during = take(&mut flow.tally.latency);
    let after = Usage::now(pid)?;
    let deliveries = flow.tally.deliveries;
    let flood = flow.flood.take();

    // An ended connection makes no events any more, so there is nothing to read from it.
    let is_connected = flow.may_end.is_some();
    if is_connected {
        flow.fleet.links[stalled].set_reading(&flow.fleet.net, true)?;
    }
    flow.fleet.progress.begin(clock, "it reads again", None);
    flow.drain()?;

    let is_connected = is_connected && flow.may_end.is_some();
    let sent = flow.streams[plan.pairs].sent;
    let (received, undelivered) = flow.account();
    let mut report = std::mem::take(&mut flow.tally.report);
    report.points = flow.fleet.progress.finish();
    report.add("pairs", plan.pairs);
    report.add("qos", plan.flow.qos.bits());
    report.add("payload_bytes", plan.flow.payload_len);
    for (latency, names) in [
        (&alone, ["latency_alone_p50_us", "latency_alone_p99_us", "latency_alone_max_us"]),
        (&during, ["latency_stalled_p50_us", "latency_stalled_p99_us", "latency_stalled_max_us"]),
    ] {
        for (name, quantile) in names.into_iter().zip([0.5, 0.99, 1.0]) {
            report.add_rounded(name, latency.value_at_quantile(quantile) as f64 / 1_000.0);
        }
    }
    report.latency = Some(during);
    report.add_cpu(
        &before,
        &after,
        deliveries + sent,
        ["broker_cpu_us_per_message", "own_cpu_us_per_message"],
    );
    if let (Some(before), Some(after)) = (before.broker, after.broker) {
        report.add("rss_before_bytes", before.rss);
        report.add("rss_max_bytes", rss_max);
        report.add("rss_after_stall_bytes", after.rss);
    }
    if let Some(pid) = pid {
        report.add("rss_after_reading_bytes", observe::sample(pid)?.rss);
    }
    report.add("flood_sent", sent);
    report.add("flood_held_back", flood.map_or(0, |flood| flood.held_back));
    report.add("flood_received", received);
    report.add("stalled_connection_kept", is_connected);
    report.add("lost", undelivered);
    if undelivered > 0 && plan.flow.qos != mqtt_proto::Qos::AtMostOnce && is_connected {
        report.violation(format!("{undelivered} deliveries did not come to a connected subscriber"));
    }
    Ok(report)
}

/// What was recorded until now; recording begins anew.
fn take(latency: &mut Histogram<u64>) -> Histogram<u64> {
    let taken = latency.clone();
    latency.reset();
    taken
}
