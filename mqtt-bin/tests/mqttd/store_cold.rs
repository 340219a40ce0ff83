//! Queues of clients that are away, which lie on the disk alone: through kills, tools and another number of cores.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::client::Client;
use crate::process::{DEADLINE, Mqttd, command};
use crate::store::{Data, publish, take};

const MESSAGES: u16 = 400;

/// From so many bytes on a file of chunks is followed by another one.
const FILE_BYTES: u64 = 16 << 20;

fn payload(number: u16) -> String {
    format!("message {number:05} {}", "-".repeat(80))
}

fn end(mqttd: Mqttd, signal: Signal) {
    mqttd.signal(signal);
    mqttd.wait();
}

/// How many files of chunks there are with something in them.
fn files(data: &Data) -> usize {
    let files = fs::read_dir(data.directory().join("cold")).into_iter().flatten();
    files
        .filter(|file| file.as_ref().is_ok_and(|file| file.metadata().is_ok_and(|file| file.len() > 0)))
        .count()
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

/// It takes much along: each says so in one line, with whom it concerns.
#[test]
fn a_file_that_is_gone_is_told_in_a_line_and_not_passed_over() {
    let settings = "[limits]\nqueue_memory_bytes_max = 4000\n";
    let data = Data::with(settings);
    let mqttd = data.start("1");
    for number in 0..5 {
        let mut away = Client::connect(mqttd.address, &format!("away-{number}")).expect("it listens");
        away.subscribe("to/away", 1).expect("it answers");
    }
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    for number in 1..=100 {
        publish(&mut publisher, "to/away", &payload(number), 1, number);
    }
    end(mqttd, Signal::SIGKILL);
    fs::remove_dir_all(data.directory().join("cold")).expect("it is there");
    let whose = "messages that waited for \"away-0\", \"away-1\", \"away-2\" and 2 other Clients are gone";
    let lines_on_it = |said: &str| {
        let said = said.replace("\\\"", "\"");
        assert!(said.contains(whose), "{said}");
        said.matches("cold/000000000001").count()
    };

    let directory = data.directory();
    let arguments = ["store", "check", "--data-dir", directory.to_str().expect("UTF-8")];
    let check = command().args(arguments).output().expect("it starts");
    assert_eq!(check.status.code(), Some(4));
    assert_eq!(lines_on_it(&String::from_utf8_lossy(&check.stdout)), 1);
    assert!(String::from_utf8_lossy(&check.stderr).contains("mqttd store repair --salvage"));

    let said = data.refusal("1");
    assert_eq!(lines_on_it(&said), 1);
    assert!(said.contains("mqttd store check") && said.contains("on_damage"), "{said}");

    data.set(&format!("[store]\non_damage = \"salvage\"\n{settings}"));
    let mqttd = data.start("1");
    assert_eq!(lines_on_it(&mqttd.said), 1);
    let mut away = Client::connect(mqttd.address, "away-0").expect("it listens");
    assert!(away.session_present);
    let last = take(&mut away, 1);
    assert!((2..=100).any(|number| last[0].1 == payload(number)), "{last:?}");
    mqttd.signal(Signal::SIGTERM);
    let (_, log) = mqttd.wait();
    assert!(!log.contains("ERROR"), "nothing is left to be said: {log}");
    assert!(data.directory().join("damaged-1/damage.txt").exists());
    store(&data, &["check"]);
}

/// A broker with messages for one client that is away, the first chunk of which is damaged.
fn damaged(settings: &str) -> (Data, Mqttd) {
    let limits = "[limits]\nsys_interval_seconds = 1\nqueue_memory_bytes_max = 4000\n";
    let data = Data::with(&format!("{settings}{limits}"));
    let mqttd = data.start("1");
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    away.subscribe("to/away", 1).expect("it answers");
    drop(away);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    for number in 1..=MESSAGES {
        publish(&mut publisher, "to/away", &payload(number), 1, number);
    }
    let file = OpenOptions::new().write(true).open(data.directory().join("cold/000000000001"));
    file.expect("there is one").write_all_at(b"?", 100).expect("written");
    (data, mqttd)
}

/// Takes what waits for the client that was away, up to the last: the number of the first, behind which none may lack.
fn take_rest(mqttd: &Mqttd) -> u16 {
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    assert!(away.session_present);
    let mut got = take(&mut away, 1);
    let first = (1..=MESSAGES).find(|&number| got[0].1 == payload(number)).expect("one of them");
    got.extend(take(&mut away, usize::from(MESSAGES - first)));
    assert!(got.iter().map(|(_, text)| text.clone()).eq((first..=MESSAGES).map(payload)));
    first
}

/// Nothing of it is given up, and nobody else notices.
#[test]
fn who_waits_for_a_chunk_that_cannot_be_read_is_refused_until_it_is_given_up() {
    let (data, mut mqttd) = damaged("");
    let mut other = Client::connect(mqttd.address, "other").expect("it listens");
    other.subscribe("$SYS/broker/sessions/unreadable", 0).expect("it answers");
    // Let in or not, it gets nothing.
    if let Ok(mut away) = Client::connect(mqttd.address, "away") {
        assert!(away.session_present && away.receive().is_err());
    }
    assert_eq!(Client::code(4, mqttd.address, "away").expect("it answers"), 3, "Server unavailable");
    let code = Client::code(5, mqttd.address, "away").expect("it answers");
    assert_eq!(code, 0x83, "Implementation specific error");
    while take(&mut other, 1)[0].1 != "1" {}
    let whose = mqttd.says("it is refused");
    for text in ["\"away\"", "cold/000000000001", "from byte 0 on", "mqttd store check", "repair --salvage"] {
        assert!(whose.contains(text), "{text}: {whose}");
    }
    mqttd.signal(Signal::SIGTERM);
    let (code, log) = mqttd.wait();
    assert!(code == Some(0) && !log.contains("it is refused"), "{log}");

    let directory = data.directory();
    let directory = directory.to_str().expect("UTF-8");
    let check = command().args(["store", "check", "--data-dir", directory]).output().expect("it starts");
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(said.contains("messages that waited for \"away\" are gone"), "{said}");
    assert_eq!(check.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&check.stderr).contains("mqttd store repair --salvage"));
    let repair = ["store", "repair", "--salvage", "--yes", "--data-dir", directory];
    let repair = command().args(repair).output().expect("it starts");
    let repaired = String::from_utf8_lossy(&repair.stdout);
    assert_eq!(repair.status.code(), Some(4), "something is given up");
    assert!(repaired.contains("cold/000000000001"), "{repaired}");
    store(&data, &["check"]);
    let mqttd = data.start("1");
    assert!(take_rest(&mqttd) > 1);
    end(mqttd, Signal::SIGTERM);
}

