//! CONNECT (section 3.1): what is checked before anybody is asked, and what an approved one brings about.

use std::sync::Arc;

use mqtt_proto::connection::{PeerLimits, Sender, TooLarge};
use mqtt_proto::packet::{ConnAck, Connect, Packet, Properties, Property};
use mqtt_proto::types::{Qos, ReasonCode, Version};
use tracing::debug;

use super::Shard;
use super::connection::{Enhanced, Live, Peer, State, Why};
use super::contract::{Action, Approved};
use super::input::Step;
use super::session::{Session, Will};
use super::table::Key;
use super::unreadable::UNREADABLE;
use crate::message::{MessageRef, forwarded_properties};
use crate::ports::{Commit, Event};

impl Shard {
    /// A CONNECT that can be decoded.
    pub(super) fn handle_connect(&mut self, key: Key, connect: &Connect<'_>) -> Step {
        if let Err(reason) = self.check_connect(connect) {
            return self.refuse(key, connect.version, reason);
        }
        let assigned = connect.client_id.is_empty();
        let client_id = if assigned {
            let sessions = &self.sessions;
            self.homes.assign_client_id(|client_id| sessions.find(client_id).is_some())
        } else {
            Arc::from(connect.client_id)
        };
        self.judge(key, connect, client_id, assigned)
    }

    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        // [MQTT-3.1.3-6]; before 5.0 a session to be kept needs a name [MQTT-3.1.3-8 v3.1.1], in 3.1 every one does.
        let may_be_empty = match connect.version {
            Version::V5 => true,
            Version::V3_1_1 => connect.clean_start,
            Version::V3_1 => false,
        };
        if connect.client_id.is_empty() && !may_be_empty
            || connect.client_id.len() > usize::from(self.limits.client_id_bytes_max)
        {
            return Err(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
        }
        let Some(will) = &connect.will else { return Ok(()) };
        // [MQTT-3.2.2-12]
        if will.qos > self.limits.maximum_qos {
            return Err(ReasonCode::QOS_NOT_SUPPORTED);
        }
        // [MQTT-3.2.2-13]
        if will.retain && !self.limits.retain_available {
            return Err(ReasonCode::RETAIN_NOT_SUPPORTED);
        }
        if will.topic.levels().count() > usize::from(self.limits.topic_levels_max)
            || self.is_reserved(will.topic)
        {
            return Err(ReasonCode::TOPIC_NAME_INVALID);
        }
        let is_text = will.properties.payload_format_indicator() == Some(1);
        if self.limits.payload_format_checked && is_text && core::str::from_utf8(will.payload).is_err() {
            return Err(ReasonCode::PAYLOAD_FORMAT_INVALID);
        }
        Ok(())
    }

