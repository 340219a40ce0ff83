//! Where a session's Client is, in one word: with a connection the session needs no end, and without one it has no
//! connection.

use core::fmt;

use super::table::Key;

/// The connection of a session's Client or, while it is away, the time at which the session ends; whether the store knows
/// of the session, and whether messages wait for it outside memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Whereabouts(u64);

/// The Client is away; the bits below are those of the time.
const AWAY: u64 = 1 << 63;
/// The store knows of the session.
const RECORDED: u64 = 1 << 62;
/// Messages wait outside memory.
const COLD: u64 = 1 << 61;
/// The Client has left since the queues of those who are away were looked at.
const LEFT: u64 = 1 << 60;
/// In the place of a time: the session does not end by itself.
const NEVER: u64 = LEFT - 1;
/// What stays whoever comes and goes.
const STAYS: u64 = RECORDED | COLD;

impl Whereabouts {
    /// Nowhere, for no time that is set; the store does not know of it.
    pub(super) const NEW: Whereabouts = Whereabouts(AWAY | NEVER);

    /// The connection of the Client, while it is there.
    #[inline]
    pub(super) fn connection(self) -> Option<Key> {
        let index = (self.0 & NEVER) >> 32;
        (self.0 & AWAY == 0).then_some(Key { index: index as u32, generation: self.0 as u32 })
    }

    /// The Client is there.
    pub(super) fn arrived(&mut self, connection: Key) {
        debug_assert!(connection.index < 1 << 28, "there are not so many connections");
        self.0 = self.0 & STAYS | u64::from(connection.index) << 32 | u64::from(connection.generation);
    }

    /// The Client is away, and the session ends at this time in monotonic milliseconds; `None`: not by itself.
    pub(super) fn left(&mut self, ends_at: Option<u64>) {
        self.0 = self.0 & STAYS | AWAY | LEFT | ends_at.map_or(NEVER, |at| at.min(NEVER - 1));
    }

    /// Whether the Client has left since this was asked last.
    pub(super) fn take_left(&mut self) -> bool {
        let has_left = self.0 & AWAY != 0 && self.0 & LEFT != 0;
        if has_left {
            self.0 &= !LEFT;
        }
        has_left
    }

    /// When the session ends, in monotonic milliseconds, unless its Client is there before that.
    pub(super) fn ends_at(self) -> Option<u64> {
        Some(self.0 & NEVER).filter(|&at| self.0 & AWAY != 0 && at != NEVER)
    }

    /// Whether the store knows of the session.
    pub(super) fn is_recorded(self) -> bool {
        self.0 & RECORDED != 0
    }

    /// Whether messages wait outside memory.
    #[inline]
    pub(super) fn is_cold(self) -> bool {
        self.0 & COLD != 0
    }

    pub(super) fn set_cold(&mut self, is_cold: bool) {
        self.0 = self.0 & !COLD | if is_cold { COLD } else { 0 };
    }

    /// The store knows of it from now on.
    pub(super) fn record(&mut self) {
        self.0 |= RECORDED;
    }
}

impl fmt::Debug for Whereabouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut told = f.debug_struct("Whereabouts");
        match self.connection() {
            Some(connection) => told.field("connection", &connection),
            None => told.field("ends_at", &self.ends_at()),
        };
        told.field("recorded", &self.is_recorded()).field("cold", &self.is_cold()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_is_kept_whatever_the_others_are() {
        let mut all = Whereabouts::NEW;
        for is_recorded in [false, true] {
            for (index, generation) in [(0, 0), (7, u32::MAX), ((1 << 28) - 1, 1)] {
                let key = Key { index, generation };
                all.arrived(key);
                assert_eq!((all.connection(), all.ends_at()), (Some(key), None));
                assert_eq!(all.is_recorded(), is_recorded);
                for ends_at in [None, Some(0), Some(1 << 40)] {
                    all.left(ends_at);
                    assert_eq!((all.connection(), all.ends_at()), (None, ends_at));
                    assert_eq!(all.is_recorded(), is_recorded);
                    all.set_cold(!all.is_cold());
                    assert_eq!((all.connection(), all.ends_at()), (None, ends_at));
                    assert!(all.take_left() && !all.take_left());
                    assert_eq!((all.connection(), all.ends_at()), (None, ends_at));
                }
            }
            all.record();
        }
        all.left(Some(u64::MAX));
        assert_eq!(all.ends_at(), Some(NEVER - 1));
    }
}
