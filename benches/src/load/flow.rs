//! Messages from publishers to subscribers: pairs, fan-out and fan-in, as fast as a window allows or at a rate.
//!
//! Invariant: a stream (all messages of one publisher) has at most `window` messages that a subscriber still waits
//! for, unless a rate is given: then messages leave when they are due, and latency counts from that moment, so that
//! a broker that stalls pays for every message it kept waiting.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use mqtt_proto::{Ack, Packet, PacketId, Publish, Qos, ReasonCode, decode, encode};

use crate::load::fleet::{Fleet, KEEP_ALIVE, PACKET_MAX, Stay, acknowledge};
use crate::load::frame::Template;
use crate::load::payload::{self, Header};
use crate::load::report::{Report, Usage};

/// Who sends to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// So many publishers, each with a subscriber of its own.
    Pairs(usize),
    /// One publisher, so many subscribers to the same topic.
    FanOut(usize),
    /// So many publishers, one subscriber to all of them.
    FanIn(usize),
}

/// What is to be sent, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Who sends to whom.
    pub(crate) shape: Shape,
    /// QoS of messages and subscriptions.
    pub(crate) qos: Qos,
    /// Bytes of a payload.
    pub(crate) payload_len: usize,
    /// Messages of a publisher that are not delivered yet, at most.
    pub(crate) window: u64,
    /// Messages a second of all publishers together, instead of the window.
    pub(crate) rate: Option<u64>,
    /// Whether the subscribers' sessions are there after their connections.
    pub(crate) stay: Stay,
    /// What is not measured.
    pub(crate) warm_up: Duration,
    /// What is measured.
    pub(crate) duration: Duration,
    /// Deliveries after which the measurement ends early.
    pub(crate) count: Option<u64>,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
}

/// How long deliveries may take after the last message was sent.
const DRAIN: Duration = Duration::from_secs(5);
/// QoS 1 and 2 messages that one publisher has under way, whatever the window: far fewer than Packet Identifiers.
const UNACKNOWLEDGED_MAX: usize = 1_000;
/// Names of the latencies of acknowledgements.
const ACKNOWLEDGED: [&str; 4] =
    ["acknowledged_p50_us", "acknowledged_p99_us", "acknowledged_p99.9_us", "acknowledged_max_us"];

/// Bytes that may wait to be written on a connection that is flooded.
const FLOOD_BACKLOG: usize = 1 << 20;

pub(super) struct Stream {
    template: Template,
    pub(super) sent: u64,
    /// Sum over all its subscribers, lost ones included.
    delivered: u64,
    /// Those that were left out before a later one.
    lost: u64,
    /// When those were sent, or due, whose PUBACK or PUBCOMP has not come: these come in the same order.
    unacknowledged: VecDeque<u64>,
    packet_id: PacketId,
    is_dirty: bool,
}

/// What one subscriber expects of the streams `first..first + next.len()`.
struct Subscriber {
    first: u32,
    next: Vec<u64>,
}

/// The last stream, sent beside the others at a rate of its own.
pub(super) struct Flood {
    /// Messages a second.
    pub(super) rate: u64,
    /// Since when.
    pub(super) begin: Duration,
    /// Messages that were due.
    pub(super) due: u64,
    /// Those that were not sent because the broker did not take what was sent before.
    pub(super) held_back: u64,
}

/// The connections of a plan and what is under way on them.
pub(super) struct Flow<'p> {
    plan: &'p Plan,
    pub(super) fleet: Fleet,
    pub(super) streams: Vec<Stream>,
    subscribers: Vec<Subscriber>,
    /// Subscribers of each stream.
    receivers: u64,
    /// The first so many streams take turns at the plan's rate, and have sent so many messages.
    pub(super) paced: usize,
    paced_sent: u64,
    pub(super) flood: Option<Flood>,
    /// The connection of a subscriber whose end is no fault of the broker.
    pub(super) may_end: Option<usize>,
    /// Streams with room in the window, or with bytes to be written.
    dirty: Vec<u32>,
    pub(super) tally: Tally,
}