    /// A connection that another core has approved.
    pub(super) fn accept_handed(&mut self, key: Key, connect: &[u8], input: &[u8], approved: Approved) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let mut receiver = core::mem::take(&mut connection.receiver);
        // Read once more, so that this core's receiver knows what it is talking to.
        let step = match receiver.poll_packet(&mut &*connect) {
            Ok(Some(Packet::Connect(connect))) => self.accept(key, &connect, approved),
            other => unreachable!("another core has read this CONNECT: {other:?}"),
        };
        receiver.set_maximum_packet_size(self.limits.packet_bytes_max);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.receiver = receiver;
        }
        if let Step::Next = step {
            self.process(key, input);
        }
    }

    /// Accepts an approved CONNECT on the home core of its session.
    pub(super) fn accept(&mut self, key: Key, connect: &Connect<'_>, approved: Approved) -> Step {
        if connect.will.is_some() && self.records.are_behind() {
            // A Will is kept as a message is; who comes and goes is not held back by not being read.
            return self.refuse(key, connect.version, ReasonCode::SERVER_BUSY);
        }
        let Approved { client_id, assigned, identity, data } = approved;
        let peer = PeerLimits::from_connect(connect);
        let asked = self.asked_expiry(connect, &peer);
        let expiry_seconds = asked.min(self.limits.session_expiry_max_seconds);

        let mut ended = Commit::Now;
        // [MQTT-3.1.4-3]: whoever has this ClientID loses its connection, and perhaps its session with it.
        if let Some(session) = self.sessions.find(&client_id) {
            if let Some(old) = self.sessions.get(session).and_then(Session::connection) {
                self.stats.takeovers += 1;
                self.close(old, Some(ReasonCode::SESSION_TAKEN_OVER), true);
            }
            // Its time may be over although its timer has not had its turn.
            let now = self.now.millis;
            let is_due = |session: &Session| session.ends_at().is_some_and(|at| at <= now);
            let is_over =
                self.sessions.get_mut(session).is_some_and(|session| is_due(session) || session.is_over());
            // [MQTT-3.1.2-4]
            if connect.clean_start {
                ended = self.end_session(session);
            }
            if is_over && !connect.clean_start {
                ended = self.end_session(session);
            }
            if self.is_refused(session) {
                return self.refuse(key, connect.version, UNREADABLE);
            }
        }
        // [MQTT-3.2.2-3]
        let present = self.sessions.find(&client_id);
        // The session that has just ended, if one has, makes room for this one.
        self.budget.own.sessions = self.sessions.len() as u64;
        let session = match present {
            // It would wait for its CONNACK until somebody makes room.
            Some(_) if self.records.are_stuck() => {
                return self.refuse(key, connect.version, ReasonCode::QUOTA_EXCEEDED);
            }
            Some(session) => session,
            None if self.budget.sessions() >= u64::from(self.limits.sessions_max) => {
                return self.refuse(key, connect.version, ReasonCode::QUOTA_EXCEEDED);
            }
            None if self.records.are_full() && (expiry_seconds > 0 || connect.will.is_some()) => {
                return self.refuse(key, connect.version, ReasonCode::QUOTA_EXCEEDED);
            }
            // [MQTT-3.1.2-6]
            None => self.sessions.insert(Session::new(&client_id, expiry_seconds)),
        };

        let window = peer.receive_maximum.min(self.limits.in_flight_max);
        let will = self.will_of(connect);
        let now = self.now.millis;
        self.cancel_deadlines(session);
        let state = self.sessions.get_mut(session).expect("found or inserted above");
        state.restart(key, window);
        state.expiry_seconds = expiry_seconds;
        // A Will that waits for its delay is not sent: its Client is back [MQTT-3.1.3-9].
        let had_will = state.set_will(will);

        let (keep_alive, told) = self.keep_alive_of(connect);
        let sender = Sender::new(&peer, self.limits.outgoing_topic_aliases_max);
        let method = connect.properties.authentication_method();
        let mut live = Live::new(session, sender, identity, keep_alive, now);
        let Some(connection) = self.connections.get_mut(key) else { return Step::Gone };
        let peer = connection.peer().cloned().unwrap_or(Peer::Inside);
        let peer_address = peer.address();
        live.enhanced = method.map(|method| Box::new(Enhanced { method: method.into(), peer, step: None }));
        connection.state = State::Live(live);
        connection.receiver.set_maximum_packet_size(self.limits.packet_bytes_max);
        let patience = connection.patience();
        self.wheel.cancel(key.index);
        self.stats.clients_connected += 1;

        let opened = self.record_opened(session, had_will);
        self.close_gate(key, ended);
        self.close_gate(key, opened);
        self.gates.note_connack(key);

        self.actions.push_back(Action::Established { id: key.into() });
        let cut = (expiry_seconds != asked).then_some(expiry_seconds);
        let client_id_told = assigned.then_some(&*client_id);
        let sent =
            self.send_connack(key, present.is_some(), cut, client_id_told, told, method.zip(Some(data)));
        if let Some(patience) = patience {
            self.arm_connection(key, now + patience);
        }
        debug!(connection = key.index, %client_id, version = ?connect.version, session_present = present.is_some(), "connected");
        self.ports.hooks.on_event(&Event::Connected {
            client_id: &client_id,
            peer: peer_address,
            version: connect.version,
            session_present: present.is_some(),
        });
        if sent.is_err() {
            debug!(
                connection = key.index,
                "closing: the Client does not accept a packet as large as its CONNACK"
            );
            self.close(key, None, false);
            return Step::Gone;
        }
        self.attach(session);
        Step::Next
    }

    /// Session Expiry Interval as the Client asks for it, in its version's way.
    fn asked_expiry(&self, connect: &Connect<'_>, peer: &PeerLimits) -> u32 {
        match (connect.version, connect.clean_start) {
            (Version::V5, _) => peer.session_expiry_interval.unwrap_or(0),
            (_, true) => 0,
            (_, false) => self.limits.session_expiry_v3_seconds,
        }
    }

    /// The Keep Alive in force, and whether the Client has to be told [MQTT-3.1.2-21].
    fn keep_alive_of(&self, connect: &Connect<'_>) -> (u16, Option<u16>) {
        let (asked, max) = (connect.keep_alive, self.limits.keep_alive_max_seconds);
        let too_long = max != 0 && (asked == 0 || asked > max);
        if too_long && connect.version == Version::V5 { (max, Some(max)) } else { (asked, None) }
    }

    fn will_of(&mut self, connect: &Connect<'_>) -> Option<Box<Will>> {
        let will = connect.will.as_ref()?;
        let max = self.limits.message_expiry_max_seconds;
        let asked = will.properties.message_expiry_interval();
        let message = MessageRef {
            topic: will.topic,
            properties: forwarded_properties(will.properties, &mut self.properties),
            payload: will.payload,
            qos: will.qos,
            retain: will.retain,
            expires_at: None,
        };
        Some(Box::new(Will {
            message: message.to_message(),
            expiry_seconds: super::publish::bounded_expiry(asked, max),
            delay_seconds: will
                .properties
                .will_delay_interval()
                .unwrap_or(0)
                .min(self.limits.will_delay_max_seconds),
            due_at: None,
            away_since: 0,
        }))
    }

    fn send_connack(
        &mut self,
        key: Key,
        session_present: bool,
        expiry: Option<u32>,
        client_id: Option<&str>,
        keep_alive: Option<u16>,
        authentication: Option<(&str, Option<Vec<u8>>)>,
    ) -> Result<(), TooLarge> {
        let limits = self.limits.clone();
        let authentication = authentication.as_ref().map(|(method, data)| (*method, data.as_deref()));
        let unless = |available: bool, property| (!available).then_some(property);
        let said = [
            expiry.map(Property::SessionExpiryInterval),
            (limits.receive_maximum < u16::MAX).then_some(Property::ReceiveMaximum(limits.receive_maximum)),
            unless(limits.maximum_qos == Qos::ExactlyOnce, Property::MaximumQos(limits.maximum_qos.bits())),
            unless(limits.retain_available, Property::RetainAvailable(0)),
            Some(Property::MaximumPacketSize(limits.packet_bytes_max)),
            client_id.map(Property::AssignedClientIdentifier),
            unless(limits.topic_alias_maximum == 0, Property::TopicAliasMaximum(limits.topic_alias_maximum)),
            unless(limits.wildcard_subscription_available, Property::WildcardSubscriptionAvailable(0)),
            unless(limits.subscription_identifier_available, Property::SubscriptionIdentifierAvailable(0)),
            unless(limits.shared_subscription_available, Property::SharedSubscriptionAvailable(0)),
            keep_alive.map(Property::ServerKeepAlive),
            authentication.map(|(method, _)| Property::AuthenticationMethod(method)),
            authentication.and_then(|(_, data)| data).map(Property::AuthenticationData),
        ];
        let list: Vec<Property<'_>> = match self.version(key) {
            Version::V5 => said.into_iter().flatten().collect(),
            _ => Vec::new(),
        };
        let properties = Properties::new(&list);
        self.try_send(
            key,
            &Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::SUCCESS, properties }),
        )
    }

    /// Whether input of this connection waits, and for this.
    pub(super) fn waits_for(&self, key: Key, why: Why) -> bool {
        self.connections
            .get(key)
            .and_then(|connection| connection.held.as_ref())
            .is_some_and(|held| held.why == why)
    }
}
