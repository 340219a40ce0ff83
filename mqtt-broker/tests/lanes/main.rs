//! Lanes and doorbells in every order that loom finds, memory that is seen late included:
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test --release -p mqtt-broker --no-default-features --test lanes
//! ```
//!
//! Shown, for the code of `runtime/lane.rs` itself: no core sleeps for ever while there is work or room for it, every
//! item arrives once and in order, and none stays in the lane to a core that has ended. A core that stays asleep is a
//! deadlock here, and loom reports it. Not shown: crossbeam's queue (`model` stands in for it), the eventfd behind
//! [`Wake`] (here a thread's token, which is kept as the counter of an eventfd is), and more than a few items, three
//! threads and, where the orders are too many, four preemptions.
#![cfg(loom)]
#![expect(
    clippy::arc_with_non_send_sync,
    reason = "loom runs its threads one at a time, so its cells are not Sync"
)]

#[path = "../../src/runtime/lane.rs"]
mod lane;
mod model;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use lane::{Doorbell, Ended, Lane, Wake};
use loom::sync::atomic::AtomicBool;
use loom::thread::{self, Thread};

/// Runs `model` in every order, or in those with at most so many preemptions; LOOM_MAX_PREEMPTIONS overrides that.
fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    builder.check(model);
}

/// Runs `other` in a thread of its own, and `main`, which is told that thread; both see `shared`.
fn beside<S: 'static>(shared: S, other: impl FnOnce(&S) + 'static, main: impl FnOnce(&S, &Thread)) {
    let shared = Arc::new(shared);
    let thread = thread::spawn({
        let shared = Arc::clone(&shared);
        move || other(&shared)
    });
    main(&shared, thread.thread());
    thread.join().expect("the other thread");
}

/// Wakes one thread. Only the main thread reads and sets it later than at the start, so loom need not know of the cell.
#[derive(Default)]
struct Sleeper(OnceLock<Thread>);

impl Sleeper {
    fn is(&self, thread: &Thread) {
        self.0.set(thread.clone()).expect("set once");
    }
}

impl Wake for Sleeper {
    fn wake(&self) {
        self.0.get().expect("whoever rings knows the thread").unpark();
    }
}

fn bell_of(thread: Thread) -> Doorbell<Sleeper> {
    Doorbell::new(Sleeper(OnceLock::from(thread)))
}

/// A bell for a thread that does not run yet, see [`Sleeper::is`].
fn bell_of_another() -> Doorbell<Sleeper> {
    Doorbell::new(Sleeper::default())
}

/// The thread sleeps until its bell rings, unless there is something to do.
fn sleep<W: Wake>(bell: &Doorbell<W>, idle: impl FnOnce() -> bool) {
    if bell.park(idle) {
        thread::park();
    }
    bell.unpark();
}

/// What a core does about its lanes, as `runtime/core.rs` does: takes all there is, says that there is room, sleeps.
fn take<const N: usize>(
    bell: &Doorbell<Sleeper>,
    lanes: &[Lane<usize>; N],
    senders: &[&Doorbell<Sleeper>],
    each: usize,
) {
    let mut taken = [0; N];
    while taken.iter().any(|taken| *taken < each) {
        for (at, lane) in lanes.iter().enumerate() {
            while let Some(item) = lane.pop() {
                assert_eq!(item, taken[at], "in order, each once");
                taken[at] += 1;
            }
            if lane.room_was_wanted() {
                senders[at].ring();
            }
        }
        if taken.iter().any(|taken| *taken < each) {
            sleep(bell, || lanes.iter().all(Lane::is_empty));
        }
    }
    assert!(lanes.iter().all(|lane| lane.pop().is_none()), "no more than was sent");
}

/// Puts the numbers below `items` into a lane that has room for them.
fn put(lane: &Lane<usize>, to: &Doorbell<Sleeper>, items: usize) {
    for item in 0..items {
        assert_eq!(lane.push(item), Ok(()));
        to.ring();
    }
}

/// Sends the numbers below `items`, sleeping while there is no room.
fn send(lane: &Lane<usize>, to: &Doorbell<Sleeper>, own: &Doorbell<Sleeper>, items: usize) {
    for item in 0..items {
        while lane.push(item).is_err() {
            sleep(own, || !lane.has_room());
        }
        to.ring();
    }
}

#[test]
fn a_core_that_falls_asleep_is_woken_for_what_comes() {
    check(None, || {
        beside(
            (bell_of(thread::current()), [Lane::new(2)]),
            |(bell, [lane])| put(lane, bell, 2),
            |(bell, lanes), _| take(bell, lanes, &[bell], 2),
        );
    });
}

#[test]
fn a_sender_that_waits_for_room_is_woken_when_there_is_some() {
    check(Some(4), || {
        beside(
            (bell_of(thread::current()), bell_of_another(), [Lane::new(1)]),
            |(bell, own, [lane])| send(lane, bell, own, 3),
            |(bell, other, lanes), sender| {
                other.wake().is(sender);
                take(bell, lanes, &[other], 3);
            },
        );
    });
}

#[test]
fn of_two_that_ring_neither_is_forgotten() {
    check(Some(4), || {
        let shared = Arc::new((bell_of(thread::current()), [Lane::new(1), Lane::new(1)]));
        let senders = [0, 1].map(|at| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (bell, lanes) = &*shared;
                put(&lanes[at], bell, 1);
            })
        });
        let (bell, lanes) = &*shared;
        take(bell, lanes, &[bell, bell], 1);
        for sender in senders {
            sender.join().expect("a sender");
        }
    });
}

/// A timer ends the first sleep, whatever the bell does meanwhile; the second one is for the bell to end.
#[test]
fn a_core_that_woke_by_itself_is_woken_again() {
    check(Some(4), || {
        beside(
            (bell_of(thread::current()), [Lane::new(2)]),
            |(bell, [lane])| put(lane, bell, 2),
            |(bell, lanes), _| {
                bell.park(|| lanes[0].is_empty());
                bell.unpark();
                take(bell, lanes, &[bell], 2);
            },
        );
    });
}

/// As when another core has failed: a flag is work too.
#[test]
fn a_core_that_falls_asleep_is_woken_to_stop() {
    check(None, || {
        beside(
            (bell_of(thread::current()), AtomicBool::new(false)),
            |(bell, failed)| {
                failed.store(true, Ordering::Relaxed);
                bell.ring();
            },
            |(bell, failed), _| {
                while !failed.load(Ordering::Relaxed) {
                    sleep(bell, || !failed.load(Ordering::Relaxed));
                }
            },
        );
    });
}

/// Counts itself when it is dropped.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The core at the end of a lane takes one item and ends, while the sender may be asleep before the full lane.
#[test]
fn nothing_stays_in_the_lane_to_a_core_that_has_ended() {
    const ITEMS: usize = 3;
    check(Some(4), || {
        let dropped = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&dropped);
        beside(
            (bell_of_another(), Ended::new(), Lane::new(1)),
            move |(own, ended, lane)| {
                for _ in 0..ITEMS {
                    while !lane.has_room() {
                        sleep(own, || !lane.has_room());
                    }
                    assert!(lane.push(Counted(Arc::clone(&counter))).is_ok(), "there was room");
                    ended.check(|| {
                        lane.clear();
                    });
                }
            },
            |(bell, ended, lane), sender| {
                bell.wake().is(sender);
                drop(lane.pop());
                if lane.room_was_wanted() {
                    bell.ring();
                }
                ended.end(|| {
                    if lane.clear() {
                        bell.ring();
                    }
                });
            },
        );
        assert_eq!(dropped.load(Ordering::Relaxed), ITEMS);
    });
}
