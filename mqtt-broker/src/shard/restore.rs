//! The state that outlived the process, taken up again before the first connection.
//!
//! Invariant: a core that is restored knows of every subscription on every core, so nothing that is published from then
//! on misses one. Lives on: each core, for what is at home there.

use std::collections::BTreeMap;

use mqtt_proto::types::{SharedFilter, TopicFilter};

use super::Shard;
use super::barrier::Then;
use super::cold::Cold;
use super::contract::Now;
use super::envelope::Envelope;
use super::lanes::Noted;
use super::queue::Delivery;
use super::retained::outlives;
use super::session::{Flight, NOBODY, Session, Will};
use super::table::Key;
use crate::config::CoreId;
use crate::message::{Message, MessageRef};
use crate::router::{CoreSet, Retainable, Subscriber};
use crate::store::image::{self, Image};
use crate::store::record::Record;

/// From the wall time of the store to the monotonic time of this process.
struct Times {
    /// Monotonic, and as the store has it.
    now: u64,
    wall: u64,
    /// Wall times of the starts that are known; the last is this one.
    starts: Vec<u64>,
    /// Messages that several keep and whose expiry was turned, by where the stored ones are, which stay as long as this.
    turned: BTreeMap<usize, (Message, Message)>,
}

impl Times {
    /// Monotonic milliseconds at the wall time `at`, or now if that is over.
    fn at(&self, at: u64) -> u64 {
        self.now.saturating_add(at.saturating_sub(self.wall))
    }

    /// The first start since the wall time `since`.
    fn start_since(&self, since: u64) -> u64 {
        let place = self.starts.partition_point(|&at| at < since);
        self.starts.get(place).copied().unwrap_or(self.wall)
    }

    /// The message, which expires by monotonic time from now on.
    fn message(&mut self, stored: &Message) -> Message {
        let Some(expires_at) = stored.expires_at() else { return stored.clone() };
        if let Some((_, known)) = self.turned.get(&stored.address()) {
            return known.clone();
        }
        let turned = MessageRef { expires_at: Some(self.at(expires_at)), ..stored.as_ref() }.to_message();
        if stored.is_shared() {
            self.turned.insert(stored.address(), (stored.clone(), turned.clone()));
        }
        turned
    }

    fn delivery(&mut self, stored: &image::Delivery) -> Delivery {
        Delivery::new(self.message(&stored.message), stored.qos, stored.retain, stored.identifiers(), None)
    }
}

impl Shard {
    /// Takes up what this core's part of the store holds, behind [`Image::expire`] and [`Image::settle`]. To be called
    /// once, on every core, before any connection.
    ///
    /// What this core has to tell the others waits in its lanes then. No connection may be opened anywhere before every
    /// core says that it [is restored](Shard::is_restored).
    pub fn restore(&mut self, image: Image, now: Now) {
        self.now = now;
        self.records.begin_at(image.last_time(), now);
        let wall = self.records.wall(now);
        let mut parts = image.into_parts();
        let starts = core::mem::take(&mut parts.starts);
        let mut times = Times { now: now.millis, wall, starts, turned: BTreeMap::new() };
        for stored in parts.retained.iter().filter(|stored| outlives(stored.topic())) {
            self.set_retained(times.message(stored));
        }
        drop(parts.retained);
        for (name, stored) in &parts.groups {
            self.restore_group(name, stored, &mut times);
        }
        drop(parts.groups);
        for stored in parts.sessions {
            self.restore_session(&stored, &mut times);
        }
        self.starts.clone_from(&times.starts);
        self.handover.restore(parts.last_number, parts.handled.into_iter());
        for (owner, numbers) in parts.begun {
            numbers.into_iter().for_each(|number| self.begun.insert(owner, number));
        }
        for pending in &parts.pending {
            let message = times.message(&pending.message);
            // Who is to take it is found out once all cores are restored.
            self.handover.push(pending.number, message, pending.publisher, CoreSet::EMPTY);
        }
        // Whoever hears that this core is restored waits for this, and so for all that the start has settled.
        self.records.append(now, &Record::Time { at: wall });
        self.send_joins();
        self.restoring = Some((0..self.homes.cores()).collect());
        self.after_barrier(Then::Restored);
        self.settle();
    }

    /// Whether every core knows what [`Shard::restore`] has brought back here and on the others, and what others had not
    /// taken of this one is on its way. True where nothing was restored.
    pub fn is_restored(&self) -> bool {
        self.restoring.is_none() && self.joins.is_empty()
    }

    /// The other cores know of all that was restored here, and this one of all that was restored there.
    pub(super) fn told_restored(&mut self) {
        for core in self.lanes.peers() {
            self.lanes.send(core, &Envelope::Restored, &mut None);
            // That core has done with what was begun here before it was restored.
            self.lanes.note(core, self.begun.of(core).map(Noted::Begun));
        }
        self.core_restored(self.core);
    }

