//! `mqttd store`: on directories that mqttd has written, and on those that the tools make.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;

use crate::process::{DEADLINE, Mqttd, command};

/// An export with everything that there can be in one.
const GOLDEN: &str = include_str!("../golden/export.jsonl");

/// A 5.0 CONNECT with the ClientID `c`, Clean Start 0, a Will on `w` and Session Expiry Interval `never`.
const CONNECT: &[u8] =
    b"\x10\x1a\x00\x04MQTT\x05\x0c\x00\x00\x05\x11\xff\xff\xff\xff\x00\x01c\x00\x00\x01w\x00\x01!";
/// SUBSCRIBE to `t/#` at QoS 1.
const SUBSCRIBE: &[u8] = b"\x82\x09\x00\x01\x00\x00\x03t/#\x01";
/// A PUBLISH of `hello` to `t/1` at QoS 1, retained.
const PUBLISH: &[u8] = b"\x33\x0d\x00\x03t/1\x00\x02\x00hello";

/// Folders of a test's own, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mqttd-store-tools-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).expect("the temporary folder is writable");
        Place(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("ASCII").to_owned()
    }

    /// A configuration with small files and the directory `data`.
    fn config(&self) -> String {
        let config = self.path("mqttd.toml");
        let text = format!(
            "cores = 2\n[store]\ndata_dir = \"{}\"\nsegment_bytes = 65536\nlog_bytes_max = 4194304\n",
            self.path("data")
        );
        fs::write(&config, text).expect("written");
        config
    }

    fn broker(&self) -> Mqttd {
        Mqttd::start_as(&["--config", &self.config()])
    }

    /// `mqttd store` with the directory `data`.
    fn store(&self, arguments: &[&str]) -> Output {
        self.store_in("data", arguments)
    }

    fn store_in(&self, data: &str, arguments: &[&str]) -> Output {
        command()
            .arg("store")
            .args(arguments)
            .args(["--data-dir", &self.path(data)])
            .output()
            .expect("it starts")
    }

    /// A store of a session with a Will, a subscription, and a message under way to it that is retained too.
    fn filled(&self) {
        let mqttd = self.broker();
        let mut client = connect(&mqttd);
        client.write_all(&[SUBSCRIBE, PUBLISH].concat()).expect("it reads");
        // SUBACK, then PUBLISH and PUBACK in any order: each is on the disk before it is sent.
        read_packets(&mut client, 3);
        kill(mqttd);
    }

    /// The segment in which the session of the Client is: in more than one commit, as each answer waited for one.
    fn segment(&self) -> PathBuf {
        let is_it =
            |path: &PathBuf| fs::read(path).expect("readable").windows(3).any(|bytes| bytes == b"t/#");
        let segment = |core| self.0.join(format!("data/layout-1/core-{core}/segment-00000000"));
        [0, 1].map(segment).into_iter().find(is_it).expect("one of them has it")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("it was made");
    }
}

fn connect(mqttd: &Mqttd) -> TcpStream {
    let mut client = TcpStream::connect(mqttd.address).expect("it listens");
    client.set_read_timeout(Some(DEADLINE)).expect("the deadline is not zero");
    client.write_all(CONNECT).expect("it reads");
    read_packets(&mut client, 1);
    client
}

/// Reads so many packets shorter than 128 bytes.
fn read_packets(client: &mut TcpStream, packets: usize) {
    for _ in 0..packets {
        let mut header = [0; 2];
        client.read_exact(&mut header).expect("the broker answers");
        client.read_exact(&mut vec![0; header[1].into()]).expect("the packet is whole");
    }
}

/// As a power cut would, but for what the kernel still has.
fn kill(mqttd: Mqttd) {
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is long enough");
    file.write_all_at(&[byte[0] ^ 0xFF], offset).expect("written");
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn said(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// What it printed, as it succeeded.
#[track_caller]
fn done(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}{}", out(&output), said(&output));
    assert_eq!(said(&output), "");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The one sentence with which it failed.
#[track_caller]
fn refused(output: &Output, code: i32) -> &str {
    let said = said(output);
    assert_eq!(output.status.code(), Some(code), "{}{said}", out(output));
    assert!(said.starts_with("mqttd: ") && said.lines().count() == 1, "{said}");
    said
}

/// All files, with what is in them.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("listed").path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), fs::read(&path).expect("readable"))),
        }
    }
    found.sort();
    found
}

