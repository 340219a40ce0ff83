//! The broker over real sockets.
#![cfg(feature = "runtime")]

mod client;
mod cores;
mod layers;
mod lifecycle;
mod peers;
mod ports;

use mqtt_broker::{Broker, Handle, Limits};

/// A broker on a free port of both loopback addresses.
fn broker(cores: usize, limits: Limits) -> Handle {
    Broker::builder().listen("localhost:0").cores(cores).limits(limits).start().expect("the broker starts")
}

/// Limits of which `change` has changed some.
fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}
