//! What Clients receive: every packet is judged, then answered as a conforming Client does.

use mqtt_proto::connection::PeerLimits;
use mqtt_proto::packet::{Ack, ConnAck, Packet, Publish, SubAck, UnsubAck};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use super::send::brief;
use super::{Acknowledgement, Request, Unacknowledged};
use crate::engine::oracle::{Arrival, Check, MessageId, Violation, ensure, parse_payload};
use crate::engine::run::Run;
use crate::engine::schedule::PublishPlan;

impl Run {
    /// Bytes for the Client.
    pub(crate) fn bytes_arrived(&mut self, link: usize, bytes: &[u8]) -> Check {
        if self.links[link].has_ended {
            return Ok(());
        }
        // Taken out, so that packets can be borrowed from it while they are answered.
        let mut receiver = core::mem::take(&mut self.links[link].receiver);
        let mut rest = bytes;
        loop {
            match receiver.poll_packet(&mut rest) {
                Ok(Some(packet)) => {
                    let name = self.name_of(link);
                    self.world.trace.line(self.world.now, &name, || format!("<- {}", brief(&packet)));
                    self.packet_arrived(link, &packet)?;
                }
                Ok(None) => break,
                Err(error) => {
                    let text = format!("{} got bytes that no Server may send: {error}", self.name_of(link));
                    return Err(Violation { rule: "protocol", text });
                }
            }
        }
        self.links[link].receiver = receiver;
        self.acknowledge(link);
        self.publish_waiting(self.links[link].party);
        Ok(())
    }

    fn packet_arrived(&mut self, link: usize, packet: &Packet<'_>) -> Check {
        match packet {
            Packet::ConnAck(connack) => return self.connack_arrived(link, connack),
            Packet::Disconnect(disconnect) => {
                self.links[link].last_reason = Some(disconnect.reason);
                return Ok(());
            }
            _ => {}
        }
        let state = &self.links[link];
        let is_current = self.parties[state.party].current == Some(link);
        let Some(session) = state.session.filter(|_| is_current && !state.superseded && !state.rude) else {
            // Whoever has opened another connection looks at this one no more.
            return Ok(());
        };
        match packet {
            Packet::Publish(publish) => self.publish_arrived(link, session, publish),
            Packet::PubAck(ack) => self.answer_arrived(link, session, Qos::AtLeastOnce, ack),
            Packet::PubRec(ack) => self.answer_arrived(link, session, Qos::ExactlyOnce, ack),
            Packet::PubRel(ack) => self.pubrel_arrived(link, session, ack),
            Packet::PubComp(ack) => self.pubcomp_arrived(link, session, ack),
            Packet::SubAck(suback) => self.suback_arrived(link, session, suback),
            Packet::UnsubAck(unsuback) => self.unsuback_arrived(link, session, unsuback),
            Packet::PingResp => {
                ensure!(self.links[link].pings > 0, "ping", "a PINGRESP that nobody asked for");
                self.links[link].pings -= 1;
                Ok(())
            }
            other => Err(Violation { rule: "protocol", text: format!("an unexpected {other:?}") }),
        }
    }

    fn connack_arrived(&mut self, link: usize, connack: &ConnAck<'_>) -> Check {
        let state = &mut self.links[link];
        if connack.reason.is_error() {
            state.last_reason = Some(connack.reason);
            return Ok(());
        }
        let Some(session) = state.session else {
            if self.oracle.inconclusive {
                return Ok(());
            }
            return Err(Violation {
                rule: "connack",
                text: "a CONNACK before the CONNECT was accepted".into(),
            });
        };
        state.server = PeerLimits::from_connack(connack, state.version);
        if let Some(keep_alive) = state.server.server_keep_alive {
            state.keep_alive = keep_alive;
        }
        let party = state.party;
        if self.parties[party].current != Some(link) || state.superseded {
            // A stray connection, opened before another one.
            return Ok(());
        }
        state.is_open = true;
        self.resend(link, session);
        self.keep_alive(link);
        self.publish_waiting(party);
        Ok(())
    }

