//! Records that wait to be written, dealt into chains.
//!
//! Invariant: chains hold the records in order, without gaps, up to the last boundary; what one boundary ends is never in
//! two chains. A chain of several boundaries fits one commit and a segment, so that there are few and none is longer than it
//! must be: a chain is begun only if there is room for all of it.

use std::collections::VecDeque;

use super::format::{BODY_MAX, PAGE_BODY, put_record};

/// Room that is kept when nothing waits any more; a larger message gives back the rest.
const CAPACITY_KEPT: usize = 4 << 20;

/// Records that become durable together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// Places of its first byte and behind its last, counted from the start of the log's life.
    pub(super) start: u64,
    pub(super) end: u64,
    /// Its records.
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Chain {
    /// Pages that it takes at most, however it is cut into commits that fill their pages.
    pub(super) fn pages(&self) -> u64 {
        pages_for((self.end - self.start) as usize)
    }
}

/// Pages for so many bytes of records at most.
pub(super) fn pages_for(bytes: usize) -> u64 {
    bytes.div_ceil(PAGE_BODY) as u64
}

/// What waits.
#[derive(Debug)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    /// Bytes of a chain of several boundaries at most.
    chain_max: u64,
    /// The place of the first of them.
    base: u64,
    /// Where the oldest byte is that is still needed.
    taken: u64,
    /// Behind the last boundary.
    closed: u64,
    chains: VecDeque<Chain>,
    /// The number of the next record, and of the first behind the last boundary.
    next: u64,
    open_first: u64,
}

impl Pending {
    /// The first record gets the number `next`; chains are for segments that have room for `room` bytes in a commit.
    pub(super) fn new(next: u64, room: usize) -> Pending {
        Pending {
            bytes: Vec::new(),
            chain_max: room.min(BODY_MAX) as u64,
            base: 0,
            taken: 0,
            closed: 0,
            chains: VecDeque::new(),
            next,
            open_first: next,
        }
    }

    /// The number that the next record gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn append(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> u64 {
        put_record(&mut self.bytes, kind, fill);
        self.skip()
    }

    /// Counts a record that nobody will write.
    pub(super) fn skip(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// What was appended since the last boundary stays together; what comes may be written apart from it.
    pub(super) fn boundary(&mut self) {
        let end = self.base + self.bytes.len() as u64;
        if end == self.closed {
            return;
        }
        let last = self.next - 1;
        match self.chains.back_mut() {
            Some(chain) if end - chain.start <= self.chain_max => (chain.end, chain.last) = (end, last),
            _ => self.chains.push_back(Chain { start: self.closed, end, first: self.open_first, last }),
        }
        (self.closed, self.open_first) = (end, self.next);
    }

    /// The oldest chain.
    pub(super) fn front(&self) -> Option<Chain> {
        self.chains.front().copied()
    }

    /// Takes the oldest chain out: nothing is added to it any more. Its bytes stay until they are taken.
    pub(super) fn pop(&mut self) -> Option<Chain> {
        self.chains.pop_front()
    }

    /// So many bytes from the place where the oldest are. They are not needed any more once [`Pending::give_back`] is
    /// called.
    pub(super) fn take(&mut self, len: usize) -> &[u8] {
        let at = (self.taken - self.base) as usize;
        self.taken += len as u64;
        &self.bytes[at..at + len]
    }

    /// Gives up what was taken, once that is cheap: each byte is moved a bounded number of times.
    pub(super) fn give_back(&mut self) {
        let done = (self.taken - self.base) as usize;
        if done == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(CAPACITY_KEPT);
        } else if done > BODY_MAX && done > self.bytes.len() / 2 {
            self.bytes.drain(..done);
        } else {
            return;
        }
        self.base = self.taken;
    }

    /// Bytes that were not taken.
    pub(super) fn waiting(&self) -> u64 {
        self.base + self.bytes.len() as u64 - self.taken
    }

    /// Pages that all of it takes at most, chains that were taken out only in part included.
    pub(super) fn pages(&self) -> u64 {
        let begun = self.chains.front().map_or(self.closed, |chain| chain.start) - self.taken;
        let open = self.base + self.bytes.len() as u64 - self.closed;
        let whole: u64 = self.chains.iter().map(Chain::pages).sum();
        pages_for(begun as usize) + whole + pages_for(open as usize)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Pending::new(self.next, self.chain_max as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Turns append batches; between them some of what waits is taken, in pieces.
        #[test]
        fn chains_are_the_batches_in_order_and_no_batch_is_cut(
            turns in prop::collection::vec(
                (prop::collection::vec(1usize..900_000, 0..4), 0usize..5, 1usize..2_000_000), 1..12),
        ) {
            let mut pending = Pending::new(1, BODY_MAX);
            let (mut written, mut taken, mut ends) = (Vec::new(), Vec::new(), vec![0u64]);
            let mut current: Option<Chain> = None;
            for (batches, takes, most) in turns {
                for size in batches {
                    let before = written.len();
                    pending.append(7, |out| out.resize(out.len() + size, size as u8));
                    put_record(&mut written, 7, |out| out.resize(out.len() + size, size as u8));
                    prop_assert!(pending.pages() * PAGE_BODY as u64 >= (written.len() - before) as u64);
                    pending.boundary();
                    ends.push(written.len() as u64);
                }
                for _ in 0..takes {
                    if current.is_none() {
                        current = pending.pop();
                        if let Some(chain) = current {
                            prop_assert!(ends.contains(&chain.start) && ends.contains(&chain.end));
                            let batches = ends.iter().filter(|&&end| chain.start < end && end <= chain.end).count();
                            prop_assert_eq!(batches as u64, chain.last + 1 - chain.first);
                            prop_assert!(batches == 1 || chain.end - chain.start <= BODY_MAX as u64);
                        }
                    }
                    let Some(chain) = current else { break };
                    let len = most.min((chain.end - taken.len() as u64) as usize);
                    taken.extend_from_slice(pending.take(len));
                    pending.give_back();
                    if taken.len() as u64 == chain.end {
                        current = None;
                    }
                }
            }
            prop_assert!(written.starts_with(&taken));
        }
    }

    #[test]
    fn a_large_message_leaves_no_memory_behind() {
        let mut pending = Pending::new(1, BODY_MAX);
        pending.append(1, |out| out.resize(out.len() + (64 << 20), 1));
        pending.boundary();
        let chain = pending.pop().expect("there is one");
        for _ in 0..(chain.end - chain.start) / (1 << 20) {
            pending.take(1 << 20);
            pending.give_back();
        }
        pending.take((chain.end - pending.taken) as usize);
        pending.give_back();
        assert!(pending.bytes.is_empty() && pending.bytes.capacity() <= CAPACITY_KEPT);
        assert_eq!(pending.pages(), 0);
    }
}
