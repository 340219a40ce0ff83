//! The fifteen Control Packets, version-neutral and borrowed: decoding copies nothing.
//!
//! What a version does not know is absent: 3.1.1 packets have empty [`Properties`] and success Reason Codes.
//! Lists (filters, properties) are either the validated bytes of a packet or a slice that the caller made, behind
//! one iterator, so the same types serve decoding and encoding.

mod ack;
mod auth;
mod connect;
mod disconnect;
mod property;
mod publish;
mod subscribe;

pub use ack::Ack;
pub use auth::Auth;
pub use connect::{ConnAck, Connect, Will};
pub use disconnect::Disconnect;
pub use property::{Properties, Property, PropertyId, PropertyIter};
pub use publish::Publish;
pub use subscribe::{
    FilterIter, Filters, Reasons, RetainHandling, SubAck, Subscribe, Subscription, SubscriptionIter,
    SubscriptionOptions, Subscriptions, UnsubAck, Unsubscribe,
};

/// A Control Packet of any version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Packet<'a> {
    /// Client to Server: opens the MQTT connection.
    Connect(Connect<'a>),
    /// Server to Client: the answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// Both ways: an Application Message.
    Publish(Publish<'a>),
    /// Answer to a QoS 1 PUBLISH.
    PubAck(Ack<'a>),
    /// First answer to a QoS 2 PUBLISH.
    PubRec(Ack<'a>),
    /// Answer to PUBREC.
    PubRel(Ack<'a>),
    /// Answer to PUBREL, ends the QoS 2 flow.
    PubComp(Ack<'a>),
    /// Client to Server: asks for subscriptions.
    Subscribe(Subscribe<'a>),
    /// Server to Client: the answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Client to Server: ends subscriptions.
    Unsubscribe(Unsubscribe<'a>),
    /// Server to Client: the answer to UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// Client to Server: a sign of life.
    PingReq,
    /// Server to Client: the answer to PINGREQ.
    PingResp,
    /// Last packet of a connection; from the Server only in 5.0.
    Disconnect(Disconnect<'a>),
    /// 5.0, both ways: enhanced authentication.
    Auth(Auth<'a>),
}

/// The type of a Control Packet: the upper four bits of its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl Packet<'_> {
    /// The type of this packet.
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Packet::Connect(_) => PacketType::Connect,
            Packet::ConnAck(_) => PacketType::ConnAck,
            Packet::Publish(_) => PacketType::Publish,
            Packet::PubAck(_) => PacketType::PubAck,
            Packet::PubRec(_) => PacketType::PubRec,
            Packet::PubRel(_) => PacketType::PubRel,
            Packet::PubComp(_) => PacketType::PubComp,
            Packet::Subscribe(_) => PacketType::Subscribe,
            Packet::SubAck(_) => PacketType::SubAck,
            Packet::Unsubscribe(_) => PacketType::Unsubscribe,
            Packet::UnsubAck(_) => PacketType::UnsubAck,
            Packet::PingReq => PacketType::PingReq,
            Packet::PingResp => PacketType::PingResp,
            Packet::Disconnect(_) => PacketType::Disconnect,
            Packet::Auth(_) => PacketType::Auth,
        }
    }
}

impl PacketType {
    /// The type with the number `bits` (1 to 15), `None` for the forbidden 0.
    pub const fn from_bits(bits: u8) -> Option<PacketType> {
        Some(match bits {
            1 => PacketType::Connect,
            2 => PacketType::ConnAck,
            3 => PacketType::Publish,
            4 => PacketType::PubAck,
            5 => PacketType::PubRec,
            6 => PacketType::PubRel,
            7 => PacketType::PubComp,
            8 => PacketType::Subscribe,
            9 => PacketType::SubAck,
            10 => PacketType::Unsubscribe,
            11 => PacketType::UnsubAck,
            12 => PacketType::PingReq,
            13 => PacketType::PingResp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }
}
