//! Retained messages: a map from topics to the last message published there, as far as the last is certain.

use mqtt_proto::packet::RetainHandling;
use mqtt_proto::types::Qos;

use super::message::{Fate, Message, MessageId};
use super::{Check, Oracle, SessionId, ensure};

impl Oracle {
    /// Messages that may be the retained one of `topic`: those that no other has certainly replaced.
    fn last_of<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = (MessageId, &'a Message)> {
        let is_of = move |message: &Message| {
            message.retain
                && message.topic == topic
                && !message.refused
                && message.tries > 0
                && !matches!(message.fate, Fate::Cancelled | Fate::Armed | Fate::Pending(_))
        };
        let replaced = move |message: &Message| {
            message.acked_at.is_some_and(|done| {
                self.messages
                    .iter()
                    .any(|other| is_of(other) && other.sent_at > done && other.acked_at.is_some())
            })
        };
        self.messages.iter().enumerate().filter(move |(_, message)| is_of(message) && !replaced(message))
    }

    /// All is quiet, and a new subscriber to everything was sent `found` as the retained message of `topic`.
    pub(crate) fn check_retained(&self, topic: &str, found: Option<MessageId>, now: u64) -> Check {
        if let Some(found) = found {
            let right = self.last_of(topic).any(|(id, _)| id == found);
            ensure!(right, "retained", "{found} is retained for {topic} and was replaced");
            return Ok(());
        }
        // None: removed, expired, or none was certainly set.
        let may_be_none = |(_, message): (MessageId, &Message)| {
            message.empty || message.acked_at.is_none() || message.may_be_expired(now)
        };
        let mut last = self.last_of(topic).peekable();
        if let Some((id, _)) = last.peek() {
            let id = *id;
            ensure!(last.any(may_be_none) || self.tight, "retained", "{topic} has lost its message {id}");
        }
        Ok(())
    }

    /// Topics that ever had a retained message.
    pub(crate) fn retained_topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self
            .messages
            .iter()
            .filter(|message| message.retain && message.tries > 0)
            .map(|message| message.topic.clone())
            .collect();
        topics.sort_unstable();
        topics.dedup();
        topics
    }

    /// Retained messages that a subscription asked for and never got, and values that are not the last.
    pub(super) fn missing_retained(
        &self,
        session: SessionId,
        now: u64,
        miss: &mut impl FnMut(&'static str, String),
    ) {
        if self.tight {
            return;
        }
        let state = &self.sessions[session];
        for topic in self.retained_topics() {
            let mut last = self.last_of(&topic);
            let (Some((id, message)), None) = (last.next(), last.next()) else { continue };
            let asked = state.subscriptions.iter().filter(|subscription| {
                let own = subscription.options.no_local && message.publisher == state.party;
                !(subscription.is_shared() || own)
                    && subscription.options.retain_handling == RetainHandling::Send
                    && subscription.options.qos != Qos::AtMostOnce
                    && subscription.acked_at.is_some()
                    && subscription.end_sent_at.is_none()
                    && subscription.matches(&topic)
            });
            // Any of several would do; one has to be there from before the message until now.
            let Some((since, granted)) =
                asked.map(|subscription| (subscription.sent_at, subscription.acked_at)).max()
            else {
                continue;
            };
            let certain = message.is_taken()
                && message.fate == Fate::Sent
                && message.qos != Qos::AtMostOnce
                && !message.may_be_expired(now)
                && self.fits(session, message);
            if !certain {
                continue;
            }
            if message.acked_at.is_some_and(|acked| acked < since)
                && !message.empty
                && state.received.get(&id).is_none_or(|copies| copies.retained + copies.retried == 0)
            {
                miss("retained", format!("client {} never got retained {id} of {topic}", state.party));
            }
            if Self::is_single_publisher(&topic) {
                let expected = (!message.empty).then_some(id);
                let seen = state.values.get(&topic).copied().flatten();
                // Nobody tells a new subscription that there is no value any more.
                let left_over =
                    expected.is_none() && granted.is_none_or(|granted| message.sent_at <= granted);
                if seen != expected && !left_over {
                    let party = state.party;
                    miss(
                        "last value",
                        format!("client {party} has {seen:?} of {topic}, the last is {expected:?}"),
                    );
                }
            }
        }
    }
}
