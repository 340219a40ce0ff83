//! Lanes between cores, and the doorbell that wakes a core asleep in its ring.
//!
//! The protocol: whoever gives a core work puts it where the core looks, then rings. A core that wants to sleep says
//! so, then looks once more. Between the two steps each side has a sequentially consistent fence, so that at least
//! one of them sees the other: work is never left lying beside a sleeping core, and a core that is awake costs its
//! peers no system call.
//!
//! With `cfg(loom)` the parts are those of `tests/lanes`, which runs all of this in every order that matters.

#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering, fence};

#[cfg(not(loom))]
use crossbeam::queue::ArrayQueue;

#[cfg(loom)]
use super::model::{ArrayQueue, AtomicBool, Ordering, fence};

/// Ends the sleep of a core, now or as soon as it begins.
pub(super) trait Wake {
    /// Called from any thread.
    fn wake(&self);
}

/// The bell of one core.
#[derive(Debug)]
pub(super) struct Doorbell<W> {
    /// Written by swaps only: each write stands right behind the one that it replaced, so one ring cannot be taken for
    /// the next. loom, which cannot tell that of plain stores, reports a lost wake-up where a swap meets one.
    asleep: AtomicBool,
    wake: W,
}

impl<W: Wake> Doorbell<W> {
    pub(super) fn new(wake: W) -> Doorbell<W> {
        Doorbell { asleep: AtomicBool::new(false), wake }
    }

    /// What wakes the core.
    pub(super) fn wake(&self) -> &W {
        &self.wake
    }

    /// Tells the core that there is work, after it was put where the core looks.
    pub(super) fn ring(&self) {
        fence(Ordering::SeqCst);
        // Of several that ring one wakes.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.wake.wake();
        }
    }

    /// The core is about to sleep. Whether it may: `idle` looks once more for work.
    pub(super) fn park(&self, idle: impl FnOnce() -> bool) -> bool {
        self.asleep.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let idle = idle();
        if !idle {
            self.unpark();
        }
        idle
    }

    /// The core is awake.
    pub(super) fn unpark(&self) {
        // Only this core says that it sleeps: what it reads here is at most too old to know that it was woken.
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.swap(false, Ordering::Relaxed);
        }
    }
}

/// A bounded queue from one core to another. Nobody ever waits in it: a full lane keeps its sender's batch at the
/// sender, and the receiver rings once there is room.
#[derive(Debug)]
pub(super) struct Lane<T> {
    queue: ArrayQueue<T>,
    /// The sender has found the lane full. Written by swaps only, as [`Doorbell::asleep`].
    wanted: AtomicBool,
}

impl<T> Lane<T> {
    pub(super) fn new(slots: usize) -> Lane<T> {
        Lane { queue: ArrayQueue::new(slots), wanted: AtomicBool::new(false) }
    }

    /// Whether one more fits. If not, the receiver is asked to say when.
    pub(super) fn has_room(&self) -> bool {
        if !self.queue.is_full() {
            return true;
        }
        self.wanted.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.queue.is_full()
    }

    /// Puts `item` at the end, or gives it back.
    pub(super) fn push(&self, item: T) -> Result<(), T> {
        self.queue.push(item)
    }

    /// Takes the first item.
    pub(super) fn pop(&self) -> Option<T> {
        self.queue.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Drops all items. Whether the sender waits for room and is to be rung for.
    pub(super) fn clear(&self) -> bool {
        while self.pop().is_some() {}
        self.room_was_wanted()
    }

    /// After the receiver has popped: whether the sender waits for room and is to be rung for.
    pub(super) fn room_was_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
    }
}

/// Whether the core that reads some queues has ended. It clears them then, and whoever comes later does: nothing lies
/// for ever in a queue that nobody reads.
#[derive(Debug)]
pub(super) struct Ended(AtomicBool);

impl Ended {
    pub(super) fn new() -> Ended {
        Ended(AtomicBool::new(false))
    }

    /// After something was put into a queue: `clear` drops what is there if nobody will read it.
    pub(super) fn check(&self, clear: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) {
            clear();
        }
    }

    /// The core reads no more. `clear` drops what is in all of its queues.
    pub(super) fn end(&self, clear: impl FnOnce()) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        clear();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::thread::Thread;

    use super::*;

    #[derive(Default)]
    struct Counter(AtomicU32);

    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn only_a_sleeping_core_is_woken_and_only_once() {
        let bell = Doorbell::new(Counter::default());
        bell.ring();
        assert_eq!(bell.wake().0.load(Ordering::SeqCst), 0);
        assert!(bell.park(|| true));
        bell.ring();
        bell.ring();
        assert_eq!(bell.wake().0.load(Ordering::SeqCst), 1);
        assert!(!bell.park(|| false), "work came first");
        bell.ring();
        assert_eq!(bell.wake().0.load(Ordering::SeqCst), 1);
    }

    struct Sleeper(Thread);

    impl Wake for Sleeper {
        fn wake(&self) {
            self.0.unpark();
        }
    }

    /// Both directions at once: the sender stops at a full lane, the receiver at an empty one, and neither is ever
    /// left asleep. A lost wake-up would hang this test.
    #[test]
    fn nobody_sleeps_for_ever() {
        const ITEMS: u32 = 200_000;
        let lane = Arc::new(Lane::new(4));
        let sender_bell = Arc::new(Doorbell::new(Sleeper(std::thread::current())));
        let (tell, told) = std::sync::mpsc::channel();
        let receiver = std::thread::spawn({
            let (lane, sender_bell) = (Arc::clone(&lane), Arc::clone(&sender_bell));
            move || {
                let bell = Arc::new(Doorbell::new(Sleeper(std::thread::current())));
                tell.send(Arc::clone(&bell)).expect("the sender lives");
                let mut expected = 0;
                while expected < ITEMS {
                    let mut popped = false;
                    while let Some(item) = lane.pop() {
                        assert_eq!(item, expected);
                        expected += 1;
                        popped = true;
                    }
                    if popped && lane.room_was_wanted() {
                        sender_bell.ring();
                    }
                    if expected < ITEMS && bell.park(|| lane.is_empty()) {
                        std::thread::park();
                        bell.unpark();
                    }
                }
            }
        });
        let bell = told.recv().expect("the receiver lives");
        for item in 0..ITEMS {
            while !lane.has_room() {
                if sender_bell.park(|| !lane.has_room()) {
                    std::thread::park();
                    sender_bell.unpark();
                }
            }
            lane.push(item).expect("one sender, and there was room");
            bell.ring();
        }
        receiver.join().expect("the receiver");
    }
}
