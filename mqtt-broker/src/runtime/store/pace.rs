//! When a log is written: at once if somebody waits for a record, else once the records have waited for some time.
//!
//! Most records that nobody waits for come between others, and cost nothing but their bytes then. A page on the disk for
//! each would be several times what the messages themselves need.

/// Milliseconds that a record which nobody waits for waits for one that somebody does.
const LATER_MILLIS: u64 = 50;

/// Of one log.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When what waits is written though nobody waits for it.
    write_at: Option<u64>,
}

impl Pace {
    /// Whether to write now, in a turn that began at `now` (monotonic milliseconds): `last` is the last record of all,
    /// `awaited` the last that somebody waits for.
    pub(super) fn writes(&mut self, awaited: u64, committed: u64, last: u64, now: u64) -> bool {
        if last == committed {
            self.write_at = None;
            return false;
        }
        awaited > committed || *self.write_at.get_or_insert(now + LATER_MILLIS) <= now
    }

    /// When the answer changes by itself.
    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.write_at
    }

    /// All that waited was written, or as much as there is room for.
    pub(super) fn wrote(&mut self) {
        self.write_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_waits_for_is_written_at_once_and_the_rest_with_it() {
        let mut pace = Pace::default();
        assert!(!pace.writes(0, 0, 0, 1_000), "there is nothing");
        assert!(pace.writes(1, 0, 1, 1_000));
        assert!(pace.writes(5, 4, 9, 1_000));
        assert_eq!(pace.poll_timeout(), None);
    }

    #[test]
    fn what_nobody_waits_for_is_written_some_time_later() {
        let mut pace = Pace::default();
        assert!(!pace.writes(3, 3, 4, 1_000));
        assert!(!pace.writes(3, 3, 6, 1_020));
        // The first decides, however many follow.
        assert_eq!(pace.poll_timeout(), Some(1_050));
        assert!(!pace.writes(3, 3, 7, 1_049));
        assert!(pace.writes(3, 3, 7, 1_050));
        pace.wrote();
        assert_eq!(pace.poll_timeout(), None);
        assert!(!pace.writes(3, 7, 8, 1_060));
        assert_eq!(pace.poll_timeout(), Some(1_110));
        // Somebody came, and took it along.
        assert!(!pace.writes(9, 9, 9, 1_070));
        assert_eq!(pace.poll_timeout(), None);
    }
}