    /// What was restored on this core is known everywhere. Once that holds for all, the members of groups are known, and what
    /// other cores had not taken is handed on.
    pub(super) fn core_restored(&mut self, core: CoreId) {
        if let Some(waiting) = &mut self.restoring {
            waiting.remove(core.0);
        }
        if self.restoring.take_if(|waiting| waiting.is_empty()).is_some() {
            self.end_groups_without_members();
            self.hand_on_again();
        }
    }

    /// What waits in a shared group. Its members, who are sessions of any core, join behind it.
    fn restore_group(&mut self, name: &str, stored: &image::Group, times: &mut Times) {
        let Ok(SharedFilter { share_name: Some(share), filter }) = SharedFilter::new(name) else { return };
        let id = self.make_group(share, filter);
        for stored in stored.messages() {
            let message = times.message(&stored.message);
            self.stats.messages_matched += 1;
            self.stats.messages_kept += 1;
            self.stats.queue_bytes += message.cost() as u64;
            self.groups.put_back(id, stored.number, message);
        }
    }

    fn restore_session(&mut self, stored: &image::Session, times: &mut Times) {
        let mut flight = Flight::default();
        for (packet_id, phase, delivery) in stored.under_way() {
            let delivery = delivery.map(|delivery| times.delivery(delivery));
            // Nobody knows how far it got: it is sent again with DUP [MQTT-3.3.1-1].
            flight.outbound.restore(packet_id, phase, delivery, true);
        }
        stored.received().iter().for_each(|&packet_id| flight.inbound.restore(packet_id));
        stored.waiting().for_each(|delivery| flight.queue.push(times.delivery(delivery)));
        let (client_id, expiry_seconds) = (stored.client_id(), stored.expiry_seconds());
        let mut session = Session::restored(client_id, expiry_seconds, stored.next_packet_id(), flight);
        if let Some(parked) = stored.parked() {
            session.set_cold(Cold::restored(parked));
            self.stats.messages_parked += parked.messages();
        }
        // They were matched before, and are accounted for from now on.
        let kept = session.kept() as u64;
        self.stats.messages_matched += kept;
        self.stats.messages_kept += kept;
        self.stats.queue_bytes += session.queue_bytes() as u64;
        let key = self.sessions.insert(session);
        for (filter, subscription) in stored.subscriptions().iter() {
            self.restore_subscription(key, filter, subscription);
        }
        self.restore_deadlines(key, stored, times);
    }

    fn restore_subscription(&mut self, session: Key, text: &str, stored: image::Subscription) {
        let Ok(shared) = SharedFilter::new(text) else { return };
        let image::Subscription { mut options, identifier } = stored;
        options.qos = options.qos.min(self.limits.maximum_qos);
        let subscriber = Subscriber { key: session.index, options, identifier };
        match shared.share_name {
            // Its owner takes it in as one that is away; no connection waits for that.
            Some(_) => self.join(NOBODY, session, 0, text, shared, subscriber),
            None => self.put_back(session, shared.filter, subscriber),
        }
    }

    /// A Non-shared Subscription that there was before.
    fn put_back(&mut self, session: Key, filter: TopicFilter<'_>, subscriber: Subscriber) {
        let inserted = self.subscriptions.insert(filter, subscriber);
        if let Some(state) = self.sessions.get_mut(session) {
            state.add_filter(inserted.filter);
        }
        if inserted.first_on_core && !self.groups.has_filter(filter.as_str()) {
            self.announce(filter, true);
        }
        self.announce_kept(session, filter, subscriber.options.qos);
    }

    /// When the session ends and when its Will is published, if its Client does not come back.
    fn restore_deadlines(&mut self, key: Key, stored: &image::Session, times: &mut Times) {
        let since = stored.away_since().unwrap_or(times.wall);
        let after = |seconds: u32| times.at(since.saturating_add(u64::from(seconds) * 1000));
        let mut ends_at = (stored.expiry_seconds() != u32::MAX).then(|| after(stored.expiry_seconds()));
        let mut will = None;
        if let Some(stored) = stored.will() {
            // Their Clients could not come back before.
            let start = times.start_since(since);
            let earliest = times.at(start + u64::from(self.limits.restart_grace_seconds) * 1000);
            let due_at = after(stored.delay_seconds).max(earliest);
            ends_at = ends_at.map(|at| at.max(earliest));
            let (expiry_seconds, delay_seconds) = (stored.expiry_seconds, stored.delay_seconds);
            let message = stored.message.clone();
            let (due, away_since) = (Some(due_at), since);
            will = Some(Box::new(Will { message, expiry_seconds, delay_seconds, due_at: due, away_since }));
            self.wills.insert((due_at, key));
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(will) = will {
            session.set_will(Some(will));
        }
        if let Some(ends_at) = ends_at {
            session.set_end(ends_at);
            self.ends.set(key.index, ends_at);
        }
    }
}
