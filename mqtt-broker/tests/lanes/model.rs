//! What a lane is made of under loom: its atomics, and a stand-in for crossbeam's queue.
//!
//! The stand-in goes through the same states, an item taken in two steps at either end included, and promises no more:
//! an item's content is seen by who pops it, and a slot's emptiness by who fills it again. Where crossbeam is
//! sequentially consistent (the looks at `head` and `tail`) it is relaxed, so that lanes are shown not to lean on that.

use std::sync::Mutex;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};

/// A bounded queue.
#[derive(Debug)]
pub(crate) struct ArrayQueue<T> {
    /// Items that were ever popped.
    head: AtomicUsize,
    /// Items that were ever pushed.
    tail: AtomicUsize,
    slots: Vec<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    /// Whose turn it is: that of the push with this number, or of the pop with one less.
    turn: AtomicUsize,
    /// loom does not see this lock, which is never contended.
    item: Mutex<Option<T>>,
    /// Used where `item` is, so that loom fails if two threads could be there at once.
    used: UnsafeCell<()>,
}

impl<T> ArrayQueue<T> {
    pub(crate) fn new(slots: usize) -> ArrayQueue<T> {
        let slot =
            |at| Slot { turn: AtomicUsize::new(2 * at), item: Mutex::new(None), used: UnsafeCell::new(()) };
        ArrayQueue {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            slots: (0..slots).map(slot).collect(),
        }
    }

    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        loop {
            let tail = self.tail.load(Ordering::Relaxed);
            let slot = &self.slots[tail % self.slots.len()];
            if slot.turn.load(Ordering::Acquire) == 2 * tail {
                if advance(&self.tail, tail) {
                    slot.swap(Some(item));
                    slot.turn.store(2 * tail + 1, Ordering::Release);
                    return Ok(());
                }
            } else if self.head.load(Ordering::Relaxed) + self.slots.len() == tail {
                return Err(item);
            }
            // Somebody is between its two steps.
            loom::thread::yield_now();
        }
    }

    pub(crate) fn pop(&self) -> Option<T> {
        loop {
            let head = self.head.load(Ordering::Relaxed);
            let slot = &self.slots[head % self.slots.len()];
            if slot.turn.load(Ordering::Acquire) == 2 * head + 1 {
                if advance(&self.head, head) {
                    let item = slot.swap(None);
                    slot.turn.store(2 * (head + self.slots.len()), Ordering::Release);
                    return item;
                }
            } else if self.tail.load(Ordering::Relaxed) == head {
                return None;
            }
            loom::thread::yield_now();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::Relaxed);
        self.tail.load(Ordering::Relaxed) == head
    }

    pub(crate) fn is_full(&self) -> bool {
        let tail = self.tail.load(Ordering::Relaxed);
        self.head.load(Ordering::Relaxed) + self.slots.len() == tail
    }
}

/// Whether this thread is the one that moves `end` on from `at`.
fn advance(end: &AtomicUsize, at: usize) -> bool {
    end.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

impl<T> Slot<T> {
    fn swap(&self, item: Option<T>) -> Option<T> {
        self.used.with_mut(|_| ());
        std::mem::replace(&mut *self.item.try_lock().expect("one thread at a time"), item)
    }
}
