//! Whether a core that wakes up often sleeps on a little, so that one wake-up serves more than one message.
//!
//! Waking a thread costs several times what a small message does. A core that is woken many times a millisecond
//! therefore lets the next messages come, for a bounded time; but only as long as no fewer come because of that. Clients
//! that wait for an answer before they go on would be slowed down: so the core tries it for a moment, compares how much
//! comes with how much came just before, and leaves it if that is less, to try again ever more rarely. A core that
//! wakes up rarely never waits.

use std::time::Duration;

/// How long a message may wait for others.
pub(super) const GATHER: Duration = Duration::from_micros(200);

/// Times that a core falls asleep a millisecond, from which on it is said to wake up often.
const SLEEPS_MIN: u64 = 5;

/// Milliseconds of a trial, with or without.
const TRIAL: u64 = 16;

/// Milliseconds until the next trial after one that went well.
const ON: u64 = 250;

/// Milliseconds until the next trial after one that did not, doubled from the first to the second.
const OFF: (u64, u64) = (250, 8_000);

/// Of what came without, so much in a hundred has to come with.
const PERCENT_MIN: u64 = 80;

/// What one core does about its sleeps.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    phase: Phase,
    /// Monotonic milliseconds at which the phase began, and at which it is to be over.
    since: u64,
    until: u64,
    /// Sleeps and pieces of input since then.
    sleeps: u64,
    inputs: u64,
    /// Input a second in the trial without.
    without: u64,
    /// How long it is left off after the next trial that goes wrong.
    off: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// Not gathering, and counting what comes.
    #[default]
    Without,
    /// Gathering, to see what comes then.
    With,
    On,
    Off,
}

impl Gathering {
    /// The core is about to sleep, after a turn at `now` (monotonic milliseconds): whether to gather.
    pub(super) fn sleeps(&mut self, now: u64) -> bool {
        if now >= self.until {
            self.go_on(now);
        }
        self.sleeps += 1;
        matches!(self.phase, Phase::With | Phase::On)
    }

    /// The core woke up to so many pieces of input.
    pub(super) fn woke(&mut self, inputs: usize) {
        self.inputs += inputs as u64;
    }

    /// The phase is over.
    fn go_on(&mut self, now: u64) {
        let millis = (now - self.since).max(1);
        let rate = self.inputs * 1000 / millis;
        let (phase, time) = match self.phase {
            Phase::Without if self.sleeps >= SLEEPS_MIN * millis => {
                self.without = rate;
                (Phase::With, TRIAL)
            }
            Phase::With if rate * 100 >= self.without * PERCENT_MIN => {
                self.off = 0;
                (Phase::On, ON)
            }
            Phase::With => {
                self.off = (self.off * 2).clamp(OFF.0, OFF.1);
                (Phase::Off, self.off)
            }
            Phase::Without | Phase::On | Phase::Off => (Phase::Without, TRIAL),
        };
        (self.phase, self.since, self.until) = (phase, now, now + time);
        (self.sleeps, self.inputs) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What became of a core in some seconds of its life.
    #[derive(Debug, Default)]
    struct Seen {
        sleeps: u64,
        gathered: u64,
        inputs: u64,
    }

    /// A core that handles an input in 10 us. `next` says when the input after one that is handled at this time comes.
    fn live(seconds: u64, clients: usize, next: impl Fn(u64) -> u64) -> Seen {
        let mut gathering = Gathering::default();
        let mut seen = Seen::default();
        let mut due: Vec<u64> = (0..clients as u64).map(&next).collect();
        let mut now = 0;
        while now < seconds * 1_000_000 {
            let first = *due.iter().min().expect("a client");
            if first > now {
                seen.sleeps += 1;
                let gathers = gathering.sleeps(now / 1000);
                seen.gathered += u64::from(gathers);
                let from = now;
                now = first;
                if gathers {
                    now = now.max(from + GATHER.as_micros() as u64);
                }
            }
            let mut inputs = 0;
            let at = now;
            for client in due.iter_mut().filter(|due| **due <= at) {
                now += 10;
                inputs += 1;
                *client = next(now);
            }
            gathering.woke(inputs);
            seen.inputs += inputs as u64;
        }
        seen
    }

    #[test]
    fn a_core_that_wakes_up_rarely_never_waits() {
        let seen = live(2, 1, |now| now + 500);
        assert_eq!(seen.gathered, 0, "{seen:?}");
    }

    #[test]
    fn a_core_with_messages_from_everywhere_serves_several_at_a_wake_up() {
        // Each Client sends when its time has come, whatever the broker does.
        let seen = live(2, 50, |now| (now / 5_000 + 1) * 5_000 + now * 7_919 % 4_999);
        assert!(seen.inputs > 10_000 && seen.sleeps * 2 < seen.inputs, "{seen:?}");
    }

    #[test]
    fn clients_that_wait_for_each_answer_are_hardly_slowed_down() {
        for clients in [1, 2, 16] {
            let free = live(4, clients, |now| now + 60);
            let at_most = 4_000_000 * clients as u64 / (70 + 10 * (clients as u64 - 1));
            assert!(free.inputs * 100 > at_most * 95, "{clients} clients: {free:?} of {at_most}");
        }
    }
}
