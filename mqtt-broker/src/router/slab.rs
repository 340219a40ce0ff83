//! Values under small stable numbers, kept in pages.
//!
//! Pages make growth cheap at any size (no copy of all values, no doubled capacity) and let memory go back when they
//! are empty. The lowest free page is filled first, so that the rest can empty.

use std::collections::BTreeSet;

use prefetch_index::prefetch_index;

/// A table of `T` by index.
#[derive(Debug)]
pub(super) struct Slab<T> {
    pages: Vec<Page<T>>,
    /// Pages with room.
    open: BTreeSet<u32>,
    len: usize,
}

#[derive(Debug)]
struct Page<T> {
    cells: Vec<Cell<T>>,
    /// First of the vacant cells, [`NIL`] if there is none.
    vacant: u32,
    used: u32,
}

#[derive(Debug)]
enum Cell<T> {
    Vacant(u32),
    Taken(T),
}

const PAGE: usize = 512;
const NIL: u32 = u32::MAX;

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { pages: Vec::new(), open: BTreeSet::new(), len: 0 }
    }

    /// How many values there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Heap bytes held, without what the values themselves hold.
    pub(super) fn memory(&self) -> usize {
        let cells: usize = self.pages.iter().map(|page| page.cells.capacity()).sum();
        cells * size_of::<Cell<T>>()
            + self.pages.capacity() * size_of::<Page<T>>()
            + self.open.len() * size_of::<u32>()
    }

    /// The value at `index`, which the caller knows to be taken.
    pub(super) fn at(&self, index: u32) -> &T {
        self.get(index).expect("an index is used no longer than its value lives")
    }

    /// The value at `index`, which the caller knows to be taken.
    pub(super) fn at_mut(&mut self, index: u32) -> &mut T {
        self.get_mut(index).expect("an index is used no longer than its value lives")
    }

    /// Asks memory for the value at `index`, without waiting for it.
    #[inline]
    pub(super) fn prefetch(&self, index: u32) {
        if let Some(page) = self.pages.get(index as usize / PAGE) {
            let cell = index as usize % PAGE;
            prefetch_index(&page.cells, cell);
            // Where the next one begins this one ends, perhaps in another cache line.
            prefetch_index(&page.cells, cell + 1);
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&T> {
        match self.pages.get(index as usize / PAGE)?.cells.get(index as usize % PAGE)? {
            Cell::Taken(value) => Some(value),
            Cell::Vacant(_) => None,
        }
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        match self.pages.get_mut(index as usize / PAGE)?.cells.get_mut(index as usize % PAGE)? {
            Cell::Taken(value) => Some(value),
            Cell::Vacant(_) => None,
        }
    }

    /// Keeps `value`; the answer is its index.
    pub(super) fn insert(&mut self, value: T) -> u32 {
        let number = match self.open.first() {
            Some(&number) => number,
            None => {
                self.pages.push(Page { cells: Vec::new(), vacant: NIL, used: 0 });
                let number = self.pages.len() as u32 - 1;
                self.open.insert(number);
                number
            }
        };
        let page = &mut self.pages[number as usize];
        let cell = if page.vacant == NIL {
            page.cells.push(Cell::Taken(value));
            page.cells.len() as u32 - 1
        } else {
            let cell = page.vacant;
            match std::mem::replace(&mut page.cells[cell as usize], Cell::Taken(value)) {
                Cell::Vacant(next) => page.vacant = next,
                Cell::Taken(_) => unreachable!("only vacant cells are linked"),
            }
            cell
        };
        page.used += 1;
        if page.used as usize == PAGE {
            self.open.remove(&number);
        }
        self.len += 1;
        number * PAGE as u32 + cell
    }

    /// Takes the value at `index` out.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let number = index / PAGE as u32;
        let page = self.pages.get_mut(number as usize)?;
        let cell = page.cells.get_mut(index as usize % PAGE)?;
        if matches!(cell, Cell::Vacant(_)) {
            return None;
        }
        let Cell::Taken(value) = std::mem::replace(cell, Cell::Vacant(page.vacant)) else { return None };
        page.vacant = index % PAGE as u32;
        if page.used as usize == PAGE {
            self.open.insert(number);
        }
        page.used -= 1;
        self.len -= 1;
        if page.used == 0 {
            *page = Page { cells: Vec::new(), vacant: NIL, used: 0 };
            self.drop_trailing_pages();
        }
        Some(value)
    }

    /// Every value with its index, in the order of the indices.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.pages.iter().enumerate().flat_map(|(number, page)| {
            page.cells.iter().enumerate().filter_map(move |(cell, value)| match value {
                Cell::Taken(value) => Some(((number * PAGE + cell) as u32, value)),
                Cell::Vacant(_) => None,
            })
        })
    }

    fn drop_trailing_pages(&mut self) {
        while self.pages.last().is_some_and(|page| page.used == 0) {
            self.pages.pop();
            self.open.remove(&(self.pages.len() as u32));
        }
        if self.pages.len() * 4 < self.pages.capacity() {
            self.pages.shrink_to(self.pages.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_reused_and_pages_go_back() {
        let mut slab = Slab::new();
        let all: Vec<u32> = (0..3000u32).map(|value| slab.insert(value)).collect();
        assert_eq!(all, (0..3000).collect::<Vec<u32>>());
        for index in (0..3000).rev().filter(|index| index % 3 != 0) {
            assert_eq!(slab.remove(index), Some(index));
            assert_eq!(slab.remove(index), None);
        }
        assert_eq!(slab.len(), 1000);
        assert!(slab.iter().all(|(index, &value)| index == value && index % 3 == 0));
        let again = slab.insert(7);
        assert!(again < PAGE as u32 && slab.at(again) == &7, "the lowest page is filled first");
        slab.remove(again);
        for index in (0..3000).step_by(3) {
            assert_eq!(slab.remove(index), Some(index));
        }
        assert_eq!((slab.len(), slab.memory()), (0, 0));
    }
}
