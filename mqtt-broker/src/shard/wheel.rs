//! The timer wheel: one deadline each for things with small numbers, in milliseconds, eight levels of 64 slots.
//!
//! The timers of a slot are linked through a table by their number, so that setting, moving and cancelling one takes the
//! same few steps however many there are, and what is gone leaves nothing behind. A deadline that moves later with
//! every packet need not be moved each time: let the old timer fire, find the new deadline and set it again.

/// Slots a level, one bit each in a word.
const SLOTS: usize = 64;
/// 64^8 ms are 8,900 years: no clock gets there.
const LEVELS: usize = 8;

/// Milliseconds that a timer is set ahead at most, 24 days: of its time only the lower half is kept.
const AHEAD_MAX: u64 = u32::MAX as u64 / 2;

/// No timer.
const NONE: u32 = u32::MAX;
/// In `before`: the timer is the first of the slot whose number the other bits are.
const FIRST: u32 = 1 << 31;

/// Timers a chunk of the table.
const CHUNK: usize = 1024;

/// A timer wheel for the numbers below 2^31.
#[derive(Debug)]
pub(super) struct Wheel {
    now: u64,
    /// One bit for each slot that is not empty.
    used: [u64; LEVELS],
    /// The first timer of each slot.
    slots: Box<[u32]>,
    /// Timers by number, in chunks: growing moves none and doubles nothing.
    timers: Vec<Box<[Timer]>>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    /// The lower half of the time at which it fires.
    at: u32,
    /// The timer before it in its slot, `NONE` if it is not set.
    before: u32,
    /// The timer behind it.
    behind: u32,
}

const UNSET: Timer = Timer { at: 0, before: NONE, behind: NONE };

impl Wheel {
    pub(super) fn new(now: u64) -> Wheel {
        Wheel { now, used: [0; LEVELS], slots: vec![NONE; LEVELS * SLOTS].into(), timers: Vec::new() }
    }

    /// Sets the timer `number`, which may be set already, to fire once time has reached `deadline`; in 24 days at the
    /// latest.
    pub(super) fn set(&mut self, number: u32, deadline: u64) {
        debug_assert!(number < FIRST, "the bit is taken");
        while self.timers.len() <= number as usize / CHUNK {
            self.timers.push(vec![UNSET; CHUNK].into());
        }
        self.cancel(number);
        // A deadline in the past fires with the next tick.
        let at = deadline.clamp(self.now + 1, self.now + AHEAD_MAX);
        let slot = self.slot_of(at);
        let behind = core::mem::replace(&mut self.slots[slot], number);
        if behind != NONE {
            self.timer_mut(behind).before = number;
        }
        *self.timer_mut(number) = Timer { at: at as u32, before: FIRST | slot as u32, behind };
        self.used[slot / SLOTS] |= 1 << (slot % SLOTS);
    }

    /// Stops the timer `number`, if it is set.
    pub(super) fn cancel(&mut self, number: u32) {
        if !self.is_set(number) {
            return;
        }
        let Timer { before, behind, .. } = core::mem::replace(self.timer_mut(number), UNSET);
        if behind != NONE {
            self.timer_mut(behind).before = before;
        }
        if before & FIRST == 0 {
            self.timer_mut(before).behind = behind;
            return;
        }
        let slot = (before & !FIRST) as usize;
        self.slots[slot] = behind;
        if behind == NONE {
            self.used[slot / SLOTS] &= !(1 << (slot % SLOTS));
        }
    }

    /// Whether the timer `number` is set and has not fired.
    pub(super) fn is_set(&self, number: u32) -> bool {
        let chunk = self.timers.get(number as usize / CHUNK);
        chunk.is_some_and(|chunk| chunk[number as usize % CHUNK].before != NONE)
    }

    fn timer_mut(&mut self, number: u32) -> &mut Timer {
        &mut self.timers[number as usize / CHUNK][number as usize % CHUNK]
    }

