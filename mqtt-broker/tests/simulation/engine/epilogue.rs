//! The end of a run: faults stop, everybody comes back and takes all there is, and then everything has to add up.

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, Version};

use super::network::Place;
use super::oracle::{Check, MessageId, ensure};
use super::run::Run;
use super::scenario::{PartyPlan, Scenario};
use super::schedule::{ConnectPlan, PublishPlan};

/// Topics that are published to when all is quiet, to see who hears of it.
const PROBED: [&str; 6] = ["t/a", "t/b", "t/a/b", "s/a", "q/a", "f/a"];

/// Clients of the epilogue: so many that most likely each core is home to one.
pub(super) fn probes(scenario: &Scenario) -> impl Iterator<Item = PartyPlan> + use<> {
    let count = if scenario.cores == 1 { 1 } else { 3 * scenario.cores };
    (0..count).map(|n| PartyPlan {
        name: format!("probe-{n}"),
        version: Version::V5,
        ack_delay: 0,
        refuses: 0,
        feeds: None,
    })
}

fn come_back() -> ConnectPlan {
    ConnectPlan {
        core: 0,
        clean_start: false,
        hurries: false,
        expiry: 3600,
        keep_alive: 0,
        receive_maximum: None,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        will: None,
    }
}

impl Run {
    pub(crate) fn finish(&mut self) -> Check {
        if self.oracle.inconclusive {
            return Ok(());
        }
        self.world.trace.line(self.world.now, "", || "** the epilogue".to_owned());
        self.calm_down()?;
        self.settle()?;
        if self.oracle.inconclusive {
            return Ok(());
        }
        let clients = self.first_probe();
        // A connection that its Client looks at no more may have taken a message of a group.
        let stray = |party: usize| {
            self.oracle.accounts[party].live.is_some_and(|link| self.open_link(party) != Some(link))
        };
        if !(0..clients).any(stray) {
            let connected = (0..clients).filter_map(|party| self.ready(party).map(|(_, session)| session));
            self.oracle.check_stranded(&connected.collect::<Vec<_>>(), self.world.now)?;
        }
        self.return_all(clients)?;
        if self.oracle.inconclusive {
            return Ok(());
        }
        self.check_closes()?;
        self.check_answers(clients)?;
        self.let_deadlines_pass(clients)?;
        let now = self.world.now;
        self.oracle.wills_due(now);
        if !self.scenario.tight {
            self.probe_retained()?;
            self.probe_interest()?;
        }
        let now = self.world.now;
        let stats = self.world.total();
        let dropped = stats.dropped_total() + stats.dropped_retained_full;
        self.oracle.check_missing(now, dropped)?;
        self.check_account()
    }

    fn first_probe(&self) -> usize {
        self.scenario.parties.iter().position(|party| party.name.starts_with("probe")).unwrap_or(0)
    }

    /// No fault lasts any longer: everybody reads and acknowledges.
    fn calm_down(&mut self) -> Check {
        self.world.calm();
        for link in 0..self.links.len() {
            self.world.set_reading(link, true);
        }
        for party in 0..self.parties.len() {
            self.parties[party].holds = false;
            self.parties[party].silent = false;
            if let Some(link) = self.parties[party].current {
                self.acknowledge(link);
                self.keep_alive(link);
            }
        }
        Ok(())
    }

    /// Whoever has a session comes back to it.
    fn return_all(&mut self, clients: usize) -> Check {
        for attempt in 0..3 {
            let mut all = true;
            for party in 0..clients {
                let now = self.world.now;
                match self.oracle.lives(party, now) {
                    Some(false) => self.oracle.accounts[party].session = None,
                    _ if self.open_link(party).is_some() => {}
                    _ => {
                        all = false;
                        self.connect(party, &ConnectPlan { core: (party % 7) as u16, ..come_back() });
                    }
                }
            }
            self.settle()?;
            if all || self.oracle.inconclusive {
                return Ok(());
            }
            if attempt == 2 && self.scarce_sessions() {
                // Refused, and its session has made room for another one.
                for party in (0..clients).filter(|&party| self.open_link(party).is_none()).collect::<Vec<_>>()
                {
                    self.oracle.accounts[party].session = None;
                }
                return Ok(());
            }
            ensure!(attempt < 2, "return", "a Client cannot come back");
        }
        Ok(())
    }

    /// What was due while a Client was away must not come now that it is back.
    fn let_deadlines_pass(&mut self, clients: usize) -> Check {
        let features = &self.scenario.features;
        let seconds = if features.session_expiry && !features.keep_alive { 3_700 } else { 6 };
        let ready: Vec<usize> = (0..clients).filter(|&party| self.ready(party).is_some()).collect();
        self.pass(seconds * 1_000_000)?;
        self.settle()?;
        for party in ready {
            ensure!(
                self.ready(party).is_some(),
                "closed",
                "client {party} is closed though it does nothing wrong"
            );
        }
        Ok(())
    }

    /// Nothing moves: whoever reads has its answers.
    pub(crate) fn check_requests(&self) -> Check {
        for party in 0..self.parties.len() {
            let Some(link) = self.open_link(party).filter(|&link| self.world.wires[link].client_reads) else {
                continue;
            };
            let state = &self.links[link];
            ensure!(state.requests.is_empty(), "answered", "client {party} waits for {:?}", state.requests);
            ensure!(state.releases.is_empty(), "answered", "client {party} waits for PUBCOMP");
            ensure!(state.pings == 0, "answered", "client {party} waits for PINGRESP");
        }
        Ok(())
    }

