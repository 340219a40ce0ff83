//! Thousands of clients that come, go and publish at mixed QoS for a long time, with a ledger of everything.
//!
//! Groups of 20 clients publish to each other: QoS 0, 1, 2, to persistent subscribers, guests and a shared
//! subscription; everybody has a Will. They leave by DISCONNECT, by the end of the stream, or by a reset. Once the
//! time is over all come back, and what had to arrive must have arrived.

mod actor;
mod ledger;
mod watch;

use std::io;
use std::rc::Rc;
use std::time::Duration;

use actor::{Actor, GROUP, RETAINED, Role, STREAMS, State};
use ledger::{Stream, Wills};
use watch::Watch;

use crate::load::clock::{Clock, Random};
use crate::load::fleet::{Fleet, PATIENCE};
use crate::load::net::{Net, Ready};
use crate::load::observe;
use crate::load::report::{Report, Usage};

/// What is to be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Clients, rounded up to whole groups.
    pub(crate) clients: usize,
    /// How long they come and go.
    pub(crate) duration: Duration,
    /// Messages a second of all publishers together.
    pub(crate) rate: u64,
    /// Receive Maximum of the 5.0 clients that resume sessions.
    pub(crate) receive_maximum: u16,
    /// Seed of all that is left to chance.
    pub(crate) seed: u64,
    /// The broker's process.
    pub(crate) pid: Option<u32>,
    /// Whether a line is written to standard error with every sample.
    pub(crate) shows_progress: bool,
}

/// How often clients look whether something is due.
const TICK: Duration = Duration::from_millis(50);
/// How long deliveries may take once nobody publishes any more.
const DRAIN: Duration = Duration::from_secs(60);
/// Silence after which nothing more is expected.
const QUIET: Duration = Duration::from_secs(3);

/// What all clients share.
struct World {
    net: Net,
    receive_maximum: u16,
    clock: Clock,
    run: String,
    random: Random,
    streams: Vec<Stream>,
    topics: Vec<Rc<str>>,
    wills: Wills,
    report: Report,
    sent: u64,
    received: u64,
    duplicates: u64,
    /// Departures by DISCONNECT, by the end of the stream, by a reset.
    left: [u64; 3],
    /// Streams whose retained message came to the reader.
    retained_read: Vec<usize>,
}

struct Soak<'p> {
    plan: &'p Plan,
    world: World,
    actors: Vec<Actor>,
    buffer: Vec<u8>,
    ready: Vec<Ready>,
    next_tick: Duration,
    next_sample: Duration,
    watch: Watch,
}

/// Runs `plan`; of `fleet` only the network is used.
pub(crate) fn run(plan: &Plan, fleet: Fleet) -> io::Result<Report> {
    let before = Usage::now(plan.pid)?;
    let mut soak = Soak::new(plan, fleet, before.broker);
    soak.gather()?;
    let begin = soak.world.clock.elapsed();
    soak.publish_until(begin, begin + plan.duration)?;
    let after = Usage::now(plan.pid)?;
    soak.drain()?;
    soak.read_retained()?;
    soak.judge();
    let gone = soak.retire()?;

    let Soak { world, watch, actors, .. } = soak;
    let mut report = world.report;
    report.add("clients", actors.len() - 2);
    report.add_rounded("minutes", plan.duration.as_secs_f64() / 60.0);
    report.add("published", world.sent);
    report.add("received", world.received);
    report.add("qos_1_duplicates", world.duplicates);
    report.add("left_by_disconnect", world.left[0]);
    report.add("left_by_end_of_stream", world.left[1]);
    report.add("left_by_reset", world.left[2]);
    report.add("wills", world.wills.published_count());
    report.add("retained_topics", world.retained_read.len());
    report.add_cpu(
        &before,
        &after,
        world.received,
        ["broker_cpu_us_per_delivery", "own_cpu_us_per_delivery"],
    );
    watch.report(gone, &mut report);
    Ok(report)
}