    fn publish_arrived(&mut self, link: usize, session: usize, publish: &Publish<'_>) -> Check {
        let now = self.world.now;
        let topic = publish.topic.expect("the receiver resolves aliases").as_str().to_owned();
        let message = parse_payload(publish.payload).map(|(id, _)| id).filter(|_| !topic.starts_with('$'));
        let known = match publish.packet_id {
            Some(packet_id) => self.check_packet_id(link, session, publish, packet_id, message)?,
            None => {
                ensure!(!publish.dup, "dup", "a QoS 0 PUBLISH with DUP");
                false
            }
        };
        if let (true, Some(message), Some(since)) =
            (publish.dup && !known, message, self.links[link].established_at)
        {
            let sent_at = self.oracle.messages.get(message).map_or(0, |message| message.sent_at);
            ensure!(
                sent_at <= since,
                "dup",
                "{message} came with DUP, though it was published on this connection"
            );
        }
        let arrival = Arrival { session, version: self.links[link].version, publish, known };
        self.oracle.arrived(&arrival, now)?;
        self.coverage.count(match (publish.qos, known) {
            (_, true) => "delivered once more",
            (Qos::AtMostOnce, _) => "delivered at QoS 0",
            (Qos::AtLeastOnce, _) => "delivered at QoS 1",
            (Qos::ExactlyOnce, _) => "delivered at QoS 2",
        });
        if publish.retain {
            self.coverage.count("delivered with RETAIN");
        }
        if topic.starts_with("w/") {
            self.coverage.count("Wills delivered");
        }
        let Some(packet_id) = publish.packet_id else {
            self.feed(link, &topic, publish, known);
            return Ok(());
        };
        let refuses = self.refuses(link, message);
        let reason = if refuses { ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR } else { ReasonCode::SUCCESS };
        let shared = topic.starts_with("s/");
        let flow = Unacknowledged { message, connection: link, qos: publish.qos, shared };
        self.flows[session].unacknowledged.insert(packet_id, flow);
        self.flows[session].past.insert(packet_id, (message, link));
        self.links[link].window.insert(packet_id);
        let open = self.links[link].window.len();
        ensure!(
            open <= self.links[link].receive_maximum(),
            "receive maximum",
            "{} has {open} messages to acknowledge",
            self.name_of(link)
        );
        self.plan_acknowledgement(
            link,
            match publish.qos {
                Qos::ExactlyOnce => Acknowledgement::Received(packet_id, reason),
                _ => Acknowledgement::Taken(packet_id, reason),
            },
        );
        self.feed(link, &topic, publish, known);
        Ok(())
    }

    /// Whether the message came before under this Packet Identifier; DUP has to say the same.
    fn check_packet_id(
        &self,
        link: usize,
        session: usize,
        publish: &Publish<'_>,
        packet_id: PacketId,
        message: Option<MessageId>,
    ) -> Check<bool> {
        let flows = &self.flows[session];
        let waiting = flows.unacknowledged.get(&packet_id);
        if let Some(waiting) = waiting {
            let what = format!("{packet_id:?} of {:?} comes again for {message:?}", waiting.message);
            ensure!(waiting.connection != link, "packet id", "{what} on the same connection");
            let gone = waiting.shared && waiting.qos == Qos::AtLeastOnce;
            if waiting.message != message {
                ensure!(gone, "packet id", "{what} on the next connection");
                return Ok(false);
            }
            ensure!(publish.dup || gone, "dup", "{what} without DUP");
            return Ok(publish.dup);
        }
        match flows.past.get(&packet_id) {
            Some((past, on)) if *past == message && message.is_some() && *on != link => {
                // Acknowledged, and the acknowledgement was lost: a QoS 2 message is known by its identifier until
                // PUBREL comes, so this is one of QoS 1.
                let shared = self
                    .oracle
                    .messages
                    .get(message.unwrap_or_default())
                    .is_some_and(|known| known.topic.starts_with("s/"));
                ensure!(
                    publish.dup || shared,
                    "dup",
                    "{message:?} comes again under {packet_id:?} without DUP"
                );
                let refused = self.refuses(link, message);
                ensure!(
                    publish.qos != Qos::ExactlyOnce || refused,
                    "exactly once",
                    "{message:?} comes again under {packet_id:?}, which was complete"
                );
                Ok(publish.dup)
            }
            _ => Ok(false),
        }
    }

