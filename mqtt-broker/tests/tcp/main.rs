//! The broker over real sockets.
#![cfg(feature = "runtime")]

mod client;
mod cores;

use std::time::Instant;

use mqtt_broker::{Broker, Handle, Limits};

use client::PATIENCE;

/// A broker on a free port of both loopback addresses.
pub fn broker(cores: usize, limits: Limits) -> Handle {
    Broker::builder().listen("localhost:0").cores(cores).limits(limits).start().expect("the broker starts")
}

/// Waits until `done`, looking again and again.
#[expect(clippy::disallowed_methods, reason = "a deadline for a test that waits")]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::yield_now();
    }
}
