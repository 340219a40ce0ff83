//! A session between its connections: attached, detached, ended; its Will on the way.

use mqtt_proto::types::Qos;

use super::Shard;
use super::deliver::Outgoing;
use super::queue::Delivery;
use super::session::Session;
use super::stats::DropReason;
use super::table::Key;
use crate::ports::{Commit, Event};
use crate::store::record::Record;

/// Wills published in one turn: after a start those of all Clients that were connected before are due at the same time.
const WILLS_MAX: usize = 1024;

impl Shard {
    /// The session's Client is back: what waited for it goes on.
    pub(super) fn attach(&mut self, session: Key) {
        self.groups_online(session);
        self.pump(session);
        self.advance_gathers(session);
    }

    /// Tells the store that the session's Client is connected, unless the store never has to know of it: one that ends
    /// with its connection has nothing to outlive the process but a Will. `had_will`: whether there was one before.
    pub(super) fn record_opened(&mut self, key: Key, had_will: bool) -> Commit {
        let Some(session) = self.sessions.get_mut(key) else { return Commit::Now };
        if !session.is_persistent() && !session.is_recorded() && session.will().is_none() {
            return Commit::Now;
        }
        session.record();
        let (expiry_seconds, next_packet_id) = (session.expiry_seconds, session.next_packet_id());
        let client_id = &*session.client_id;
        let (records, now) = (&mut self.records, self.now);
        let opened = records.append(now, &Record::Opened { client_id, expiry_seconds, next_packet_id });
        match session.will() {
            Some(will) => {
                let (delay_seconds, expiry_seconds) = (will.delay_seconds, will.expiry_seconds);
                let record = Record::Will { client_id, delay_seconds, expiry_seconds };
                records.keep(now, &will.message.as_ref(), &record)
            }
            None if had_will => records.append(now, &Record::WillRemoved { client_id }),
            None => opened,
        }
    }

    /// Tells the store of another Session Expiry Interval.
    pub(super) fn record_expiry(&mut self, key: Key) {
        if let Some(session) = self.sessions.get(key).filter(|session| session.is_recorded()) {
            let (client_id, expiry_seconds) = (&*session.client_id, session.expiry_seconds);
            self.records.append(self.now, &Record::Expiry { client_id, expiry_seconds });
        }
    }

    /// Tells the store that the session's Will is no more.
    fn record_no_will(&mut self, key: Key) {
        if let Some(session) = self.sessions.get(key).filter(|session| session.is_recorded()) {
            self.records.append(self.now, &Record::WillRemoved { client_id: &session.client_id });
        }
    }

