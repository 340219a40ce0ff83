//! Pseudo-random numbers (SplitMix64) from a seed and a purpose, so that what one part of a run draws does not shift
//! what another part draws: a schedule can lose steps and the rest still meets the same network.

#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream for `purpose` of a run.
    pub(crate) fn new(seed: u64, purpose: &[u64]) -> Random {
        let start = Random(seed);
        purpose.iter().fold(start, |state, &part| {
            let mut mixed = Random(state.0 ^ part.wrapping_mul(0xD6E8_FEB8_6659_FD93));
            Random(mixed.next())
        })
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `end`; 0 if that is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        if end == 0 { 0 } else { self.next() % end }
    }

    /// An index below `end`.
    pub(crate) fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// One time in `n`.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// True in `percent` of the cases.
    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.index(choices.len())]
    }
}
