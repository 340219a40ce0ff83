//! What has to have arrived when all is quiet and everybody has taken all there is.

use mqtt_proto::types::Qos;

use super::message::{Message, MessageId};
use super::session::Subscription;
use super::{Check, Oracle, SessionId, Violation};

/// Bytes that a PUBLISH takes at most beside topic and payload.
const PUBLISH_OVERHEAD: usize = 200;

impl Oracle {
    /// Deliveries that should have happened and did not: the rule and the words for it.
    pub(crate) fn missing(&self, now: u64) -> Vec<Violation> {
        let mut missing = Vec::new();
        let mut miss = |rule, text| missing.push(Violation { rule, text });
        let alive: Vec<SessionId> = self.accounts.iter().filter_map(|account| account.session).collect();
        for &session in &alive {
            for (id, message) in self.kept_messages(now) {
                if self.is_owed(session, message) && !self.sessions[session].received.contains_key(&id) {
                    let party = self.sessions[session].party;
                    miss("at least once", format!("{id} on {} never reached client {party}", message.topic));
                }
            }
            self.missing_retained(session, now, &mut miss);
        }
        self.missing_in_groups(&alive, now, &mut miss);
        missing
    }

    /// Messages that were taken with a promise that holds still.
    fn kept_messages(&self, now: u64) -> impl Iterator<Item = (MessageId, &Message)> {
        let kept = move |(_, message): &(MessageId, &Message)| {
            message.is_taken()
                && !message.empty
                && message.qos != Qos::AtMostOnce
                && !message.may_be_expired(now)
        };
        self.messages.iter().enumerate().filter(kept)
    }

    /// Whether the message has to reach the session by an ordinary subscription.
    fn is_owed(&self, session: SessionId, message: &Message) -> bool {
        let state = &self.sessions[session];
        let owes = |subscription: &Subscription| {
            !subscription.is_shared()
                && subscription.options.qos != Qos::AtMostOnce
                && !(subscription.options.no_local && message.publisher == state.party)
                && subscription.must_meet(message.sent_at, message.acked_at.unwrap_or(u64::MAX))
                && subscription.matches(&message.topic)
        };
        // A subscription made anew at QoS 0 takes what is under way with it.
        let lowered = |subscription: &Subscription| {
            subscription.options.qos == Qos::AtMostOnce
                && !subscription.is_shared()
                && subscription.matches(&message.topic)
        };
        self.fits(session, message)
            && state.subscriptions.iter().any(owes)
            && !state.subscriptions.iter().any(lowered)
    }

    /// Whether the Client's Maximum Packet Size certainly allows it.
    fn fits(&self, session: SessionId, message: &Message) -> bool {
        let max = self.sessions[session].packet_bytes_min;
        max.is_none_or(|max| message.len() + PUBLISH_OVERHEAD <= max as usize)
    }

    fn missing_in_groups(&self, alive: &[SessionId], now: u64, miss: &mut impl FnMut(&'static str, String)) {
        let mut groups: Vec<&str> = Vec::new();
        for subscription in self.sessions.iter().flat_map(|session| &session.subscriptions) {
            if subscription.is_shared() && !groups.contains(&&*subscription.filter) {
                groups.push(&subscription.filter);
            }
        }
        for group in groups {
            let members: Vec<(SessionId, &Subscription)> = self
                .sessions
                .iter()
                .enumerate()
                .flat_map(|(session, state)| state.subscriptions.iter().map(move |each| (session, each)))
                .filter(|(_, subscription)| subscription.filter == group)
                .collect();
            let lasting = |qos: Qos| {
                // What was begun goes down with the session of its member if it is of QoS 2 [MQTT-4.8.2-5], or if the
                // member has left [MQTT-3.10.4-3].
                let is_in = |member: SessionId| {
                    members.iter().any(|(session, state)| *session == member && state.end_sent_at.is_none())
                };
                members.iter().all(|&(session, subscription)| {
                    let goes_on = qos != Qos::ExactlyOnce && is_in(session);
                    subscription.options.qos != Qos::AtMostOnce && (goes_on || alive.contains(&session))
                })
            };
            for (id, message) in self.kept_messages(now) {
                let owes = |(session, subscription): &(SessionId, &Subscription)| {
                    alive.contains(session)
                        && subscription.must_meet(message.sent_at, u64::MAX)
                        && subscription.matches(&message.topic)
                };
                let reached =
                    members.iter().any(|(session, _)| self.sessions[*session].received.contains_key(&id));
                if !reached
                    && lasting(message.qos)
                    && members.iter().any(owes)
                    && members.iter().all(|(session, _)| self.fits(*session, message))
                {
                    miss("shared", format!("{id} on {} reached no member of {group}", message.topic));
                }
            }
        }
    }
}

impl Oracle {
    /// All is quiet: a message of a shared group does not wait for a member that is away while others are `connected`.
    pub(crate) fn check_stranded(&self, connected: &[SessionId], now: u64) -> Check {
        let mut stranded = None;
        self.missing_in_groups(connected, now, &mut |rule, text| stranded = Some(Violation { rule, text }));
        stranded.filter(|_| !self.tight).map_or(Ok(()), Err)
    }

    /// Compares what is missing with what the broker says it has dropped.
    pub(crate) fn check_missing(&self, now: u64, dropped: u64) -> Check {
        let missing = self.missing(now);
        match missing.first() {
            Some(first) if !self.tight || missing.len() as u64 > dropped => {
                let text = format!("{} ({} missing, {dropped} dropped)", first.text, missing.len());
                Err(Violation { rule: first.rule, text })
            }
            _ => Ok(()),
        }
    }
}