/// What came.
pub(super) struct Tally {
    pub(super) deliveries: u64,
    pub(super) latency: Histogram<u64>,
    /// From a PUBLISH to its PUBACK or PUBCOMP.
    acknowledged: Histogram<u64>,
    pub(super) report: Report,
}

/// Runs `plan` over connections of `fleet`, which has none yet.
pub(crate) fn run(plan: &Plan, fleet: Fleet) -> io::Result<Report> {
    let mut flow = Flow::open(plan, fleet)?;
    let clock = flow.fleet.clock;
    let begin = clock.elapsed();
    flow.fleet.progress.begin(clock, "warming up", None);
    flow.send_until(begin, begin + plan.warm_up, None)?;
    let before = Usage::now(plan.pid)?;
    flow.tally.deliveries = 0;
    flow.tally.latency.reset();
    flow.tally.acknowledged.reset();
    flow.fleet.progress.begin(clock, "measuring", plan.count);
    let from = clock.elapsed();
    flow.send_until(begin, from + plan.duration, plan.count)?;
    let took = clock.elapsed() - from;
    let after = Usage::now(plan.pid)?;
    let deliveries = flow.tally.deliveries;
    flow.drain()?;

    let (_, lost) = flow.account();
    let undelivered = flow.undelivered();
    let Flow { tally, mut fleet, .. } = flow;
    let Tally { latency, acknowledged, mut report, .. } = tally;
    if plan.stay == Stay::After {
        // A clean session in the place of each ends it.
        let everybody = fleet.links.len();
        fleet.leave()?;
        fleet.connect_all(everybody, KEEP_ALIVE)?;
    }
    report.points = fleet.progress.finish();
    if undelivered > 0 && plan.qos != Qos::AtMostOnce {
        report.violation(format!("{undelivered} deliveries did not come within {DRAIN:?}"));
    }
    if plan.qos == Qos::AtMostOnce && lost > 0 {
        report.warn(format!(
            "{lost} messages were lost{}",
            if undelivered == lost { ", the last ones: the broker had stopped answering" } else { "" }
        ));
    }
    report.add("shape", format!("{:?}", plan.shape));
    report.add("qos", plan.qos.bits());
    report.add("payload_bytes", plan.payload_len);
    match plan.rate {
        Some(rate) => report.add("rate_per_s", rate),
        None => report.add("window", plan.window),
    }
    report.add_rounded("seconds", took.as_secs_f64());
    report.add("deliveries", deliveries);
    report.add("deliveries_per_s", (deliveries as f64 / took.as_secs_f64()).round() as u64);
    report.add_cpu(&before, &after, deliveries, ["broker_cpu_us_per_delivery", "own_cpu_us_per_delivery"]);
    report.add_written(&before, &after, deliveries, "broker_written_bytes_per_delivery");
    report.add_latency(latency);
    if plan.qos != Qos::AtMostOnce {
        report.add_quantiles(&acknowledged, ACKNOWLEDGED);
    }
    report.add("lost", lost);
    if let Some(broker) = after.broker {
        report.add("broker_rss_bytes", broker.rss);
    }
    Ok(report)
}

