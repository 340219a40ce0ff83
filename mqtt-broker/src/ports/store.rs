//! The port that keeps what must outlive the process.
//!
//! The shard appends records as its state changes and holds back each acknowledgement that a record stands behind
//! until [`Shard::store_committed`](crate::shard::Shard::store_committed) says that the record is safe.

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{PacketId, Qos};

use crate::message::MessageRef;

/// When a record is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// Nothing to wait for.
    Now,
    /// When the store has committed up to this sequence number; numbers only grow.
    At(u64),
}

/// The session a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRef<'a> {
    /// Its ClientID.
    pub client_id: &'a str,
}

/// A change of state that must outlive the process.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Record<'a> {
    /// A session was opened, resumed or given another expiry.
    SessionOpened {
        /// Which.
        session: SessionRef<'a>,
        /// Session Expiry Interval in seconds.
        expiry_seconds: u32,
    },
    /// A session ended with all it held.
    SessionEnded {
        /// Which.
        session: SessionRef<'a>,
    },
    /// A subscription was made or replaced.
    Subscribed {
        /// Whose.
        session: SessionRef<'a>,
        /// The whole Topic Filter.
        filter: &'a str,
        /// Its options.
        options: SubscriptionOptions,
        /// Its Subscription Identifier, 0 for none.
        identifier: u32,
    },
    /// A subscription was ended.
    Unsubscribed {
        /// Whose.
        session: SessionRef<'a>,
        /// The whole Topic Filter.
        filter: &'a str,
    },
    /// A message was queued for a session.
    Enqueued {
        /// Whose.
        session: SessionRef<'a>,
        /// The message.
        message: MessageRef<'a>,
        /// The QoS it will be delivered with.
        qos: Qos,
    },
    /// The session's Client has acknowledged a message for good.
    Acknowledged {
        /// Whose.
        session: SessionRef<'a>,
        /// Under which Packet Identifier it was delivered.
        packet_id: PacketId,
    },
    /// A retained message was set.
    Retained {
        /// The message.
        message: MessageRef<'a>,
    },
    /// A topic's retained message was removed.
    RetainedRemoved {
        /// The topic.
        topic: &'a str,
    },
}

/// Keeps what must outlive the process.
pub trait Store {
    /// Appends a record. The answer says what its acknowledgement waits for.
    fn append(&mut self, record: &Record<'_>) -> Commit;
}

/// Keeps nothing beyond the process: every record is as safe as it will ever be.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn append(&mut self, _: &Record<'_>) -> Commit {
        Commit::Now
    }
}
