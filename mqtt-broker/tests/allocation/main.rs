//! What the steady state takes from the allocator: nothing but what is said here.

mod broker;
mod groups;
mod handing_on;
mod log;
mod passing_on;

use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static HEAP: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, usize::MAX);

/// Rounds until everything has the room that it needs.
const WARM_UP: usize = 8;
/// Rounds that are measured together, and how often that is done.
const ROUNDS: usize = 100;
const TRIES: usize = 5;

/// Lets one test run at a time: all count on one heap.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that [`ROUNDS`] rounds allocate. What they take they take each time; the test runner's other threads may take
/// something once, so the best time counts.
fn bytes_taken(mut round: impl FnMut()) -> usize {
    (0..WARM_UP).for_each(|_| round());
    let tries = [(); TRIES].map(|()| {
        let before = HEAP.total_allocated();
        (0..ROUNDS).for_each(|_| round());
        HEAP.total_allocated() - before
    });
    tries.into_iter().min().expect("there are some")
}
