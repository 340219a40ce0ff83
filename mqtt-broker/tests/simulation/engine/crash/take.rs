//! What Clients are sent, and what they answer.

use mqtt_proto::codec;
use mqtt_proto::packet::{Ack, ConnAck, Packet, PacketType, Publish};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use super::client::{Ask, Flow, Known, Phase};
use super::disk::Handle;
use super::judge::{Kind, Taken, violation};
use super::wills::GRACE;
use super::world::{Check, World};

impl World {
    /// Some of what a Client has sent arrives; whether there was anything.
    pub(super) fn feed(&mut self, nth: usize, bytes: usize) -> bool {
        let Some(link) = self.clients[nth].link_mut() else { return false };
        let core = link.core;
        let Some(id) = link.id else { return false };
        let some: Vec<u8> = match link.goodbye.as_mut().filter(|_| link.to_broker.is_empty()) {
            // By itself, so that it is certain what the connection ended by.
            Some(goodbye) => std::mem::take(goodbye),
            None => link.to_broker.drain(..bytes.min(link.to_broker.len())).collect(),
        };
        if some.is_empty() || self.is_dead(core) {
            return false;
        }
        self.call(core, |shard, now| shard.handle_input(id, &some, now));
        true
    }

    /// A Client takes the next packet; whether there was one, or the end of its connection.
    pub(super) fn read(&mut self, nth: usize, bytes: usize) -> Check<bool> {
        let version = self.clients[nth].party.version;
        let Some(frame) = self.clients[nth].receive(bytes) else {
            let ended = self.clients[nth].link_mut().is_some_and(|link| link.is_closed);
            if ended {
                self.check_end(nth)?;
                self.clients[nth].link = None;
            }
            return Ok(ended);
        };
        let packet = codec::decode(version, &frame).expect("the broker sends packets");
        self.say(|| format!("{} gets {packet:?}", self.clients[nth].name));
        self.take(nth, &packet)?;
        Ok(true)
    }

    /// The broker ends no connection unless its Client cannot be told otherwise that the store is full.
    fn check_end(&self, nth: usize) -> Check {
        let client = &self.clients[nth];
        let Some(link) = client.link.as_ref().filter(|link| link.is_accepted) else { return Ok(()) };
        match client.party.version {
            _ if link.has_said_goodbye() || link.is_doubtful => Ok(()),
            Version::V5 => violation("ended", format!("the broker ends the connection of {}", client.name)),
            _ => self.check_refusal(nth, ReasonCode::QUOTA_EXCEEDED),
        }
    }

    /// The broker refuses nothing but what a full store cannot take.
    fn check_refusal(&self, nth: usize, reason: ReasonCode) -> Check {
        let says_why = reason == ReasonCode::QUOTA_EXCEEDED || self.clients[nth].party.version != Version::V5;
        match says_why && self.disks.iter().any(Handle::has_refused) {
            true => Ok(()),
            false => violation("refused", format!("{} is told {reason}", self.clients[nth].name)),
        }
    }

