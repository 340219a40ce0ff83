//! mqtt-floor: what the bytes alone cost, for every load that mqtt-load can make.
//!
//! It looks like a broker to mqtt-load, and is none: it cuts the stream into frames by their fixed header and copies each
//! PUBLISH, unparsed, into the output of whoever asked for its topic. No state of a message, no checks, no bounds, no
//! timers, MQTT 3.1.1 only; whoever breaks the rules is cut off. The sockets are on the broker's own ring, and it sleeps
//! as the broker does, so the difference between the two is the price of MQTT, and this is what no work on the broker
//! can go below.

#[path = "../../../mqtt-broker/src/chunks.rs"]
#[allow(dead_code, reason = "a broker needs more of it than this program, and its own tests all of it")]
mod chunks;
#[path = "../floor/exchange.rs"]
mod exchange;
#[path = "../../../mqtt-broker/src/runtime/gather.rs"]
mod gather;
#[path = "../../../mqtt-broker/src/pieces.rs"]
#[allow(dead_code, unreachable_pub, reason = "of the ring, which sends none here")]
mod pieces;
#[path = "../../../mqtt-broker/src/ring/mod.rs"]
#[expect(dead_code, unreachable_pub, unused_imports, reason = "a broker needs more of it than this program")]
mod ring;
#[path = "../../../mqtt-broker/src/store/log/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, reason = "of the ring, which writes no files here")]
mod store_log;
#[path = "../floor/table.rs"]
mod table;

/// Where the ring looks for what it writes to files.
mod store {
    pub(crate) use crate::store_log as log;
}

use std::error::Error;
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use socket2::SockRef;

use exchange::Exchange;
use gather::{GATHER, Gathering};
use ring::{Event, EventFd, Ring, Room, Wait};

/// Forwards MQTT 3.1.1 frames without looking into them: the least that a broker could cost.
#[derive(Parser)]
#[command(name = "mqtt-floor", version)]
struct Cli {
    /// Where to listen; port 0 takes a free one. The address is the first line on standard output.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:1883")]
    listen: String,
}

fn main() -> ExitCode {
    match serve(&Cli::parse().listen) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("mqtt-floor: {error}");
            ExitCode::from(2)
        }
    }
}

/// Serves for as long as the ring works.
fn serve(listen: &str) -> Result<std::convert::Infallible, Box<dyn Error>> {
    ring::raise_file_limit();
    ring::raise_locked_memory_limit();
    let listener = TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
    // Accepted sockets inherit it.
    SockRef::from(&listener).set_tcp_nodelay(true)?;
    println!("{}", listener.local_addr()?);
    let mut ring = Ring::new(Arc::new(EventFd::new()?), 0, Room::plain())?;
    ring.listen(listener);
    let mut exchange = Exchange::default();
    let mut gathering = Gathering::default();
    let mut now = ring::monotonic_millis();
    loop {
        let wait = match ring.poll_timeout() {
            Some(at) => Wait::For(Duration::from_millis(at.saturating_sub(now).max(1))),
            None => Wait::Forever,
        };
        ring.enter(wait, if gathering.sleeps(now) { GATHER } else { Duration::ZERO })?;
        now = ring::monotonic_millis();
        ring.handle_timeout(now);
        let mut received = 0;
        while let Some(event) = ring.poll_event() {
            match event {
                Event::Accepted { socket, .. } => {
                    exchange.open(socket);
                    ring.receive(socket);
                }
                Event::Received { socket, bytes } => {
                    received += 1;
                    if !exchange.receive(socket, bytes) {
                        ring.abort(socket);
                        exchange.close(socket);
                    }
                }
                Event::Ended { socket, .. } => {
                    ring.abort(socket);
                    exchange.close(socket);
                }
                Event::Sent { socket, buffer } => exchange.sent(socket, buffer),
                Event::Released { .. } | Event::Written { .. } => {}
            }
        }
        gathering.woke(received);
        while let Some((socket, buffer)) = exchange.poll_send() {
            ring.send(socket, buffer);
        }
    }
}
