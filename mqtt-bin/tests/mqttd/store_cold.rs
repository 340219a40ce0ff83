//! Queues of clients that are away, which lie on the disk alone: through kills, tools and another number of cores.

use std::fs;

use nix::sys::signal::Signal;

use crate::client::Client;
use crate::process::{Mqttd, command};
use crate::store::{Data, publish, take};

const MESSAGES: u16 = 400;

fn payload(number: u16) -> String {
    format!("message {number:05} {}", "-".repeat(80))
}

fn end(mqttd: Mqttd, signal: Signal) {
    mqttd.signal(signal);
    mqttd.wait();
}

/// How many files of chunks there are.
fn files(data: &Data) -> usize {
    fs::read_dir(data.directory().join("cold")).map_or(0, Iterator::count)
}

fn store(data: &Data, arguments: &[&str]) -> String {
    let directory = data.directory();
    let directory = directory.to_str().expect("UTF-8");
    let output =
        command().arg("store").args(arguments).args(["--data-dir", directory]).output().expect("it starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn what_waits_on_the_disk_alone_comes_once_and_in_order_whatever_ends_the_broker() {
    let data = Data::with("[limits]\nqueue_memory_bytes_max = 4000\n");
    let mqttd = data.start("2");
    for name in ["one", "two"] {
        let mut away = Client::connect(mqttd.address, name).expect("it listens");
        away.subscribe("to/away", 2).expect("it answers");
    }
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    for number in 1..=MESSAGES {
        publish(&mut publisher, "to/away", &payload(number), 1 + number as u8 % 2, number);
    }
    assert_eq!(files(&data), 1, "little of it may be in memory");
    end(mqttd, Signal::SIGKILL);

    store(&data, &["check"]);
    let export = store(&data, &["export"]);
    for number in 1..=MESSAGES {
        assert_eq!(export.matches(&payload(number)).count(), 2, "message {number}");
    }

    // On another number of cores all of it is found where it was.
    let mqttd = data.start("1");
    let all: Vec<_> = (1..=MESSAGES).map(|number| ("to/away".to_owned(), payload(number))).collect();
    let mut one = Client::connect(mqttd.address, "one").expect("it listens");
    assert!(one.session_present);
    assert_eq!(take(&mut one, usize::from(MESSAGES)), all);
    drop(one);
    end(mqttd, Signal::SIGKILL);

    let mqttd = data.start("2");
    let mut two = Client::connect(mqttd.address, "two").expect("it listens");
    assert_eq!(take(&mut two, usize::from(MESSAGES)), all);
    drop(two);
    end(mqttd, Signal::SIGTERM);
    let mqttd = data.start("2");
    assert_eq!(files(&data), 0, "nobody needs it any more");
    end(mqttd, Signal::SIGTERM);
}

#[test]
fn a_file_that_is_gone_is_not_passed_over() {
    let data = Data::with("[limits]\nqueue_memory_bytes_max = 4000\n");
    let mqttd = data.start("1");
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    away.subscribe("to/away", 1).expect("it answers");
    drop(away);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    for number in 1..=100 {
        publish(&mut publisher, "to/away", &payload(number), 1, number);
    }
    end(mqttd, Signal::SIGKILL);
    fs::remove_dir_all(data.directory().join("cold")).expect("it is there");
    let directory = data.directory();
    let arguments = ["store", "check", "--data-dir", directory.to_str().expect("UTF-8")];
    let check = command().args(arguments).output().expect("it starts");
    assert!(!check.status.success());
    let arguments = ["--data-dir", directory.to_str().expect("UTF-8"), "--cores", "1"];
    let start = command().args(arguments).output().expect("it starts");
    assert!(!start.status.success());
    let said = String::from_utf8_lossy(&start.stderr) + String::from_utf8_lossy(&start.stdout);
    assert!(said.contains("messages that wait for Clients that are away are gone"), "{said}");
}
