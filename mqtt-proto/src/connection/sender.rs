//! The sending half of a Network Connection: encodes within the peer's limits, assigns Topic Aliases.
//!
//! Invariant: what is appended, the peer accepts: no packet above its Maximum Packet Size [MQTT-3.1.2-24]
//! [MQTT-3.2.2-15], no alias above its Topic Alias Maximum [MQTT-3.1.2-26] [MQTT-3.2.2-17]. Lives on: the core that
//! holds the socket.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::alias::AliasTable;
use super::limits::PeerLimits;
use crate::codec::{self, EncodeError};
use crate::packet::{Packet, Properties, Property, Publish};
use crate::types::{ReasonCode, Version};

/// The packet is larger than the peer accepts, or than the format allows; nothing was appended. A message is then
/// treated as if it had been sent [MQTT-3.1.2-25].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet is larger than the peer accepts")]
pub struct TooLarge;

/// A Topic Alias property takes three bytes: for shorter topics it saves nothing.
const TOPIC_ALIAS_LEN: usize = 3;

/// The sending half of a Network Connection.
#[derive(Debug)]
pub struct Sender {
    version: Version,
    problem_information: bool,
    topic_alias_limit: u16,
    maximum_packet_size: u32,
    aliases: Option<Box<AliasTable>>,
}

impl Sender {
    /// For a peer with these limits. At most `topic_alias_limit` aliases are used, whatever the peer allows.
    pub fn new(peer: &PeerLimits, topic_alias_limit: u16) -> Sender {
        let limit = if peer.version.has_properties() { peer.topic_alias_maximum } else { 0 };
        Sender {
            version: peer.version,
            problem_information: peer.request_problem_information,
            topic_alias_limit: limit.min(topic_alias_limit),
            maximum_packet_size: peer.maximum_packet_size,
            aliases: None,
        }
    }

    /// The version in which packets are encoded.
    pub const fn version(&self) -> Version {
        self.version
    }

    /// The largest packet that the peer accepts, in bytes.
    pub const fn maximum_packet_size(&self) -> u32 {
        self.maximum_packet_size
    }

    /// Whether the peer gets Topic Aliases: a PUBLISH is encoded for it alone then, by [`Sender::encode_publish`].
    pub const fn uses_topic_aliases(&self) -> bool {
        self.topic_alias_limit > 0
    }

    /// Appends `packet` to `out`.
    ///
    /// Reason Strings and User Properties are left out where the peer did not ask for them [MQTT-3.1.2-29] or where
    /// they would make the packet too large [MQTT-3.4.2-2] [MQTT-3.4.2-3].
    ///
    /// # Errors
    /// [`TooLarge`]. A packet that breaks the format is a mistake of the program: an assertion in debug builds.
    #[inline]
    pub fn encode(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        match plain_ack(packet) {
            Some(bytes) if bytes.len() <= self.maximum_packet_size as usize => {
                out.extend_from_slice(&bytes);
                Ok(())
            }
            _ => self.try_encode(packet, out).map_err(too_large),
        }
    }