    fn refuses(&self, link: usize, message: Option<MessageId>) -> bool {
        let plan = &self.scenario.parties[self.links[link].party];
        let one_in = plan.refuses as usize;
        one_in != 0 && plan.version == Version::V5 && message.is_some_and(|message| message % one_in == 0)
    }

    fn plan_acknowledgement(&mut self, link: usize, due: Acknowledgement) {
        let delay = self.scenario.parties[self.links[link].party].ack_delay;
        let at = self.world.now + delay;
        if delay > 0 && self.links[link].acknowledgements.is_empty() {
            self.world.wake(link, at, true);
        }
        self.links[link].acknowledgements.push_back((at, due));
    }

    /// Two Clients that feed each other: what one publishes makes the other publish.
    fn feed(&mut self, link: usize, topic: &str, publish: &Publish<'_>, known: bool) {
        let party = self.links[link].party;
        let Some((id, hops)) = parse_payload(publish.payload) else { return };
        let (listens, speaks) = match self.scenario.parties[party].feeds {
            Some(0) => ("f/a", "f/b"),
            Some(_) => ("f/b", "f/a"),
            None => return,
        };
        if topic != listens || known || publish.retain || hops == 0 {
            return;
        }
        self.coverage.count("fed");
        let plan = PublishPlan {
            topic: speaks.to_owned(),
            qos: self.oracle.messages[id].qos,
            retain: false,
            empty: false,
            bytes: publish.payload.len(),
            expiry: None,
            properties: false,
            count: 1,
            hops: hops - 1,
        };
        self.publish(party, &plan);
    }

    /// PUBACK or PUBREC: in the order of what was sent [MQTT-4.6.0-2] [MQTT-4.6.0-3], and of all requests.
    fn answer_arrived(&mut self, link: usize, session: usize, qos: Qos, ack: &Ack<'_>) -> Check {
        let now = self.world.now;
        match self.links[link].requests.pop_front() {
            Some(Request::Publish { qos: asked, packet_id })
                if asked == qos && packet_id == ack.packet_id => {}
            other => {
                let text = format!("{:?} at {qos:?} is acknowledged, due is {other:?}", ack.packet_id);
                return Err(Violation { rule: "acknowledgement", text });
            }
        }
        let flows = &mut self.flows[session];
        let at = flows.sent.iter().position(|sent| sent.packet_id == ack.packet_id && !sent.released);
        let Some(at) = at else {
            let text = format!("{:?} is acknowledged twice", ack.packet_id);
            return Err(Violation { rule: "acknowledgement", text });
        };
        let message = flows.sent[at].message;
        let known = &mut self.oracle.messages[message];
        let denied = known.topic.starts_with(crate::engine::ports::DENIED);
        let v5 = self.links[link].version == Version::V5;
        ensure!(
            ack.reason.is_error() == (denied && v5),
            "acknowledgement",
            "{message} on {} is answered with {:?}",
            known.topic,
            ack.reason
        );
        // A copy made later, of a retained message or for another member of a group, has a record of its own.
        let alone = known.tries == 1 && !known.retain && !known.topic.starts_with("s/");
        ensure!(
            !alone || self.world.is_stored(message),
            "stored",
            "{message} is acknowledged before the store has it"
        );
        known.refused |= denied;
        known.unmatched = ack.reason == ReasonCode::NO_MATCHING_SUBSCRIBERS;
        if !denied {
            known.acked_at = Some(now);
        }
        if qos == Qos::AtLeastOnce || ack.reason.is_error() {
            self.flows[session].sent.remove(at);
            return Ok(());
        }
        self.flows[session].sent[at].released = true;
        self.links[link].releases.push_back(ack.packet_id);
        self.send(link, &Packet::PubRel(Ack::new(ack.packet_id, ReasonCode::SUCCESS)));
        Ok(())
    }

