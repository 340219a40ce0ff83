//! Bytes for a connection of which some belong to others too: large payloads travel by reference, whoever gets them.
//!
//! Invariant: the shared pieces stand in the order in which they are sent, at most 500 of them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Shared pieces that wait for one connection. The kernel takes 1,024 pieces at once: these, and what is between them.
const SHARED_MAX: usize = 500;

/// Bytes to be sent one behind the other: those of a buffer, and between them some that are shared.
#[derive(Debug, Default)]
pub struct Pieces {
    buffer: Vec<u8>,
    shared: Shared,
}

/// Shared pieces among the bytes of a buffer.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    list: Vec<Piece>,
    /// Of all together.
    bytes: usize,
}

struct Piece {
    /// Bytes of the buffer that come before it.
    at: usize,
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece").field("at", &self.at).field("bytes", &self.range.len()).finish()
    }
}

impl Shared {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is room for one more.
    pub(crate) fn has_room(&self) -> bool {
        self.list.len() < SHARED_MAX
    }

    /// Takes out what is not among or directly behind the first `at` bytes of the buffer; what is taken counts from there.
    pub(crate) fn split_off(&mut self, at: usize) -> Option<Shared> {
        let place = self.list.partition_point(|piece| piece.at <= at);
        let mut list = self.list.split_off(place);
        list.iter_mut().for_each(|piece| piece.at -= at);
        let bytes = list.iter().map(|piece| piece.range.len()).sum();
        self.bytes -= bytes;
        (!list.is_empty()).then_some(Shared { list, bytes })
    }

    /// Puts some of `bytes` behind the first `at` bytes of the buffer, and behind those put there before.
    pub(crate) fn push(&mut self, at: usize, bytes: Arc<[u8]>, range: Range<usize>) {
        debug_assert!(self.has_room() && self.list.last().is_none_or(|before| before.at <= at));
        self.bytes += range.len();
        self.list.push(Piece { at, bytes, range });
    }
}

impl Pieces {
    pub(crate) fn new(buffer: Vec<u8>, shared: Shared) -> Pieces {
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

    /// The pieces in order, 1,001 at most; none is empty.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut done = 0;
        let between = self.shared.list.iter().flat_map(move |piece| {
            let own = &self.buffer[done..piece.at];
            done = piece.at;
            [own, &piece.bytes[piece.range.clone()]]
        });
        let last = self.shared.list.last().map_or(0, |piece| piece.at);
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
    use super::*;

    #[test]
    fn shared_pieces_stand_where_they_were_put() {
        let mut shared = Shared::default();
        shared.push(2, b"first".as_slice().into(), 0..5);
        shared.push(3, b"the second".as_slice().into(), 4..10);
        shared.push(3, b"third".as_slice().into(), 0..5);
        let pieces = Pieces::new(b"ab-end".to_vec(), shared);
        let list: Vec<&[u8]> = pieces.iter().collect();
        assert_eq!(list, [&b"ab"[..], b"first", b"-", b"second", b"third", b"end"]);
        assert_eq!(pieces.len(), 22);
        assert_eq!(pieces.into_vec(), b"abfirst-secondthirdend");
    }

    #[test]
    fn nothing_follows_the_last_shared_piece() {
        let mut shared = Shared::default();
        shared.push(2, b"payload".as_slice().into(), 0..7);
        let pieces = Pieces::new(b"ab".to_vec(), shared);
        assert_eq!(pieces.iter().count(), 2);
        assert_eq!(pieces.into_buffer(), b"ab");
        assert!(Pieces::default().is_empty() && Pieces::default().iter().next().is_none());
    }

    #[test]
    fn what_is_cut_off_begins_behind_the_pieces_that_stay() {
        let shared = || {
            let mut shared = Shared::default();
            shared.push(2, b"first".as_slice().into(), 0..5);
            shared.push(3, b"second".as_slice().into(), 0..6);
            shared
        };
        for (at, front, behind) in
            [(1, "a", "bfirst-secondend"), (2, "abfirst", "-secondend"), (6, "abfirst-secondend", "")]
        {
            let (mut kept, mut buffer) = (shared(), b"ab-end".to_vec());
            let cut = kept.split_off(at).unwrap_or_default();
            let rest = buffer.split_off(at);
            let (kept, cut) = (Pieces::new(buffer, kept), Pieces::new(rest, cut));
            assert_eq!((kept.len(), cut.len()), (front.len(), behind.len()));
            assert_eq!((kept.into_vec(), cut.into_vec()), (front.into(), behind.into()));
        }
    }

    #[test]
    fn there_are_never_more_pieces_than_the_kernel_takes() {
        let mut shared = Shared::default();
        let bytes: Arc<[u8]> = b"p".as_slice().into();
        while shared.has_room() {
            shared.push(shared.list.len() + 1, bytes.clone(), 0..1);
        }
        let pieces = Pieces::new(vec![0; SHARED_MAX + 1], shared);
        assert_eq!(pieces.iter().count(), 2 * SHARED_MAX + 1);
        assert!(pieces.iter().count() <= 1024);
    }
}
