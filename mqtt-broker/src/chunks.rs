//! A list that grows in pieces: what is in it never moves, and growing leaves no half-sized list behind.

use std::ops::{Index, IndexMut};

/// Entries a piece.
const CHUNK: usize = 128;

/// Entries by their index, as in a `Vec`.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Chunks<T> {
        Chunks { chunks: Vec::new() }
    }
}

impl<T> Chunks<T> {
    pub(crate) fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Appends `value`; its index.
    pub(crate) fn push(&mut self, value: T) -> usize {
        match self.chunks.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(value),
            _ => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
        self.len() - 1
    }

    /// Appends what `make` makes until there is an entry at `index`.
    pub(crate) fn reach(&mut self, index: usize, mut make: impl FnMut() -> T) {
        while self.len() <= index {
            self.push(make());
        }
    }

    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.get(index % CHUNK)
    }

    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
}

impl<T> Index<usize> for Chunks<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        &self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Chunks<T> {
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_their_index_and_their_place() {
        let mut chunks = Chunks::default();
        assert_eq!((chunks.len(), chunks.push(0), chunks.len()), (0, 0, 1));
        let first: *const usize = &raw const chunks[0];
        for number in 1..1_000 {
            assert_eq!(chunks.push(number), number);
        }
        assert_eq!(&raw const chunks[0], first);
        assert!(chunks.iter().enumerate().all(|(index, &number)| number == index && chunks[index] == index));
        chunks.reach(1_500, || 7);
        assert_eq!((chunks.len(), chunks.get(1_500), chunks.get(1_501)), (1_501, Some(&7), None));
        chunks[127] = 8;
        assert_eq!(chunks.get_mut(127), Some(&mut 8));
    }
}
