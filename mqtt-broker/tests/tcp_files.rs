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
    run_with_files(160, "with_few_descriptors");
}

#[test]
fn more_clients_than_open_files_are_served() {
    run_with_files(600, "with_tables");
}

/// Runs an ignored test of this program in a process with so many open files.
fn run_with_files(files: u32, test: &str) {
    let this = std::env::current_exe().expect("a test program");
    let run = Command::new("sh")
        .args(["-c", &format!("ulimit -n {files} && exec \"$0\" --exact --ignored --nocapture {test}")])
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
    assert!(error.contains("may have 160 open files, too few for 100000 connections"), "{error}");
    // Without tables, and with them.
    assert!(error.contains("LimitNOFILE=10") && error.contains("in tables of io_uring"), "{error}");

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

#[test]
#[ignore = "needs a process with a small limit of open files, which another test makes"]
fn with_tables() {
    let mut limits = Limits::default();
    limits.connections_max = 1000;
    let broker = Broker::builder().listen("127.0.0.1:0").cores(1).limits(limits).start();
    let broker = match broker {
        // Linux before 6.13 has no tables that serve.
        Err(error) if error.to_string().contains("1000 connections") => return,
        broker => broker.expect("the broker starts"),
    };
    assert!(broker.connections_before_tables().is_some_and(|files| (200..300).contains(&files)));
    let open_files = || std::fs::read_dir("/proc/self/fd").expect("proc").count();
    let before = open_files();
    let mut clients: Vec<TcpStream> = (0..290u16)
        .map(|number| {
            let mut client = TcpStream::connect(broker.addresses()[0]).expect("accepted");
            client.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            let [high, low] = number.to_be_bytes();
            let id = [b'a' + high, b'0' + low / 64, b'0' + low % 64];
            client.write_all(b"\x10\x10\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x03").expect("sent");
            client.write_all(&id).expect("sent");
            read_packet(&mut client, 0x20);
            client
        })
        .collect();
    // About half of the 500 open files that were left are the broker's, and no more.
    assert!(open_files() < before + 290 + 270, "{} and {before} before", open_files());
    for client in &mut clients {
        client.write_all(b"\xc0\x00").expect("sent");
    }
    for client in &mut clients {
        read_packet(client, 0xd0);
    }
    broker.shutdown();
    for client in &mut clients {
        read_packet(client, 0xe0);
        assert_eq!(client.read(&mut [0; 1]).expect("an orderly end"), 0);
    }
    drop(clients);
    assert_eq!(broker.wait(), Ok(()));
}

/// Reads a short packet of this type.
fn read_packet(client: &mut TcpStream, first: u8) {
    let mut head = [0; 2];
    client.read_exact(&mut head).expect("a packet");
    assert_eq!(head[0], first);
    client.read_exact(&mut vec![0; usize::from(head[1])]).expect("its rest");
}
