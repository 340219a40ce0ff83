//! Bytes for a connection of which some belong to others too: large payloads travel by reference, whoever gets them.
//!
//! Invariant: no piece is empty, and a payload stands behind its own packet's head. Lives on: the connection's core.

use crate::message::Message;

/// Payloads from here on are shared where the message is kept anyway or goes to several: below, copying costs less than
/// one more piece to send.
pub(super) const SHARED_BYTES_MIN: usize = 4 * 1024;

/// Payloads that wait by reference for one connection; those behind them are copied. The kernel takes 1,024 pieces at
/// once, a head and a payload each.
const SHARED_MAX: usize = 500;

/// Bytes to be sent one behind the other: those of a buffer, and between them payloads that are shared.
#[derive(Debug, Default)]
pub struct Pieces {
    buffer: Vec<u8>,
    shared: Shared,
}

/// Payloads among the bytes of a buffer.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Each with the number of bytes of the buffer that come before it, ascending.
    payloads: Vec<(usize, Message)>,
    /// Of all payloads together.
    bytes: usize,
}

impl Shared {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether one more payload can be shared.
    pub(super) fn has_room(&self) -> bool {
        self.payloads.len() < SHARED_MAX
    }

    /// Puts the payload of `message` behind the first `at` bytes of the buffer.
    pub(super) fn push(&mut self, at: usize, message: Message) {
        debug_assert!(self.payloads.last().is_none_or(|&(before, _)| before < at));
        self.bytes += message.payload().len();
        self.payloads.push((at, message));
    }
}

impl Pieces {
    pub(super) fn new(buffer: Vec<u8>, shared: Shared) -> Pieces {
        Pieces { buffer, shared }
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.buffer.len() + self.shared.bytes
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in order; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut done = 0;
        let between = self.shared.payloads.iter().flat_map(move |(at, message)| {
            let own = &self.buffer[done..*at];
            done = *at;
            [own, message.payload()]
        });
        let last = self.shared.payloads.last().map_or(0, |&(at, _)| at);
        between.chain([&self.buffer[last..]]).filter(|piece| !piece.is_empty())
    }

    /// All bytes in one buffer, for a way that takes nothing else.
    pub fn into_vec(self) -> Vec<u8> {
        let mut whole = Vec::with_capacity(self.len());
        self.iter().for_each(|piece| whole.extend_from_slice(piece));
        whole
    }

    /// The buffer alone, to be given back once everything was sent.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

#[cfg(test)]
mod tests {
    use mqtt_proto::types::{Qos, TopicName};

    use super::*;
    use crate::message::MessageRef;

    fn message(payload: &[u8]) -> Message {
        let topic = TopicName::new("t").expect("a topic");
        let qos = Qos::AtMostOnce;
        MessageRef { topic, properties: &[], payload, qos, retain: false, expires_at: None }.to_message()
    }

    #[test]
    fn payloads_stand_where_they_were_put() {
        let mut shared = Shared::default();
        shared.push(2, message(b"first"));
        shared.push(3, message(b"second"));
        let pieces = Pieces::new(b"ab-end".to_vec(), shared);
        let list: Vec<&[u8]> = pieces.iter().collect();
        assert_eq!(list, [&b"ab"[..], b"first", b"-", b"second", b"end"]);
        assert_eq!(pieces.len(), 17);
        assert_eq!(pieces.into_vec(), b"abfirst-secondend");
    }

    #[test]
    fn nothing_follows_the_last_payload() {
        let mut shared = Shared::default();
        shared.push(2, message(b"payload"));
        let pieces = Pieces::new(b"ab".to_vec(), shared);
        assert_eq!(pieces.iter().count(), 2);
        assert_eq!(pieces.into_buffer(), b"ab");
        assert!(Pieces::default().is_empty() && Pieces::default().iter().next().is_none());
    }

    #[test]
    fn there_are_never_more_pieces_than_the_kernel_takes() {
        let mut shared = Shared::default();
        let message = message(b"p");
        while shared.has_room() {
            shared.push(shared.payloads.len() + 1, message.clone());
        }
        let pieces = Pieces::new(vec![0; SHARED_MAX + 1], shared);
        assert_eq!(pieces.iter().count(), 2 * SHARED_MAX + 1);
        assert!(pieces.iter().count() <= 1024);
    }
}