    /// The slot of a time that lies ahead: its level is that of the highest digit in which it differs from now.
    fn slot_of(&self, at: u64) -> usize {
        let level = ((63 - ((self.now ^ at) | 1).leading_zeros()) / 6) as usize;
        level * SLOTS + (at >> (6 * level)) as usize % SLOTS
    }

    /// The time of the next call to [`Wheel::advance`] that can matter: not after the earliest deadline.
    pub(super) fn next(&self) -> Option<u64> {
        (0..LEVELS).find_map(|level| {
            let current = (self.now >> (6 * level)) as usize % SLOTS;
            // Slots of this level ahead of the current one; those behind belong to the next turn of a higher level.
            let ahead = self.used[level] & (u64::MAX << current) & !(1 << current);
            (ahead != 0).then(|| {
                let slot = u64::from(ahead.trailing_zeros());
                let base = self.now >> (6 * (level + 1)) << (6 * (level + 1));
                base | slot << (6 * level)
            })
        })
    }

    /// Moves time to `now` and appends what is due to `due`, earliest slot first. What is appended is no longer set.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<u32>) {
        while let Some(at) = self.next().filter(|&at| at <= now) {
            self.now = at;
            // Slots whose time begins now: highest level first, so that timers fall through to the lowest.
            for level in (0..LEVELS).rev() {
                if at & ((1 << (6 * level)) - 1) != 0 {
                    continue;
                }
                let digit = (at >> (6 * level)) as usize % SLOTS;
                if self.used[level] & 1 << digit == 0 {
                    continue;
                }
                self.used[level] &= !(1 << digit);
                let mut number = core::mem::replace(&mut self.slots[level * SLOTS + digit], NONE);
                while number != NONE {
                    let timer = core::mem::replace(self.timer_mut(number), UNSET);
                    match timer.at.wrapping_sub(at as u32) {
                        0 => due.push(number),
                        ahead => self.set(number, at + u64::from(ahead)),
                    }
                    number = timer.behind;
                }
            }
        }
        self.now = self.now.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Timers are set, moved and cancelled as time goes on; a map says what has to fire.
        #[test]
        fn timers_fire_once_and_never_early(
            start in prop_oneof![0u64..1 << 40, Just((1 << 36) - 100_000), Just((1 << 32) - 5)],
            steps in prop::collection::vec(
                (
                    prop::collection::vec(
                        (0u32..40, prop::option::weighted(
                            0.8,
                            prop_oneof![0u64..100, 0u64..100_000, 0u64..100_000_000, Just(AHEAD_MAX)],
                        )),
                        0..8,
                    ),
                    prop_oneof![1u64..10, 1u64..5_000, 1u64..1 << 26],
                ),
                1..60,
            ),
        ) {
            let mut wheel = Wheel::new(start);
            let (mut now, mut model) = (start, BTreeMap::new());
            for (changes, step) in steps {
                for (number, delay) in changes {
                    // Now and then a number of another chunk.
                    let number = number * 61;
                    match delay {
                        Some(delay) => {
                            wheel.set(number, now + delay);
                            model.insert(number, now + delay);
                        }
                        None => {
                            wheel.cancel(number);
                            model.remove(&number);
                        }
                    }
                    prop_assert_eq!(wheel.is_set(number), model.contains_key(&number));
                }
                now += step;
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                for number in due {
                    prop_assert!(model.remove(&number).is_some_and(|deadline| deadline <= now));
                    prop_assert!(!wheel.is_set(number));
                }
                prop_assert!(model.values().all(|&deadline| deadline > now), "none is late");
                match (wheel.next(), model.values().min()) {
                    (Some(next), Some(&earliest)) => prop_assert!(next > now && next <= earliest),
                    (next, earliest) => prop_assert_eq!(next.is_some(), earliest.is_some()),
                }
            }
        }
    }

    #[test]
    fn a_timer_that_comes_and_goes_leaves_nothing_behind() {
        let mut wheel = Wheel::new(0);
        for now in 0..10_000 {
            wheel.set(7, now + 90_000);
            wheel.cancel(7);
        }
        assert_eq!((wheel.next(), wheel.timers.len()), (None, 1));
        assert_eq!(size_of::<Timer>(), 12);
    }
}
