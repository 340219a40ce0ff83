//! MQTT 3.1, 3.1.1 and 5.0 as a state machine: bytes and time in, packets and deadlines out.
//!
//! It opens no socket, reads no clock, starts no thread and draws no random numbers; it needs `alloc`, not `std`.
//! Meet [`Framer`], which cuts a byte stream into packets, and [`Packet`], which is one of them, of any version.
//!
//! ```
//! use mqtt_proto::{Framer, Packet, Properties, Publish, Qos, TopicName, Version, decode, encode};
//!
//! // What a program sends.
//! let mut sent = Vec::new();
//! for payload in [&b"on"[..], b"off"] {
//!     let publish = Publish {
//!         dup: false,
//!         qos: Qos::AtMostOnce,
//!         retain: false,
//!         topic: Some(TopicName::new("kitchen/light")?),
//!         packet_id: None,
//!         properties: Properties::EMPTY,
//!         payload,
//!     };
//!     encode(&Packet::Publish(publish), Version::V5, &mut sent)?;
//! }
//!
//! // What arrives at the other end: the same bytes, in other pieces.
//! let mut framer = Framer::default();
//! let mut received = Vec::new();
//! for mut piece in sent.chunks(5) {
//!     while let Some(frame) = framer.next_frame(&mut piece, 1024)? {
//!         if let Packet::Publish(publish) = decode(Version::V5, frame)? {
//!             received.push(publish.payload.to_vec());
//!         }
//!     }
//! }
//! assert_eq!(received, [&b"on"[..], b"off"]);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! From the ground up: [`types`] holds the nouns of the standard, [`packet`] the fifteen Control Packets, [`codec`]
//! reads and writes them, [`session`] is what outlives a Network Connection, [`connection`] one Network Connection.
//! What the peer did wrong is an error with a [`ReasonCode`]; a panic means a bug of this crate.
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
pub use connection::{Client, Connection, Handshake, ProtocolError, Receiver, Sender};
pub use packet::{
    Ack, Auth, ConnAck, Connect, Disconnect, Filters, Packet, PacketType, Properties, Property, PropertyId,
    Publish, Reasons, RetainHandling, SubAck, Subscribe, Subscription, SubscriptionOptions, Subscriptions,
    UnsubAck, Unsubscribe, Will,
};
pub use session::Session;
pub use types::{
    FilterError, PacketId, Qos, ReasonCode, ShareName, SharedFilter, TopicError, TopicFilter, TopicName,
    Version,
};

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
