//! Who may connect: asking the port, AUTH packets (section 4.12), and the Will's permission.

use std::sync::Arc;

use mqtt_proto::codec;
use mqtt_proto::connection::{PeerLimits, Sender, TooLarge};
use mqtt_proto::packet::{Auth, Connect, Packet, Properties, Property};
use mqtt_proto::types::{ReasonCode, Version};

use super::Shard;
use super::connection::{Connection, Deciding, Peer, State, Why};
use super::contract::Approved;
use super::input::Step;
use super::table::Key;
use crate::ports::{AuthenticateRequest, Authentication, AuthorizeRequest, Decision, Identity, Permission};

impl Shard {
    /// Asks who the sender of `connect` is.
    pub(super) fn judge(
        &mut self,
        key: Key,
        connect: &Connect<'_>,
        client_id: Arc<str>,
        assigned: bool,
    ) -> Step {
        let ticket = self.ticket(key);
        let properties = connect.properties;
        let request = AuthenticateRequest {
            peer: self.connections.get(key).and_then(Connection::peer).and_then(Peer::address),
            version: connect.version,
            client_id: &client_id,
            user_name: connect.user_name,
            password: connect.password,
            method: properties.authentication_method(),
            data: properties.authentication_data(),
            step: 0,
            re_authenticates: None,
        };
        match self.ports.authenticate.authenticate(&request, ticket) {
            Decision::Now(outcome) => self.judged(key, connect, client_id, assigned, 0, outcome),
            Decision::Later => {
                self.keep_deciding(key, connect, client_id, assigned, 0, None);
                Step::Decide(Why::Authentication(ticket.serial))
            }
        }
    }

