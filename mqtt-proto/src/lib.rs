//! MQTT 3.1, 3.1.1 and 5.0 as a state machine: bytes and time in, packets and deadlines out.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod codec;
pub mod connection;
pub mod packet;
pub mod session;
pub mod types;

pub use codec::{
    DecodeError, EncodeError, FrameHeader, Framer, decode, encode, encode_publish, encoded_len, peek_frame,
};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Filters, Packet, PacketType, Properties, Property, PropertyId,
    Publish, Reasons, RetainHandling, SubAck, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
    UnsubAck, Unsubscribe, Will,
};
pub use types::{
    FilterError, PacketId, Qos, ReasonCode, ShareName, SharedFilter, TopicError, TopicFilter, TopicName,
    Version,
};
