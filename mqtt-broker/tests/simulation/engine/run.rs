//! One run: the schedule's steps, what follows from them, and what all of it is judged by.

use mqtt_proto::types::{ReasonCode, Version};

use super::client::{Flows, Link, Party};
use super::coverage::Coverage;
use super::oracle::{Asked, Check, Oracle, Violation, ensure};
use super::scenario::Scenario;
use super::schedule::{Step, What};
use super::world::{Notice, World};

pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    steps: Vec<Step>,
    pub(crate) world: World,
    pub(crate) oracle: Oracle,
    pub(crate) parties: Vec<Party>,
    /// One a connection, like the wires of the world.
    pub(crate) links: Vec<Link>,
    /// One a session of the oracle.
    pub(crate) flows: Vec<Flows>,
    pub(crate) coverage: Coverage,
    next_step: usize,
    /// Steps wait until all is quiet.
    waits_for_quiet: bool,
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    /// Over all that moved, and when.
    pub(crate) hash: u64,
    pub(crate) events: u64,
    pub(crate) micros: u64,
    pub(crate) messages: u64,
    pub(crate) coverage: Coverage,
}

/// Virtual microseconds in which everything has to come to rest once no fault lasts any longer.
const REST: u64 = 60_000_000;

/// Events that no run of a sound broker comes near: one that goes round in circles is told, not waited for.
const EVENTS_MAX: u64 = 2_000_000;

impl Run {
    /// Runs `steps`; `prints` a line for all that happens.
    pub(crate) fn of(scenario: &Scenario, steps: &[Step], prints: bool) -> Outcome {
        let mut scenario = scenario.clone();
        let probes = super::epilogue::probes(&scenario);
        scenario.parties.extend(probes);
        let mut run = Run {
            world: World::new(&scenario, prints),
            oracle: Oracle::new(&scenario),
            parties: scenario.parties.iter().map(|_| Party::default()).collect(),
            steps: steps.to_vec(),
            scenario,
            links: Vec::new(),
            flows: Vec::new(),
            coverage: Coverage::default(),
            next_step: 0,
            waits_for_quiet: false,
        };
        let violation = run.run().and_then(|()| run.finish()).err();
        for name in run.scenario.features.names() {
            run.coverage.count(name);
        }
        run.coverage.add("judged exactly", run.oracle.exact);
        run.coverage.add("shard calls", run.world.calls);
        let stats = run.world.total();
        run.coverage.add("takeovers", stats.takeovers);
        run.coverage.add("dropped", stats.dropped_total());
        if run.oracle.inconclusive {
            run.coverage.count("inconclusive");
        }
        Outcome {
            violation,
            hash: run.world.trace.hash(),
            events: run.world.trace.events,
            micros: run.world.now,
            messages: run.oracle.messages.len() as u64,
            coverage: run.coverage,
        }
    }

    fn run(&mut self) -> Check {
        self.plan_step();
        while self.next_step < self.steps.len() && !self.oracle.inconclusive {
            if self.waits_for_quiet && self.world.is_quiet() {
                self.waits_for_quiet = false;
                self.check_requests()?;
                self.plan_step();
            }
            if !self.moves(u64::MAX)? {
                break;
            }
        }
        Ok(())
    }

    /// Does what comes next and what follows from it; false if nothing comes, or only after `until`.
    fn moves(&mut self, until: u64) -> Result<bool, Violation> {
        let moved = self.world.step(until);
        self.take_notices()?;
        let events = self.world.trace.events;
        ensure!(events <= EVENTS_MAX, "rest", "there were {events} events, and there is no end of them");
        Ok(moved)
    }

    /// Asks for the next step to happen as long after this moment as it lies behind the step before.
    fn plan_step(&mut self) {
        let Some(next) = self.steps.get(self.next_step) else { return };
        let before = self.next_step.checked_sub(1).map_or(0, |before| self.steps[before].at);
        self.world.next_step(self.world.now + next.at.saturating_sub(before));
    }

    /// Lets everything that moves come to rest.
    pub(crate) fn settle(&mut self) -> Check {
        let end = self.world.now + REST;
        while !self.world.is_quiet() {
            let moved = self.moves(end)?;
            ensure!(moved, "rest", "after {} s of calm there is still something under way", REST / 1_000_000);
        }
        Ok(())
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, micros: u64) -> Check {
        let end = self.world.now + micros;
        while self.moves(end)? {}
        self.world.now = end;
        Ok(())
    }