impl<'p> Flow<'p> {
    /// Connects and subscribes everybody: publishers first, then subscribers.
    pub(super) fn open(plan: &'p Plan, mut fleet: Fleet) -> io::Result<Flow<'p>> {
        let (publishers, subscribers, receivers) = match plan.shape {
            Shape::Pairs(count) => (count, count, 1),
            Shape::FanOut(count) => (1, count, count as u64),
            Shape::FanIn(count) => (count, 1, 1),
        };
        let stay = |at| if at < publishers { Stay::No } else { plan.stay };
        fleet.connect_as(publishers + subscribers, KEEP_ALIVE, stay)?;
        let run = fleet.run.clone();
        let topic = |stream: usize| format!("load/{run}/{stream}");
        fleet.subscribe_all(publishers..publishers + subscribers, plan.qos, |at| match plan.shape {
            Shape::Pairs(_) => topic(at - publishers),
            Shape::FanOut(_) => topic(0),
            Shape::FanIn(_) => format!("load/{run}/+"),
        })?;
        let streams = (0..publishers).map(|stream| {
            Ok(Stream {
                template: Template::new(topic(stream), plan.qos, plan.payload_len, fleet.version)?,
                sent: 0,
                delivered: 0,
                lost: 0,
                unacknowledged: VecDeque::new(),
                packet_id: PacketId::FIRST,
                is_dirty: true,
            })
        });
        let streams = streams.collect::<io::Result<_>>()?;
        let subscribers = (0..subscribers)
            .map(|at| match plan.shape {
                Shape::Pairs(_) => Subscriber { first: at as u32, next: vec![0] },
                Shape::FanOut(_) => Subscriber { first: 0, next: vec![0] },
                Shape::FanIn(_) => Subscriber { first: 0, next: vec![0; publishers] },
            })
            .collect();
        let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
        let acknowledged = latency.clone();
        Ok(Flow {
            plan,
            fleet,
            streams,
            subscribers,
            receivers,
            paced: publishers,
            paced_sent: 0,
            flood: None,
            may_end: None,
            dirty: (0..publishers as u32).collect(),
            tally: Tally { deliveries: 0, latency, acknowledged, report: Report::new() },
        })
    }

    /// Sends and receives until the clock says `end`, or until there were `count` deliveries. A rate counts from
    /// `begin`.
    pub(super) fn send_until(
        &mut self,
        begin: Duration,
        end: Duration,
        count: Option<u64>,
    ) -> io::Result<()> {
        loop {
            let now = self.fleet.clock.elapsed();
            if now >= end || count.is_some_and(|count| self.tally.deliveries >= count) {
                return Ok(());
            }
            self.fleet.progress.note(now, self.tally.deliveries);
            let wake = match self.plan.rate {
                Some(rate) => {
                    let flooded = self.send_flood(now)?;
                    self.send_due(begin, now, rate)?.min(flooded).min(end)
                }
                None => {
                    self.fill_windows()?;
                    end
                }
            };
            self.turn(wake.saturating_sub(self.fleet.clock.elapsed()))?;
        }
    }

    /// Lets every stream with room in its window send.
    fn fill_windows(&mut self) -> io::Result<()> {
        let now = self.fleet.clock.ns();
        let mut dirty = std::mem::take(&mut self.dirty);
        for &at in &dirty {
            let in_flight_max = self.plan.window * self.receivers;
            loop {
                let stream = &self.streams[at as usize];
                let in_flight = stream.sent * self.receivers - stream.delivered;
                // A message is in flight as long as one of its receivers waits.
                if in_flight + self.receivers > in_flight_max
                    || stream.unacknowledged.len() >= UNACKNOWLEDGED_MAX
                {
                    break;
                }
                self.publish(at, now);
            }
            self.streams[at as usize].is_dirty = false;
            self.fleet.links[at as usize].flush(&self.fleet.net)?;
        }
        dirty.clear();
        self.dirty = dirty;
        Ok(())
    }

    /// Sends what is due at `now`; returns when the next message is.
    fn send_due(&mut self, begin: Duration, now: Duration, rate: u64) -> io::Result<Duration> {
        let interval = Duration::from_nanos(1_000_000_000 / rate);
        let mut due = begin + interval.mul_f64(self.paced_sent as f64);
        while due <= now {
            // Streams take turns, so the least advanced one is next.
            let at = (self.paced_sent % self.paced as u64) as u32;
            if self.streams[at as usize].unacknowledged.len() >= UNACKNOWLEDGED_MAX {
                due = now + Duration::from_millis(1);
                break;
            }
            self.publish(at, due.as_nanos() as u64);
            mark(&mut self.streams, &mut self.dirty, at);
            self.paced_sent += 1;
            due = begin + interval.mul_f64(self.paced_sent as f64);
        }
        while let Some(at) = self.dirty.pop() {
            self.streams[at as usize].is_dirty = false;
            self.fleet.links[at as usize].flush(&self.fleet.net)?;
        }
        Ok(due)
    }

    /// Sends what is due of the flood at `now`, or leaves it out if the broker does not take it; returns when the next
    /// message of it is due.
    fn send_flood(&mut self, now: Duration) -> io::Result<Duration> {
        let at = self.streams.len() - 1;
        let Some(Flood { rate, begin, mut due, mut held_back }) = self.flood else {
            return Ok(Duration::MAX);
        };
        let interval = Duration::from_secs(1).div_f64(rate as f64);
        while begin + interval.mul_f64(due as f64) <= now {
            due += 1;
            if self.fleet.links[at].queued_len() > FLOOD_BACKLOG
                || self.streams[at].unacknowledged.len() >= UNACKNOWLEDGED_MAX
            {
                held_back += 1;
            } else {
                self.publish(at as u32, now.as_nanos() as u64);
            }
        }
        self.flood = Some(Flood { rate, begin, due, held_back });
        self.fleet.links[at].flush(&self.fleet.net)?;
        Ok(begin + interval.mul_f64(due as f64))
    }

    /// Queues the next message of the stream `at`.
    fn publish(&mut self, at: u32, sent_ns: u64) {
        let stream = &mut self.streams[at as usize];
        if self.plan.qos != Qos::AtMostOnce {
            stream.unacknowledged.push_back(sent_ns);
            stream.packet_id = stream.packet_id.next();
        }
        let header = Header { stream: at, sequence: stream.sent, sent_ns };
        stream.template.write(header, stream.packet_id, &mut self.fleet.links[at as usize].out);
        stream.sent += 1;
    }

    /// Waits for events and handles them.
    pub(super) fn turn(&mut self, timeout: Duration) -> io::Result<()> {
        self.fleet.net.wait(timeout, &mut self.fleet.ready)?;
        for at in 0..self.fleet.ready.len() {
            let ready = self.fleet.ready[at];
            if ready.writable {
                self.fleet.links[ready.key as usize].flush(&self.fleet.net)?;
            }
            if ready.readable {
                let at = ready.key as usize;
                match self.receive(at) {
                    Err(_) if self.may_end == Some(at) => {
                        self.may_end = None;
                        self.fleet.links[at].forget(&self.fleet.net)?;
                    }
                    result => result?,
                }
            }
        }
        Ok(())
    }

    /// Reads from the connection `at` and answers.
    fn receive(&mut self, at: usize) -> io::Result<()> {
        let Flow { plan, fleet, streams, subscribers, dirty, tally, .. } = self;
        let link = &mut fleet.links[at];
        let Some(len) = link.read(&mut fleet.buffer)? else { return Ok(()) };
        let now = fleet.clock.ns();
        let mut input = &fleet.buffer[..len];
        while let Some(frame) = link.framer.next_frame(&mut input, PACKET_MAX).map_err(io::Error::other)? {
            // Nearly every frame is exactly what was sent; any other is looked at in detail.
            if let Some(subscriber) = at.checked_sub(streams.len())
                && let Some(header) = payload::read_end(frame, plan.payload_len)
                && let Some(stream) = streams.get(header.stream as usize)
                && let Some(packet_id) = stream.template.recognize(frame)
            {
                if let Some(stream) = tally.deliver(plan, streams, &mut subscribers[subscriber], header, now)
                {
                    mark(streams, dirty, stream);
                }
                acknowledge(plan.qos, packet_id, fleet.version, &mut link.out)?;
                continue;
            }
            let packet = decode(fleet.version, frame).map_err(io::Error::other)?;
            match packet {
                Packet::Publish(publish) => {
                    if let Some(subscriber) = at.checked_sub(streams.len())
                        && let Some(header) = tally.inspect(plan, streams, &publish)
                        && let Some(stream) =
                            tally.deliver(plan, streams, &mut subscribers[subscriber], header, now)
                    {
                        mark(streams, dirty, stream);
                    }
                    acknowledge(publish.qos, publish.packet_id, fleet.version, &mut link.out)?;
                }
                Packet::PubAck(_) | Packet::PubComp(_) if at < streams.len() => {
                    let Some(sent_ns) = streams[at].unacknowledged.pop_front() else {
                        return Err(io::Error::other("more acknowledgements than messages"));
                    };
                    tally.acknowledged.saturating_record(now.saturating_sub(sent_ns).max(1));
                    mark(streams, dirty, at as u32);
                }
                Packet::PubRec(ack) => {
                    let pubrel = Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS));
                    encode(&pubrel, fleet.version, &mut link.out).map_err(io::Error::other)?;
                }
                Packet::PubRel(ack) => {
                    let pubcomp = Packet::PubComp(Ack::new(ack.packet_id, ReasonCode::SUCCESS));
                    encode(&pubcomp, fleet.version, &mut link.out).map_err(io::Error::other)?;
                }
                other => return Err(io::Error::other(format!("unexpected {:?}", other.packet_type()))),
            }
        }
        link.flush(&fleet.net)
    }

    /// Deliveries that did not come behind the last one that did.
    fn undelivered(&self) -> u64 {
        self.streams.iter().map(|stream| stream.sent * self.receivers - stream.delivered).sum()
    }

    /// How many messages of the last stream came, and how many of all streams did not.
    pub(super) fn account(&self) -> (u64, u64) {
        let last = self.streams.last().map_or(0, |stream| stream.delivered - stream.lost);
        let lost: u64 = self.streams.iter().map(|stream| stream.lost).sum();
        (last, lost + self.undelivered())
    }

    /// Waits for what was sent to be delivered.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let end = self.fleet.clock.elapsed() + DRAIN;
        while self.fleet.clock.elapsed() < end
            && self.streams.iter().any(|stream| {
                stream.delivered < stream.sent * self.receivers || !stream.unacknowledged.is_empty()
            })
        {
            self.turn(Duration::from_millis(100))?;
        }
        Ok(())
    }
}

