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
    value: Option<T>,
}

/// Entries by [`Key`], in chunks: growing moves no entry and doubles nothing.
#[derive(Debug)]
pub(super) struct Table<T> {
    chunks: Vec<Vec<Slot<T>>>,
    free: Vec<u32>,
    len: usize,
}

/// Slots a chunk.
const CHUNK: usize = 128;

impl<T> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }

    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)
    }

    fn slot_mut(&mut self, index: u32) -> Option<&mut Slot<T>> {
        self.chunks.get_mut(index as usize / CHUNK)?.get_mut(index as usize % CHUNK)
    }

    pub(super) fn insert(&mut self, value: T) -> Key {
        self.len += 1;
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.slot_mut(index)
        {
            slot.value = Some(value);
            return Key { index, generation: slot.generation };
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        chunk.push(Slot { generation: 0, value: Some(value) });
        Key { index: (number * CHUNK + chunk.len() - 1) as u32, generation: 0 }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slot_mut(key.index).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        self.len -= 1;
        Some(value)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        self.slot(key.index).filter(|slot| slot.generation == key.generation)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        self.slot_mut(key.index).filter(|slot| slot.generation == key.generation)?.value.as_mut()
    }

    /// The live entry at `index`, with its key.
    pub(super) fn at(&self, index: u32) -> Option<Key> {
        let slot = self.slot(index)?;
        slot.value.as_ref().map(|_| Key { index, generation: slot.generation })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.chunks.iter().flatten().enumerate().filter_map(|(index, slot)| {
            let key = Key { index: index as u32, generation: slot.generation };
            slot.value.as_ref().map(|value| (key, value))
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
    }
}