    fn take_notices(&mut self) -> Check {
        while let Some(notice) = self.world.notices.pop_front() {
            match notice {
                Notice::Established(link) => self.established(link)?,
                Notice::Answered(link, flag) => self.answered(link, flag)?,
                Notice::Closed(link) => self.closed(link)?,
                Notice::Lost(link) => self.lost(link),
                Notice::Bytes(link, bytes) => self.bytes_arrived(link, &bytes)?,
                Notice::End(link) => self.end_arrived(link)?,
                Notice::Wake(link) => {
                    self.acknowledge(link);
                    self.keep_alive(link);
                }
                Notice::Step => {
                    let step = self.steps[self.next_step].clone();
                    self.next_step += 1;
                    self.take_step(&step);
                    if !self.waits_for_quiet {
                        self.plan_step();
                    }
                }
            }
        }
        Ok(())
    }

    fn take_step(&mut self, step: &Step) {
        let now = self.world.now;
        self.world.trace.line(now, &self.scenario.parties[step.party].name, || format!("** {:?}", step.what));
        let party = step.party;
        match &step.what {
            What::Connect(plan) => self.connect(party, plan),
            What::Cut => self.cut(party),
            What::Disconnect { with_will, expiry } => self.disconnect(party, *with_will, *expiry),
            What::Subscribe { filters, identifier } => self.subscribe(party, filters, *identifier),
            What::Unsubscribe { filter } => self.unsubscribe(party, filter),
            What::Publish(plan) => self.publish(party, plan),
            What::Read(reads) => {
                if let Some(link) = self.parties[party].current {
                    self.world.set_reading(link, *reads);
                    self.coverage.count("stops or starts reading");
                }
            }
            What::Hold(holds) => {
                self.parties[party].holds = *holds;
                if let Some(link) = self.parties[party].current {
                    self.acknowledge(link);
                    self.coverage.count("holds or sends acknowledgements");
                }
            }
            What::Silence(silent) => {
                self.parties[party].silent = *silent;
                if let Some(link) = self.parties[party].current {
                    self.keep_alive(link);
                }
            }
            What::Rude(rudeness) => self.be_rude(party, *rudeness),
            What::StallLane { from, to, micros } => self.world.stall_lane(*from, *to, *micros),
            What::StallCore { core, micros } => {
                self.world.stall_core(*core, *micros);
                self.oracle.gaps.push((now, now + micros));
            }
            What::Jump { millis } => {
                self.world.now += millis * 1000;
                self.oracle.gaps.push((now, self.world.now));
                self.coverage.count("clock jumps");
            }
            What::SetWallClock { forward, millis } => {
                let millis = *millis as i64;
                self.world.wall_shift += if *forward { millis } else { -millis };
            }
            What::Quiet => self.waits_for_quiet = true,
        }
    }

    fn established(&mut self, link: usize) -> Check {
        let now = self.world.now;
        let state = &self.links[link];
        let party = state.party;
        let delay = state.plan.will.as_ref().map_or(0, |will| will.delay);
        let asked = Asked {
            version: state.version,
            clean_start: state.plan.clean_start,
            expiry: state.plan.expiry,
            will: state.will.map(|will| (will, if state.version == Version::V5 { delay } else { 0 })),
        };
        self.world.trace.line(now, &self.name_of(link), || "== accepted".to_owned());
        // Whoever has read the CONNACK of the connection before knows its session.
        let expected = self.oracle.established(party, link, asked, now)?;
        for (other, old) in self.links.iter_mut().enumerate() {
            if old.party != party || other == link || old.established_at.is_none() {
                continue;
            }
            old.superseded = true;
            old.is_open = false;
            if old.unexplained && old.closed_at == Some(now) {
                (old.unexplained, old.taken_over) = (false, true);
            }
        }
        let state = &mut self.links[link];
        (state.established_at, state.expected) = (Some(now), expected);
        if state.closed_at.is_some() {
            // Accepted and lost in one turn.
            self.let_go(link, false);
        }
        Ok(())
    }

    fn answered(&mut self, link: usize, flag: Option<bool>) -> Check {
        let state = &self.links[link];
        let (Some(present), true) = (flag, state.established_at.is_some() && state.session.is_none()) else {
            return Ok(());
        };
        // 3.1 has no such flag.
        let told = state.version != Version::V3_1;
        if let (true, Some(expected)) = (told, state.expected) {
            ensure!(
                present == expected,
                "session present",
                "{} is told {present}, right is {expected}",
                self.name_of(link)
            );
        }
        match if told { Some(present) } else { state.expected } {
            Some(present) => self.assign_session(link, present),
            None => self.oracle.inconclusive = true,
        }
        Ok(())
    }

