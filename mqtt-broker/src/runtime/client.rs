//! A Client inside the process: MQTT without a socket, through the same shard as every other Client.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::sync::Parker;
use mqtt_proto::connection::{Client, ConnectOptions, Event, Message, ProtocolError, RequestError};
use mqtt_proto::packet::{Connect, Disconnect, Properties, Publish, Subscription, SubscriptionOptions};
use mqtt_proto::session::Session;
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use super::clock;
use super::local::{Pipe, PipeEnd};
use super::shared::{Command, Shared};
use crate::config::CoreId;

/// QoS 0 messages kept while the Client waits for an answer to something else; the oldest is dropped for one more.
/// QoS 1 and 2 messages are bounded by the Client's Receive Maximum: they are acknowledged when they are received.
const WAITING_MAX: usize = 1024;

/// Milliseconds that the broker has to answer a request.
const ANSWER_MILLIS: u64 = 30_000;

/// Why a Client inside the process could not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The broker refused it with this Reason Code.
    #[error("refused with reason code {0}")]
    Refused(ReasonCode),
    /// The broker has ended the connection with this Reason Code.
    #[error("disconnected with reason code {0}")]
    Disconnected(ReasonCode),
    /// The connection has ended, or the broker has.
    #[error("the connection has ended")]
    Closed,
    /// The broker did not answer in time.
    #[error("no answer within {} seconds", ANSWER_MILLIS / 1000)]
    NoAnswer,
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The broker broke the protocol: a bug.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// An Application Message that a [`LocalClient`] has received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Where it was published.
    pub topic: String,
    /// The Application Message itself.
    pub payload: Vec<u8>,
    /// The QoS it was delivered with.
    pub qos: Qos,
    /// Whether it was retained before the subscription was made, or is marked so by Retain As Published.
    pub retain: bool,
    properties: Vec<u8>,
    packet_id: Option<PacketId>,
}

impl Received {
    /// The properties that came with it.
    pub fn properties(&self) -> Properties<'_> {
        Properties::from_wire(&self.properties)
    }
}

impl From<Publish<'_>> for Received {
    fn from(publish: Publish<'_>) -> Received {
        Received {
            topic: publish.topic.map(|topic| topic.as_str().to_owned()).unwrap_or_default(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
            properties: publish.properties.wire().to_vec(),
            packet_id: publish.packet_id,
        }
    }
}

/// What one packet of the broker meant.
enum Step {
    Connected,
    Message(Received),
    Published(PacketId, ReasonCode),
    Subscribed(PacketId, ReasonCode),
    Other,
}

/// A connected Client inside the process, of MQTT 5.0. Its calls wait for the broker's answer, so it belongs on a
/// thread of the application. Dropping it without [`LocalClient::disconnect`] is an abnormal end: its Will is
/// published.
///
/// A broker with `keep_alive_max_seconds` expects a call at least every so many seconds.
pub struct LocalClient {
    shared: Arc<Shared>,
    pipe: Arc<Pipe>,
    parker: Parker,
    client: Client<Message>,
    /// The piece that is being read, and how far.
    piece: Vec<u8>,
    at: usize,
    /// Messages that came while something else was waited for.
    waiting: VecDeque<Received>,
    /// Of them, those of QoS 0.
    waiting_qos0: usize,
    dropped: u64,
}

impl fmt::Debug for LocalClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalClient").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

impl LocalClient {
    /// A 5.0 Client with a clean session.
    pub(super) fn with_client_id(shared: &Arc<Shared>, client_id: &str) -> Result<LocalClient, ClientError> {
        let connect = Connect::new(Version::V5, client_id);
        LocalClient::connect(shared, &connect)
    }

