//! A table with dense indices that are used again, each time under a new generation.

/// The key of a [`Table`] entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) index: u32,
    pub(super) generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Taken(T),
    /// With the index of the next free slot, `NONE` if it is the last.
    Free(u32),
}

const NONE: u32 = u32::MAX;

/// Entries by [`Key`], in chunks: growing moves no entry and doubles nothing.
#[derive(Debug)]
pub(super) struct Table<T> {
    chunks: Vec<Box<[Slot<T>; CHUNK]>>,
    /// The slot that was freed last.
    free: u32,
    len: usize,
}

impl<T> Slot<T> {
    fn value(&self) -> Option<&T> {
        match &self.state {
            State::Taken(value) => Some(value),
            State::Free(_) => None,
        }
    }
}

/// Slots a chunk: those of connections and of sessions end near the end of a page, so that hardly a byte is lost.
const CHUNK: usize = 512;

impl<T> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table { chunks: Vec::new(), free: NONE, len: 0 }
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        Some(&self.chunks.get(index as usize / CHUNK)?[index as usize % CHUNK])
    }

    #[inline]
    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        Some(&mut self.chunks.get_mut(index as usize / CHUNK)?[index as usize % CHUNK])
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot_mut(index).expect("a free slot is in a chunk");
        let State::Free(next) = slot.state else { unreachable!("only free slots are linked") };
        slot.state = State::Taken(value);
        let generation = slot.generation;
        self.free = next;
        Key { index, generation }
    }

    /// Adds a chunk of free slots, of which the first is used next.
    fn grow(&mut self) {
        let first = (self.chunks.len() * CHUNK) as u32;
        let last = first + CHUNK as u32 - 1;
        let next = |index: u32| if index == last { NONE } else { index + 1 };
        let slots = (first..=last).map(|index| Slot { generation: 0, state: State::Free(next(index)) });
        let slots: Box<[Slot<T>]> = slots.collect();
        self.chunks.push(slots.try_into().unwrap_or_else(|_| unreachable!("as many as a chunk has")));
        self.free = first;
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let free = self.free;
        let slot = self.slot_mut(key.index).filter(|slot| slot.generation == key.generation)?;
        slot.value()?;
        let State::Taken(value) = core::mem::replace(&mut slot.state, State::Free(free)) else { return None };
        slot.generation = slot.generation.wrapping_add(1);
        self.free = key.index;
        self.len -= 1;
        Some(value)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.slot(key.index).filter(|slot| slot.generation == key.generation)?.value()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        match &mut self.slot_mut(key.index).filter(|slot| slot.generation == key.generation)?.state {
            State::Taken(value) => Some(value),
            State::Free(_) => None,
        }
    }

    /// The live entry at `index`, with its key.
    pub(super) fn at(&self, index: u32) -> Option<Key> {
        let slot = self.slot(index)?;
        slot.value().map(|_| Key { index, generation: slot.generation })
    }

    /// The live entry at `index`, which the caller knows to be there.
    pub(super) fn live(&self, index: u32) -> &T {
        let value = self.slot(index).and_then(Slot::value);
        value.expect("an index is kept no longer than its entry lives")
    }

    /// An index that no entry has, nor one above it.
    pub(super) fn end(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).enumerate().filter_map(|(index, slot)| {
            let key = Key { index: index as u32, generation: slot.generation };
            slot.value().map(|value| (key, value))
        })
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_key_finds_nothing() {
        let mut table = Table::new();
        let first = table.insert("first");
        assert_eq!(table.remove(first), Some("first"));
        let second = table.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"second"));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn entries_keep_their_keys_while_the_table_grows() {
        let mut table = Table::new();
        let keys: Vec<Key> = (0..1000).map(|number| table.insert(number)).collect();
        assert!(keys.iter().enumerate().all(|(number, key)| key.index as usize == number));
        keys.iter().step_by(2).for_each(|&key| assert!(table.remove(key).is_some()));
        assert_eq!(table.len(), 500);
        assert!(
            keys.iter()
                .enumerate()
                .all(|(number, &key)| (table.get(key) == Some(&number)) == (number % 2 == 1))
        );
        assert_eq!(table.keys().len(), 500);
        // Those freed last are used first, and once all are used again the table grows.
        let again: Vec<u32> = (0..502).map(|number| table.insert(number).index).collect();
        let expected = (0..1000).step_by(2).rev().chain([1000, 1001]);
        assert!(again.iter().copied().eq(expected));
    }
}
