//! Memory that can be written to a disk past the page cache: it starts at a multiple of 4 KiB.
//!
//! Invariant: the memory never moves while the buffer lives, wherever the buffer itself goes; so the start stays right.

use std::fmt;
use std::ops::Deref;

use super::format::{COMMIT_BYTES_MAX, PAGE};

/// Whole pages, aligned to 4 KiB.
pub struct Buffer {
    /// One page more than needed, as it starts anywhere.
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// Room for the longest commit. Nothing of it is touched before it is needed.
    pub(super) fn new() -> Buffer {
        let memory = vec![0; COMMIT_BYTES_MAX + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        assert!(start < PAGE, "a multiple of a page lies within a page");
        Buffer { memory, start, len: 0 }
    }

    /// Makes it so many whole pages long and gives them out to be written over. They hold what they held before.
    pub(super) fn pages(&mut self, len: usize) -> &mut [u8] {
        debug_assert!(len.is_multiple_of(PAGE) && len <= COMMIT_BYTES_MAX);
        self.len = len;
        &mut self.memory[self.start..self.start + len]
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("len", &self.len).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_wherever_the_buffer_goes() {
        let mut buffer = Buffer::new();
        buffer.pages(COMMIT_BYTES_MAX).fill(3);
        let boxed = Box::new(buffer);
        assert_eq!((boxed.as_ptr().addr() % PAGE, boxed.len()), (0, COMMIT_BYTES_MAX));
        assert!(boxed.iter().all(|&byte| byte == 3));
    }
}