    fn pubrel_arrived(&mut self, link: usize, session: usize, ack: &Ack<'_>) -> Check {
        match self.flows[session].unacknowledged.get_mut(&ack.packet_id) {
            Some(flow) => {
                ensure!(flow.qos == Qos::ExactlyOnce, "pubrel", "a PUBREL for a QoS 1 message");
                flow.connection = link;
                self.links[link].window.insert(ack.packet_id);
            }
            // Its PUBCOMP was lost with an earlier connection.
            None => {
                let past = self.flows[session].past.get(&ack.packet_id);
                let before = past.is_some_and(|(_, on)| *on != link);
                // Or the message never came: it was too large for this connection and sent on an earlier one.
                let dropped = self.links[link].plan.maximum_packet_size.is_some();
                let lost = past.is_none() && self.links[link].expected != Some(false);
                ensure!(
                    before || lost || dropped,
                    "pubrel",
                    "a PUBREL for {:?}, which was complete",
                    ack.packet_id
                );
            }
        }
        self.plan_acknowledgement(link, Acknowledgement::Completed(ack.packet_id));
        Ok(())
    }

    fn pubcomp_arrived(&mut self, link: usize, session: usize, ack: &Ack<'_>) -> Check {
        let due = self.links[link].releases.pop_front();
        ensure!(due == Some(ack.packet_id), "pubcomp", "PUBCOMP of {:?}, due is {due:?}", ack.packet_id);
        self.flows[session].sent.retain(|sent| sent.packet_id != ack.packet_id);
        Ok(())
    }

    fn suback_arrived(&mut self, link: usize, session: usize, suback: &SubAck<'_>) -> Check {
        let now = self.world.now;
        let (subscriptions, denied) = match self.links[link].requests.pop_front() {
            Some(Request::Subscribe { packet_id, subscriptions, denied })
                if packet_id == suback.packet_id =>
            {
                (subscriptions, denied)
            }
            other => {
                let text = format!("SUBACK of {:?}, due is {other:?}", suback.packet_id);
                return Err(Violation { rule: "suback", text });
            }
        };
        let reasons: Vec<ReasonCode> = suback.reasons.iter().collect();
        ensure!(reasons.len() == subscriptions.len(), "suback", "{} Reason Codes", reasons.len());
        for ((at, reason), denied) in subscriptions.into_iter().zip(reasons).zip(denied) {
            ensure!(reason.is_error() == denied, "suback", "SUBACK says {reason:?}");
            let session = &mut self.oracle.sessions[session];
            if denied {
                session.ended(&[at], now);
                continue;
            }
            let asked = session.subscriptions[at].options.qos.min(self.scenario.limits.maximum_qos);
            ensure!(reason.0 == asked.bits(), "suback", "{reason:?} is granted, not {asked:?}");
            session.granted(at, asked, now);
        }
        Ok(())
    }

    fn unsuback_arrived(&mut self, link: usize, session: usize, unsuback: &UnsubAck<'_>) -> Check {
        let now = self.world.now;
        match self.links[link].requests.pop_front() {
            Some(Request::Unsubscribe { packet_id, subscriptions, exists })
                if packet_id == unsuback.packet_id =>
            {
                if let (true, Some(reason)) = (exists, unsuback.reasons.iter().next()) {
                    ensure!(reason == ReasonCode::SUCCESS, "unsuback", "UNSUBACK says {reason:?}");
                }
                self.oracle.sessions[session].ended(&subscriptions, now);
                Ok(())
            }
            other => {
                let text = format!("UNSUBACK of {:?}, due is {other:?}", unsuback.packet_id);
                Err(Violation { rule: "unsuback", text })
            }
        }
    }
}
