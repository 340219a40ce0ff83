//! MQTT 3.1, 3.1.1 and 5.0 as a state machine: bytes and time in, packets and deadlines out.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod codec;
pub mod connection;
pub mod packet;
pub mod session;
pub mod types;
