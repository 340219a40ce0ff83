//! Output that waits for the store: what was written behind a record leaves once that record is committed.
//!
//! A connection's output has a mark where the first byte lies that waits, and a second one where what was written since
//! the last commit begins; so what waits for one commit does not wait for the next, and a connection costs the same
//! however much is held back. Bytes before the first mark leave at any time.
//!
//! Invariant: a connection has an entry exactly while its output says that it is gated; marks lie in the order of their
//! bytes and of their positions.

use ahash::RandomState;
use hashbrown::HashMap;

use super::connection::Output;
use super::table::Key;
use crate::ports::Commit;

/// A place in the output's buffer.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Bytes of the buffer before it.
    at: usize,
    /// What is behind it waits for this position.
    position: u64,
}

/// What of a connection's output waits.
#[derive(Clone, Copy, Debug)]
struct Gate {
    first: Mark,
    second: Option<Mark>,
    /// How many commits there had been when the last mark was made.
    commits: u64,
    /// What waits first is the CONNACK.
    holds_connack: bool,
}

/// The gates of one core.
pub(super) struct Gates {
    by_connection: HashMap<Key, Gate, RandomState>,
    committed: u64,
    commits: u64,
}

impl Gates {
    pub(super) fn new(hasher: RandomState) -> Gates {
        Gates { by_connection: HashMap::with_hasher(hasher), committed: 0, commits: 0 }
    }

    /// Up to where the store has committed.
    pub(super) fn committed(&self) -> u64 {
        self.committed
    }

    /// What is appended to `output` from now on waits for `commit`.
    #[inline]
    pub(super) fn close(&mut self, key: Key, output: &mut Output, commit: Commit) {
        if let Commit::At(position) = commit
            && position > self.committed
        {
            self.mark(key, output, position);
        }
    }

    fn mark(&mut self, key: Key, output: &mut Output, position: u64) {
        let mark = Mark { at: output.buffer.len(), position };
        let commits = self.commits;
        output.gated = true;
        let gate = self.by_connection.entry(key).or_insert(Gate {
            first: mark,
            second: None,
            commits,
            holds_connack: false,
        });
        match &mut gate.second {
            Some(second) => second.position = position,
            None if gate.commits == commits => gate.first.position = position,
            second => *second = Some(mark),
        }
        gate.commits = commits;
    }

    /// Bytes of the buffer of a gated connection that may leave.
    pub(super) fn free(&self, key: Key) -> usize {
        self.by_connection.get(&key).map_or(usize::MAX, |gate| gate.first.at)
    }

    /// What comes first behind the gate of this connection, if that is closed, is its CONNACK.
    pub(super) fn note_connack(&mut self, key: Key) {
        if let Some(gate) = self.by_connection.get_mut(&key) {
            gate.holds_connack = true;
        }
    }

    /// Whether its CONNACK waits.
    pub(super) fn holds_connack(&self, key: Key) -> bool {
        self.by_connection.get(&key).is_some_and(|gate| gate.holds_connack)
    }

    /// So many bytes have left the buffer's front.
    pub(super) fn taken(&mut self, key: Key, bytes: usize) {
        if let Some(gate) = self.by_connection.get_mut(&key) {
            gate.first.at -= bytes;
            if let Some(second) = &mut gate.second {
                second.at -= bytes;
            }
        }
    }

    /// The connection is gone.
    pub(super) fn forget(&mut self, key: Key) {
        self.by_connection.remove(&key);
    }

    /// The store has committed up to `position`; `opened` is told the connections of which more may leave, and whether
    /// that is all there is.
    pub(super) fn commit(&mut self, position: u64, mut opened: impl FnMut(Key, bool)) {
        self.committed = self.committed.max(position);
        self.commits += 1;
        let committed = self.committed;
        self.by_connection.retain(|&key, gate| {
            if gate.first.position > committed {
                return true;
            }
            let left = gate.second.take().filter(|second| second.position > committed);
            opened(key, left.is_none());
            gate.holds_connack = false;
            if let Some(second) = left {
                gate.first = second;
            }
            left.is_some()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { index: 1, generation: 2 };

    fn gates() -> Gates {
        Gates::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn write(gates: &mut Gates, output: &mut Output, position: u64) {
        gates.close(KEY, output, Commit::At(position));
        output.buffer.extend_from_slice(&[0; 10]);
    }

    fn opened(gates: &mut Gates, position: u64) -> Vec<(Key, bool)> {
        let mut opened = Vec::new();
        gates.commit(position, |key, all| opened.push((key, all)));
        opened
    }

    #[test]
    fn what_waits_for_one_commit_does_not_wait_for_the_next() {
        let (mut gates, mut output) = (gates(), Output::default());
        output.buffer.extend_from_slice(&[0; 5]);
        write(&mut gates, &mut output, 1);
        write(&mut gates, &mut output, 2);
        assert!(output.gated);
        assert_eq!(gates.free(KEY), 5);
        // A write that takes both begins; a third record and a fourth wait for the one behind it.
        assert_eq!(opened(&mut gates, 0), []);
        write(&mut gates, &mut output, 3);
        write(&mut gates, &mut output, 4);
        assert_eq!(opened(&mut gates, 2), [(KEY, false)]);
        assert_eq!(gates.free(KEY), 25);
        gates.taken(KEY, 25);
        assert_eq!(gates.free(KEY), 0);
        assert_eq!(opened(&mut gates, 3), [], "what came together leaves together");
        assert_eq!(opened(&mut gates, 4), [(KEY, true)]);
        assert_eq!(gates.free(KEY), usize::MAX);
    }

    #[test]
    fn what_is_committed_closes_nothing() {
        let (mut gates, mut output) = (gates(), Output::default());
        assert_eq!(opened(&mut gates, 7), []);
        write(&mut gates, &mut output, 7);
        gates.close(KEY, &mut output, Commit::Now);
        assert!(!output.gated && gates.by_connection.is_empty());
        write(&mut gates, &mut output, 8);
        gates.forget(KEY);
        assert!(gates.by_connection.is_empty());
    }
}