impl<'p> Soak<'p> {
    fn new(plan: &'p Plan, fleet: Fleet, before: Option<observe::Sample>) -> Soak<'p> {
        let Fleet { net, clock, run, buffer, ready, .. } = fleet;
        let groups = (plan.clients as u32).div_ceil(GROUP).max(1);
        let mut streams = Vec::new();
        let mut topics = Vec::new();
        for group in 0..groups {
            for (place, (_, qos)) in STREAMS.iter().enumerate() {
                streams.push(Stream::new(*qos));
                topics.push(match place {
                    RETAINED => format!("soak/{run}/r/{group}").into(),
                    _ => format!("soak/{run}/g/{group}/{place}").into(),
                });
            }
        }
        let mut random = Random(plan.seed);
        let clients = groups * GROUP;
        // A thousand come each second; the last two are the witness and the reader.
        let begin = clock.ms();
        let mut actors: Vec<Actor> = (0..clients)
            .map(|at| Actor::new(at, Role::of_slot(at % GROUP), begin + random.below(u64::from(clients))))
            .collect();
        actors.push(Actor::new(clients, Role::Witness, begin));
        actors.push(Actor::new(clients + 1, Role::Reader, begin));
        let world = World {
            net,
            receive_maximum: plan.receive_maximum,
            clock,
            run,
            random,
            streams,
            topics,
            wills: Wills::default(),
            report: Report::new(),
            sent: 0,
            received: 0,
            duplicates: 0,
            left: [0; 3],
            retained_read: Vec::new(),
        };
        let now = world.clock.elapsed();
        Soak {
            plan,
            world,
            actors,
            buffer,
            ready,
            next_tick: now,
            next_sample: now,
            watch: Watch::new(before),
        }
    }

    /// Waits for events until `wake` at most, handles them and what is due.
    fn turn(&mut self, wake: Duration, may_leave: bool) -> io::Result<()> {
        let now = self.world.clock.elapsed();
        let wake = wake.min(self.next_tick);
        self.world.net.wait(wake.saturating_sub(now), &mut self.ready)?;
        for ready in &self.ready {
            self.actors[ready.key as usize].handle_ready(&mut self.world, *ready, &mut self.buffer);
        }
        let now = self.world.clock.elapsed();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            for actor in &mut self.actors {
                actor.handle_timeout(&mut self.world, may_leave)?;
            }
        }
        Ok(())
    }

