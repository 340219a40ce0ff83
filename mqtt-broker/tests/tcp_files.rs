//! Accepting when the process has run out of file descriptors. Runs itself again with a small limit.
#![cfg(feature = "runtime")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use mqtt_broker::{Broker, Limits};

const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01x";

#[test]
fn waiting_clients_are_accepted_once_there_are_descriptors_again() {
    let this = std::env::current_exe().expect("a test program");
    let run = Command::new("sh")
        .args(["-c", "ulimit -n 160 && exec \"$0\" --exact --ignored --nocapture with_few_descriptors"])
        .arg(this)
        .output()
        .expect("a shell");
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "needs a process with a small limit of open files, which the other test makes"]
fn with_few_descriptors() {
    let mut limits = Limits::default();
    limits.connections_max = 100_000;
    let error = Broker::builder().cores(1).limits(limits).start().expect_err("not so many").to_string();
    assert!(error.contains("100000 connections") && error.contains("may have 160"), "{error}");

    let broker = Broker::builder().listen("127.0.0.1:0").cores(1).start().expect("the broker starts");
    // Everything is taken but one descriptor, for the client's end.
    let mut taken: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    taken.pop();
    let mut client = TcpStream::connect(broker.addresses()[0]).expect("the kernel accepts");
    client.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    client.write_all(CONNECT).expect("sent");
    let mut connack = [0; 2];
    client.read_exact(&mut connack).expect_err("the broker has no descriptor for it");
    taken.truncate(taken.len() - 8);
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    client.read_exact(&mut connack).expect("CONNACK");
    assert_eq!(connack[0], 0x20);
    drop((taken, client));
    broker.shutdown();
    assert_eq!(broker.wait(), Ok(()));
}
