//! Very many subscriptions of which a message meets few: what a filter costs, and what a publish costs among them.
//!
//! Topics are those of sensors: five levels, 50 sensors a room, 10 rooms a floor, 10 floors a building. Nearly every
//! subscription is to one sensor; one in a hundred has a wildcard and covers a room, or the same sensor of the same room
//! on every floor.
//!
//! Invariant: no two filters of one client match the same topic. Whether a client then gets one copy of the message or
//! two is left to the broker, and every copy here is accounted for.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use mqtt_proto::{
    Packet, PacketId, PacketType, Properties, Publish, Qos, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions,
};

use crate::load::clock::Random;
use crate::load::fleet::{Fleet, KEEP_ALIVE, PATIENCE};
use crate::load::frame::Template;
use crate::load::payload::{self, Header};
use crate::load::report::{Report, Usage};

/// What is to be subscribed and sent.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Subscriptions.
    pub(crate) subscriptions: u32,
    /// Clients that share those without wildcards.
    pub(crate) clients: u32,
    /// Filters in one SUBSCRIBE.
    pub(crate) filters_per_packet: usize,
    /// Messages not delivered yet, at most.
    pub(crate) window: usize,
    /// What is not measured.
    pub(crate) warm_up: Duration,
    /// What is measured.
    pub(crate) duration: Duration,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
}

const PAYLOAD_LEN: usize = 64;
/// Sensors of a room, of a floor, of a building.
const ROOM: u32 = 50;
const FLOOR: u32 = 10 * ROOM;
const BUILDING: u32 = 10 * FLOOR;
/// The last of so many subscriptions has a wildcard.
const WILD_EVERY: u32 = 100;
/// Clients for filters with wildcards: as many as a building has such filters, none of which matches elsewhere.
const WILD_CLIENTS: u32 = BUILDING / WILD_EVERY;

/// The subscriptions by number, and who has them.
#[derive(Clone, Debug)]
struct Site {
    prefix: String,
    subscriptions: u32,
    clients: u32,
}

impl Site {
    fn topic(&self, sensor: u32) -> String {
        let (building, floor) = (sensor / BUILDING, sensor / FLOOR % 10);
        format!("{}/b{building}/f{floor}/r{}/s{}", self.prefix, sensor / ROOM % 10, sensor % ROOM)
    }

    const fn is_wild(at: u32) -> bool {
        at % WILD_EVERY == WILD_EVERY - 1
    }

    fn filter(&self, at: u32) -> String {
        if !Site::is_wild(at) {
            return self.topic(at);
        }
        let (building, floor, room) = (at / BUILDING, at / FLOOR % 10, at / ROOM % 10);
        match at / WILD_EVERY % 3 {
            0 => format!("{}/b{building}/f{floor}/r{room}/+", self.prefix),
            1 => format!("{}/b{building}/f{floor}/r{room}/#", self.prefix),
            _ => format!("{}/b{building}/+/r{room}/s{}", self.prefix, at % ROOM),
        }
    }

    /// The client that has the subscription `at`.
    const fn client(&self, at: u32) -> u32 {
        if Site::is_wild(at) {
            self.clients + at / WILD_EVERY % WILD_CLIENTS
        } else {
            at / ROOM % self.clients
        }
    }

    /// Makes `clients` those whose filters match the topic of `sensor`.
    fn receivers(&self, sensor: u32, clients: &mut Vec<u32>) {
        clients.clear();
        if !Site::is_wild(sensor) {
            clients.push(self.client(sensor));
        }
        let first = sensor / BUILDING * BUILDING;
        let wild = (first..self.subscriptions.min(first + BUILDING)).skip(WILD_EVERY as usize - 1);
        clients.extend(wild.step_by(WILD_EVERY as usize).filter_map(|at| {
            let is_match = match at / WILD_EVERY % 3 {
                0 | 1 => at / ROOM == sensor / ROOM,
                _ => at / ROOM % 10 == sensor / ROOM % 10 && at % ROOM == sensor % ROOM,
            };
            is_match.then(|| self.client(at))
        }));
    }
}

/// A message under way.
struct Sent {
    sensor: u32,
    /// Clients that have not had it.
    waiting: Vec<u32>,
}

struct Sparse {
    fleet: Fleet,
    site: Site,
    /// The connection that publishes; the clients come before it.
    publisher: usize,
    under_way: VecDeque<Sent>,
    /// The number of the first message in `under_way`.
    first: u64,
    random: Random,
    published: u64,
    deliveries: u64,
    latency: Histogram<u64>,
    report: Report,
    spare: Vec<Vec<u32>>,
}