    /// Brings everybody in, so that every subscription is made before the first message.
    fn gather(&mut self) -> io::Result<()> {
        let end = self.world.clock.elapsed() + PATIENCE + Duration::from_millis(self.actors.len() as u64);
        while !self.all_here() {
            let now = self.world.clock.elapsed();
            if now > end {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "not all clients could connect and subscribe",
                ));
            }
            self.turn(now + TICK, false)?;
        }
        Ok(())
    }

    fn all_here(&self) -> bool {
        self.actors.iter().all(|actor| actor.state == State::Here || actor.role == Role::Reader)
    }

    /// Publishes at the plan's rate while clients come and go.
    fn publish_until(&mut self, begin: Duration, end: Duration) -> io::Result<()> {
        let interval = Duration::from_secs(1).as_nanos() as u64 / self.plan.rate;
        let mut due = begin;
        self.next_sample = begin;
        loop {
            let now = self.world.clock.elapsed();
            if now >= end {
                return Ok(());
            }
            while due <= now {
                // Whoever is away does not publish: a few others are tried, then the message is skipped.
                for _ in 0..10 {
                    let at = self.world.random.below(self.actors.len() as u64) as usize;
                    if self.actors[at].publish(&mut self.world)? {
                        break;
                    }
                }
                due += Duration::from_nanos(interval);
            }
            if now >= self.next_sample {
                self.sample(now - begin)?;
            }
            self.turn(due.min(end), true)?;
        }
    }

    fn sample(&mut self, at: Duration) -> io::Result<()> {
        self.next_sample += watch::EVERY;
        let here = self.actors.iter().filter(|actor| actor.state == State::Here).count();
        let mut line = format!(
            "{:>6.0} s  {here:>6} here  {:>10} sent  {:>10} received  {:>4} violations",
            at.as_secs_f64(),
            self.world.sent,
            self.world.received,
            self.world.report.violation_count()
        );
        if let Some(pid) = self.plan.pid {
            let sample = observe::sample(pid)?;
            self.watch.add(sample);
            let mib = sample.rss as f64 / f64::from(1 << 20);
            line += &format!("  {mib:>8.1} MiB  {:>6} fds", sample.fds);
        }
        if self.plan.shows_progress {
            eprintln!("{line}");
        }
        Ok(())
    }

    /// Waits until everybody is back and nothing more comes.
    fn drain(&mut self) -> io::Result<()> {
        let begin = self.world.clock.elapsed();
        let mut received = self.world.received;
        let mut quiet_since = begin;
        loop {
            let now = self.world.clock.elapsed();
            if self.world.received != received {
                received = self.world.received;
                quiet_since = now;
            }
            let is_settled = now - quiet_since > QUIET && self.all_here() && self.nothing_under_way();
            if is_settled || now > begin + DRAIN {
                return Ok(());
            }
            self.turn(now + TICK, false)?;
        }
    }

    fn nothing_under_way(&self) -> bool {
        let streams = |at: usize| &self.world.streams[at / GROUP as usize * STREAMS.len()..];
        !self.world.wills.is_waiting()
            && self.actors.iter().enumerate().all(|(at, actor)| {
                actor.client.session().outbound.in_flight() == 0
                    && (actor.views.is_empty()
                        || actor.views.iter().zip(streams(at)).all(|(view, stream)| view.is_complete(stream)))
            })
    }

    /// Lets a new client read every retained message.
    fn read_retained(&mut self) -> io::Result<()> {
        let expected = self.world.streams.iter().skip(RETAINED).step_by(STREAMS.len());
        let expected = expected.filter(|stream| stream.sent > 0).count();
        let last = self.actors.len() - 1;
        self.actors[last].connect(&mut self.world)?;
        let end = self.world.clock.elapsed() + PATIENCE;
        while self.world.retained_read.len() < expected && self.world.clock.elapsed() < end {
            self.turn(self.world.clock.elapsed() + TICK, false)?;
        }
        let read = self.world.retained_read.len();
        if read != expected {
            self.world.report.violation(format!("{read} of {expected} retained messages came"));
        }
        Ok(())
    }

    /// Reports what did not come.
    fn judge(&mut self) {
        let Soak { world, actors, .. } = self;
        let World { streams, topics, wills, report, .. } = world;
        for (at, actor) in actors.iter().enumerate() {
            let in_flight = actor.client.session().outbound.in_flight();
            if in_flight > 0 {
                report.violation(format!("client {at}: {in_flight} messages were never acknowledged"));
            }
            let first = at / GROUP as usize * STREAMS.len();
            for (view, id) in actor.views.iter().zip(first..) {
                let missing = view.missing(&streams[id]);
                if let Some(sequence) = missing.first() {
                    report.violation(format!(
                        "client {at} ({:?}): {} of {} {:?} messages on {} are missing, first {sequence}",
                        actor.role,
                        missing.len(),
                        streams[id].sent,
                        streams[id].qos,
                        topics[id]
                    ));
                }
            }
        }
        for (stream, (id, topic)) in streams.iter().zip(topics.iter().enumerate()) {
            let missing = stream.shared_missing();
            if id % STREAMS.len() != RETAINED && !missing.is_empty() {
                let count = missing.len();
                report.violation(format!("{topic}: {count} messages came to no member of the shared group"));
            }
        }
        wills.report_missing(report);
    }

    /// Ends all connections; returns what the broker looks like then.
    fn retire(&mut self) -> io::Result<Option<observe::Sample>> {
        for actor in &mut self.actors {
            actor.retire(&mut self.world)?;
        }
        let end = self.world.clock.elapsed() + PATIENCE;
        while self.actors.iter().any(|actor| actor.state != State::Away) && self.world.clock.elapsed() < end {
            self.turn(end, false)?;
        }
        let Some(pid) = self.plan.pid else { return Ok(None) };
        // A broker may keep a connection for a while after it has ended its side of it.
        loop {
            let sample = observe::sample(pid)?;
            let now = self.world.clock.elapsed();
            if !self.watch.has_leaked_fds(&sample) || now >= end {
                return Ok(Some(sample));
            }
            self.world.net.wait(TICK, &mut self.ready)?;
        }
    }
}