    fn keep_deciding(
        &mut self,
        key: Key,
        connect: &Connect<'_>,
        client_id: Arc<str>,
        assigned: bool,
        step: u32,
        approved: Option<Approved>,
    ) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let deciding = Deciding {
            peer: connection.peer().cloned().unwrap_or(Peer::Inside),
            connect: encoded(connect),
            version: connect.version,
            client_id,
            assigned,
            step,
            method: connect.properties.authentication_method().map(Box::from),
            approved,
        };
        connection.state = State::Deciding(Box::new(deciding));
    }

    fn judged(
        &mut self,
        key: Key,
        connect: &Connect<'_>,
        client_id: Arc<str>,
        assigned: bool,
        step: u32,
        outcome: Authentication,
    ) -> Step {
        let (identity, data) = match outcome {
            Authentication::Accept(identity) => (identity, None),
            Authentication::AcceptWith(identity, data) => (identity, Some(data)),
            Authentication::Continue(data) => {
                let Some(method) = connect.properties.authentication_method() else {
                    // [MQTT-4.12.0-6]: a port that asks on where there is nothing to ask refuses.
                    return self.refuse(key, connect.version, ReasonCode::BAD_AUTHENTICATION_METHOD);
                };
                if self.ask_on(key, connect, method, &data).is_err() {
                    return self.refuse(key, connect.version, ReasonCode::PACKET_TOO_LARGE);
                }
                self.keep_deciding(key, connect, client_id, assigned, step + 1, None);
                return Step::Next;
            }
            Authentication::Refuse(reason) => return self.refuse(key, connect.version, reason),
        };
        let client_id = identity.client_id.clone().unwrap_or(client_id);
        self.judge_will(key, connect, Approved { client_id, assigned, identity, data })
    }

    /// Sends the port's next question. Before CONNACK the connection has no sender; CONNECT says what the Client takes
    /// [MQTT-3.1.2-24].
    fn ask_on(&mut self, key: Key, connect: &Connect<'_>, method: &str, data: &[u8]) -> Result<(), TooLarge> {
        let Some(connection) = self.connections.get_mut(key) else { return Ok(()) };
        let mut sender = Sender::new(&PeerLimits::from_connect(connect), 0);
        let out = &mut connection.output.buffer;
        with_auth(ReasonCode::CONTINUE_AUTHENTICATION, method, data, |auth| sender.encode(auth, out))?;
        self.mark_dirty(key);
        Ok(())
    }

    /// Asks whether the Will may be published.
    fn judge_will(&mut self, key: Key, connect: &Connect<'_>, approved: Approved) -> Step {
        let Some(will) = &connect.will else { return self.place(key, connect, approved) };
        let ticket = self.ticket(key);
        let request = AuthorizeRequest::Publish {
            client_id: &approved.client_id,
            identity: &approved.identity,
            topic: will.topic,
            qos: will.qos,
            retain: will.retain,
        };
        match self.ports.authorize.authorize(&request, ticket) {
            Decision::Now(Permission::Allow) => self.place(key, connect, approved),
            Decision::Now(Permission::Deny(reason)) => self.refuse(key, connect.version, reason),
            Decision::Later => {
                let (client_id, assigned) = (approved.client_id.clone(), approved.assigned);
                self.keep_deciding(key, connect, client_id, assigned, 0, Some(approved));
                Step::Decide(Why::Permission(ticket.serial, 0))
            }
        }
    }

    /// The session is at home here or elsewhere.
    fn place(&mut self, key: Key, connect: &Connect<'_>, approved: Approved) -> Step {
        let home = self.homes.of_client(&approved.client_id);
        if home != self.core.0 {
            return Step::Handoff(Box::new((home, encoded(connect), approved)));
        }
        self.accept(key, connect, approved)
    }

    /// The port's late answer about a CONNECT or AUTH.
    pub(super) fn authentication_decided(&mut self, key: Key, outcome: Authentication) -> Step {
        let Some(connection) = self.connections.get_mut(key) else { return Step::Gone };
        if connection.live().is_some() {
            return self.re_authenticated(key, outcome);
        }
        let State::Deciding(deciding) = &mut connection.state else { return Step::Gone };
        let peer = core::mem::replace(&mut deciding.peer, Peer::Inside);
        let State::Deciding(deciding) = core::mem::replace(&mut connection.state, State::Opening(peer))
        else {
            return Step::Gone;
        };
        let Packet::Connect(connect) = decoded(&deciding.connect) else { return Step::Gone };
        self.judged(key, &connect, deciding.client_id, deciding.assigned, deciding.step, outcome)
    }

    /// The port's late answer about a permission: that of a Will goes on here, others are found by their packet.
    pub(super) fn permission_decided(&mut self, key: Key, permission: Permission) -> Step {
        let Some(connection) = self.connections.get_mut(key) else { return Step::Gone };
        let State::Deciding(deciding) = &mut connection.state else { return Step::Next };
        let Some(approved) = deciding.approved.take() else { return Step::Gone };
        let connect = core::mem::take(&mut deciding.connect);
        if let Some(held) = &mut connection.held {
            held.answers.clear();
        }
        let Packet::Connect(connect) = decoded(&connect) else { return Step::Gone };
        match permission {
            Permission::Allow => self.place(key, &connect, approved),
            Permission::Deny(reason) => self.refuse(key, connect.version, reason),
        }
    }

    /// An AUTH packet: the next step of CONNECT's exchange, or of a re-authentication.
    pub(super) fn handle_auth(&mut self, key: Key, auth: &Auth<'_>) -> Step {
        let ticket = self.ticket(key);
        let Some(connection) = self.connections.get_mut(key) else { return Step::Gone };
        let peer = connection.peer().and_then(Peer::address);
        let (version, client_id, method, step, identity) = match &mut connection.state {
            State::Deciding(deciding) => {
                if auth.reason != ReasonCode::CONTINUE_AUTHENTICATION {
                    return self.fault(key, ReasonCode::PROTOCOL_ERROR);
                }
                (deciding.version, deciding.client_id.clone(), deciding.method.clone(), deciding.step, None)
            }
            State::Live(live) => {
                let Some(session) = self.sessions.get(live.session) else { return Step::Gone };
                let under_way = live.enhanced.as_ref().and_then(|enhanced| enhanced.step);
                let step = match (auth.reason, under_way) {
                    // [MQTT-4.12.1-1]
                    (ReasonCode::RE_AUTHENTICATE, None) => 0,
                    (ReasonCode::CONTINUE_AUTHENTICATION, Some(step)) => step,
                    _ => return self.fault(key, ReasonCode::PROTOCOL_ERROR),
                };
                let method = live.enhanced.as_mut().map(|enhanced| {
                    enhanced.step = Some(step);
                    enhanced.method.clone()
                });
                let identity = Some(live.identity().clone());
                (live.version(), Arc::from(&*session.client_id), method, step, identity)
            }
            State::Opening(_) => return self.fault(key, ReasonCode::PROTOCOL_ERROR),
        };
        // [MQTT-4.12.0-5], [MQTT-4.12.0-7]
        if method.is_none() || auth.properties.authentication_method() != method.as_deref() {
            return self.fault(key, ReasonCode::BAD_AUTHENTICATION_METHOD);
        }
        let request = AuthenticateRequest {
            peer,
            version,
            client_id: &client_id,
            user_name: None,
            password: None,
            method: method.as_deref(),
            data: auth.properties.authentication_data(),
            step,
            re_authenticates: identity.as_ref(),
        };
        match self.ports.authenticate.authenticate(&request, ticket) {
            Decision::Now(outcome) => self.authentication_decided(key, outcome),
            Decision::Later => Step::Decide(Why::Authentication(ticket.serial)),
        }
    }

    fn re_authenticated(&mut self, key: Key, outcome: Authentication) -> Step {
        let Some(live) = self.connections.get_mut(key).and_then(|connection| connection.live_mut()) else {
            return Step::Gone;
        };
        let Some(session) = self.sessions.get(live.session) else { return Step::Gone };
        let Some(enhanced) = &mut live.enhanced else { return Step::Gone };
        let method = enhanced.method.clone();
        let (identity, data): (Identity, Vec<u8>) = match outcome {
            Authentication::Accept(identity) => (identity, Vec::new()),
            Authentication::AcceptWith(identity, data) => (identity, data),
            Authentication::Continue(data) => {
                enhanced.step = enhanced.step.map(|step| step + 1);
                return self.answer_auth(key, ReasonCode::CONTINUE_AUTHENTICATION, &method, &data);
            }
            // [MQTT-4.12.1-2]
            Authentication::Refuse(reason) => return self.fault(key, reason),
        };
        // Another account's session is not reached by a detour: the connection stays with the one it has.
        if identity.client_id.as_ref().is_some_and(|client_id| **client_id != *session.client_id) {
            return self.fault(key, ReasonCode::NOT_AUTHORIZED);
        }
        enhanced.step = None;
        live.set_identity(identity);
        self.answer_auth(key, ReasonCode::SUCCESS, &method, &data)
    }

    /// Answers an AUTH of a Client that is let in. One that takes no packet as large as the answer would wait for ever.
    fn answer_auth(&mut self, key: Key, reason: ReasonCode, method: &str, data: &[u8]) -> Step {
        match with_auth(reason, method, data, |auth| self.try_send(key, auth)) {
            Ok(()) => Step::Next,
            Err(TooLarge) => self.fault(key, ReasonCode::PACKET_TOO_LARGE),
        }
    }
}

/// Calls `send` with an AUTH of this content.
fn with_auth<T>(reason: ReasonCode, method: &str, data: &[u8], send: impl FnOnce(&Packet<'_>) -> T) -> T {
    let list = [Property::AuthenticationMethod(method), Property::AuthenticationData(data)];
    let list = if data.is_empty() { &list[..1] } else { &list };
    send(&Packet::Auth(Auth { reason, properties: Properties::new(list) }))
}

/// `connect` as bytes of its own.
fn encoded(connect: &Connect<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode(&Packet::Connect(*connect), connect.version, &mut bytes)
        .expect("a decoded CONNECT can be encoded");
    bytes
}

/// The packet that [`encoded`] wrote.
pub(super) fn decoded(connect: &[u8]) -> Packet<'_> {
    codec::decode(Version::default(), connect).expect("it was decoded before")
}