/// Runs `plan` over connections of `fleet`, which has none yet.
pub(crate) fn run(plan: &Plan, mut fleet: Fleet) -> io::Result<Report> {
    let site = Site {
        prefix: format!("load{}", fleet.run),
        subscriptions: plan.subscriptions,
        clients: plan.clients,
    };
    let publisher = (plan.clients + WILD_CLIENTS) as usize;
    fleet.connect_all(publisher + 1, KEEP_ALIVE)?;
    let before = Usage::now(plan.pid)?;
    subscribe(plan, &site, &mut fleet)?;
    let subscribed = Usage::now(plan.pid)?;

    let latency = Histogram::new_with_bounds(1, 60_000_000_000, 3).map_err(io::Error::other)?;
    let mut sparse = Sparse {
        fleet,
        site,
        publisher,
        under_way: VecDeque::new(),
        first: 0,
        random: Random(u64::from(plan.subscriptions)),
        published: 0,
        deliveries: 0,
        latency,
        report: Report::new(),
        spare: Vec::new(),
    };
    let clock = sparse.fleet.clock;
    sparse.fleet.progress.begin(clock, "warming up", None);
    sparse.publish_until(plan.window, clock.elapsed() + plan.warm_up)?;
    let warm = Usage::now(plan.pid)?;
    sparse.latency.reset();
    let (published, deliveries, from) = (sparse.published, sparse.deliveries, clock.elapsed());
    sparse.fleet.progress.begin(clock, "publishing", None);
    sparse.publish_until(plan.window, from + plan.duration)?;
    let took = clock.elapsed() - from;
    let after = Usage::now(plan.pid)?;
    let (published, deliveries) = (sparse.published - published, sparse.deliveries - deliveries);

    let Sparse { mut fleet, latency, mut report, .. } = sparse;
    let filters = u64::from(plan.subscriptions);
    report.points = fleet.progress.finish();
    report.add("subscriptions", plan.subscriptions);
    report.add("wildcard_subscriptions", plan.subscriptions / WILD_EVERY);
    report.add_cpu(&before, &subscribed, filters, ["broker_cpu_us_per_filter", "own_cpu_us_per_filter"]);
    report.add_growth(
        &before,
        &subscribed,
        filters,
        ["rss_bytes_per_subscription", "rss_anon_bytes_per_subscription"],
    );
    report.add("published", published);
    report.add_rounded("deliveries_per_publish", deliveries as f64 / published.max(1) as f64);
    report.add("published_per_s", (published as f64 / took.as_secs_f64()).round() as u64);
    report.add_cpu(&warm, &after, published, ["broker_cpu_us_per_publish", "own_cpu_us_per_publish"]);
    report.add_latency(latency);
    Ok(report)
}

/// Makes all subscriptions, some in each packet, with one SUBSCRIBE of a client under way at a time.
fn subscribe(plan: &Plan, site: &Site, fleet: &mut Fleet) -> io::Result<()> {
    let mut filters: Vec<Vec<String>> = vec![Vec::new(); (site.clients + WILD_CLIENTS) as usize];
    for at in 0..site.subscriptions {
        filters[site.client(at) as usize].push(site.filter(at));
    }
    fleet.progress.begin(fleet.clock, "subscribing", None);
    for round in 0.. {
        let from = round * plan.filters_per_packet;
        let busy: Vec<usize> = (0..filters.len()).filter(|at| filters[*at].len() > from).collect();
        if busy.is_empty() {
            return Ok(());
        }
        fleet.request_all(0..busy.len(), PacketType::SubAck, |fleet, nth| {
            let at = busy[nth];
            let to = filters[at].len().min(from + plan.filters_per_packet);
            let options = SubscriptionOptions::new(Qos::AtMostOnce);
            let subscriptions: Vec<Subscription<'_>> =
                filters[at][from..to].iter().map(|filter| Subscription { filter, options }).collect();
            let subscribe = Subscribe {
                packet_id: PacketId::FIRST,
                properties: Properties::EMPTY,
                subscriptions: Subscriptions::new(&subscriptions),
            };
            fleet.links[at].push(&Packet::Subscribe(subscribe), fleet.version)?;
            Ok(at)
        })?;
    }
    Ok(())
}

