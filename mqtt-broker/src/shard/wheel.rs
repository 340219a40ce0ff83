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

/// Timers that are looked at in one call: a fraction of a millisecond, also if each of those that are due ends a session.
const LOOKS_MAX: usize = 256;

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
    /// The slot whose time has begun, while not all of its timers were looked at.
    begun: Option<usize>,
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
        let slots = vec![NONE; LEVELS * SLOTS].into();
        Wheel { now, used: [0; LEVELS], slots, timers: Vec::new(), begun: None }
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
        if self.begun.is_some_and(|slot| self.slots[slot] != NONE) {
            return Some(self.now);
        }
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

    /// Moves time towards `now` and appends what is due to `due`, earliest slot first. What is appended is no longer set.
    ///
    /// Time stops where so many timers have been looked at that it would take long: [`Wheel::next`] is not ahead then.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<u32>) {
        let mut looks = LOOKS_MAX;
        loop {
            if let Some(slot) = self.begun {
                looks = self.empty(slot, looks, due);
                if self.slots[slot] != NONE {
                    return;
                }
                self.begun = None;
            }
            let Some(at) = self.next().filter(|&at| at <= now) else { break };
            self.now = at;
            // Of the slots whose time begins now that of the highest level alone has timers: what differs from the time
            // before in a higher digit was set there.
            let level = (at.trailing_zeros() as usize / 6).min(LEVELS - 1);
            self.begun = Some(level * SLOTS + (at >> (6 * level)) as usize % SLOTS);
        }
        self.now = self.now.max(now);
    }

    /// Looks at so many timers of a slot whose time has begun: those that are not due fall to a lower level. How many more it
    /// could have looked at.
    fn empty(&mut self, slot: usize, looks_max: usize, due: &mut Vec<u32>) -> usize {
        for looks in (0..looks_max).rev() {
            let number = self.slots[slot];
            if number == NONE {
                return looks + 1;
            }
            let at = self.timers[number as usize / CHUNK][number as usize % CHUNK].at;
            self.cancel(number);
            match at.wrapping_sub(self.now as u32) {
                0 => due.push(number),
                ahead => self.set(number, self.now + u64::from(ahead)),
            }
        }
        0
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
                while wheel.next().is_some_and(|at| at <= now) {
                    wheel.advance(now, &mut due);
                }
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

    /// However many timers are due at one time, or fall to a lower level, one call takes few of them.
    #[test]
    fn many_timers_of_one_time_are_taken_in_parts() {
        const COUNT: u32 = 20_000;
        for deadline in [63, 5_000, 4096 * 64, 4096 * 64 + 1] {
            let mut wheel = Wheel::new(0);
            (0..COUNT).for_each(|number| wheel.set(number, deadline));
            let (mut fired, mut due, mut calls) = (vec![false; COUNT as usize], Vec::new(), 0);
            while wheel.next().is_some_and(|at| at <= deadline) {
                wheel.advance(deadline, &mut due);
                assert!(due.len() <= LOOKS_MAX);
                for number in due.drain(..) {
                    assert!(!std::mem::replace(&mut fired[number as usize], true), "{number} twice");
                }
                calls += 1;
                // One that is cancelled or moved in between does not fire.
                if calls == 3 {
                    wheel.cancel(7);
                    wheel.set(8, deadline + 1000);
                }
            }
            assert!(calls >= COUNT as usize / LOOKS_MAX);
            assert_eq!(fired.iter().filter(|fired| !**fired).count(), 2, "at {deadline}");
            assert_eq!(wheel.next().is_some(), wheel.is_set(8));
            assert!(!fired[7] && !fired[8]);
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
