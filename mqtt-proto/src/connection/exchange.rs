//! What a Client answers to the packets of the Server, and what they mean to the application.
//!
//! The packet lends its bytes from the receiver, so everything here works on the Client's other parts.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::error::ProtocolError;
use super::handshake::SendingHalf;
use super::limits::PeerLimits;
use super::request::Outgoing;
use crate::codec::EncodeError;
use crate::packet::{Ack, Auth, ConnAck, Disconnect, Packet, PacketType, Publish, SubAck, UnsubAck};
use crate::session::{Arrival, Discarded, PubRec, Resend, Session};
use crate::types::{PacketId, Qos, ReasonCode, Version};

/// What a packet of the Server means to the application. Each packet is one event.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a, M> {
    /// The Server accepted the connection. Without Session Present, the messages that were under way are
    /// `discarded` with the Session State [MQTT-3.2.2-5]: publish them again if they must arrive.
    Connected {
        /// The Server's answer.
        connack: ConnAck<'a>,
        /// Messages without an acknowledgement, oldest first.
        discarded: Vec<M>,
    },
    /// The Server refused the connection and closes it.
    Refused(ConnAck<'a>),
    /// A step of enhanced authentication: answer by [`Client::authenticate`](super::Client::authenticate).
    Auth(Auth<'a>),
    /// An Application Message.
    Message(Publish<'a>),
    /// A QoS 2 message that was delivered before; it is acknowledged again, and nothing else is to be done.
    Duplicate(PacketId),
    /// The Server released a QoS 2 message: its Packet Identifier is free.
    Released(PacketId),
    /// The Server acknowledged a QoS 1 message, or refused one of QoS 1 or 2.
    Acknowledged {
        /// Its Packet Identifier, free now.
        packet_id: PacketId,
        /// Success, or why it was refused.
        reason: ReasonCode,
        /// The message itself.
        message: M,
    },
    /// The Server has received a QoS 2 message; PUBREL follows.
    Received {
        /// Its Packet Identifier.
        packet_id: PacketId,
        /// The message, `None` if this was said before.
        message: Option<M>,
    },
    /// The Server ended the delivery of a QoS 2 message: its Packet Identifier is free.
    Completed(PacketId),
    /// The answer to SUBSCRIBE.
    Subscribed(SubAck<'a>),
    /// The answer to UNSUBSCRIBE.
    Unsubscribed(UnsubAck<'a>),
    /// The answer to PINGREQ.
    Pong,
    /// The Server closes the connection.
    Disconnected(Disconnect<'a>),
    /// An acknowledgement of something that is not under way; ignored, or answered by 0x92 (Packet Identifier not
    /// found).
    Stray(PacketType, PacketId),
}

/// Why the link closes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    ByServer,
    ByFault(ProtocolError),
}

/// What CONNECT said, as far as it matters later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) version: Version,
    pub(super) clean_start: bool,
    /// The Client had a session before this CONNECT.
    pub(super) had_session: bool,
    pub(super) receive_maximum: u16,
    pub(super) topic_alias_limit: u16,
    pub(super) manual_acknowledgement: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) packet_id: PacketId,
    pub(super) answer: PacketType,
    /// Reason Codes that the answer must hold; UNSUBACK has none before 5.0.
    pub(super) filters: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Unacknowledged {
    pub(super) packet_id: PacketId,
    pub(super) qos: Qos,
    /// The application's answer, sent once it is at the front.
    pub(super) reason: Option<ReasonCode>,
}

/// An event of the handshake.
pub(super) fn opening_event<'a, M>(
    packet: Packet<'a>,
    session: &mut Session<M>,
    settings: &Settings,
    ended: &mut Option<Ended>,
) -> Result<Event<'a, M>, ProtocolError> {
    match packet {
        Packet::ConnAck(connack) if connack.reason.is_error() => {
            *ended = Some(Ended::ByServer);
            Ok(Event::Refused(connack))
        }
        Packet::ConnAck(connack) => {
            if connack.session_present && (settings.clean_start || !settings.had_session) {
                return Err(ProtocolError::UnexpectedSession);
            }
            let mut discarded = Vec::new();
            // 3.1 has no Session Present: the Server is trusted to have kept what it was asked to keep.
            let kept = settings.version == Version::V3_1 && !settings.clean_start;
            if !connack.session_present && !kept {
                discarded.extend(core::mem::take(session).outbound.into_messages());
            }
            session.restart(PeerLimits::from_connack(&connack, settings.version).receive_maximum);
            Ok(Event::Connected { connack, discarded })
        }
        Packet::Auth(auth) => Ok(Event::Auth(auth)),
        other => Err(ProtocolError::UnexpectedPacket(other.packet_type())),
    }
}

/// A Client's parts while it is connected, all but the receiver, which lends out the packet.
pub(super) struct Open<'c, M> {
    pub(super) half: &'c mut SendingHalf,
    pub(super) session: &'c mut Session<M>,
    pub(super) requests: &'c mut Vec<Request>,
    pub(super) unacknowledged: &'c mut VecDeque<Unacknowledged>,
    pub(super) transmit: &'c mut Vec<u8>,
    pub(super) settings: &'c Settings,
    pub(super) now: u64,
}