impl Sparse {
    /// Publishes to sensors at random until the clock says `end`, then waits for what is under way.
    fn publish_until(&mut self, window: usize, end: Duration) -> io::Result<()> {
        let mut heard = self.fleet.clock.elapsed();
        loop {
            let now = self.fleet.clock.elapsed();
            self.fleet.progress.note(now, self.published);
            while now < end && self.under_way.len() < window {
                self.publish(now)?;
            }
            if self.under_way.is_empty() {
                return Ok(());
            }
            self.fleet.links[self.publisher].flush(&self.fleet.net)?;
            let before = self.deliveries;
            self.turn()?;
            if self.deliveries > before {
                heard = now;
            } else if now - heard > PATIENCE {
                let count: usize = self.under_way.iter().map(|sent| sent.waiting.len()).sum();
                self.report.violation(format!("{count} deliveries did not come within {PATIENCE:?}"));
                return Ok(());
            }
        }
    }

    fn publish(&mut self, now: Duration) -> io::Result<()> {
        let sensor = self.random.below(u64::from(self.site.subscriptions)) as u32;
        let mut waiting = self.spare.pop().unwrap_or_default();
        self.site.receivers(sensor, &mut waiting);
        let template =
            Template::new(self.site.topic(sensor), Qos::AtMostOnce, PAYLOAD_LEN, self.fleet.version)?;
        let header = Header { stream: sensor, sequence: self.published, sent_ns: now.as_nanos() as u64 };
        template.write(header, PacketId::FIRST, &mut self.fleet.links[self.publisher].out);
        self.published += 1;
        self.under_way.push_back(Sent { sensor, waiting });
        Ok(())
    }

    /// Waits once and accounts for what came.
    fn turn(&mut self) -> io::Result<()> {
        let Sparse { fleet, site, under_way, first, deliveries, latency, report, spare, .. } = self;
        let clock = fleet.clock;
        fleet.turn(Duration::from_secs(1), |client, packet, _| {
            let Packet::Publish(publish) = packet else {
                return Err(io::Error::other(format!("unexpected {:?}", packet.packet_type())));
            };
            match account(publish, client as u32, site, under_way, *first) {
                Ok(header) => {
                    *deliveries += 1;
                    latency.saturating_record(clock.ns().saturating_sub(header.sent_ns).max(1));
                }
                Err(fault) => report.violation(fault),
            }
            while let Some(sent) = under_way.pop_front_if(|sent| sent.waiting.is_empty()) {
                *first += 1;
                spare.push(sent.waiting);
            }
            Ok(())
        })
    }
}

/// Strikes a delivery to `client` off what is under way.
fn account(
    publish: &Publish<'_>,
    client: u32,
    site: &Site,
    under_way: &mut VecDeque<Sent>,
    first: u64,
) -> Result<Header, String> {
    let header =
        payload::read(publish.payload, PAYLOAD_LEN).ok_or_else(|| "a payload arrived altered".to_owned())?;
    let sent = header.sequence.checked_sub(first).and_then(|nth| under_way.get_mut(nth as usize));
    let fault = |what: &str| format!("message {} to {:?} {what}", header.sequence, publish.topic);
    let sent = sent.ok_or_else(|| fault("came once more, or was never sent"))?;
    let topic = site.topic(sent.sensor);
    if sent.sensor != header.stream || publish.topic.is_none_or(|named| named.as_str() != topic) {
        return Err(fault("came under another topic"));
    }
    let place = sent.waiting.iter().position(|waiting| *waiting == client);
    sent.waiting.swap_remove(place.ok_or_else(|| fault("came to a client without a matching filter"))?);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use mqtt_proto::{TopicFilter, TopicName};

    use super::*;

    #[test]
    fn receivers_are_those_whose_filters_match_and_none_has_two_of_them() {
        let site = Site { prefix: "load".into(), subscriptions: 2 * BUILDING + 1_234, clients: 7 };
        let filters: Vec<String> = (0..site.subscriptions).map(|at| site.filter(at)).collect();
        let mut receivers = Vec::new();
        for sensor in (0..site.subscriptions).step_by(331).chain([99, BUILDING - 1, 2 * BUILDING + 199]) {
            let topic = site.topic(sensor);
            let topic = TopicName::new(&topic).expect("a Topic Name");
            let matching = filters
                .iter()
                .zip(0..)
                .filter(|(filter, _)| TopicFilter::new(filter).expect("a Topic Filter").matches(topic));
            let mut expected: Vec<u32> = matching.map(|(_, at)| site.client(at)).collect();
            site.receivers(sensor, &mut receivers);
            receivers.sort_unstable();
            expected.sort_unstable();
            assert_eq!(receivers, expected, "sensor {sensor}");
            expected.dedup();
            assert_eq!(receivers.len(), expected.len(), "sensor {sensor}: a client has two matching filters");
            assert!(!receivers.is_empty());
        }
    }
}
