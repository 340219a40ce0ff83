//! A library without std that frames, decodes and encodes.
//!
//! Its panic handler is the proof: std brings one too, and the compiler refuses a second.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;
use core::panic::PanicInfo;

use mqtt_proto::{Framer, Version, decode, encode};

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {}
}

/// Decodes the first packet of a stream and encodes it again; the length of that.
pub fn echo_len(mut stream: &[u8]) -> Option<usize> {
    let mut framer = Framer::default();
    let frame = framer.next_frame(&mut stream, 1024).ok()??;
    let packet = decode(Version::V5, frame).ok()?;
    let mut out = Vec::new();
    encode(&packet, Version::V5, &mut out).ok()?;
    Some(out.len())
}