    /// Everything that was asked is answered, and everything begun is completed.
    fn check_answers(&self, clients: usize) -> Check {
        self.check_requests()?;
        for party in 0..clients {
            let Some((link, session)) = self.ready(party) else { continue };
            let (state, flows) = (&self.links[link], &self.flows[session]);
            ensure!(flows.sent.is_empty(), "answered", "client {party} has messages on their way");
            let waits = &self.parties[party].to_publish;
            ensure!(waits.is_empty(), "answered", "client {party} cannot publish {} messages", waits.len());
            let fits = state.plan.maximum_packet_size.is_none();
            let open = flows.unacknowledged.values().find(|flow| {
                !flow.shared && self.oracle.sessions[session].packet_bytes_min.is_none() && fits
            });
            ensure!(open.is_none(), "completed", "client {party} was never sent again {open:?}");
        }
        Ok(())
    }

    /// A new subscriber to everything gets exactly the retained messages.
    fn probe_retained(&mut self) -> Check {
        let party = self.first_probe();
        self.connect(party, &come_back());
        self.settle()?;
        let filters = [("#".to_owned(), SubscriptionOptions::new(Qos::AtLeastOnce))];
        self.subscribe(party, &filters, None);
        self.settle()?;
        let Some((_, session)) = self.ready(party) else {
            ensure!(false, "return", "a new Client cannot connect");
            return Ok(());
        };
        let now = self.world.now;
        for topic in self.oracle.retained_topics() {
            let of_topic = |(id, copies): (&MessageId, &super::oracle::Copies)| {
                (self.oracle.messages[*id].topic == topic && copies.retained > 0).then_some(*id)
            };
            let found: Vec<MessageId> =
                self.oracle.sessions[session].received.iter().filter_map(of_topic).collect();
            ensure!(found.len() < 2, "retained", "{topic} has {found:?}");
            self.oracle.check_retained(&topic, found.first().copied(), now)?;
            self.coverage.count("retained topics compared");
        }
        self.unsubscribe(party, "#");
        self.settle()
    }

    /// Wherever a message is published, it is known whether anybody subscribes.
    fn probe_interest(&mut self) -> Check {
        let first = self.first_probe();
        let cores = usize::from(self.scenario.cores);
        let mut covered = vec![false; cores];
        for party in first..self.parties.len() {
            if self.open_link(party).is_none() {
                self.connect(party, &ConnectPlan { core: party as u16, ..come_back() });
                self.settle()?;
            }
            let Some((link, _)) = self.ready(party) else { continue };
            let Place::On(core, _) = self.world.wires[link].place else { continue };
            if core::mem::replace(&mut covered[core], true) {
                continue;
            }
            for (nth, topic) in PROBED.into_iter().enumerate() {
                // On many cores each looks at a part.
                if cores < 4 || (nth + core).is_multiple_of(3) {
                    self.probe_topic(party, topic)?;
                }
            }
            if covered.iter().all(|covered| *covered) {
                break;
            }
        }
        Ok(())
    }

    fn probe_topic(&mut self, party: usize, topic: &str) -> Check {
        let (mut certain, mut possible) = (false, false);
        for account in &self.oracle.accounts {
            let Some(session) = account.session else { continue };
            for subscription in &self.oracle.sessions[session].subscriptions {
                if subscription.matches(topic) {
                    certain |= subscription.acked_at.is_some() && subscription.end_sent_at.is_none();
                    possible |= subscription.ended_at.is_none();
                }
            }
        }
        let qos = Qos::AtLeastOnce.min(self.scenario.limits.maximum_qos);
        let plan = PublishPlan { qos, ..PublishPlan::of(topic) };
        let message = self.oracle.messages.len();
        self.publish(party, &plan);
        self.settle()?;
        if qos == Qos::AtMostOnce {
            return Ok(());
        }
        let message = &self.oracle.messages[message];
        ensure!(
            message.acked_at.is_some(),
            "answered",
            "a message to {topic} is not acknowledged when all is quiet"
        );
        ensure!(!(certain && message.unmatched), "interest", "{topic} has a subscriber that is not known");
        ensure!(
            possible || message.unmatched,
            "interest",
            "{topic} has no subscriber any more, but is believed to"
        );
        self.coverage.count("interest compared");
        Ok(())
    }

    /// Every message is accounted for.
    fn check_account(&self) -> Check {
        let stats = self.world.total();
        let ended = stats.messages_delivered + stats.dropped_total();
        ensure!(
            stats.messages_matched == ended + stats.messages_kept,
            "account",
            "{} matched, {ended} ended, {} kept",
            stats.messages_matched,
            stats.messages_kept
        );
        ensure!(stats.messages_kept == 0, "account", "{} messages are kept for nobody", stats.messages_kept);
        ensure!(stats.queue_bytes == 0, "account", "{} bytes are queued for nobody", stats.queue_bytes);
        let sessions = self.oracle.accounts.iter().filter(|account| account.session.is_some()).count();
        ensure!(
            stats.sessions == sessions as u64,
            "account",
            "{} sessions, {sessions} are right",
            stats.sessions
        );
        Ok(())
    }
}
