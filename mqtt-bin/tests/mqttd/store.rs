//! What outlives mqttd, however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::client::{Client, Packet, Receiver};
use crate::power::{Disk, Mode};
use crate::process::{DEADLINE, Mqttd, command};

/// A data directory and a configuration of a test's own, removed when dropped.
pub(crate) struct Data {
    folder: PathBuf,
    /// What it lies on, if not on whatever disk there is.
    pub(crate) disk: Option<Disk>,
}

/// Small segments, so that a test goes through several of them and snapshots, and takes little room.
const SETTINGS: &str = "[store]\nsegment_bytes = 65536\nlog_bytes_max = 1048576\n";

impl Data {
    pub(crate) fn new() -> Data {
        Data::below(&std::env::temp_dir())
    }

    /// With these settings besides.
    pub(crate) fn with(more: &str) -> Data {
        let data = Data::new();
        data.set(&format!("{SETTINGS}{more}"));
        data
    }

    /// In a folder of its own below `folder`.
    pub(crate) fn below(folder: &Path) -> Data {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = folder.join(format!("mqttd-store-{}-{count}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let data = Data { folder, disk: None };
        data.set(SETTINGS);
        data
    }

    /// Sets what the configuration file says.
    pub(crate) fn set(&self, settings: &str) {
        fs::write(self.config(), settings).expect("the temporary folder is writable");
    }

    /// On a disk that has at each start what was synced before.
    pub(crate) fn on(mode: Mode) -> Data {
        let mut data = Data::new();
        data.disk = Some(Disk::new(&data.folder, mode));
        data
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("mqttd.toml")
    }

    pub(crate) fn start(&self, cores: &str) -> Mqttd {
        self.start_by(command(), cores)
    }

    pub(crate) fn start_by(&self, command: Command, cores: &str) -> Mqttd {
        Mqttd::start_by(self.prepare(command, cores), &[])
    }

    /// What mqttd says that does not start.
    pub(crate) fn refusal(&self, cores: &str) -> String {
        let mut command = self.prepare(command(), cores);
        let output = command.args(["--listen", "127.0.0.1:0"]).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // What is damaged has an exit code of its own, and a remedy.
        let code = if said.contains("Put back") { 4 } else { 1 };
        assert_eq!(output.status.code(), Some(code), "{said}");
        said
    }

    fn prepare(&self, mut command: Command, cores: &str) -> Command {
        if let Some(disk) = &self.disk {
            disk.cut();
            disk.preload(&mut command);
        }
        command.args(["--cores", cores, "--data-dir"]).arg(self.directory());
        command.arg("--config").arg(self.config());
        command
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Publishes, and waits for all of the acknowledgement.
pub(crate) fn publish(client: &mut Client, topic: &str, payload: &str, qos: u8, packet_id: u16) {
    client.publish(topic, payload, qos, packet_id, false).expect("it reads");
    if qos == 2 {
        assert_eq!(client.receive().expect("it answers"), Packet::PubRec(packet_id));
        client.acknowledge(0x62, packet_id).expect("it reads");
        assert_eq!(client.receive().expect("it answers"), Packet::PubComp(packet_id));
    } else {
        assert_eq!(client.receive().expect("it answers"), Packet::PubAck(packet_id));
    }
}

/// Takes so many messages.
pub(crate) fn take(client: &mut Client, count: usize) -> Vec<(String, String)> {
    let mut receiver = Receiver::default();
    while receiver.taken.len() < count {
        let packet = client.receive().expect("it sends");
        receiver.handle(client, packet).expect("it reads");
    }
    receiver.taken
}

pub(crate) fn message(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

/// Fills a broker of two cores: a subscription of a Client that is away, messages for it, and a retained one.
pub(crate) fn fill(mqttd: &Mqttd) {
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    assert!(!away.session_present);
    away.subscribe("to/away", 2).expect("it answers");
    drop(away);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    for (packet_id, payload) in (1..).zip(["a", "b", "c", "d"]) {
        publish(&mut publisher, "to/away", payload, 1 + packet_id as u8 % 2, packet_id);
    }
    publisher.retain("kept", "value", 9).expect("it reads");
    assert_eq!(publisher.receive().expect("it answers"), Packet::PubAck(9));
}

/// What [`fill`] has left is there.
pub(crate) fn check(mqttd: &Mqttd) {
    let mut late = Client::connect(mqttd.address, "late").expect("it listens");
    late.subscribe("kept", 1).expect("it answers");
    assert_eq!(take(&mut late, 1), [message("kept", "value")]);
    let mut away = Client::connect(mqttd.address, "away").expect("it listens");
    assert!(away.session_present, "its session is gone");
    let expected = ["a", "b", "c", "d"].map(|payload| message("to/away", payload));
    assert_eq!(take(&mut away, 4), expected);
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let data = Data::new();
    let mqttd = data.start("2");
    fill(&mqttd);
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    check(&data.start("2"));
}

#[test]
fn what_was_acknowledged_is_there_after_a_clean_end_on_another_number_of_cores() {
    let data = Data::new();
    let mqttd = data.start("2");
    fill(&mqttd);
    mqttd.signal(Signal::SIGTERM);
    let (code, log) = mqttd.wait();
    assert_eq!(code, Some(0), "{log}");
    // Nothing was torn, and nothing is said to be.
    let mqttd = data.start("3");
    check(&mqttd);
    mqttd.signal(Signal::SIGTERM);
    let (code, log) = mqttd.wait();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("dropped"), "{log}");
}

#[test]
fn an_ephemeral_broker_keeps_nothing_and_makes_no_directory() {
    let data = Data::new();
    let here = data.folder.to_str().expect("UTF-8").to_owned();
    let mut command = command();
    command.env("XDG_STATE_HOME", &here).args(["check", "--ephemeral"]);
    let printed = command.output().expect("it starts");
    assert!(String::from_utf8_lossy(&printed.stdout).contains("ephemeral = true"), "{printed:?}");
    let mqttd = Mqttd::start(&[]);
    fill(&mqttd);
    mqttd.signal(Signal::SIGTERM);
    assert_eq!(mqttd.wait().0, Some(0));
    assert!(!data.directory().exists());
}

/// Every write of the log is on the disk before it counts: the files are open with O_DSYNC.
#[test]
fn the_log_is_written_through_to_the_disk() {
    const O_DSYNC: u32 = 0o10000;
    let data = Data::new();
    let mqttd = data.start("1");
    fill(&mqttd);
    let process = format!("/proc/{}", mqttd.id());
    let mut segments = 0;
    for entry in fs::read_dir(format!("{process}/fd")).expect("it runs") {
        let entry = entry.expect("it runs");
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        if !target.to_string_lossy().ends_with("segment-00000000") {
            continue;
        }
        let number = entry.file_name().into_string().expect("a number");
        let info = fs::read_to_string(format!("{process}/fdinfo/{number}")).expect("it is open");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("it has flags");
        let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
        assert_ne!(flags & O_DSYNC, 0, "{}: {flags:o}", target.display());
        segments += 1;
    }
    assert_eq!(segments, 1, "the segment that is written to, and nobody makes it any more");
}

/// Commits in the first segment of a core.
fn commits(data: &Data) -> usize {
    let segment = data.directory().join("layout-1/core-0/segment-00000000");
    fs::read(segment).map_or(0, |pages| pages.chunks(4096).filter(|page| page.starts_with(b"mqLC")).count())
}

/// What nothing waits for is written with what comes next; by itself only after 50 ms.
#[test]
#[allow(clippy::disallowed_methods, reason = "a deadline for a real process is real time")]
fn a_delivery_at_qos_1_takes_one_commit_and_its_end_none_of_its_own_unless_nothing_else_comes() {
    const COUNT: u16 = 100;
    let data = Data::new();
    data.set("[store]\nsegment_bytes = 4194304\n");
    let mqttd = data.start("1");
    let mut stays = Client::connect(mqttd.address, "stays").expect("it listens");
    stays.subscribe("t", 1).expect("it answers");
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    let (before, start) = (commits(&data), Instant::now());
    let mut written = before;
    for packet_id in 1..=COUNT {
        publish(&mut publisher, "t", "x", 1, packet_id);
        // The end of the last delivery is left to stand alone.
        written = commits(&data);
        assert_eq!(take(&mut stays, 1), [message("t", "x")]);
    }
    let alone = (start.elapsed().as_millis() / 50) as usize;
    assert!(written - before <= usize::from(COUNT) + alone, "{written} - {before}, {alone} alone");
    while commits(&data) == written {
        assert!(start.elapsed() < DEADLINE, "the end of the last delivery is not written");
        std::thread::yield_now();
    }
}

#[test]
fn a_second_broker_on_the_directory_is_refused() {
    let data = Data::new();
    let first = data.start("1");
    let said = data.refusal("1");
    assert!(said.contains(&*data.directory().to_string_lossy()), "{said}");
    assert!(said.contains(&format!("in use by another broker, process {}:", first.id())), "{said}");
}

/// A limit of the process makes each write of the log fail, as a broken disk does.
#[test]
fn a_write_that_fails_is_the_end_and_acknowledges_nothing() {
    let data = Data::new();
    // A write beyond the limit is to fail, not to kill.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mqttd")]).stdin(Stdio::null());
    let mqttd = data.start_by(shell, "2");
    fill(&mqttd);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    let id = mqttd.id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &id, "--fsize=4096"]).status();
    assert!(limited.expect("util-linux is installed").success());
    publisher.publish("to/away", "e", 1, 77, false).expect("it reads");
    assert!(publisher.receive().is_err(), "nothing of it is on the disk");
    let (code, log) = mqttd.wait();
    assert_eq!(code, Some(3), "{log}");
    assert!(log.contains("the store of core") && log.contains("layout-1/core-"), "{log}");
    check(&data.start("2"));
}

/// Several times what a log may take goes through it, as snapshots stand for what is over.
#[test]
fn snapshots_keep_the_log_short_and_are_read_again() {
    let data = Data::new();
    let mqttd = data.start("1");
    fill(&mqttd);
    let mut publisher = Client::connect(mqttd.address, "publisher").expect("it listens");
    let payload = "x".repeat(100);
    for number in 0..800 {
        publisher.retain(&format!("many/{}", number % 50), &payload, 1 + number).expect("it reads");
        assert_eq!(publisher.receive().expect("it answers"), Packet::PubAck(1 + number));
    }
    mqttd.signal(Signal::SIGKILL);
    mqttd.wait();
    let folder = data.directory().join("layout-1/core-0");
    let names = fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("listed").file_name());
    let names: Vec<String> = names.map(|name| name.into_string().expect("ASCII")).collect();
    let count = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    assert!(count("snapshot-") > 0 && count("segment-") <= 16, "{names:?}");
    let mqttd = data.start("1");
    check(&mqttd);
    let mut late = Client::connect(mqttd.address, "late").expect("it listens");
    late.subscribe("many/+", 1).expect("it answers");
    assert_eq!(take(&mut late, 50).len(), 50);
}
