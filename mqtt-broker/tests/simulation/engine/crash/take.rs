//! What Clients are sent, and what they answer.

use mqtt_proto::packet::{ConnAck, Packet, Publish};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use super::client::{Ask, Known};
use super::judge::{Kind, Taken};
use super::wills::GRACE;
use super::world::World;
use crate::engine::cluster::{Check, Handle, Phase, violation};

impl World {
    /// The broker ends no connection unless its Client cannot be told otherwise that the store is full, or what waits for it
    /// cannot be read.
    pub(super) fn check_its_end(&self, nth: usize) -> Check {
        let client = &self.clients[nth];
        let Some(link) = client.peer.link.as_ref().filter(|link| link.is_accepted) else { return Ok(()) };
        match client.party.version {
            _ if link.has_said_goodbye() || link.is_doubtful => Ok(()),
            Version::V5 if self.is_stopping && client.told == Some(ReasonCode::SERVER_SHUTTING_DOWN) => {
                Ok(())
            }
            Version::V5 if client.told.is_some_and(|reason| self.is_unreadable(nth, reason)) => Ok(()),
            Version::V3_1_1 if self.is_stopping || self.cluster.has_unreadable() => Ok(()),
            Version::V5 => violation("ended", format!("the broker ends the connection of {}", client.name)),
            _ => self.check_refusal(nth, ReasonCode::QUOTA_EXCEEDED),
        }
    }

    /// The broker refuses nothing but what a full store cannot take.
    fn check_refusal(&self, nth: usize, reason: ReasonCode) -> Check {
        let says_why = reason == ReasonCode::QUOTA_EXCEEDED || self.clients[nth].party.version != Version::V5;
        match says_why && self.cluster.disks.iter().any(Handle::has_refused) {
            true => Ok(()),
            false => violation("refused", format!("{} is told {reason}", self.clients[nth].name)),
        }
    }

    /// Whether the Client may be refused for this reason as what waits for it cannot be read.
    fn is_unreadable(&self, nth: usize, reason: ReasonCode) -> bool {
        let fits = match self.clients[nth].party.version {
            Version::V5 => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
            _ => ReasonCode::SERVER_UNAVAILABLE,
        };
        reason == fits && self.cluster.has_unreadable() && !self.clients[nth].clean
    }

    pub(super) fn take_packet(&mut self, nth: usize, packet: &Packet<'_>) -> Check {
        let client = &mut self.clients[nth];
        match *packet {
            Packet::ConnAck(connack) => return self.take_connack(nth, &connack),
            Packet::PubAck(ref ack) | Packet::PubRec(ref ack) => {
                let Some(message) = client.peer.acknowledged(packet.packet_type(), ack) else {
                    return Ok(());
                };
                if ack.reason.is_error() {
                    self.judge.refused(message)?;
                    return self.check_refusal(nth, ack.reason);
                }
                self.judge.messages[message].acknowledged_at.get_or_insert(self.latest);
            }
            Packet::PubRel(ref ack) | Packet::PubComp(ref ack) => {
                client.peer.completed(packet.packet_type(), ack.packet_id);
            }
            Packet::SubAck(suback) => {
                let refused = suback.reasons.iter().find(|reason| reason.is_error());
                self.take_answer(nth, suback.packet_id, refused.is_none());
                return refused.map_or(Ok(()), |reason| self.check_refusal(nth, reason));
            }
            Packet::UnsubAck(unsuback) => self.take_answer(nth, unsuback.packet_id, true),
            Packet::Publish(publish) => return self.take_publish(nth, &publish),
            Packet::Disconnect(disconnect) => {
                client.told = Some(disconnect.reason);
            }
            _ => {}
        }
        Ok(())
    }

    fn take_answer(&mut self, nth: usize, packet_id: PacketId, is_granted: bool) {
        let (client, messages) = (&mut self.clients[nth], self.judge.messages.len());
        let Some(at) = client.asked.iter().position(|(id, _)| *id == packet_id) else { return };
        match client.asked.remove(at).1 {
            Ask::Subscribe(filter, options) if is_granted => {
                let wanted = client.wanted.entry(filter).or_default();
                wanted.owed_from.get_or_insert(messages);
                wanted.granted = Some((options, messages));
            }
            Ask::Subscribe(..) => {}
            Ask::Unsubscribe(filter) => {
                client.wanted.remove(filter);
                client.past.insert(filter, messages);
            }
        }
    }