#[test]
fn a_broker_that_is_to_salvage_goes_on_without_a_chunk_and_says_whose_it_was() {
    let (_data, mut mqttd) = damaged("on_damage = \"salvage\"\n");
    let first = take_rest(&mqttd);
    assert!(first > 1);
    let where_it_was = mqttd.says("cannot be read");
    assert!(where_it_was.contains("cold/000000000001"), "{where_it_was}");
    let whose = mqttd.says("what waited for this Client is lost");
    assert!(whose.contains("\"away\"") && whose.contains(&(first - 1).to_string()), "{whose}");
    end(mqttd, Signal::SIGTERM);
}

/// Most clients come back for their messages: the files become as small as what is left.
#[test]
#[allow(clippy::disallowed_methods, reason = "a deadline for a real process is real time")]
fn files_shrink_when_most_clients_have_taken_what_waited() {
    const CLIENTS: u16 = 10;
    let data = Data::new();
    data.set("[store]\nlog_bytes_max = 134217728\n[limits]\nqueue_memory_bytes_max = 4000\n");
    let mqttd = data.start("2");
    let name = |number: u16| format!("client-{number}");
    for number in 0..CLIENTS {
        let mut away = Client::connect(mqttd.address, &name(number)).expect("it listens");
        away.subscribe("to/away", 1).expect("it answers");
    }
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    let text = |number: u16| format!("{number:05} {}", "-".repeat(50_000));
    let count = 80;
    for number in 1..=count {
        publish(&mut publisher, "to/away", &text(number), 1, number);
    }
    let bytes = || -> u64 {
        let files = fs::read_dir(data.directory().join("cold")).expect("it is there");
        files.map(|file| file.expect("listed").metadata().map_or(0, |file| file.len())).sum()
    };
    let start = Instant::now();
    while bytes() <= FILE_BYTES + FILE_BYTES / 4 {
        assert!(start.elapsed() < DEADLINE, "{} bytes are in files", bytes());
        std::thread::yield_now();
    }
    let before = bytes();
    for number in 1..CLIENTS {
        let mut away = Client::connect(mqttd.address, &name(number)).expect("it listens");
        assert_eq!(take(&mut away, count.into()).len(), usize::from(count));
    }
    let start = Instant::now();
    while bytes() > before / u64::from(CLIENTS) + FILE_BYTES {
        assert!(start.elapsed() < DEADLINE, "{} of {before} bytes are left", bytes());
        std::thread::yield_now();
    }
    end(mqttd, Signal::SIGKILL);
    let mqttd = data.start("1");
    let mut last = Client::connect(mqttd.address, &name(0)).expect("it listens");
    let got = take(&mut last, count.into());
    assert!(got.iter().map(|(_, text)| text.clone()).eq((1..=count).map(text)));
    end(mqttd, Signal::SIGTERM);
}