impl<M: Outgoing> Open<'_, M> {
    /// Answers `packet` and says what it means.
    pub(super) fn event<'a>(&mut self, packet: Packet<'a>) -> Result<Event<'a, M>, ProtocolError> {
        match packet {
            Packet::Publish(publish) => self.message(publish),
            Packet::PubAck(Ack { packet_id, reason, .. }) => {
                match self.session.outbound.handle_puback(packet_id, reason) {
                    Ok(message) => {
                        self.resend();
                        Ok(Event::Acknowledged { packet_id, reason, message })
                    }
                    Err(_) => Ok(Event::Stray(PacketType::PubAck, packet_id)),
                }
            }
            Packet::PubRec(Ack { packet_id, reason, .. }) => Ok(self.pubrec(packet_id, reason)),
            Packet::PubRel(Ack { packet_id, .. }) => {
                let known = self.session.inbound.pubrel_received(packet_id);
                let reason =
                    if known { ReasonCode::SUCCESS } else { ReasonCode::PACKET_IDENTIFIER_NOT_FOUND };
                self.send(&Packet::PubComp(Ack::new(packet_id, reason)));
                Ok(if known {
                    Event::Released(packet_id)
                } else {
                    Event::Stray(PacketType::PubRel, packet_id)
                })
            }
            Packet::PubComp(Ack { packet_id, .. }) => match self.session.outbound.handle_pubcomp(packet_id) {
                Ok(()) => {
                    self.resend();
                    Ok(Event::Completed(packet_id))
                }
                Err(_) => Ok(Event::Stray(PacketType::PubComp, packet_id)),
            },
            Packet::SubAck(suback) => {
                self.answered(PacketType::SubAck, suback.packet_id, suback.reasons.iter().len())?;
                Ok(Event::Subscribed(suback))
            }
            Packet::UnsubAck(unsuback) => {
                self.answered(PacketType::UnsubAck, unsuback.packet_id, unsuback.reasons.iter().len())?;
                Ok(Event::Unsubscribed(unsuback))
            }
            Packet::PingResp => Ok(Event::Pong),
            Packet::Disconnect(disconnect) => Ok(Event::Disconnected(disconnect)),
            Packet::Auth(auth) => Ok(Event::Auth(auth)),
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq => Err(ProtocolError::UnexpectedPacket(packet.packet_type())),
        }
    }

    fn message<'a>(&mut self, publish: Publish<'a>) -> Result<Event<'a, M>, ProtocolError> {
        let qos = publish.qos;
        let Some(packet_id) = publish.packet_id else { return Ok(Event::Message(publish)) };
        let arrival = self.session.inbound.publish_received(qos, packet_id, self.settings.receive_maximum)?;
        let of_application = |waiting: &Unacknowledged| waiting.packet_id == packet_id && waiting.qos == qos;
        let reason = match arrival {
            Arrival::New => (!self.settings.manual_acknowledgement).then_some(ReasonCode::SUCCESS),
            // The application has it and will answer.
            Arrival::Duplicate if self.unacknowledged.iter().any(of_application) => {
                return Ok(Event::Duplicate(packet_id));
            }
            Arrival::Duplicate => Some(ReasonCode::SUCCESS),
        };
        self.unacknowledged.push_back(Unacknowledged { packet_id, qos, reason });
        self.flush();
        Ok(match arrival {
            Arrival::New => Event::Message(publish),
            Arrival::Duplicate => Event::Duplicate(packet_id),
        })
    }

    fn pubrec<'a>(&mut self, packet_id: PacketId, reason: ReasonCode) -> Event<'a, M> {
        match self.session.outbound.handle_pubrec(packet_id, reason) {
            Ok(PubRec::Release(message)) => {
                self.send(&Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
                Event::Received { packet_id, message }
            }
            Ok(PubRec::Refused(message)) => {
                self.resend();
                Event::Acknowledged { packet_id, reason, message }
            }
            Err(_) => {
                let not_found = Ack::new(packet_id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
                self.send(&Packet::PubRel(not_found));
                Event::Stray(PacketType::PubRec, packet_id)
            }
        }
    }

    /// Checks that a SUBACK or UNSUBACK answers a request [MQTT-2.2.1-6] with a Reason Code for each filter
    /// [MQTT-3.8.4-6].
    fn answered(
        &mut self,
        answer: PacketType,
        packet_id: PacketId,
        reasons: usize,
    ) -> Result<(), ProtocolError> {
        let counted = answer == PacketType::SubAck || self.half.peer().version.has_properties();
        let at = self.requests.iter().position(|request| {
            request.packet_id == packet_id
                && request.answer == answer
                && (!counted || request.filters == reasons)
        });
        let at = at.ok_or(ProtocolError::AnswerMismatch(answer))?;
        self.requests.swap_remove(at);
        Ok(())
    }

    /// Sends the acknowledgements whose turn it is.
    pub(super) fn flush(&mut self) {
        while let Some(&Unacknowledged { packet_id, qos, reason: Some(reason) }) = self.unacknowledged.front()
        {
            self.unacknowledged.pop_front();
            // Before 5.0 there is only success.
            let told = self.half.peer().version.has_properties();
            let reason = if told { reason } else { ReasonCode::SUCCESS };
            let ack = Ack::new(packet_id, reason);
            if qos == Qos::AtLeastOnce {
                self.session.inbound.puback_sent();
                self.send(&Packet::PubAck(ack));
            } else {
                self.session.inbound.pubrec_sent(packet_id, reason);
                self.send(&Packet::PubRec(ack));
            }
        }
    }

    /// Sends again what an earlier connection left unacknowledged [MQTT-4.4.0-1], as far as the quota goes.
    pub(super) fn resend(&mut self) {
        while let Some(resend) = self.session.outbound.poll_resend() {
            let (packet_id, sent) = match resend {
                Resend::PubRel { packet_id } => {
                    let pubrel = Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS));
                    (packet_id, self.half.try_encode(&pubrel, self.now, self.transmit))
                }
                Resend::Publish { packet_id, dup, qos, message } => {
                    let publish = Publish { dup, qos, packet_id: Some(packet_id), ..message.as_publish() };
                    (packet_id, self.half.try_encode(&Packet::Publish(publish), self.now, self.transmit))
                }
            };
            if sent.is_err()
                && let Ok(Discarded::Release(_)) = self.session.outbound.discard(packet_id, true)
            {
                self.send(&Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)));
            }
        }
    }

    /// Sends an acknowledgement, of at most five bytes. A Server that takes not even those never gets it.
    fn send(&mut self, packet: &Packet<'_>) {
        let sent = self.half.try_encode(packet, self.now, self.transmit);
        debug_assert!(matches!(sent, Ok(()) | Err(EncodeError::PacketTooLarge)), "{sent:?}");
    }
}
