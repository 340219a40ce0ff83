//! What the log says: one change of state a record, as it is written and read back.
//!
//! The records of one session, one topic and one shared group are all in the log of one core, in the order in which
//! things happened, and a log that is lost from some point on is a prefix of history: a record may lean on all that
//! came before it. A [`Record::Message`] says nothing by itself; the records behind it keep it, each where it says, until
//! the next one. `docs/store-records.md` has the bytes.
//!
//! Decoding takes any bytes and answers with a record that cannot be wrong in itself, or with an error. Encoding a
//! decoded record gives the same bytes: there is one way to write each.

mod decode;
mod encode;
mod identifiers;
mod wire;

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{PacketId, Qos};

use crate::message::MessageRef;
use crate::store::cold::{Chunk, Place};

pub use identifiers::Identifiers;

/// The version of the records that this module writes, and the newest that it reads.
pub const VERSION: u8 = 1;

/// A version has this many kinds at most, so that a kind tells the version that brought it.
const KINDS_PER_VERSION: u8 = 32;

/// A change of state. Times are wall time: milliseconds since the beginning of 1970.
///
/// "The message" is that of the last [`Record::Message`] or [`Record::Again`] before.
#[derive(Clone, Copy, Debug)]
pub enum Record<'a> {
    /// The broker has started. Connections that were there before have ended: their sessions' expiry runs from now.
    Started {
        /// When.
        at: u64,
    },
    /// It is this late. What is left of any expiry is counted from the latest time known if the clock went back.
    Time {
        /// When.
        at: u64,
    },
    /// A message, for the records behind this one to keep.
    Message {
        /// The message; it expires by wall time.
        message: MessageRef<'a>,
        /// A hash of the publisher's ClientID where shared groups go by Client, else 0.
        publisher: u32,
        /// Whether a [`Record::Again`] may follow: only in snapshots.
        shared: bool,
    },
    /// The message is once more the one of the [`Record::Message`] before which there were `number` shared ones in
    /// this snapshot.
    Again {
        /// Counts the shared messages of a snapshot from 0.
        number: u32,
    },
    /// A session's Client is connected: the session is made, or goes on with all it has.
    Opened {
        /// Whose session.
        client_id: &'a str,
        /// Session Expiry Interval in seconds; `u32::MAX`: never.
        expiry_seconds: u32,
        /// The Packet Identifier that its next message gets.
        next_packet_id: PacketId,
    },
    /// The session has another Session Expiry Interval.
    Expiry {
        /// Whose session.
        client_id: &'a str,
        /// Session Expiry Interval in seconds; `u32::MAX`: never.
        expiry_seconds: u32,
    },
    /// The session's connection is gone; its expiry runs from now.
    Closed {
        /// Whose session.
        client_id: &'a str,
        /// When.
        at: u64,
    },
    /// The session has ended with all it held.
    Ended {
        /// Whose session.
        client_id: &'a str,
    },
    /// A subscription was made or replaced.
    Subscribed {
        /// Whose session.
        client_id: &'a str,
        /// The whole Topic Filter, `$share/` included.
        filter: &'a str,
        /// Its options.
        options: SubscriptionOptions,
        /// Its Subscription Identifier, 0 for none.
        identifier: u32,
    },
    /// A subscription was ended.
    Unsubscribed {
        /// Whose session.
        client_id: &'a str,
        /// The whole Topic Filter.
        filter: &'a str,
    },
    /// The message is kept for a session: behind those that wait, or among those under way if it was sent at once.
    Enqueued {
        /// Whose session.
        client_id: &'a str,
        /// The QoS of the delivery: 1 or 2.
        qos: Qos,
        /// The RETAIN flag of the delivery.
        retain: bool,
        /// Its Subscription Identifiers.
        identifiers: Identifiers<'a>,
        /// The Packet Identifier if it was sent at once.
        packet_id: Option<PacketId>,
    },
    /// The first of the messages that wait was sent.
    Sent {
        /// Whose session.
        client_id: &'a str,
        /// Under which Packet Identifier.
        packet_id: PacketId,
    },
    /// A message that waits is not to be delivered after all.
    Dropped {
        /// Whose session.
        client_id: &'a str,
        /// How many wait before it.
        place: u32,
    },
    /// A delivery is over: PUBACK, PUBCOMP or a refusing PUBREC has come, or it was taken back.
    Acknowledged {
        /// Whose session.
        client_id: &'a str,
        /// Under which Packet Identifier it was sent.
        packet_id: PacketId,
    },
    /// PUBREC has come: the message is no longer needed, PUBREL is owed.
    Released {
        /// Whose session.
        client_id: &'a str,
        /// Under which Packet Identifier it was sent.
        packet_id: PacketId,
    },
    /// A QoS 2 message of this Client has come: another PUBLISH under its identifier is the same one.
    Received {
        /// The publisher's session.
        client_id: &'a str,
        /// The Packet Identifier of its PUBLISH.
        packet_id: PacketId,
    },
    /// PUBREL has come for a QoS 2 message of this Client.
    Completed {
        /// The publisher's session.
        client_id: &'a str,
        /// The Packet Identifier of its PUBLISH.
        packet_id: PacketId,
    },
    /// The message is the session's Will. Its `expires_at` is of no account.
    Will {
        /// Whose session.
        client_id: &'a str,
        /// Will Delay Interval in seconds.
        delay_seconds: u32,
        /// Message Expiry Interval in seconds: runs from the publication on.
        expiry_seconds: Option<u32>,
    },
    /// The session's Will was published, or is not to be.
    WillRemoved {
        /// Whose session.
        client_id: &'a str,
    },
    /// The message is the retained one of its topic.
    Retained,
    /// A topic has no retained message any more.
    RetainedRemoved {
        /// The topic.
        topic: &'a str,
    },
    /// The message is to be handed to other cores, and handed once more after a crash until it is [`Record::HandedOn`].
    HandOn {
        /// Its number at this core, from 1 on and ascending, as are those of messages that groups keep.
        number: u64,
    },
    /// All cores have taken what [`Record::HandOn`] was about.
    HandedOn {
        /// Its number at this core.
        number: u64,
    },
    /// All that another core has handed on up to this number is taken.
    Handled {
        /// The core that handed it on.
        core: u16,
        /// The last number.
        number: u64,
    },
    /// The message waits in a shared group of this core, until it is [`Record::GroupTaken`].
    GroupQueued {
        /// The group: `$share/`, ShareName, `/` and Topic Filter.
        group: &'a str,
        /// Its number at this core; those of a group wait in this order.
        number: u64,
    },
    /// A session of this core was sent a QoS 2 message of a shared group: what the group's core has queued under this number
    /// waits for nobody else.
    GroupBegun {
        /// The group's core.
        core: u16,
        /// Its number at that core.
        number: u64,
    },
    /// A group's message is done with: acknowledged, dropped, or a member's own.
    GroupTaken {
        /// The group.
        group: &'a str,
        /// Under which it was queued.
        number: u64,
    },
    /// The first of the messages that wait, as many as the chunk has, wait there: behind those of earlier chunks, before
    /// all others.
    Parked {
        /// Whose session.
        client_id: &'a str,
        /// Where they are.
        chunk: Chunk,
    },
    /// So many of the messages in chunks, the oldest first, are not waiting there any more.
    Taken {
        /// Whose session.
        client_id: &'a str,
        /// How many.
        count: u32,
    },
    /// A chunk is in another place from now on, with the same messages.
    Moved {
        /// Whose session.
        client_id: &'a str,
        /// Where it was.
        from: Place,
        /// Where it is.
        to: Place,
    },
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Written by a later version of the broker.
    #[error(
        "a record of kind {kind} needs version {version} of the record format, this is version {VERSION}"
    )]
    Newer {
        /// The record's kind.
        kind: u8,
        /// The version of the format that has this kind.
        version: u8,
    },
    /// No version has this kind.
    #[error("{kind} is no kind of record")]
    NoSuchKind {
        /// What stands in the place of a kind.
        kind: u8,
    },
    /// The record ends too early, or goes on too long.
    #[error("a record of kind {kind} has not the length that its fields say")]
    Length {
        /// The record's kind.
        kind: u8,
    },
    /// A field holds what it cannot hold.
    #[error("a record of kind {kind} has a {field} that is none")]
    Field {
        /// The record's kind.
        kind: u8,
        /// What it should be.
        field: &'static str,
    },
}