    pub(super) fn connect(shared: &Arc<Shared>, connect: &Connect<'_>) -> Result<LocalClient, ClientError> {
        let parker = Parker::new();
        let core = shared.next_local();
        let pipe = Arc::new(Pipe::new(core, parker.unparker().clone()));
        shared.core(core).command(Command::Open(PipeEnd::new(Arc::clone(&pipe))));
        let mut client = LocalClient {
            shared: Arc::clone(shared),
            pipe,
            parker,
            client: Client::new(Session::new()),
            piece: Vec::new(),
            at: 0,
            waiting: VecDeque::new(),
            waiting_qos0: 0,
            dropped: 0,
        };
        let options = ConnectOptions { manual_acknowledgement: true, ..ConnectOptions::new(*connect) };
        client.client.connect(&options, clock::now().millis)?;
        client.answer(|step| matches!(step, Step::Connected).then_some(Ok(())))?;
        Ok(client)
    }

    /// Publishes `message`. QoS 1 and 2: returns when the broker has taken responsibility for it.
    ///
    /// # Errors
    /// Why it was not published, or that it is not known whether it was.
    pub fn publish(&mut self, message: Message) -> Result<(), ClientError> {
        let sent = self.client.publish(message, clock::now().millis).map_err(|unsent| unsent.reason)?;
        let Some(packet_id) = sent else { return self.transmit() };
        self.answer(|step| match *step {
            Step::Published(id, reason) if id == packet_id => Some(refused(reason)),
            _ => None,
        })
    }

    /// Subscribes to `filter`; returns when every message published from now on will be received.
    ///
    /// # Errors
    /// Why there is no such subscription.
    pub fn subscribe(&mut self, filter: &str, options: SubscriptionOptions) -> Result<(), ClientError> {
        let subscription = [Subscription { filter, options }];
        let packet_id = self.client.subscribe(&subscription, Properties::EMPTY, clock::now().millis)?;
        self.answer_to(packet_id)
    }

    /// Ends the subscription to `filter`.
    ///
    /// # Errors
    /// Why it may still be there.
    pub fn unsubscribe(&mut self, filter: &str) -> Result<(), ClientError> {
        let packet_id = self.client.unsubscribe(&[filter], Properties::EMPTY, clock::now().millis)?;
        self.answer_to(packet_id)
    }

