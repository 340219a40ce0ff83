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

/// Wakes one thread. Only the main thread reads and sets it later than at the start, so loom need not know of the cell.
#[derive(Default)]
struct Sleeper(OnceLock<Thread>);

impl Wake for Sleeper {
    fn wake(&self) {
        self.0.get().expect("whoever rings knows the thread").unpark();
    }
}

fn bell_of(thread: Thread) -> Doorbell<Sleeper> {
    Doorbell::new(Sleeper(OnceLock::from(thread)))
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
        let shared = Arc::new((bell_of(thread::current()), [Lane::new(2)]));
        let sender = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (bell, [lane]) = &*shared;
                for item in 0..2 {
                    assert_eq!(lane.push(item), Ok(()));
                    bell.ring();
                }
            }
        });
        let (bell, lanes) = &*shared;
        take(bell, lanes, &[bell], 2);
        sender.join().expect("the sender");
    });
}

#[test]
fn a_sender_that_waits_for_room_is_woken_when_there_is_some() {
    check(Some(4), || {
        let shared =
            Arc::new((bell_of(thread::current()), Doorbell::new(Sleeper::default()), [Lane::new(1)]));
        let sender = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (bell, own, [lane]) = &*shared;
                send(lane, bell, own, 3);
            }
        });
        let (bell, sender_bell, lanes) = &*shared;
        sender_bell.wake().0.set(sender.thread().clone()).expect("set once");
        take(bell, lanes, &[sender_bell], 3);
        sender.join().expect("the sender");
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
                assert_eq!(lanes[at].push(0), Ok(()));
                bell.ring();
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
        let shared = Arc::new((bell_of(thread::current()), [Lane::new(2)]));
        let sender = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let (bell, [lane]) = &*shared;
                for item in 0..2 {
                    assert_eq!(lane.push(item), Ok(()));
                    bell.ring();
                }
            }
        });
        let (bell, lanes) = &*shared;
        bell.park(|| lanes[0].is_empty());
        bell.unpark();
        take(bell, lanes, &[bell], 2);
        sender.join().expect("the sender");
    });
}

/// As when another core has failed: a flag is work too.
#[test]
fn a_core_that_falls_asleep_is_woken_to_stop() {
    check(None, || {
        let shared = Arc::new((bell_of(thread::current()), AtomicBool::new(false)));
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                shared.1.store(true, Ordering::Relaxed);
                shared.0.ring();
            }
        });
        let (bell, failed) = &*shared;
        while !failed.load(Ordering::Relaxed) {
            sleep(bell, || !failed.load(Ordering::Relaxed));
        }
        other.join().expect("the other core");
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
        let shared = Arc::new((Doorbell::new(Sleeper::default()), Ended::new(), Lane::new(1)));
        let sender = thread::spawn({
            let (shared, dropped) = (Arc::clone(&shared), Arc::clone(&dropped));
            move || {
                let (own, ended, lane) = &*shared;
                for _ in 0..ITEMS {
                    while !lane.has_room() {
                        sleep(own, || !lane.has_room());
                    }
                    assert!(lane.push(Counted(Arc::clone(&dropped))).is_ok(), "there was room");
                    ended.check(|| {
                        lane.clear();
                    });
                }
            }
        });
        let (sender_bell, ended, lane) = &*shared;
        sender_bell.wake().0.set(sender.thread().clone()).expect("set once");
        drop(lane.pop());
        if lane.room_was_wanted() {
            sender_bell.ring();
        }
        ended.end(|| {
            if lane.clear() {
                sender_bell.ring();
            }
        });
        sender.join().expect("the sender");
        assert_eq!(dropped.load(Ordering::Relaxed), ITEMS);
    });
}
