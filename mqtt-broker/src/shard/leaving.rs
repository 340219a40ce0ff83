//! A session leaves its shared groups: by UNSUBSCRIBE, or because it ends.
//!
//! The owner of a group tells its store that it is done with what a session has made its own, and with all that waits when
//! its last member leaves. If it told that before this core's store knows of the leaving, a crash between the two would lose
//! messages. So another core hears of it once it is committed here; until then the member counts as one that is away, and
//! gets nothing. A later SUBSCRIBE to the same group goes behind. Lives on: the home core of the session.

use mqtt_proto::types::{PacketId, Qos};

use super::Shard;
use super::envelope::{Envelope, GroupRef, OfGroup};
use super::shared::is_away;
use super::table::Key;
use crate::ports::Commit;
use crate::store::record::{Identifiers, Record};

impl Shard {
    /// The session has left a group, of which the store was told just now if it knows of the session.
    pub(super) fn end_membership(&mut self, session: Key, group: Option<GroupRef>) {
        let Some(group) = group else { return };
        let started = self.keep_started(session, group);
        self.leave_group(session, group);
        let commit = self.known_of(session);
        for of in started {
            let member = self.own_session(session);
            self.tell_owner_behind(of.group, &Envelope::GroupCredit { message: of, member }, commit);
        }
        // What has been started is completed [MQTT-3.10.4-3].
        let back = self.take_queued(session, |delivery| delivery.is_of(group));
        self.return_all(back);
    }

    /// Tells the owner of a group that the session is no member any more.
    pub(super) fn leave_group(&mut self, session: Key, group: GroupRef) {
        let member = self.own_session(session);
        let commit = self.known_of(session);
        let waits = self.tell_owner_behind(group, &Envelope::GroupLeave { group, member }, commit);
        let is_online = self.sessions.get(session).is_some_and(|state| state.connection().is_some());
        if waits && is_online {
            self.tell_owner(group, &is_away(group, member));
        }
    }

    /// When the store has all that it was told of the session.
    pub(super) fn known_of(&self, session: Key) -> Commit {
        match self.sessions.get(session) {
            Some(state) if !state.is_recorded() => Commit::Now,
            _ => self.records.all(),
        }
    }

    /// What was started at QoS 1 for a group that a session leaves stays with that. If it outlives its connection the store
    /// has it from now on as the session's own; the owner is to hear of it.
    fn keep_started(&mut self, session: Key, group: GroupRef) -> Vec<OfGroup> {
        let Some(state) = self.sessions.get(session).filter(|state| state.is_persistent()) else {
            return Vec::new();
        };
        let sent = state.known_flight().into_iter().flat_map(|flight| flight.outbound.iter());
        let of_group = sent.filter(|(.., delivery)| delivery.is_some_and(|delivery| delivery.is_of(group)));
        let started: Vec<PacketId> =
            of_group.filter(|(_, phase, _)| phase.qos() == Qos::AtLeastOnce).map(|(id, ..)| id).collect();
        let mut kept = Vec::new();
        for packet_id in started {
            let Some(state) = self.sessions.get_mut(session) else { return kept };
            let Some(delivery) = state.flight().outbound.get_mut(packet_id) else { continue };
            kept.extend(delivery.make_own());
            let (delivery, client_id) = (delivery.to_send(), &*state.client_id);
            let (qos, retain, packet_id) = (delivery.qos, delivery.retain, Some(packet_id));
            let identifiers = Identifiers::new(delivery.identifiers());
            let record = Record::Enqueued { client_id, qos, retain, identifiers, packet_id };
            self.records.keep(self.now, &delivery.message.as_ref(), &record);
        }
        kept
    }
}
