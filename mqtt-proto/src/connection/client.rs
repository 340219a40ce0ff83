//! A whole MQTT Client without I/O: bytes and time in, events, bytes and deadlines out.
//!
//! Invariants: acknowledgements leave in the order of their PUBLISHes [MQTT-4.6.0-2] [MQTT-4.6.0-3]; a Packet
//! Identifier is used by one PUBLISH, SUBSCRIBE or UNSUBSCRIBE at a time [MQTT-2.2.1-3]; nothing is queued beyond
//! what the Server allows to be unacknowledged. Lives on: whichever thread holds the socket.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::error::ProtocolError;
use super::exchange::{Ended, Event, Open, Request, Settings, Unacknowledged, opening_event};
use super::handshake::{Connection, Handshake};
use super::limits::{PeerLimits, carried};
use super::request::{ConnectOptions, Outgoing, RequestError, Unsent};
use crate::codec::EncodeError;
use crate::packet::{
    Auth, Disconnect, Filters, Packet, PacketType, Properties, PropertyId, Publish, Subscribe, Subscription,
    Subscriptions, Unsubscribe,
};
use crate::session::Session;
use crate::types::{PacketId, Qos, ReasonCode, Version};

/// An MQTT Client. `M` is what it keeps of a message until the Server has acknowledged it.
///
/// 1. [`Client::connect`], open a socket, and whenever anything was called: send what [`Client::poll_transmit`]
///    gives, arm a timer for [`Client::poll_timeout`].
/// 2. Bytes arrive: [`Client::poll_event`] until it returns `None`.
/// 3. The timer fires: [`Client::handle_timeout`].
/// 4. An error was returned, or [`Client::is_closed`]: send what is left, close the socket, say so by
///    [`Client::connection_lost`]; connect again to go on with the session.
///
/// ```
/// use mqtt_proto::connection::{Client, ConnectOptions, Event, Message};
/// use mqtt_proto::{Connect, Properties, Qos, TopicName, Version};
///
/// let mut client = Client::default();
/// let connect = Connect { keep_alive: 30, ..Connect::new(Version::V5, "lamp") };
/// let mut now = 0; // milliseconds
/// client.connect(&ConnectOptions::new(connect), now)?;
/// let mut to_send = Vec::new();
/// assert!(client.poll_transmit(&mut to_send)); // CONNECT
///
/// now += 20;
/// let mut received: &[u8] = &[0x20, 3, 0, 0, 0]; // CONNACK
/// while let Some(event) = client.poll_event(&mut received, now)? {
///     assert!(matches!(event, Event::Connected { .. }));
/// }
/// let topic = TopicName::new("kitchen/light")?;
/// let id = client.publish(Message::new(topic, Qos::AtLeastOnce, b"on"), now).expect("connected");
///
/// let mut received: &[u8] = &[0x40, 2, 0, 1]; // PUBACK
/// while let Some(event) = client.poll_event(&mut received, now)? {
///     assert!(matches!(event, Event::Acknowledged { packet_id, .. } if Some(packet_id) == id));
/// }
/// assert_eq!(client.poll_timeout(), Some(30_020)); // PINGREQ is due then
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Client<M> {
    link: Link,
    session: Session<M>,
    /// The session is one that a Server may have as well: it was given, or an earlier CONNECT asked for it. That one's
    /// CONNACK may have been lost.
    has_session: bool,
    /// SUBSCRIBE and UNSUBSCRIBE without an answer.
    requests: Vec<Request>,
    /// Messages without our acknowledgement, in the order of arrival.
    unacknowledged: VecDeque<Unacknowledged>,
    transmit: Vec<u8>,
    settings: Settings,
    /// The Authentication Method of CONNECT.
    method: Option<Box<str>>,
    /// Why the link closes, until the event that said so has been looked at.
    ended: Option<Ended>,
    /// When packets came last.
    now: u64,
}

#[derive(Debug)]
enum Link {
    Closed,
    Opening(Handshake),
    Open(Connection),
}

impl<M: Outgoing> Default for Client<M> {
    /// A Client that never connected: it has no Session State yet.
    fn default() -> Client<M> {
        Client { has_session: false, ..Client::new(Session::new()) }
    }
}

impl<M: Outgoing> Client<M> {
    /// A Client with this Session State, be it empty by now. One that has none is [`Client::default`], which does not
    /// go on where the Server says that it has: connect it with Clean Start then [MQTT-3.2.2-4].
    pub const fn new(session: Session<M>) -> Client<M> {
        Client {
            link: Link::Closed,
            session,
            has_session: true,
            requests: Vec::new(),
            unacknowledged: VecDeque::new(),
            transmit: Vec::new(),
            settings: Settings {
                version: Version::V5,
                clean_start: false,
                had_session: false,
                receive_maximum: u16::MAX,
                topic_alias_limit: 0,
                manual_acknowledgement: false,
            },
            method: None,
            ended: None,
            now: 0,
        }
    }