/// The kinds, never used for anything else.
mod kind {
    pub(super) const STARTED: u8 = 1;
    pub(super) const TIME: u8 = 2;
    pub(super) const MESSAGE: u8 = 3;
    pub(super) const AGAIN: u8 = 4;
    pub(super) const OPENED: u8 = 5;
    pub(super) const EXPIRY: u8 = 6;
    pub(super) const CLOSED: u8 = 7;
    pub(super) const ENDED: u8 = 8;
    pub(super) const SUBSCRIBED: u8 = 9;
    pub(super) const UNSUBSCRIBED: u8 = 10;
    pub(super) const ENQUEUED: u8 = 11;
    pub(super) const SENT: u8 = 12;
    pub(super) const DROPPED: u8 = 13;
    pub(super) const ACKNOWLEDGED: u8 = 14;
    pub(super) const RELEASED: u8 = 15;
    pub(super) const RECEIVED: u8 = 16;
    pub(super) const COMPLETED: u8 = 17;
    pub(super) const WILL: u8 = 18;
    pub(super) const WILL_REMOVED: u8 = 19;
    pub(super) const RETAINED: u8 = 20;
    pub(super) const RETAINED_REMOVED: u8 = 21;
    pub(super) const HAND_ON: u8 = 22;
    pub(super) const HANDED_ON: u8 = 23;
    pub(super) const HANDLED: u8 = 24;
    pub(super) const GROUP_QUEUED: u8 = 25;
    pub(super) const GROUP_BEGUN: u8 = 26;
    pub(super) const GROUP_TAKEN: u8 = 28;
    pub(super) const PARKED: u8 = 29;
    pub(super) const TAKEN: u8 = 30;
    pub(super) const MOVED: u8 = 31;
}

/// The flags of a message and of a delivery.
mod flag {
    pub(super) const QOS: u8 = 0b0000_0011;
    pub(super) const RETAIN: u8 = 0b0000_0100;
    pub(super) const PROPERTIES: u8 = 0b0000_1000;
    pub(super) const EXPIRES: u8 = 0b0001_0000;
    pub(super) const PUBLISHER: u8 = 0b0010_0000;
    pub(super) const SHARED: u8 = 0b0100_0000;
    /// Of a delivery: it has a Packet Identifier.
    pub(super) const SENT: u8 = 0b0000_1000;
}