    /// Appends a PUBLISH, with a Topic Alias where the peer allows it: the first use names the topic and its alias,
    /// later ones the alias alone, and when all are taken the least recently used is given to the new topic.
    ///
    /// A Topic Alias already among the properties belongs to another connection and is left out
    /// [MQTT-3.3.2-7].
    ///
    /// # Errors
    /// As [`Sender::encode`].
    #[inline]
    pub fn encode_publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        self.try_publish(publish, out).map_err(too_large)
    }

    /// [`Sender::encode`] for packets whose parts nobody has checked; a packet that is too large for the peer is
    /// [`EncodeError::PacketTooLarge`].
    pub(super) fn try_encode(&mut self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Packet::Publish(publish) = packet {
            return self.try_publish(publish, out);
        }
        if let Some(bytes) = plain_ack(packet)
            && bytes.len() <= self.maximum_packet_size as usize
        {
            out.extend_from_slice(&bytes);
            return Ok(());
        }
        let Some(diagnostics) = Diagnostics::of(packet) else { return self.append(packet, out) };
        if !diagnostics.may_be_unasked && !self.problem_information {
            return self.append(&without(packet, |_| true, &mut Vec::new()), out);
        }
        let user = |property: &Property<'_>| matches!(property, Property::UserProperty(..));
        match self.append(packet, out) {
            Err(EncodeError::PacketTooLarge) => {}
            done => return done,
        }
        match self.append(&without(packet, user, &mut Vec::new()), out) {
            Err(EncodeError::PacketTooLarge) => self.append(&without(packet, |_| true, &mut Vec::new()), out),
            done => done,
        }
    }

    /// [`Sender::encode_publish`] for a PUBLISH whose parts nobody has checked.
    #[inline]
    pub(super) fn try_publish(
        &mut self,
        publish: &Publish<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        if publish.properties.is_empty() || publish.properties.topic_alias().is_none() {
            return self.publish_unaliased(publish, out);
        }
        if publish.topic.is_none() {
            return Err(EncodeError::MissingTopic);
        }
        let kept: Vec<Property<'_>> = publish
            .properties
            .iter()
            .filter(|property| !matches!(property, Property::TopicAlias(_)))
            .collect();
        self.publish_unaliased(&Publish { properties: Properties::new(&kept), ..*publish }, out)
    }

    /// A PUBLISH without a Topic Alias of its own.
    #[inline]
    fn publish_unaliased(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match publish.topic {
            Some(topic) if self.topic_alias_limit > 0 && topic.as_bytes().len() > TOPIC_ALIAS_LEN => {
                self.publish_aliased(publish, topic.as_str(), out)
            }
            _ => self.append_publish(publish, out),
        }
    }

    fn publish_aliased(
        &mut self,
        publish: &Publish<'_>,
        topic: &str,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let limit = self.topic_alias_limit;
        let aliases = self.aliases.get_or_insert_with(|| Box::new(AliasTable::new(limit)));
        if let Some(alias) = aliases.find(topic) {
            let aliased = Publish { topic: None, ..*publish };
            return self.append_with_alias(&aliased, alias, out);
        }
        let alias = aliases.candidate();
        match self.append_with_alias(publish, alias, out) {
            Ok(()) => {
                // Only now: the peer learns the alias from the packet.
                self.aliases.iter_mut().for_each(|aliases| aliases.assign(topic));
                Ok(())
            }
            Err(EncodeError::PacketTooLarge) => self.append_publish(publish, out),
            Err(error) => Err(error),
        }
    }

    fn append_with_alias(
        &self,
        publish: &Publish<'_>,
        alias: u16,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut few = [Property::TopicAlias(alias); 4];
        let many: Vec<Property<'_>>;
        let list = publish.properties.list();
        let list = match few.get_mut(1..=list.len()) {
            Some(place) => {
                place.copy_from_slice(list);
                &few[..=list.len()]
            }
            None => {
                many = list.iter().copied().chain([Property::TopicAlias(alias)]).collect();
                &many
            }
        };
        self.append_publish(&Publish { properties: publish.properties.with_list(list), ..*publish }, out)
    }

    #[inline]
    fn append_publish(&self, publish: &Publish<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        // A large payload is not copied in vain.
        if publish.payload.len() > self.maximum_packet_size as usize {
            return Err(EncodeError::PacketTooLarge);
        }
        let start = out.len();
        codec::encode_publish(publish, self.version, out)?;
        self.keep_if_fits(start, out)
    }

    fn append(&self, packet: &Packet<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        codec::encode(packet, self.version, out)?;
        self.keep_if_fits(start, out)
    }

    #[inline]
    fn keep_if_fits(&self, start: usize, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if out.len() - start <= self.maximum_packet_size as usize {
            return Ok(());
        }
        out.truncate(start);
        Err(EncodeError::PacketTooLarge)
    }
}

/// All that checked packets can fail with.
fn too_large(error: EncodeError) -> TooLarge {
    debug_assert!(matches!(error, EncodeError::PacketTooLarge | EncodeError::FieldTooLong), "{error:?}");
    TooLarge
}

/// An acknowledgement of success that says nothing more: the same four bytes in every version, and as frequent as
/// PUBLISH itself.
#[inline]
fn plain_ack(packet: &Packet<'_>) -> Option<[u8; 4]> {
    let (first, ack) = match packet {
        Packet::PubAck(ack) => (0x40, ack),
        Packet::PubRec(ack) => (0x50, ack),
        Packet::PubRel(ack) => (0x62, ack),
        Packet::PubComp(ack) => (0x70, ack),
        _ => return None,
    };
    let [high, low] = ack.packet_id.get().to_be_bytes();
    (ack.reason == ReasonCode::SUCCESS && ack.properties.is_empty()).then_some([first, 2, high, low])
}

/// The properties that explain an outcome to people, where a packet has any.
struct Diagnostics {
    /// CONNACK and DISCONNECT may carry them without being asked [MQTT-3.1.2-29].
    may_be_unasked: bool,
}

impl Diagnostics {
    /// `None` for a packet that has none, or whose User Properties are part of the matter.
    fn of(packet: &Packet<'_>) -> Option<Diagnostics> {
        let (properties, may_be_unasked) = match packet {
            Packet::ConnAck(connack) => (connack.properties, true),
            Packet::Disconnect(disconnect) => (disconnect.properties, true),
            Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
                (ack.properties, false)
            }
            Packet::SubAck(suback) => (suback.properties, false),
            Packet::UnsubAck(unsuback) => (unsuback.properties, false),
            Packet::Auth(auth) => (auth.properties, false),
            Packet::Connect(_)
            | Packet::Publish(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_)
            | Packet::PingReq
            | Packet::PingResp => return None,
        };
        properties.iter().any(|property| is_diagnostic(&property)).then_some(Diagnostics { may_be_unasked })
    }
}

