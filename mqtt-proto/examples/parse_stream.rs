//! Prints the packets of a captured byte stream, one direction of one connection.
//!
//! cargo run -p mqtt-proto --example parse_stream -- mqtt-proto/examples/capture.hex
//! cargo run -p mqtt-proto --example parse_stream -- --version 3.1.1 < raw.bin
//!
//! The input is raw bytes, or hexadecimal digits with `#` comments if there is nothing else in it. A CONNECT says its
//! version itself; a stream from the Server does not, so it needs `--version` if it is not 5.0.

use std::error::Error;
use std::io::Read;

use mqtt_proto::{Framer, Packet, Version, decode};

fn main() -> Result<(), Box<dyn Error>> {
    let mut version = Version::V5;
    let mut path = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--version" {
            version = match arguments.next().as_deref() {
                Some("3.1") => Version::V3_1,
                Some("3.1.1") => Version::V3_1_1,
                Some("5" | "5.0") => Version::V5,
                _ => return Err("--version is 3.1, 3.1.1 or 5.0".into()),
            };
        } else {
            path = Some(argument);
        }
    }
    let mut bytes = Vec::new();
    match path {
        Some(path) => bytes = std::fs::read(path)?,
        None => _ = std::io::stdin().read_to_end(&mut bytes)?,
    }
    print_packets(&from_hex(&bytes).unwrap_or(bytes), version)
}

/// Prints what `stream` holds; fails at the first packet that is not valid, or if the last one is incomplete.
fn print_packets(stream: &[u8], mut version: Version) -> Result<(), Box<dyn Error>> {
    let mut framer = Framer::default();
    let mut offset = 0;
    // A socket hands out pieces that know nothing of packets; so does this loop.
    for mut piece in stream.chunks(7) {
        while let Some(frame) = framer.next_frame(&mut piece, u32::MAX)? {
            let packet = decode(version, frame)
                .map_err(|error| format!("at byte {offset}: {error}: {}", error.reason_code()))?;
            if let Packet::Connect(connect) = &packet {
                version = connect.version;
            }
            println!("{offset:>6} {:>5} {packet:?}", frame.len());
            offset += frame.len();
        }
    }
    match framer.buffered_len() {
        0 => Ok(()),
        len => Err(format!("at byte {offset}: {len} bytes of an incomplete packet").into()),
    }
}

/// The bytes that hexadecimal text stands for; `None` if it is something else.
fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let mut digits = Vec::new();
    for line in std::str::from_utf8(text).ok()?.lines() {
        for digit in line.split('#').next()?.chars().filter(|digit| !digit.is_whitespace()) {
            digits.push(digit.to_digit(16)? as u8);
        }
    }
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| high << 4 | low).collect())
}