#[test]
fn an_export_that_is_imported_is_exported_byte_for_byte() {
    for cores in ["1", "3", "128"] {
        let place = Place::new();
        let golden = place.path("golden.jsonl");
        fs::write(&golden, GOLDEN).expect("written");
        let told = done(place.store(&["import", &golden, "--cores", cores]));
        assert!(told.contains("2 sessions and 2 retained messages"), "{told}");
        assert_eq!(done(place.store(&["export"])), GOLDEN, "{cores} cores");
        let file = place.path("again.jsonl");
        done(place.store(&["export", "--output", &file]));
        assert_eq!(fs::read_to_string(&file).expect("written"), GOLDEN);
        assert_eq!(
            fs::metadata(&file).expect("there").permissions().mode() & 0o077,
            0,
            "nobody else can read it"
        );
        assert_eq!(done(place.store(&["check"])).lines().count(), cores.parse::<usize>().expect("a number"));
    }
}

#[test]
fn the_order_of_an_import_makes_no_difference_to_an_export() {
    let place = Place::new();
    let lines: Vec<_> = GOLDEN.lines().collect();
    let (filters, others) =
        (r#"{"filter":"$share/workers/jobs/#","qos":2},"#, r#"{"filter":"b/#","qos":2,"no_local":true}"#);
    let away =
        lines[5].replace(filters, "").replace(others, &format!("{others},{}", filters.trim_end_matches(',')));
    assert_eq!(away.len(), lines[5].len(), "a subscription has changed its place");
    let mixed =
        [&lines[..1], &lines[11..], &[&away], &lines[6..11], &lines[3..5], &[lines[2], lines[1]]].concat();
    let file = place.path("mixed.jsonl");
    fs::write(&file, mixed.join("\n")).expect("written");
    done(place.store(&["import", &file]));
    assert_eq!(done(place.store(&["export"])), GOLDEN);
}

#[test]
fn an_export_is_of_what_is_wanted_and_can_be_imported() {
    let place = Place::new();
    let file = place.path("golden.jsonl");
    fs::write(&file, GOLDEN).expect("written");
    done(place.store(&["import", &file]));
    let lines = |from: usize, to| GOLDEN.lines().skip(from).take(to - from).collect::<Vec<_>>();
    let header = lines(0, 1);
    let one = done(place.store(&["export", "--client", "away"]));
    assert_eq!(one.lines().collect::<Vec<_>>(), [&header[..], &lines(5, 11)].concat());
    let topic = done(place.store(&["export", "--topic", "a/#"]));
    let expected = [header.clone(), lines(1, 2), lines(5, 6), lines(7, 8), lines(9, 10)].concat();
    assert_eq!(topic.lines().collect::<Vec<_>>(), expected);
    fs::write(&file, &topic).expect("written");
    done(place.store_in("other", &["import", &file]));
    assert_eq!(done(place.store_in("other", &["export"])), topic);
    assert!(refused(&place.store(&["export", "--client", "nobody"]), 1).contains("no session of \"nobody\""));
    assert_eq!(place.store(&["export", "--topic", "a/#/b"]).status.code(), Some(2));
}

#[test]
fn what_a_broker_has_written_is_read_and_nothing_is_changed() {
    let place = Place::new();
    place.filled();
    let before = contents(&place.0);
    let check = done(place.store(&["check"]));
    assert!(
        check.contains("1 session, 1 queued message, 0 retained") || check.contains("1 retained message"),
        "{check}"
    );
    let stat = done(place.store(&["stat"]));
    assert!(stat.contains("sessions       1: 1 connected when the log ended, 0 away"), "{stat}");
    let json: serde_json::Value =
        serde_json::from_str(&done(place.store(&["stat", "--json"]))).expect("JSON");
    assert_eq!(json["sessions"]["subscriptions"], 1);
    assert_eq!(json["sessions"]["in_flight"], serde_json::json!({ "messages": 1, "bytes": 8 }));
    assert_eq!((&json["sessions"]["wills"], &json["retained"]["messages"]), (&1.into(), &1.into()));
    assert_eq!(json["cores"].as_array().map(Vec::len), Some(2));
    let export = done(place.store(&["export"]));
    for line in [
        r#"{"retained":{"topic":"t/1","qos":1,"retain":true,"payload":"hello"}}"#,
        r#""subscriptions":[{"filter":"t/#","qos":1}],"will":{"delay_seconds":0,"message":{"topic":"w","qos":1,"payload":"!"}}}}"#,
        r#"{"delivery":{"client_id":"c","packet_id":1,"qos":1,"message":{"topic":"t/1","qos":1,"retain":true,"payload":"hello"}}}"#,
    ] {
        assert!(export.contains(line), "{line}: {export}");
    }
    let log = done(place.store(&["dump-log"]));
    for record in [
        r#" Opened client="c" expiry_seconds=4294967295 next_packet_id=1"#,
        r#" Subscribed client="c" filter="t/#" qos=1"#,
        r#" Message topic="t/1" qos=1 retain payload_bytes=5 payload="hello""#,
        r#" Enqueued client="c" qos=1 packet_id=1"#,
        " Retained",
    ] {
        assert!(log.lines().any(|line| line.ends_with(record)), "{record}: {log}");
    }
    assert_eq!(contents(&place.0), before);
}

#[test]
fn a_part_of_the_log_can_be_dumped() {
    let place = Place::new();
    place.filled();
    let numbers = |arguments: &[&str]| -> Vec<(u16, u64)> {
        let log = done(place.store(&[&["dump-log"], arguments].concat()));
        let number = |line: &str| {
            let mut words = line.split(' ');
            let mut next = || words.next().expect("a number");
            (next().parse().expect("a core"), next().parse().expect("a record"))
        };
        log.lines().map(number).collect()
    };
    let all = numbers(&[]);
    assert!(all.is_sorted(), "{all:?}");
    let of = |core| all.iter().copied().filter(|record| record.0 == core).collect::<Vec<_>>();
    let core = if of(0).len() > of(1).len() { 0 } else { 1 };
    assert_eq!(numbers(&["--core", &core.to_string()]), of(core));
    assert_eq!(numbers(&["--core", &core.to_string(), "--from", "2", "--to", "3"]), [(core, 2), (core, 3)]);
    assert!(refused(&place.store(&["dump-log", "--core", "2"]), 1).contains("no core 2"));
    assert_eq!(numbers(&["--from", "1000000"]), [], "the log ends before that");
    let reversed = place.store(&["dump-log", "--from", "3", "--to", "2"]);
    assert!(refused(&reversed, 1).contains("give the lower number first"));
}

#[test]
fn a_running_broker_keeps_its_store_to_itself() {
    let place = Place::new();
    let mqttd = place.broker();
    for arguments in
        [&["stat"][..], &["check"], &["export"], &["dump-log"], &["repair", "--salvage", "--yes"]]
    {
        let output = place.store(arguments);
        assert!(refused(&output, 1).contains("in use by a running mqttd"), "{arguments:?}");
    }
    mqttd.signal(Signal::SIGTERM);
    mqttd.wait();
    done(place.store(&["stat"]));
}

#[test]
fn damage_is_found_refused_and_salvaged() {
    let place = Place::new();
    place.filled();
    let segment = place.segment();
    // The first record of the first commit, behind its header of 48 bytes.
    flip(&segment, 4096 + 48);
    let check = place.store(&["check"]);
    assert!(refused(&check, 4).contains("repair --salvage"));
    let folder = segment.parent().expect("a folder").to_str().expect("ASCII");
    let damage = format!("damaged: {folder}: segment 0, byte 4096: a commit does not verify");
    assert!(out(&check).contains(&damage), "{}", out(&check));
    for arguments in [&["stat"][..], &["export"]] {
        assert!(refused(&place.store(arguments), 4).contains("store check"), "{arguments:?}");
    }
    let dump = place.store(&["dump-log"]);
    assert!(
        refused(&dump, 4).contains("store check") && out(&dump).contains("damaged: segment 0, byte 4096")
    );

    let before = contents(&place.0.join("data"));
    let unasked = place.store(&["repair", "--salvage"]);
    assert!(refused(&unasked, 1).contains("--yes"));
    assert_eq!(place.store(&["repair", "--yes"]).status.code(), Some(2), "it has to be said what is wanted");
    assert_eq!(contents(&place.0.join("data")), before);

    let repaired = place.store(&["repair", "--salvage", "--yes"]);
    assert!(refused(&repaired, 4).contains("data/damaged-1"));
    assert!(
        out(&repaired).contains(&damage) && out(&repaired).contains("can be kept: "),
        "{}",
        out(&repaired)
    );
    let report = fs::read_to_string(place.0.join("data/damaged-1/damage.txt")).expect("a report");
    assert!(report.contains("segment 0, byte 4096"), "{report}");
    done(place.store(&["check"]));
    let again = done(place.store(&["repair", "--salvage", "--yes"]));
    assert!(again.contains("nothing is damaged"), "{again}");
    kill(place.broker());
}

#[test]
fn what_is_read_of_a_damaged_log_is_told_by_its_first_record_and_its_last() {
    let place = Place::new();
    let mqttd = place.broker();
    let mut client = connect(&mqttd);
    client.write_all(SUBSCRIBE).expect("it reads");
    read_packets(&mut client, 1);
    client.write_all(PUBLISH).expect("it reads");
    read_packets(&mut client, 2);
    kill(mqttd);
    let segment = place.segment();
    let core = if segment.to_str().expect("ASCII").contains("core-0") { 0 } else { 1 };
    let whole = done(place.store(&["check"]));
    let records = |check: &str| {
        let line =
            check.lines().find(|line| line.starts_with(&format!("core {core}: "))).expect("of each core");
        let (_, records) =
            line.split_once("; ").map_or(("", line), |(front, _)| front.split_once(", ").expect("two"));
        records.to_owned()
    };
    assert!(records(&whole).starts_with("records 1 to "), "{whole}");
    // The last commit but one: behind that with the session.
    let bytes = fs::read(&segment).expect("readable");
    let pages = bytes.chunks(4096).enumerate().filter(|(_, page)| page.starts_with(b"mqLC"));
    let (page, _) = pages.rev().nth(1).expect("there are three");
    flip(&segment, page as u64 * 4096 + 48);
    let check = place.store(&["check"]);
    refused(&check, 4);
    assert_eq!(records(out(&check)), records(&whole), "{}", out(&check));
    refused(&place.store(&["repair", "--salvage", "--yes"]), 4);
    let report = fs::read_to_string(place.0.join("data/damaged-1/damage.txt")).expect("a report");
    assert!(report.contains(&format!("kept of core {core}: 1 session, ")), "{report}");
}

#[test]
fn a_directory_with_a_broken_meta_is_damaged_and_repair_changes_nothing() {
    let place = Place::new();
    place.filled();
    flip(&place.0.join("data/META"), 20);
    let before = contents(&place.0.join("data"));
    for arguments in [&["check"][..], &["stat"], &["export"], &["dump-log"]] {
        assert!(refused(&place.store(arguments), 4).contains("META: the file is damaged"), "{arguments:?}");
    }
    let repair = place.store(&["repair", "--salvage", "--yes"]);
    assert!(refused(&repair, 1).contains("Put back a backup"));
    assert_eq!(contents(&place.0.join("data")), before);
}

#[test]
fn a_write_that_was_cut_short_is_no_damage() {
    let place = Place::new();
    place.filled();
    let segment = place.segment();
    let pages = fs::read(&segment).expect("readable");
    let last =
        pages.chunks(4096).rposition(|page| page.starts_with(b"mqLC")).expect("there are commits") as u64;
    flip(&segment, last * 4096 + 48);
    let before = contents(&place.0);
    let check = done(place.store(&["check"]));
    let torn = format!("torn: {}, byte {}: ", segment.display(), last * 4096);
    assert!(check.contains(&torn) && check.contains("(4096 bytes)"), "{torn}: {check}");
    let dump = done(place.store(&["dump-log"]));
    assert!(dump.contains(&format!("torn: segment 0, byte {}: 4096 bytes", last * 4096)), "{dump}");
    assert_eq!(contents(&place.0), before);
}

#[test]
fn a_broker_goes_on_with_what_was_imported() {
    let place = Place::new();
    place.filled();
    let file = place.path("export.jsonl");
    done(place.store(&["export", "--output", &file]));
    fs::remove_dir_all(place.0.join("data")).expect("it is there");
    done(place.store(&["import", &file]));
    let mqttd = place.broker();
    let mut client = TcpStream::connect(mqttd.address).expect("it listens");
    client.set_read_timeout(Some(DEADLINE)).expect("the deadline is not zero");
    client.write_all(CONNECT).expect("it reads");
    let mut header = [0; 4];
    client.read_exact(&mut header).expect("CONNACK");
    assert_eq!(header[2..], [1, 0], "the session is there");
    client.read_exact(&mut vec![0; usize::from(header[1]) - 2]).expect("its properties");
    let mut publish = [0; 15];
    client.read_exact(&mut publish).expect("the message that was under way");
    assert_eq!(&publish, b"\x3a\x0d\x00\x03t/1\x00\x01\x00hello", "DUP, under its Packet Identifier");
}

#[test]
fn an_import_is_whole_or_nothing_and_only_where_nothing_is() {
    let place = Place::new();
    let file = place.path("export.jsonl");
    fs::write(&file, GOLDEN.replace("\"qos\":2,\"payload\":\"too\"", "\"qos\":3,\"payload\":\"too\""))
        .expect("written");
    let output = place.store(&["import", &file]);
    assert!(refused(&output, 1).contains("export.jsonl:9: the QoS is 3"), "{}", said(&output));
    assert!(!place.0.join("data").exists());
    fs::write(&file, GOLDEN).expect("written");
    done(place.store(&["import", &file]));
    assert!(refused(&place.store(&["import", &file]), 1).contains("holds something already"));
    assert_eq!(place.store(&["import", &file, "--cores", "0"]).status.code(), Some(2));
    let missing = place.store(&["import", &place.path("missing")]);
    assert!(refused(&missing, 1).contains("cannot read"));
    let exists = place.store(&["export", "--output", &file]);
    assert!(
        refused(&exists, 1).contains("writes over nothing")
            && said(&exists).contains("give a name that no file has yet")
    );
    assert_eq!(fs::read_to_string(&file).expect("there"), GOLDEN, "it was not written over");
}

#[test]
fn where_there_is_no_store_that_is_said_and_none_is_made() {
    let place = Place::new();
    assert!(refused(&place.store(&["check"]), 1).contains("there is no store in"));
    assert!(refused(&place.store(&["stat"]), 1).contains("there is no store in"));
    assert!(!place.0.join("data").exists());
    fs::create_dir(place.0.join("data")).expect("made");
    assert!(refused(&place.store(&["export"]), 1).contains("there is no store in"));
    assert_eq!(contents(&place.0.join("data")), []);
    place.filled();
    fs::remove_file(place.0.join("data/META")).expect("it is there");
    assert!(refused(&place.store(&["check"]), 4).contains("META: the file is missing"));
}

#[test]
fn a_file_where_a_directory_should_be_is_named() {
    let place = Place::new();
    let export = place.path("export.jsonl");
    fs::write(&export, GOLDEN).expect("written");
    for data in ["export.jsonl", "export.jsonl/data"] {
        for arguments in [&["check"][..], &["import", &export]] {
            let output = place.store_in(data, arguments);
            let expected = format!("{export} is a file: give a directory");
            assert!(refused(&output, 1).contains(&expected), "{}", said(&output));
        }
    }
    let folder = place.path("folder");
    fs::create_dir(&folder).expect("made");
    assert!(refused(&place.store(&["import", &folder]), 1).contains("it is a directory"));
    fs::write(&export, "cores = 2\n").expect("written");
    assert!(refused(&place.store(&["import", &export]), 1).contains("export.jsonl:1: this is no export"));
}

/// A store of one core with a snapshot of so many sessions, as an import makes it.
fn imported(place: &Place, sessions: usize) -> PathBuf {
    let mut lines = GOLDEN.lines().next().expect("a header").to_owned();
    for number in 0..sessions {
        lines.push_str(&format!(
            "\n{{\"session\":{{\"client_id\":\"client-{number}\",\"expiry_seconds\":4294967295,\"away_since\":1,\
             \"next_packet_id\":1,\"subscriptions\":[{{\"filter\":\"to/{number}/{filler}\",\"qos\":1}}]}}}}",
            filler = "x".repeat(200),
        ));
    }
    let file = place.path("sessions.jsonl");
    fs::write(&file, lines).expect("written");
    done(place.store(&["import", &file]));
    place.0.join("data/layout-2/core-0/snapshot-000000000001")
}

#[test]
fn of_a_damaged_snapshot_all_is_kept_but_one_commit_and_what_is_gone_is_told() {
    const SESSIONS: usize = 2_000;
    for (place_in_file, is_header) in [(4096 + 100, false), (8, true)] {
        let place = Place::new();
        let snapshot = imported(&place, SESSIONS);
        flip(&snapshot, place_in_file);
        let start = command()
            .args(["--cores", "1", "--listen", "127.0.0.1:0", "--data-dir", &place.path("data")])
            .output()
            .expect("it starts");
        let what = match is_header {
            true => "the snapshot, byte 0: the header of the file does not verify".to_owned(),
            false => "the snapshot, byte 4096: what is there up to byte ".to_owned(),
        };
        let what = format!("{}: {what}", snapshot.display());
        assert_eq!(start.status.code(), Some(4), "it refuses to start");
        assert!(said(&start).contains(&what), "{what}: {}", said(&start));

        let repaired = place.store(&["repair", "--salvage", "--yes"]);
        assert!(refused(&repaired, 4).contains("damaged-2"), "{}", said(&repaired));
        assert!(out(&repaired).contains(&format!("core 0: damaged: {what}")), "{}", out(&repaired));
        done(place.store(&["check"]));
        let json: serde_json::Value =
            serde_json::from_str(&done(place.store(&["stat", "--json"]))).expect("JSON");
        let kept = json["sessions"]["total"].as_u64().expect("a number") as usize;
        assert!(
            out(&repaired).contains(&format!("core 0: can be kept: {kept} sessions")),
            "{}",
            out(&repaired)
        );
        let report = fs::read_to_string(place.0.join("data/damaged-2/damage.txt")).expect("a report");
        assert!(
            report.contains(&what) && report.contains(&format!("kept of core 0: {kept} sessions")),
            "{report}"
        );
        if is_header {
            assert_eq!(kept, SESSIONS, "the header alone is damaged");
        } else {
            assert!(kept < SESSIONS && kept > SESSIONS * 3 / 4, "{kept} sessions");
            assert!(out(&repaired).contains("records in it are gone"), "{}", out(&repaired));
        }
    }
}

#[test]
fn the_directory_can_be_that_of_a_configuration() {
    let place = Place::new();
    place.filled();
    let config = place.config();
    let output = command().args(["store", "stat", "--config", &config]).output().expect("it starts");
    assert!(done(output).contains(&place.path("data")));
    fs::write(&config, "[store]\nephemeral = true\n").expect("written");
    let output = command().args(["store", "stat", "--config", &config]).output().expect("it starts");
    assert!(refused(&output, 1).contains("in memory"));
}
