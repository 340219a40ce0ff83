//! What happened, in order: a hash of it always, lines to read on demand.

/// The record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Lines are printed as they come.
    prints: bool,
    hash: u64,
    /// Core or network events so far.
    pub(crate) events: u64,
}

impl Trace {
    pub(crate) fn new(prints: bool) -> Trace {
        Trace { prints, hash: 0xCBF2_9CE4_8422_2325, events: 0 }
    }

    /// Counts something that happened into the hash.
    pub(crate) fn mix(&mut self, numbers: &[u64]) {
        self.events += 1;
        for &number in numbers {
            self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23);
        }
    }

    /// As [`Trace::mix`], for bytes that moved.
    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(&[u64::from_le_bytes(word)]);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Prints a line: microseconds, who, what.
    pub(crate) fn line(&self, now: u64, who: &str, what: impl FnOnce() -> String) {
        if self.prints {
            println!("{:>7}.{:06}  {who:<14}  {}", now / 1_000_000, now % 1_000_000, what());
        }
    }

    pub(crate) fn prints(&self) -> bool {
        self.prints
    }
}