    fn assign_session(&mut self, link: usize, present: bool) {
        let session = self.oracle.has_session(self.links[link].party, present);
        if self.flows.len() <= session {
            self.flows.resize_with(session + 1, Flows::default);
        }
        let state = &mut self.links[link];
        state.session = Some(session);
        // What one connection cannot take is not kept for the next.
        if let Some(max) = state.plan.maximum_packet_size.filter(|_| state.version == Version::V5) {
            let known = self.oracle.sessions[session].packet_bytes_min.get_or_insert(max);
            *known = max.min(*known);
        }
        if present {
            self.coverage.count("sessions resumed");
        }
    }

    /// The broker has let go of the connection, of its own accord or not.
    fn let_go(&mut self, link: usize, certain: bool) {
        let now = self.world.now;
        let state = &self.links[link];
        if state.established_at.is_none() {
            return;
        }
        if state.session.is_none() {
            // Its CONNACK was never sent.
            match state.expected {
                Some(present) => self.assign_session(link, present),
                None => self.oracle.inconclusive = true,
            }
        }
        let state = &self.links[link];
        if let Some(session) = state.session {
            let groups = &self.oracle.sessions[session].subscriptions;
            self.oracle.groups_disturbed |= groups.iter().any(|subscription| subscription.is_shared());
        }
        self.oracle.ended(state.party, link, state.goodbye, certain, now);
    }

    fn lost(&mut self, link: usize) {
        self.let_go(link, false);
        self.links[link].closed_at = Some(self.world.now);
    }

    fn closed(&mut self, link: usize) -> Check {
        let now = self.world.now;
        self.world.trace.line(now, &self.name_of(link), || "== closed by the broker".to_owned());
        let wire = &self.world.wires[link];
        let certain = wire.is_read() && !wire.paused;
        let silence = now.saturating_sub(wire.read_at);
        self.let_go(link, certain);
        let keep_alive = u64::from(self.effective_keep_alive(link)) * 1_500_000;
        let refused = self.scarce_sessions();
        if refused && self.links[link].established_at.is_none() {
            // It may have ended the session that it was refused another one for.
            self.oracle.lose_track(self.links[link].party);
        }
        let state = &mut self.links[link];
        state.closed_at = Some(now);
        let timed_out = match state.established_at {
            Some(_) => keep_alive != 0 && silence + 2_000 >= keep_alive,
            None => self.scenario.tight || now + 2_000 >= state.opened_at + 10_000_000,
        };
        // A leap of the clock can be longer than the patience for a late answer.
        let undecided = self.scenario.ports.authorize > 0 && !self.oracle.gaps.is_empty();
        let by_itself = state.goodbye.is_some() || state.rude || state.has_ended;
        state.unexplained = !(timed_out || undecided || by_itself || refused);
        if timed_out && state.established_at.is_some() {
            self.coverage.count("keep alive timeouts");
        }
        Ok(())
    }

    fn end_arrived(&mut self, link: usize) -> Check {
        let name = self.name_of(link);
        let gated = self.scenario.ports.store > 0;
        let state = &mut self.links[link];
        if state.has_ended {
            return Ok(());
        }
        state.has_ended = true;
        state.is_open = false;
        ensure!(
            state.receiver.buffered_len() == 0,
            "protocol",
            "the connection of {name} ends within a packet"
        );
        if state.taken_over && state.version == Version::V5 && !gated {
            ensure!(
                state.last_reason == Some(ReasonCode::SESSION_TAKEN_OVER),
                "takeover",
                "{name} is not told that its session was taken over, but {:?}",
                state.last_reason
            );
        }
        Ok(())
    }

    fn effective_keep_alive(&self, link: usize) -> u16 {
        let (asked, max) = (self.links[link].plan.keep_alive, self.scenario.limits.keep_alive_max_seconds);
        let too_long = max != 0 && (asked == 0 || asked > max);
        if too_long && self.links[link].version == Version::V5 { max } else { asked }
    }

    /// Whether a Client may be refused for want of sessions, after its CONNECT has ended its other connection.
    pub(crate) fn scarce_sessions(&self) -> bool {
        self.scenario.limits.sessions_max < 1000
    }

    /// A connection's name in traces.
    pub(crate) fn name_of(&self, link: usize) -> String {
        if !self.world.trace.prints() {
            return String::new();
        }
        let party = self.links[link].party;
        format!("{}#{link}", self.scenario.parties[party].name)
    }

    /// Every connection that the broker ended had a reason to end.
    pub(crate) fn check_closes(&self) -> Check {
        if let Some(link) = self.links.iter().find(|link| link.unexplained) {
            let text = format!("client {} was closed with {:?}", link.party, link.last_reason);
            return Err(Violation { rule: "closed", text });
        }
        Ok(())
    }
}
