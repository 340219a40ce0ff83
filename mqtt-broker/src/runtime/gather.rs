//! Whether a core that wakes up often sleeps on a little, so that one wake-up serves more than one message.
//!
//! Waking a thread costs several times what a small message does. A core that is woken for one message at a time, many
//! times a millisecond, therefore lets the next ones come, for a bounded time: but only as long as there are others. One
//! Client that waits for each answer before it goes on would only be slowed down, which shows when nothing else came, and
//! then it is tried again ever more rarely. A core that wakes up rarely never waits.

use std::time::Duration;

/// How long a message may wait for others.
pub(super) const GATHER: Duration = Duration::from_micros(200);

/// Times that a core falls asleep within a millisecond, from which on it is said to wake up often.
const SLEEPS_MIN: u32 = 3;

/// Sleeps without another attempt after one that brought nothing: doubled each time, up to this.
const PAUSE_MAX: u32 = 1024;

/// What one core has seen of its sleeps.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    millis: u64,
    /// Sleeps in this millisecond.
    sleeps: u32,
    /// Whether there were many in the one before.
    often: bool,
    /// Whether the last sleep was to gather.
    gathered: bool,
    /// Sleeps until the next attempt.
    skip: u32,
    pause: u32,
}

impl Gathering {
    /// The core is about to sleep, after a turn at `now` (monotonic milliseconds): whether to gather.
    pub(super) fn sleeps(&mut self, now: u64) -> bool {
        if now != self.millis {
            self.often = now == self.millis + 1 && self.sleeps >= SLEEPS_MIN;
            (self.millis, self.sleeps) = (now, 0);
        }
        self.sleeps += 1;
        self.gathered = self.often && self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        self.gathered
    }

    /// What woke the core, or came while it gathered: so many pieces of input.
    pub(super) fn woke(&mut self, inputs: usize) {
        if !std::mem::take(&mut self.gathered) {
            return;
        }
        match inputs {
            // Our own sending was all there was to wait for.
            0 => {}
            1 => {
                self.pause = (self.pause * 2).clamp(8, PAUSE_MAX);
                self.skip = self.pause;
            }
            _ => self.pause = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A core that is woken each `micros` while it does not gather, by `clients` that each wait for their answer: how
    /// many of the sleeps of a second gather.
    fn gathered(micros: u64, clients: usize) -> (usize, usize) {
        let mut gathering = Gathering::default();
        let (mut now, mut sleeps, mut count) = (0, 0, 0);
        while now < 1_000_000 {
            sleeps += 1;
            if gathering.sleeps(now / 1000) {
                count += 1;
                let gather = GATHER.as_micros() as u64;
                now += gather;
                gathering.woke(clients.min((gather / micros) as usize + 1));
            } else {
                now += micros;
                gathering.woke(1);
            }
        }
        (count, sleeps)
    }

    #[test]
    fn a_core_that_wakes_up_rarely_never_waits() {
        assert_eq!(gathered(500, 100).0, 0);
    }

    #[test]
    fn a_core_with_many_messages_serves_several_at_a_wake_up() {
        let (gathered, sleeps) = gathered(50, 100);
        assert!(gathered * 10 > sleeps * 9, "{gathered} of {sleeps}");
    }

    #[test]
    fn one_client_that_waits_for_each_answer_is_hardly_slowed_down() {
        let (gathered, sleeps) = gathered(40, 1);
        assert!(gathered * 200 < sleeps, "{gathered} of {sleeps}");
    }
}