    /// Begins a Network Connection: CONNECT is ready to be sent.
    ///
    /// # Errors
    /// [`RequestError::AlreadyConnected`]; [`RequestError::Encode`] for a CONNECT that breaks the format.
    pub fn connect(&mut self, options: &ConnectOptions<'_>, now: u64) -> Result<(), RequestError> {
        if !self.is_closed() {
            return Err(RequestError::AlreadyConnected);
        }
        self.connection_lost();
        let connect = &options.connect;
        let handshake = Handshake::client(connect, options.patience, now, &mut self.transmit)?;
        let said = carried(connect.properties, connect.version);
        self.link = Link::Opening(handshake);
        self.method = said.authentication_method().map(Box::from);
        self.settings = Settings {
            version: connect.version,
            clean_start: connect.clean_start,
            had_session: self.has_session,
            receive_maximum: PeerLimits::from_connect(connect).receive_maximum,
            topic_alias_limit: options.topic_alias_limit,
            manual_acknowledgement: options.manual_acknowledgement,
        };
        self.has_session = true;
        Ok(())
    }

    /// The Network Connection is gone. The session stays for the next one; what was to be sent is dropped, and so
    /// are messages that the application had not acknowledged: the Server sends those again.
    pub fn connection_lost(&mut self) {
        self.link = Link::Closed;
        self.ended = None;
        self.transmit.clear();
        self.requests.clear();
        for waiting in self.unacknowledged.drain(..) {
            if waiting.qos == Qos::ExactlyOnce {
                // No PUBREC was sent, so the message is new when it comes again.
                self.session.inbound.pubrec_sent(waiting.packet_id, ReasonCode::UNSPECIFIED_ERROR);
            }
        }
    }

    /// Whether messages can be sent.
    pub const fn is_connected(&self) -> bool {
        self.peer().is_some()
    }

    /// Whether nothing more will be received: close the socket once [`Client::poll_transmit`] is drained.
    pub const fn is_closed(&self) -> bool {
        matches!(self.link, Link::Closed) || self.ended.is_some()
    }

    /// What the Server announced, while connected.
    pub const fn peer(&self) -> Option<&PeerLimits> {
        match &self.link {
            _ if self.ended.is_some() => None,
            Link::Closed => None,
            Link::Opening(handshake) => handshake.peer(),
            Link::Open(connection) => Some(connection.peer()),
        }
    }

    /// The Session State.
    pub const fn session(&self) -> &Session<M> {
        &self.session
    }

    /// Sends `message`, under the Packet Identifier that is returned unless its QoS is 0.
    ///
    /// # Errors
    /// The message itself, with the reason.
    pub fn publish(&mut self, message: M, now: u64) -> Result<Option<PacketId>, Unsent<M>> {
        self.settle();
        let Client { link: Link::Open(connection), session, requests, transmit, .. } = self else {
            return Err(Unsent { message, reason: RequestError::NotConnected });
        };
        let (_, half) = connection.split();
        let publish = message.as_publish();
        let qos = publish.qos;
        let reason = if qos > half.peer().maximum_qos {
            Some(RequestError::QosNotSupported)
        } else if publish.retain && !half.peer().retain_available {
            Some(RequestError::RetainNotSupported)
        } else if publish.properties.subscription_identifiers().next().is_some() {
            // [MQTT-3.3.4-6]
            Some(EncodeError::PropertyNotAllowed(PropertyId::SubscriptionIdentifier).into())
        } else if qos != Qos::AtMostOnce && !session.outbound.can_start() {
            Some(RequestError::WindowFull)
        } else {
            None
        };
        if let Some(reason) = reason {
            return Err(Unsent { message, reason });
        }
        if qos == Qos::AtMostOnce {
            let publish = Publish { dup: false, packet_id: None, ..publish };
            return match half.try_encode(&Packet::Publish(publish), now, transmit) {
                Ok(()) => Ok(None),
                Err(error) => Err(Unsent { message, reason: error.into() }),
            };
        }
        let Some(packet_id) = unused_id(session, requests) else {
            return Err(Unsent { message, reason: RequestError::WindowFull });
        };
        let publish = Publish { dup: false, packet_id: Some(packet_id), ..publish };
        if let Err(error) = half.try_encode(&Packet::Publish(publish), now, transmit) {
            return Err(Unsent { message, reason: error.into() });
        }
        let started = session.outbound.start(qos, message);
        debug_assert!(started.as_ref().is_ok_and(|id| *id == packet_id), "the identifier was peeked at");
        started.map(Some).map_err(|message| Unsent { message, reason: RequestError::WindowFull })
    }

