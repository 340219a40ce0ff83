//! The tool's clock and its random numbers.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time since the tool began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// The same moment for everybody else, since 1970.
    start_unix: Duration,
}

impl Clock {
    /// A clock that begins at 0.
    #[expect(clippy::disallowed_methods, reason = "this is the one place where the tool reads the time")]
    pub(crate) fn start() -> Clock {
        let start_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { start: Instant::now(), start_unix }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The moment `elapsed` after the start, in seconds since 1970.
    pub(crate) fn unix_seconds(&self, elapsed: Duration) -> f64 {
        (self.start_unix + elapsed).as_secs_f64()
    }

    /// Nanoseconds since the start.
    pub(crate) fn ns(&self) -> u64 {
        self.elapsed().as_nanos() as u64
    }

    /// Milliseconds since the start.
    pub(crate) fn ms(&self) -> u64 {
        self.elapsed().as_millis() as u64
    }
}

/// Random numbers that a seed repeats (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`, which is not 0.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number from `low` up to but not including `high`.
    pub(crate) const fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }
}