    /// The next message, waiting for it at most `timeout`. A QoS 1 or 2 message is acknowledged by this.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn recv(&mut self, timeout: Duration) -> Result<Option<Received>, ClientError> {
        let until = clock::now().millis.saturating_add(timeout.as_millis().min(u128::from(u64::MAX)) as u64);
        loop {
            if let Some(message) = self.waiting.pop_front() {
                match message.packet_id {
                    None => self.waiting_qos0 -= 1,
                    Some(packet_id) => {
                        self.client.acknowledge(packet_id, ReasonCode::SUCCESS, clock::now().millis)?;
                        self.transmit()?;
                    }
                }
                return Ok(Some(message));
            }
            match self.step(until)? {
                Some(Step::Message(message)) => self.keep(message),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// QoS 0 messages dropped because more came during other calls than are kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Ends the connection in the normal way: no Will is published.
    ///
    /// # Errors
    /// The connection had ended before.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        let normal = Disconnect::new(ReasonCode::SUCCESS);
        self.client.disconnect(&normal, clock::now().millis)?;
        self.transmit()
    }

    fn answer_to(&mut self, packet_id: PacketId) -> Result<(), ClientError> {
        self.answer(|step| match *step {
            Step::Subscribed(id, reason) if id == packet_id => Some(refused(reason)),
            _ => None,
        })
    }

    /// Waits for the step that `wanted` knows, keeping messages that come meanwhile.
    fn answer(
        &mut self,
        wanted: impl Fn(&Step) -> Option<Result<(), ClientError>>,
    ) -> Result<(), ClientError> {
        let until = clock::now().millis + ANSWER_MILLIS;
        loop {
            let step = self.step(until)?.ok_or(ClientError::NoAnswer)?;
            if let Some(answer) = wanted(&step) {
                return answer;
            }
            if let Step::Message(message) = step {
                self.keep(message);
            }
        }
    }

    fn keep(&mut self, message: Received) {
        if message.packet_id.is_none() {
            self.waiting_qos0 += 1;
            if self.waiting_qos0 > WAITING_MAX
                && let Some(oldest) = self.waiting.iter().position(|message| message.packet_id.is_none())
            {
                self.waiting.remove(oldest);
                self.waiting_qos0 -= 1;
                self.dropped += 1;
            }
        }
        self.waiting.push_back(message);
    }

    /// The meaning of the next packet; `None` if none comes until `until`.
    fn step(&mut self, until: u64) -> Result<Option<Step>, ClientError> {
        loop {
            self.transmit()?;
            let now = clock::now().millis;
            let mut input = &self.piece[self.at..];
            let before = input.len();
            let step = match self.client.poll_event(&mut input, now)? {
                None => None,
                Some(Event::Connected { .. }) => Some(Step::Connected),
                Some(Event::Refused(connack)) => return Err(ClientError::Refused(connack.reason)),
                Some(Event::Disconnected(disconnect)) => {
                    return Err(ClientError::Disconnected(disconnect.reason));
                }
                Some(Event::Message(publish)) => Some(Step::Message(publish.into())),
                Some(Event::Acknowledged { packet_id, reason, .. }) => {
                    Some(Step::Published(packet_id, reason))
                }
                Some(Event::Completed(packet_id)) => Some(Step::Published(packet_id, ReasonCode::SUCCESS)),
                Some(Event::Subscribed(suback)) => {
                    Some(Step::Subscribed(suback.packet_id, only(suback.reasons.iter())))
                }
                Some(Event::Unsubscribed(unsuback)) => {
                    Some(Step::Subscribed(unsuback.packet_id, only(unsuback.reasons.iter())))
                }
                Some(_) => Some(Step::Other),
            };
            self.at += before - input.len();
            if step.is_some() {
                return Ok(step);
            }
            if !self.next_piece(until)? {
                return Ok(None);
            }
        }
    }

    /// Waits for the next piece of input; `false` if none comes until `until`.
    fn next_piece(&mut self, until: u64) -> Result<bool, ClientError> {
        if !self.piece.is_empty() {
            self.pipe.give_back(std::mem::take(&mut self.piece));
            self.at = 0;
            self.announce();
        }
        loop {
            // Looked at before the pieces: what came before the end is still read.
            let closed = self.pipe.is_closed();
            if let Some(piece) = self.pipe.read() {
                self.piece = piece;
                return Ok(true);
            }
            if closed {
                return Err(ClientError::Closed);
            }
            let now = clock::now().millis;
            if self.client.poll_timeout().is_some_and(|at| at <= now) {
                self.client.handle_timeout(now)?;
                self.transmit()?;
            }
            if now >= until {
                return Ok(false);
            }
            let at = self.client.poll_timeout().map_or(until, |at| at.min(until));
            self.parker.park_timeout(Duration::from_millis(at.saturating_sub(now)));
        }
    }

    /// Gives the broker what is to be sent, waiting while it is too far behind.
    fn transmit(&mut self) -> Result<(), ClientError> {
        let mut piece = Vec::new();
        if !self.client.poll_transmit(&mut piece) {
            return Ok(());
        }
        while let Err(refused) = self.pipe.write(piece) {
            piece = refused;
            if self.pipe.is_closed() {
                return Err(ClientError::Closed);
            }
            self.parker.park();
        }
        self.announce();
        Ok(())
    }

    fn announce(&self) {
        if self.pipe.announce() {
            self.shared.core(self.pipe.core()).command(Command::Look(Arc::clone(&self.pipe)));
        }
    }
}

impl Drop for LocalClient {
    fn drop(&mut self) {
        self.pipe.leave();
        self.announce();
    }
}

fn refused(reason: ReasonCode) -> Result<(), ClientError> {
    if reason.is_error() { Err(ClientError::Refused(reason)) } else { Ok(()) }
}

/// The Reason Code for the only filter of a request.
fn only(mut reasons: impl Iterator<Item = ReasonCode>) -> ReasonCode {
    reasons.next().unwrap_or(ReasonCode::SUCCESS)
}

impl Shared {
    /// The core that the next client inside the process begins on: each in turn.
    fn next_local(&self) -> CoreId {
        let next = self.locals.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        CoreId((next % self.cores.len()) as u16)
    }
}