    /// The session's connection has ended at `ended_at`, in monotonic milliseconds, now or before. `will`: whether its Will is to
    /// be published.
    pub(super) fn detach(&mut self, key: Key, will: bool, ended_at: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.disconnected();
        let had_will = !will && session.take_will().is_some();
        if had_will && session.is_persistent() {
            self.record_no_will(key);
        }
        self.groups_offline(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if !session.is_persistent() {
            // [MQTT-4.1.0-2]; its Will goes with it, whatever its delay [MQTT-3.1.2-8].
            self.end_session(key);
            return;
        }
        let at = self.records.wall(self.now).saturating_sub(self.now.millis - ended_at);
        self.records.append_later(self.now, &Record::Closed { client_id: &session.client_id, at });
        let expiry_millis = u64::from(session.expiry_seconds) * 1000;
        if session.expiry_seconds != u32::MAX {
            let ends_at = ended_at + expiry_millis;
            session.set_end(ends_at);
            self.ends.set(key.index, ends_at);
        }
        match session.known_aside_mut().and_then(|aside| aside.will.as_mut()) {
            Some(will) if will.delay_seconds > 0 => {
                let due_at = ended_at + u64::from(will.delay_seconds) * 1000;
                (will.due_at, will.away_since) = (Some(due_at), at);
                self.wills.insert((due_at, key));
            }
            Some(_) => self.publish_will(key),
            None => {}
        }
        if !self.limits.queue_qos0_offline {
            self.drop_queued(key, DropReason::Offline, |delivery| delivery.qos == Qos::AtMostOnce);
        }
        self.unload(key);
        if let Some(session) = self.sessions.get_mut(key) {
            session.rest(self.gates.committed());
        }
    }

    /// The session ends with all it holds; until when the store may still know of it.
    pub(super) fn end_session(&mut self, key: Key) -> Commit {
        if self.sessions.get(key).is_none() {
            return Commit::Now;
        }
        self.cancel_deadlines(key);
        self.publish_will(key);
        // The owners of its groups hear of it behind this.
        let mut commit = Commit::Now;
        if let Some(session) = self.sessions.get(key).filter(|session| session.is_recorded()) {
            commit = self.records.append(self.now, &Record::Ended { client_id: &session.client_id });
        }
        self.unsubscribe_all(key);
        self.end_begun(key);
        let Some(session) = self.sessions.remove(key) else { return commit };
        // Exact at once: the CONNECT that ended it may be about to open its successor.
        self.budget.own.sessions = self.sessions.len() as u64;
        for token in session.gathers().into_iter().flat_map(|gathers| gathers.tokens()) {
            self.gathers.remove(&token);
        }
        // A message whose PUBREC has come is the Client's already, and counted as delivered.
        let kept = session.kept() as u64;
        self.stats.messages_kept -= kept;
        self.stats.queue_bytes -= session.queue_bytes() as u64;
        self.stats.dropped(DropReason::SessionEnded, kept);
        self.release_parked(&session, commit);
        self.review_unreadable(key);
        self.leave_held(&session);
        self.ports.hooks.on_event(&Event::SessionEnded { client_id: &session.client_id });
        commit
    }

    /// What is due of the sessions whose Clients are away.
    pub(super) fn away_due(&mut self) {
        if self.restoring.is_some() {
            // Whom a Will is for is not known everywhere yet.
            return;
        }
        let mut left = WILLS_MAX;
        let until = self.wills_end();
        let mut due = core::mem::take(&mut self.due);
        self.ends.advance(until, &mut due);
        for index in due.drain(..) {
            let Some(key) = self.sessions.at(index) else { continue };
            let Some(ends_at) = self.sessions.get(key).and_then(Session::ends_at) else { continue };
            if ends_at > self.now.millis {
                // Farther ahead than a timer goes at once.
                self.ends.set(index, ends_at);
                continue;
            }
            self.wills_due(ends_at, &mut left);
            // Its Will is published with it, if that was not due before.
            self.end_session(key);
        }
        self.due = due;
        // Those behind the end of a session that has not had its turn wait for it.
        if self.ends.next().is_none_or(|at| at > until) {
            self.wills_due(until + 1, &mut left);
        }
    }

    /// Up to when the Wills that are due, and the ends of sessions between them, are a turn's share.
    fn wills_end(&self) -> u64 {
        let now = self.now.millis;
        if self.wills.first().is_none_or(|&(deadline, _)| deadline > now) {
            return now;
        }
        self.wills.iter().nth(WILLS_MAX).map_or(now, |&(deadline, _)| deadline.min(now))
    }

    /// Publishes the Wills that are due before the monotonic time `before`, of which so many are `left` of a turn's share.
    fn wills_due(&mut self, before: u64, left: &mut usize) {
        while *left > 0
            && let Some(&(deadline, key)) = self.wills.first()
            && deadline < before
        {
            *left -= 1;
            self.wills.pop_first();
            self.publish_will(key);
        }
    }

    /// The session's Client is back, or the session ends: nothing is due any more.
    pub(super) fn cancel_deadlines(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.ends_at().is_some() {
            session.disconnected();
            self.ends.cancel(key.index);
        }
        let will = session.known_aside_mut().and_then(|aside| aside.will.as_mut());
        if let Some(will_at) = will.and_then(|will| will.due_at.take()) {
            self.wills.remove(&(will_at, key));
        }
    }

    /// Publishes the session's Will, if it has one, and removes it [MQTT-3.1.2-10].
    fn publish_will(&mut self, key: Key) {
        let Some(will) = self.sessions.get_mut(key).and_then(Session::take_will) else { return };
        let mut message = will.message.as_ref();
        message.expires_at = will.expiry_seconds.map(|seconds| self.now.millis + u64::from(seconds) * 1000);
        let mut outgoing = Outgoing::new(message);
        // [MQTT-3.8.3-3] holds for a Will as for what its Client published itself.
        let numbered = self.numbers_will(key, outgoing.message.qos);
        self.route(&mut outgoing, Some(key), numbered);
        self.record_no_will(key);
    }

    /// Drops queued messages for which `which` is true.
    fn drop_queued(&mut self, key: Key, reason: DropReason, which: impl Fn(&Delivery) -> bool) {
        let dropped = self.take_queued(key, which).len() as u64;
        self.stats.messages_kept -= dropped;
        self.stats.dropped(reason, dropped);
    }
}
