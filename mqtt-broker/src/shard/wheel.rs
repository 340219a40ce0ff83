//! The timer wheel: deadlines in milliseconds, eight levels of 64 slots.
//!
//! There is no cancelling: who sets a timer notes its deadline, and ignores a timer that fires with another one. A
//! deadline that moves later needs no work either: the old timer fires, finds the new deadline and is set again.

/// Slots a level, one bit each in a word.
const SLOTS: usize = 64;
/// 64^8 ms are 8,900 years: no deadline lies beyond.
const LEVELS: usize = 8;

/// A timer wheel with entries `K`.
#[derive(Debug)]
pub(super) struct Wheel<K> {
    now: u64,
    /// One bit for each slot that is not empty.
    used: [u64; LEVELS],
    slots: Vec<Vec<(u64, K)>>,
    #[cfg(test)]
    len: usize,
}

impl<K: Copy> Wheel<K> {
    pub(super) fn new(now: u64) -> Wheel<K> {
        Wheel {
            now,
            used: [0; LEVELS],
            slots: (0..LEVELS * SLOTS).map(|_| Vec::new()).collect(),
            #[cfg(test)]
            len: 0,
        }
    }

    /// Sets a timer that fires once time has reached `deadline`.
    pub(super) fn set(&mut self, deadline: u64, key: K) {
        #[cfg(test)]
        {
            self.len += 1;
        }
        self.place(deadline, key);
    }

    fn place(&mut self, deadline: u64, key: K) {
        // A deadline in the past fires with the next tick; one beyond the horizon waits at the horizon.
        let at = deadline.max(self.now + 1).min(self.now | ((1 << (6 * LEVELS)) - 1));
        let level = ((63 - ((self.now ^ at) | 1).leading_zeros()) / 6) as usize;
        let slot = (at >> (6 * level)) as usize % SLOTS;
        self.used[level] |= 1 << slot;
        self.slots[level * SLOTS + slot].push((deadline, key));
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

    /// Moves time to `now` and appends what is due to `due`, earliest slot first.
    pub(super) fn advance(&mut self, now: u64, due: &mut Vec<(u64, K)>) {
        while let Some(at) = self.next().filter(|&at| at <= now) {
            self.now = at;
            // Slots whose time begins now: highest level first, so that entries fall through to the lowest.
            for level in (0..LEVELS).rev() {
                if at & ((1 << (6 * level)) - 1) != 0 {
                    continue;
                }
                let slot = (at >> (6 * level)) as usize % SLOTS;
                if self.used[level] & 1 << slot == 0 {
                    continue;
                }
                self.used[level] &= !(1 << slot);
                let mut entries = core::mem::take(&mut self.slots[level * SLOTS + slot]);
                for (deadline, key) in entries.drain(..) {
                    if deadline <= at {
                        #[cfg(test)]
                        {
                            self.len -= 1;
                        }
                        due.push((deadline, key));
                    } else {
                        self.place(deadline, key);
                    }
                }
                let place = &mut self.slots[level * SLOTS + slot];
                if place.is_empty() && entries.capacity() <= 64 {
                    *place = entries;
                }
            }
        }
        self.now = self.now.max(now);
    }

    /// Timers set and not fired.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn timers_fire_once_and_never_early(
            start in 0u64..1 << 40,
            delays in prop::collection::vec(prop_oneof![0u64..100, 0u64..100_000, 0u64..1 << 42], 1..60),
            steps in prop::collection::vec(prop_oneof![1u64..10, 1u64..5_000, 1u64..1 << 41], 1..40),
        ) {
            let mut wheel = Wheel::new(start);
            for (key, delay) in delays.iter().enumerate() {
                wheel.set(start + delay, key);
            }
            let (mut now, mut fired) = (start, Vec::new());
            for step in steps {
                now += step;
                let mut due = Vec::new();
                wheel.advance(now, &mut due);
                for (deadline, key) in due {
                    prop_assert_eq!(deadline, start + delays[key]);
                    prop_assert!(deadline <= now);
                    fired.push(key);
                }
                let left = delays.iter().enumerate().filter(|&(key, delay)| !fired.contains(&key) && start + delay <= now);
                prop_assert_eq!(left.count(), 0);
                if let Some(next) = wheel.next() {
                    prop_assert!(next > now);
                    let earliest = (0..delays.len()).filter(|key| !fired.contains(key)).map(|key| start + delays[key]).min();
                    prop_assert!(next <= earliest.expect("one is left"));
                }
                prop_assert_eq!(wheel.len() + fired.len(), delays.len());
            }
        }
    }
}