    fn take_connack(&mut self, nth: usize, connack: &ConnAck<'_>) -> Check {
        if connack.reason.is_error() {
            let client = &self.clients[nth];
            let is_busy = match client.party.version {
                Version::V5 => connack.reason == ReasonCode::SERVER_BUSY,
                _ => connack.reason == ReasonCode::SERVER_UNAVAILABLE,
            };
            // A Will has to be kept, and the store may have much to write.
            let may_be_behind = self.may_be_behind || self.cluster.disks.iter().any(Handle::was_short);
            let is_behind = is_busy && client.brought.is_some() && may_be_behind;
            if is_behind || self.is_unreadable(nth, connack.reason) {
                return Ok(());
            }
            return self.check_refusal(nth, connack.reason);
        }
        self.check_session(nth, connack.session_present)?;
        let client = &mut self.clients[nth];
        let (clean, brought) = (client.clean, client.brought);
        let Some(link) = &mut client.peer.link else { return Ok(()) };
        let is_open = !link.is_closed;
        link.is_accepted = true;
        if !connack.session_present {
            client.forget();
            self.wills.forget(nth);
        }
        client.session = Known::There;
        if is_open {
            client.away = None;
            let ended = clean || !connack.session_present;
            self.wills.accepted(nth, brought, ended, self.cluster.now.millis);
        }
        self.cluster.say(|| format!("{} sends again what is left of {:?}", client.name, client.peer.flows));
        let is_v5 = client.party.version == Version::V5;
        for flow in client.peer.flows.iter().filter(|flow| is_v5 && flow.phase == Phase::Publish) {
            self.judge.messages[flow.message].is_resent = true;
        }
        client.peer.resend(|message| self.judge.messages[message].to_send());
        Ok(())
    }

    /// A session is there until its time is over, whatever the clocks did, and not for longer.
    fn check_session(&self, nth: usize, present: bool) -> Check {
        let client = &self.clients[nth];
        let Some(link) = &client.peer.link else { return Ok(()) };
        let is_wrong = match (client.session, client.party.expiry, client.away) {
            _ if client.clean || client.is_guest() => present,
            (Known::There, u32::MAX, _) => !present,
            (Known::There, seconds, Some(away)) => {
                let millis = u64::from(seconds) * 1000;
                let (least, most) = (
                    link.since.wall_millis.saturating_sub(away.latest),
                    self.latest.saturating_sub(away.soonest),
                );
                // One that has a Will is kept until that is published.
                let is_spared = client.party.has_will && link.since.millis <= 1_000 + GRACE;
                match present {
                    true => least > millis && !is_spared,
                    false => most < millis,
                }
            }
            _ => false,
        };
        match is_wrong {
            false => Ok(()),
            true => {
                let (name, away, now) = (&client.name, client.away, (link.since.wall_millis, self.latest));
                violation("session", format!("{name} is told {present}, away since {away:?}, now {now:?}"))
            }
        }
    }

    fn take_publish(&mut self, nth: usize, publish: &Publish<'_>) -> Check {
        let client = &mut self.clients[nth];
        match client.peer.take(&client.name, publish)? {
            Some(message) => self.judge_it(nth, publish, message),
            None => Ok(()),
        }
    }

    fn judge_it(&mut self, nth: usize, publish: &Publish<'_>, message: usize) -> Check {
        let (client, published) = (&self.clients[nth], &self.judge.messages[message]);
        let left = publish.properties.message_expiry_interval();
        let since = client.peer.link.as_ref().map_or(0, |link| link.since.wall_millis);
        let is_right = match published.may_be_left(since, self.latest) {
            Some((least, most)) if client.party.version == Version::V5 => {
                left.is_some_and(|left| (least.max(1)..=most).contains(&left) || left == 0 && publish.dup)
            }
            _ => left.is_none(),
        };
        if !is_right {
            let text = format!(
                "{} gets {message} with {left:?} seconds left, at {}: {published:?}",
                client.name, self.cluster.now.wall_millis
            );
            return violation("expiry", text);
        }
        let qos = publish.qos;
        if nth + 1 == self.clients.len() {
            self.found.insert(published.topic.clone(), message);
            return Ok(());
        }
        let identifiers: Vec<u32> = publish.properties.subscription_identifiers().collect();
        let taken = Taken { message, qos, retain: publish.retain, identifiers: &identifiers };
        if published.kind == Kind::Will {
            let is_first = qos == Qos::ExactlyOnce || !publish.dup;
            let is_exact = self.judge.take_will(nth, client, &taken)?;
            let how = (is_first, is_exact);
            return self.wills.take(nth, message, (qos, publish.retain), how, self.cluster.now.millis);
        }
        let has_refused = self.has_refused || self.cluster.disks.iter().any(Handle::has_refused);
        self.judge.take(nth, client, &taken, (self.latest, has_refused))
    }
}