    fn take(&mut self, nth: usize, packet: &Packet<'_>) -> Check {
        let client = &mut self.clients[nth];
        match *packet {
            Packet::ConnAck(connack) => return self.take_connack(nth, &connack),
            Packet::PubAck(ack) | Packet::PubRec(ack) => {
                let Some(at) = client.flows.iter().position(|flow| flow.id == ack.packet_id) else {
                    return Ok(());
                };
                let is_final = packet.packet_type() == PacketType::PubAck || ack.reason.is_error();
                let message = client.flows[at].message;
                if is_final {
                    client.flows.remove(at);
                } else {
                    client.flows[at].phase = Phase::PubRel;
                    client.send(&Packet::PubRel(ok(ack.packet_id)));
                }
                if ack.reason.is_error() {
                    return self.check_refusal(nth, ack.reason);
                }
                self.judge.messages[message].acknowledged_at.get_or_insert(self.latest);
            }
            Packet::PubComp(ack) => client.flows.retain(|flow| flow.id != ack.packet_id),
            Packet::SubAck(suback) => {
                let refused = suback.reasons.iter().find(|reason| reason.is_error());
                self.take_answer(nth, suback.packet_id, refused.is_none());
                return refused.map_or(Ok(()), |reason| self.check_refusal(nth, reason));
            }
            Packet::UnsubAck(unsuback) => self.take_answer(nth, unsuback.packet_id, true),
            Packet::Publish(publish) => return self.take_publish(nth, &publish),
            Packet::PubRel(ack) => {
                client.taken.remove(&ack.packet_id);
                client.send(&Packet::PubComp(ok(ack.packet_id)));
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
            return self.check_refusal(nth, connack.reason);
        }
        self.check_session(nth, connack.session_present)?;
        let client = &mut self.clients[nth];
        let Some(link) = &mut client.link else { return Ok(()) };
        let (clean, is_open, brought) = (link.clean, !link.is_closed, link.will);
        link.is_accepted = true;
        if !connack.session_present {
            client.forget();
            self.wills.forget(nth);
        }
        client.session = Known::There;
        if is_open {
            client.away = None;
            let ended = clean || !connack.session_present;
            self.wills.accepted(nth, brought, ended, self.now.millis);
        }
        client.flows.iter_mut().for_each(|flow| flow.is_resent = true);
        for Flow { id, message, phase, .. } in client.flows.clone() {
            match phase {
                Phase::Publish => self.send_publish(nth, id, message, true),
                Phase::PubRel => self.clients[nth].send(&Packet::PubRel(ok(id))),
            }
        }
        Ok(())
    }

    /// A session is there until its time is over, whatever the clocks did, and not for longer.
    fn check_session(&self, nth: usize, present: bool) -> Check {
        let client = &self.clients[nth];
        let Some(link) = &client.link else { return Ok(()) };
        let is_wrong = match (client.session, client.party.expiry, client.away) {
            _ if link.clean || client.is_guest() => present,
            (Known::There, u32::MAX, _) => !present,
            (Known::There, seconds, Some(away)) => {
                let millis = u64::from(seconds) * 1000;
                let (least, most) =
                    (link.since.saturating_sub(away.latest), self.latest.saturating_sub(away.soonest));
                // One that has a Will is kept until that is published.
                let is_spared = client.party.has_will && link.since_millis <= 1_000 + GRACE;
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
                let (name, away, now) = (&client.name, client.away, (link.since, self.latest));
                violation("session", format!("{name} is told {present}, away since {away:?}, now {now:?}"))
            }
        }
    }

    fn take_publish(&mut self, nth: usize, publish: &Publish<'_>) -> Check {
        let number = publish.payload.try_into().map(usize::from_le_bytes);
        let message = number.expect("payloads are numbers");
        let id = publish.packet_id.expect("nothing is published at QoS 0");
        let client = &mut self.clients[nth];
        let mut is_new = true;
        if publish.qos == Qos::AtLeastOnce {
            client.send(&Packet::PubAck(ok(id)));
        } else {
            client.send(&Packet::PubRec(ok(id)));
            match client.taken.insert(id, message) {
                None => {}
                Some(known) if known == message && publish.dup => is_new = false,
                Some(known) => {
                    let (name, dup) = (&client.name, publish.dup);
                    let text = format!("{name} has {known} under {id}, and gets {message}, DUP {dup}");
                    return violation("identifier", text);
                }
            }
        }
        if is_new { self.judge_it(nth, publish, message) } else { Ok(()) }
    }

    fn judge_it(&mut self, nth: usize, publish: &Publish<'_>, message: usize) -> Check {
        let (client, published) = (&self.clients[nth], &self.judge.messages[message]);
        let left = publish.properties.message_expiry_interval();
        // The store knows to a second how late it was before a clock went back.
        let more = u32::from(self.latest > self.now.wall_millis);
        let is_right = match published.expiry {
            Some(seconds) if client.party.version == Version::V5 => {
                left.is_some_and(|left| left <= seconds + more)
            }
            _ => left.is_none(),
        };
        if !is_right {
            let text = format!("{} gets {message} with {left:?} seconds left: {published:?}", client.name);
            return violation("expiry", text);
        }
        let qos = publish.qos;
        if nth + 1 == self.clients.len() {
            self.found.insert(published.topic.clone(), message);
            return Ok(());
        }
        if published.kind == Kind::Will {
            let is_first = qos == Qos::ExactlyOnce || !publish.dup;
            self.wills.take(nth, message, (qos, is_first), self.now.millis)?;
            return self.judge.take_will(nth, client, message);
        }
        let identifiers: Vec<u32> = publish.properties.subscription_identifiers().collect();
        let unordered = self.has_refused || self.disks.iter().any(Handle::has_refused);
        let taken = Taken { message, qos, identifiers: &identifiers };
        self.judge.take(nth, client, &taken, (self.latest, unordered))
    }
}

fn ok(id: PacketId) -> Ack<'static> {
    Ack::new(id, ReasonCode::SUCCESS)
}