    /// Asks for subscriptions.
    ///
    /// # Errors
    /// Why it was not sent.
    pub fn subscribe(
        &mut self,
        subscriptions: &[Subscription<'_>],
        properties: Properties<'_>,
        now: u64,
    ) -> Result<PacketId, RequestError> {
        self.request(PacketType::SubAck, subscriptions.len(), now, |packet_id| {
            let subscriptions = Subscriptions::new(subscriptions);
            Packet::Subscribe(Subscribe { packet_id, properties, subscriptions })
        })
    }

    /// Ends subscriptions.
    ///
    /// # Errors
    /// Why it was not sent.
    pub fn unsubscribe(
        &mut self,
        filters: &[&str],
        properties: Properties<'_>,
        now: u64,
    ) -> Result<PacketId, RequestError> {
        self.request(PacketType::UnsubAck, filters.len(), now, |packet_id| {
            Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters: Filters::new(filters) })
        })
    }

    fn request<'p>(
        &mut self,
        answer: PacketType,
        filters: usize,
        now: u64,
        packet: impl FnOnce(PacketId) -> Packet<'p>,
    ) -> Result<PacketId, RequestError> {
        self.settle();
        let Link::Open(connection) = &mut self.link else { return Err(RequestError::NotConnected) };
        let packet_id = unused_id(&mut self.session, &self.requests).ok_or(RequestError::WindowFull)?;
        connection.split().1.try_encode(&packet(packet_id), now, &mut self.transmit)?;
        self.session.outbound.skip_id();
        self.requests.push(Request { packet_id, answer, filters });
        Ok(packet_id)
    }

    /// Acknowledges a message, with [`ConnectOptions::manual_acknowledgement`]. The packet leaves when all messages
    /// that came before it are acknowledged.
    ///
    /// # Errors
    /// [`RequestError::NothingToAcknowledge`].
    pub fn acknowledge(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        now: u64,
    ) -> Result<(), RequestError> {
        self.settle();
        let waiting = self
            .unacknowledged
            .iter_mut()
            .find(|waiting| waiting.packet_id == packet_id && waiting.reason.is_none())
            .ok_or(RequestError::NothingToAcknowledge)?;
        waiting.reason = Some(reason);
        self.now = now;
        self.flush();
        Ok(())
    }

    /// Sends AUTH, in the handshake or to authenticate again, by the method that CONNECT named [MQTT-4.12.0-5]
    /// [MQTT-4.12.1-1]. Without one there is no AUTH [MQTT-4.12.0-7].
    ///
    /// # Errors
    /// Why it was not sent: [`RequestError::NoAuthenticationMethod`] and [`RequestError::AuthenticationMethod`] among
    /// others.
    pub fn authenticate(&mut self, auth: &Auth<'_>, now: u64) -> Result<(), RequestError> {
        self.settle();
        match (&self.method, auth.properties.authentication_method()) {
            _ if self.is_closed() => {}
            (None, _) => return Err(RequestError::NoAuthenticationMethod),
            (Some(ours), Some(other)) if **ours != *other => return Err(RequestError::AuthenticationMethod),
            _ => {}
        }
        match &mut self.link {
            Link::Closed => Err(RequestError::NotConnected),
            Link::Opening(handshake) => Ok(handshake.authenticate(auth, &mut self.transmit)?),
            Link::Open(connection) => {
                Ok(connection.split().1.try_encode(&Packet::Auth(*auth), now, &mut self.transmit)?)
            }
        }
    }

    /// Ends the connection by DISCONNECT [MQTT-3.14.4-1].
    ///
    /// # Errors
    /// [`RequestError::NotConnected`]; [`RequestError::Encode`] for a DISCONNECT that breaks the format.
    pub fn disconnect(&mut self, disconnect: &Disconnect<'_>, now: u64) -> Result<(), RequestError> {
        self.settle();
        let Link::Open(connection) = &mut self.link else { return Err(RequestError::NotConnected) };
        connection.split().1.try_encode(&Packet::Disconnect(*disconnect), now, &mut self.transmit)?;
        self.link = Link::Closed;
        Ok(())
    }

    /// What the next packet in `input` means; its bytes are cut off. `None` when all of it is used up, or when the
    /// Client is closed.
    ///
    /// # Errors
    /// What the Server did wrong. The Client is closed then, and DISCONNECT is ready to be sent if the Server can
    /// be told.
    pub fn poll_event<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        now: u64,
    ) -> Result<Option<Event<'a, M>>, ProtocolError> {
        self.settle();
        self.now = now;
        let Client {
            link,
            session,
            has_session,
            requests,
            unacknowledged,
            transmit,
            settings,
            method,
            ended,
            ..
        } = self;
        let event = match link {
            Link::Closed => return Ok(None),
            Link::Opening(handshake) => match handshake.poll_packet(input) {
                Ok(Some(packet)) => by_method(&packet, method.as_deref())
                    .and_then(|()| opening_event(packet, session, settings, ended))
                    .map(Some),
                Ok(None) => Ok(None),
                Err(error) => Err(error),
            },
            Link::Open(connection) => {
                let (receiver, half) = connection.split();
                match receiver.poll_packet(input) {
                    Ok(Some(packet)) => {
                        half.received(&packet, now);
                        let mut open =
                            Open { half, session, requests, unacknowledged, transmit, settings, now };
                        if let Packet::Disconnect(_) = packet {
                            *ended = Some(Ended::ByServer);
                        }
                        by_method(&packet, method.as_deref()).and_then(|()| open.event(packet)).map(Some)
                    }
                    Ok(None) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        match &event {
            // None was made.
            Ok(Some(Event::Refused(_))) => *has_session = settings.had_session,
            Err(error) => {
                *has_session &= settings.clean_start || *error != ProtocolError::UnexpectedSession;
                *ended = Some(Ended::ByFault(*error));
            }
            Ok(_) => {}
        }
        event
    }

    /// Moves the bytes to be sent behind those in `out`; whether there were any.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>) -> bool {
        self.settle();
        let any = !self.transmit.is_empty();
        if out.is_empty() {
            core::mem::swap(out, &mut self.transmit);
        } else {
            out.append(&mut self.transmit);
        }
        any
    }

    /// When [`Client::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<u64> {
        match &self.link {
            Link::Closed => None,
            Link::Opening(handshake) => Some(handshake.poll_timeout()),
            Link::Open(connection) => connection.poll_timeout(),
        }
    }

    /// Does what is due at `now`: PINGREQ, or giving up on a Server that does not answer.
    ///
    /// # Errors
    /// [`ProtocolError::NotInTime`]; the Client is closed then.
    pub fn handle_timeout(&mut self, now: u64) -> Result<(), ProtocolError> {
        self.settle();
        let due = match &mut self.link {
            Link::Closed => Ok(()),
            Link::Opening(handshake) => handshake.handle_timeout(now),
            Link::Open(connection) => connection.handle_timeout(now, &mut self.transmit),
        };
        due.inspect_err(|error| self.fail(error))
    }

    /// Closes because of what the Server did.
    fn fail(&mut self, error: &ProtocolError) {
        if let Link::Open(connection) = core::mem::replace(&mut self.link, Link::Closed) {
            connection.fail(error, &mut self.transmit);
        }
    }

    /// Does what an event could not do while it lent out its packet: closes, or begins to send after CONNACK.
    fn settle(&mut self) {
        match self.ended.take() {
            Some(Ended::ByServer) => self.link = Link::Closed,
            Some(Ended::ByFault(error)) => self.fail(&error),
            None => {}
        }
        if !matches!(&self.link, Link::Opening(handshake) if handshake.peer().is_some()) {
            return;
        }
        if let Link::Opening(handshake) = core::mem::replace(&mut self.link, Link::Closed) {
            self.link = match handshake.established(self.settings.topic_alias_limit) {
                Ok(connection) => Link::Open(connection),
                Err(handshake) => Link::Opening(handshake),
            };
            self.with_open(|open| open.resend());
        }
    }

    /// Sends the acknowledgements whose turn it is.
    fn flush(&mut self) {
        self.with_open(|open| open.flush());
    }

    fn with_open(&mut self, act: impl FnOnce(&mut Open<'_, M>)) {
        let Client { link, session, requests, unacknowledged, transmit, settings, now, .. } = self;
        if let Link::Open(connection) = link {
            let (_, half) = connection.split();
            act(&mut Open { half, session, requests, unacknowledged, transmit, settings, now: *now });
        }
    }
}

/// Whether AUTH and CONNACK name no other Authentication Method than CONNECT did [MQTT-4.12.0-5] [MQTT-4.12.0-6].
fn by_method(packet: &Packet<'_>, ours: Option<&str>) -> Result<(), ProtocolError> {
    let properties = match packet {
        Packet::Auth(auth) => auth.properties,
        Packet::ConnAck(connack) => connack.properties,
        _ => return Ok(()),
    };
    match properties.authentication_method() {
        named @ Some(_) if named != ours => Err(ProtocolError::AuthenticationMethod),
        _ => Ok(()),
    }
}

/// An identifier that neither a PUBLISH nor a request uses; the session's next one from now on.
fn unused_id<M>(session: &mut Session<M>, requests: &[Request]) -> Option<PacketId> {
    for _ in 0..=requests.len() {
        let packet_id = session.outbound.peek_id()?;
        if requests.iter().all(|request| request.packet_id != packet_id) {
            return Some(packet_id);
        }
        session.outbound.skip_id();
    }
    None
}