/// Notes that the stream `at` may send, or has bytes to be written.
fn mark(streams: &mut [Stream], dirty: &mut Vec<u32>, at: u32) {
    if !std::mem::replace(&mut streams[at as usize].is_dirty, true) {
        dirty.push(at);
    }
}

impl Tally {
    /// Checks everything about a PUBLISH but its place in the stream.
    fn inspect(&mut self, plan: &Plan, streams: &[Stream], publish: &Publish<'_>) -> Option<Header> {
        let Some(header) = payload::read(publish.payload, plan.payload_len) else {
            self.report.violation("a payload arrived altered");
            return None;
        };
        let topic = streams.get(header.stream as usize).map(|stream| stream.template.topic());
        if topic.is_none() || publish.topic.map(|topic| topic.as_str()) != topic || publish.qos != plan.qos {
            self.report.violation(format!("{:?} at {:?}, sent to {topic:?}", publish.topic, publish.qos));
        }
        Some(header)
    }

    /// Checks the place in the stream and counts a delivery; returns its stream if it is one.
    fn deliver(
        &mut self,
        plan: &Plan,
        streams: &mut [Stream],
        subscriber: &mut Subscriber,
        header: Header,
        now: u64,
    ) -> Option<u32> {
        let place = header.stream.checked_sub(subscriber.first).map(|place| place as usize);
        let Some(next) = place.and_then(|place| subscriber.next.get_mut(place)) else {
            self.report.violation(format!("stream {} came to a stranger", header.stream));
            return None;
        };
        let stream = &mut streams[header.stream as usize];
        if header.sequence >= stream.sent {
            self.report.violation(format!("stream {}: {} was not sent", header.stream, header.sequence));
            return None;
        }
        if header.sequence < *next {
            self.report.violation(format!(
                "stream {}: {} after {}, twice or out of order",
                header.stream, header.sequence, *next
            ));
            return None;
        }
        let lost = header.sequence - *next;
        if lost > 0 && plan.qos != Qos::AtMostOnce {
            self.report
                .violation(format!("stream {}: {lost} lost before {}", header.stream, header.sequence));
        }
        *next = header.sequence + 1;
        stream.delivered += lost + 1;
        stream.lost += lost;
        self.deliveries += 1;
        self.latency.saturating_record(now.saturating_sub(header.sent_ns).max(1));
        Some(header.stream)
    }
}
