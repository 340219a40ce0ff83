//! What cores tell each other, and the batch it travels in; its bytes are in `coding`.
//!
//! A batch is one contiguous buffer of encoded envelopes, so that a lane moves one allocation however many messages
//! it carries. Messages above 2 KiB travel beside it by reference. Batches of one core pair arrive in order.

mod coding;

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{Qos, TopicFilter, Version};

pub(super) use self::coding::{Envelopes, Writer};
use crate::message::{Message, MessageRef};

/// All that one core tells another in one turn.
#[derive(Debug, Default)]
pub struct EnvelopeBatch {
    pub(super) bytes: Vec<u8>,
    pub(super) large: Vec<Message>,
    /// Sequence number of the last envelope: the sender's count of envelopes on this lane.
    pub(super) last: u64,
    /// Up to where the sender has handled the receiver's envelopes, and the sum of their bytes.
    pub(super) handled: u64,
    pub(super) handled_bytes: u64,
    /// Up to where what the receiver sent is also committed to the sender's store.
    pub(super) committed: u64,
    /// Whether somebody waits for `handled` or `committed` in the other direction.
    pub(super) answer_wanted: bool,
}

impl EnvelopeBatch {
    /// Whether it brings nothing but acknowledgements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the envelopes it carries, those that travel by reference included.
    pub fn cost(&self) -> usize {
        self.bytes.len() + self.large.iter().map(Message::cost).sum::<usize>()
    }

    pub(super) fn envelopes(&self) -> Envelopes<'_> {
        Envelopes::new(&self.bytes, &self.large)
    }
}

/// Names a shared group at its owner core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupRef {
    pub(super) owner: u16,
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Names a message of a shared group at the group's owner core, for as long as a member has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct OfGroup {
    pub(super) group: GroupRef,
    /// Its place in the group.
    pub(super) number: u64,
    /// Whether the owner's store has it under this number.
    pub(super) is_kept: bool,
}

/// Names a session on its home core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionRef {
    pub(super) core: u16,
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Packets in a row that may be published and have not been delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) count: u32,
    /// Length of the longest.
    pub(super) longest: u32,
}

/// What one core tells another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Envelope<'a> {
    /// Deliver to your subscribers, retain if you are the topic's home and the message says so. `publisher` is what
    /// shared groups choose a member by that go by Client.
    Publish { message: MessageRef<'a>, deliver: bool, retain: bool, publisher: u32 },
    /// The same of a message that the sender keeps until the receiver has committed it: take it unless that was done before.
    HandOn { number: u64, message: MessageRef<'a>, deliver: bool, retain: bool, publisher: u32 },
    /// All that the sender was restored with is known everywhere.
    Restored,
    /// Deliver these, which came in a row from a Client of this version.
    Run { batch: Batch<'a>, version: Version, publisher: u32 },
    /// The sending core has its first subscription to this filter, or has lost its last one.
    Interest { filter: TopicFilter<'a>, add: bool },
    /// A session of the sending core that outlives a crash has subscribed to this filter, of which the receiver knows.
    Kept { filter: TopicFilter<'a> },
    /// Answer when you have handled this.
    Barrier { token: u64 },
    /// All before [`Envelope::Barrier`] is handled; `sent` says how far the sender's lanes to each core had got.
    BarrierDone { token: u64, sent: Numbers<'a> },
    /// Send the retained messages that match, behind topic `after`, once you have handled each core's lane up to
    /// `until`.
    Gather { token: u64, filter: TopicFilter<'a>, after: &'a str, until: Numbers<'a> },
    /// The answer: `count` messages follow as [`Envelope::Retained`]; a further request goes on behind `position`.
    Slice { token: u64, count: u32, position: &'a str, done: bool },
    /// A retained message of the slice announced just before.
    Retained { message: MessageRef<'a> },
    /// A session subscribes to a shared group that the receiver owns; answered by [`Envelope::GroupJoined`].
    GroupJoin {
        token: u64,
        share: &'a str,
        filter: TopicFilter<'a>,
        member: SessionRef,
        options: SubscriptionOptions,
        identifier: u32,
        credit: u16,
        /// Whether the session outlives its connection.
        persistent: bool,
    },
    /// The group is `group`, and every core knows its interest.
    GroupJoined { token: u64, group: GroupRef },
    /// A member ends its subscription.
    GroupLeave { group: GroupRef, member: SessionRef },
    /// A member can take `credit` messages and outlives its connection or not; 0: its Client is away.
    GroupOnline { group: GroupRef, member: SessionRef, credit: u16, persistent: bool },
    /// A member has finished with a message.
    GroupCredit { message: OfGroup, member: SessionRef },
    /// The same of one that it had begun, which the sender remembers until the receiver has committed that.
    GroupDone { message: OfGroup, member: SessionRef },
    /// A message of the group for a member of the receiver.
    GroupDeliver {
        of: OfGroup,
        member: SessionRef,
        qos: Qos,
        retain: bool,
        identifier: u32,
        message: MessageRef<'a>,
    },
    /// The member cannot take it: give it to another.
    GroupReturn { of: OfGroup, message: MessageRef<'a> },
    /// How full the sender is.
    Load { load: Load },
    /// The sender's counters, for the totals of the `$SYS` tree.
    Stats { counters: Numbers<'a> },
}

/// How full a core is; each core adds up what it was told last, which bounds the whole broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Load {
    pub(super) connections: u64,
    pub(super) sessions: u64,
    pub(super) retained_messages: u64,
    pub(super) retained_bytes: u64,
    pub(super) queued_bytes: u64,
    /// 1 if its store has no room for ordinary records, else 0.
    pub(super) storage_full: u64,
}

/// A list of numbers inside an encoded batch.
#[derive(Clone, Copy)]
pub(super) enum Numbers<'a> {
    List(&'a [u64]),
    Encoded(&'a [u8]),
}

impl<'a> Numbers<'a> {
    pub(super) fn iter(self) -> impl Iterator<Item = u64> + 'a {
        let (list, encoded) = match self {
            Numbers::List(list) => (list, &[][..]),
            Numbers::Encoded(bytes) => (&[][..], bytes),
        };
        let encoded =
            encoded.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
        list.iter().copied().chain(encoded)
    }

    fn len(self) -> usize {
        match self {
            Numbers::List(list) => list.len(),
            Numbers::Encoded(bytes) => bytes.len() / 8,
        }
    }
}

impl core::fmt::Debug for Numbers<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