const fn is_diagnostic(property: &Property<'_>) -> bool {
    matches!(property, Property::ReasonString(_) | Property::UserProperty(..))
}

/// `packet` without those of its Reason String and User Properties that `drop` names; `kept` holds the others.
fn without<'a>(
    packet: &Packet<'a>,
    drop: impl Fn(&Property<'_>) -> bool,
    kept: &'a mut Vec<Property<'a>>,
) -> Packet<'a> {
    let mut packet = *packet;
    let properties = match &mut packet {
        Packet::ConnAck(connack) => &mut connack.properties,
        Packet::Disconnect(disconnect) => &mut disconnect.properties,
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            &mut ack.properties
        }
        Packet::SubAck(suback) => &mut suback.properties,
        Packet::UnsubAck(unsuback) => &mut unsuback.properties,
        Packet::Auth(auth) => &mut auth.properties,
        _ => return packet,
    };
    kept.extend(properties.iter().filter(|property| !(is_diagnostic(property) && drop(property))));
    *properties = Properties::new(kept);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Receiver, Role};
    use crate::packet::{Ack, ConnAck, Connect};
    use crate::types::{PacketId, Qos, ReasonCode, TopicName};
    use alloc::string::String;
    use alloc::vec;

    fn publish<'a>(topic: &'a str, properties: Properties<'a>, payload: &'a [u8]) -> Publish<'a> {
        Publish {
            dup: false,
            qos: Qos::AtMostOnce,
            retain: false,
            topic: Some(TopicName::new(topic).expect("a topic")),
            packet_id: None,
            properties,
            payload,
        }
    }

    fn limits() -> PeerLimits {
        PeerLimits { topic_alias_maximum: 2, ..PeerLimits::new(Version::V5) }
    }

    /// What a peer with these limits reads: the topic on the wire, the alias, the topic resolved.
    fn sent(
        peer: &PeerLimits,
        ours: u16,
        publishes: &[Publish<'_>],
    ) -> Vec<(Option<String>, Option<u16>, String)> {
        let mut sender = Sender::new(peer, ours);
        let mut receiver = Receiver::new(Role::Client, peer.maximum_packet_size);
        receiver.set_version(peer.version);
        receiver.set_topic_alias_maximum(peer.topic_alias_maximum);
        let connack =
            ConnAck { session_present: false, reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
        let mut out = Vec::new();
        sender.encode(&Packet::ConnAck(connack), &mut out).expect("small");
        receiver.poll_packet(&mut &out[..]).expect("valid");
        let mut seen = Vec::new();
        for publish in publishes {
            let mut out = Vec::new();
            sender.encode_publish(publish, &mut out).expect("fits");
            let Ok(Packet::Publish(raw)) = codec::decode(peer.version, &out) else { panic!("no PUBLISH") };
            let alias = raw.properties.topic_alias();
            let topic = raw.topic.map(|topic| topic.as_str().into());
            let mut input = &out[..];
            let Ok(Some(Packet::Publish(read))) = receiver.poll_packet(&mut input) else { panic!("refused") };
            assert_eq!(read.payload, publish.payload);
            let others = |properties: Properties<'_>| {
                properties.iter().filter(|property| !matches!(property, Property::TopicAlias(_))).count()
            };
            assert_eq!(others(read.properties), others(publish.properties));
            seen.push((topic, alias, read.topic.expect("resolved").as_str().into()));
        }
        seen
    }

    #[test]
    fn a_topic_is_sent_once_and_then_its_alias() {
        let publishes = ["aaaa", "aaaa", "bbbb", "aaaa", "cccc", "bbbb"]
            .map(|topic| publish(topic, Properties::EMPTY, b"x"));
        let seen = sent(&limits(), 10, &publishes);
        let on_wire: Vec<_> = seen.iter().map(|(topic, alias, _)| (topic.as_deref(), *alias)).collect();
        let expected = [
            (Some("aaaa"), Some(1)),
            (None, Some(1)),
            (Some("bbbb"), Some(2)),
            (None, Some(1)),
            (Some("cccc"), Some(2)),
            (Some("bbbb"), Some(1)),
        ];
        assert_eq!(on_wire, expected);
        assert!(
            seen.iter()
                .zip(&publishes)
                .all(|(seen, sent)| Some(&*seen.2) == sent.topic.map(TopicName::as_str))
        );
    }

    #[test]
    fn no_alias_where_the_peer_or_we_want_none_or_it_saves_nothing() {
        let long = [publish("aaaa", Properties::EMPTY, b""); 2];
        let no_alias = |seen: Vec<(Option<String>, Option<u16>, String)>| {
            seen.iter().all(|(topic, alias, _)| topic.is_some() && alias.is_none())
        };
        assert!(no_alias(sent(&PeerLimits::new(Version::V5), 10, &long)));
        assert!(no_alias(sent(&limits(), 0, &long)));
        assert!(no_alias(sent(&limits(), 10, &[publish("aaa", Properties::EMPTY, b""); 2])));
        let before_5 = PeerLimits { version: Version::V3_1_1, ..limits() };
        assert!(no_alias(sent(&before_5, 10, &long)));
    }

    #[test]
    fn an_alias_of_another_connection_is_not_passed_on() {
        let foreign = [Property::TopicAlias(9), Property::ContentType("t")];
        let publishes = [publish("aaaa", Properties::new(&foreign), b""); 2];
        let seen = sent(&limits(), 10, &publishes);
        assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), [Some(1), Some(1)]);
        let seen = sent(&PeerLimits::new(Version::V5), 10, &publishes);
        assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), [None, None]);
    }

    #[test]
    fn an_alias_goes_with_any_number_of_listed_properties() {
        for count in 0..6 {
            let list = vec![Property::UserProperty("name", "value"); count];
            let seen = sent(&limits(), 10, &[publish("aaaa", Properties::new(&list), b""); 2]);
            assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), [Some(1), Some(1)]);
        }
    }

    #[test]
    fn a_packet_too_large_appends_nothing_and_assigns_no_alias() {
        // PUBLISH "aaaa" with an empty payload: 2 + 6 + 1 bytes, with the alias 12.
        let peer = PeerLimits { maximum_packet_size: 11, ..limits() };
        let mut sender = Sender::new(&peer, 10);
        let mut out = vec![7];
        assert_eq!(
            sender.encode_publish(&publish("aaaa", Properties::EMPTY, b"123"), &mut out),
            Err(TooLarge)
        );
        assert_eq!(out, [7]);
        // It fits without the alias only.
        assert_eq!(sender.encode_publish(&publish("aaaa", Properties::EMPTY, b""), &mut out), Ok(()));
        assert_eq!(out.len(), 1 + 9);
        assert_eq!(sender.encode_publish(&publish("aaaa", Properties::EMPTY, b""), &mut out), Ok(()));
        assert_eq!(out.len(), 1 + 9 + 9, "the peer was told no alias");
    }

    fn puback_len(peer: &PeerLimits, properties: &[Property<'_>]) -> Result<usize, TooLarge> {
        let ack = Ack {
            packet_id: PacketId::FIRST,
            reason: ReasonCode::QUOTA_EXCEEDED,
            properties: Properties::new(properties),
        };
        let mut out = Vec::new();
        Sender::new(peer, 0).encode(&Packet::PubAck(ack), &mut out)?;
        Ok(out.len())
    }

    #[test]
    fn diagnostics_give_way_to_the_maximum_packet_size() {
        // 2 + 3 (+ 1) bytes without properties, 6 for the Reason String, 7 for the User Property.
        let properties = [Property::ReasonString("abc"), Property::UserProperty("a", "b")];
        let with = |maximum_packet_size| {
            puback_len(&PeerLimits { maximum_packet_size, ..PeerLimits::new(Version::V5) }, &properties)
        };
        assert_eq!(with(19), Ok(19));
        assert_eq!(with(18), Ok(12));
        assert!(with(11).is_ok_and(|len| len <= 6));
        assert_eq!(with(4), Err(TooLarge));
    }

    #[test]
    fn diagnostics_are_left_out_where_the_peer_does_not_want_them() {
        let peer = PeerLimits { request_problem_information: false, ..PeerLimits::new(Version::V5) };
        let properties = [Property::ReasonString("abc")];
        assert!(puback_len(&peer, &properties).is_ok_and(|len| len <= 6));
        let connack = ConnAck {
            session_present: false,
            reason: ReasonCode::BANNED,
            properties: Properties::new(&properties),
        };
        let mut out = Vec::new();
        assert_eq!(Sender::new(&peer, 0).encode(&Packet::ConnAck(connack), &mut out), Ok(()));
        assert_eq!(out.len(), 2 + 3 + 6);
    }

    #[test]
    fn a_sender_knows_the_version_it_speaks() {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            assert_eq!(Sender::new(&PeerLimits::new(version), 0).version(), version);
        }
    }

    #[test]
    fn a_connect_is_written_whatever_the_limits() {
        let connect = Connect::new(Version::V3_1_1, "c");
        let mut out = Vec::new();
        let mut sender = Sender::new(&PeerLimits::new(Version::V3_1_1), 0);
        assert_eq!(sender.encode(&Packet::Connect(connect), &mut out), Ok(()));
        assert_eq!(out.len(), 15);
    }
}
