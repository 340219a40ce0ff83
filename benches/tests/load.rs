//! mqtt-load as a program, against mqtt-floor and against a broker that alters what it delivers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

use serde_json::Value;

/// A process that is ended with the test.
struct Floor {
    process: Child,
    address: SocketAddr,
}

impl Floor {
    fn start() -> Floor {
        let mut process = Command::new(env!("CARGO_BIN_EXE_mqtt-floor"))
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("mqtt-floor starts");
        let mut line = String::new();
        let output = process.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().expect("its address");
        Floor { process, address }
    }

    /// Runs mqtt-load against it and returns the report of a run without a violation.
    fn load(&self, arguments: &str) -> Value {
        let pid = self.process.id().to_string();
        let (code, report) = load(self.address, &format!("{arguments} --pid {pid}"));
        assert_eq!(code, 0, "{arguments}: {report}");
        assert_eq!(report["violations"], 0, "{arguments}: {report}");
        report
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.process.kill().expect("ours to end");
        self.process.wait().expect("it ends");
    }
}

/// Runs mqtt-load; its exit code and report.
fn load(broker: SocketAddr, arguments: &str) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_mqtt-load"))
        .args(arguments.split_whitespace())
        .args(["--json", "--broker", &broker.to_string()])
        .output()
        .expect("mqtt-load runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments}: {text}{errors}"));
    (output.status.code().expect("no signal"), report)
}

#[test]
fn messages_of_every_shape_and_qos_are_delivered_and_none_is_lost() {
    let floor = Floor::start();
    for qos in 0..=2 {
        for shape in
            ["pairs --pairs 5", "fan-out --subscribers 9", "fan-in --publishers 9", "paced --rate 5000"]
        {
            let report = floor.load(&format!("{shape} --qos {qos} --warm-up 0 --duration 60 --count 2000"));
            assert!(report["deliveries"].as_u64() >= Some(2_000), "{report}");
            assert_eq!(report["lost"], 0, "{report}");
        }
    }
}

#[test]
fn payloads_longer_than_a_read_arrive_whole() {
    let report = Floor::start().load("pairs --pairs 2 --payload 1000000 --window 4 --warm-up 0 --count 20");
    assert!(report["deliveries"].as_u64() >= Some(20), "{report}");
}

#[test]
fn idle_connections_are_served_and_cycles_leave_no_open_file() {
    let floor = Floor::start();
    let idle = floor.load("idle --connections 200 --probes 50 --hold 0");
    assert_eq!((&idle["probes_served"], &idle["connections"]), (&50.into(), &200.into()));
    let churn = floor.load("churn --cycles 500 --warm-up 100 --clients 4");
    assert!(churn["fd_growth"].as_i64() <= Some(4), "{churn}");
}

#[test]
fn more_idle_connections_than_open_files_are_shared_out_to_processes() {
    let floor = Floor::start();
    let arguments = "idle --steps 50,150,300 --keep-alive 2 --probes 300 --hold 0.7";
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_mqtt-load")])
        .args(arguments.split_whitespace())
        .args(["--json", "--broker", &floor.address.to_string(), "--pid", &floor.process.id().to_string()])
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!((output.status.code(), &report["violations"]), (Some(0), &0.into()), "{report}");
    // 64 open files of each process are its own.
    assert_eq!((&report["processes"], &report["probes_served"]), (&5.into(), &300.into()), "{report}");
    let steps = report["steps"].as_array().expect("one at each step");
    let connections: Vec<_> = steps.iter().map(|step| &step["connections"]).collect();
    assert_eq!(connections, [50, 150, 300]);
    assert!(report["rss_bytes_per_connection"].is_number(), "{report}");
    // Everybody is asked every second whether it is still there, and all but the last few have answered.
    let (pings, pongs) = (report["pings"].as_u64(), report["pongs"].as_u64());
    assert!(pings > Some(200) && pongs <= pings && pongs.map(|pongs| pongs + 20) > pings, "{report}");
}

#[test]
fn each_of_many_filters_gets_its_messages() {
    let arguments = "sparse --subscriptions 12345 --clients 7 --filters-per-packet 30";
    let report = Floor::start().load(&format!("{arguments} --warm-up 0 --duration 0.2"));
    assert!(report["deliveries_per_publish"].as_f64() > Some(1.1), "{report}");
}

#[test]
fn retained_messages_are_read_as_set_last() {
    let report = Floor::start().load("retained --topics 1234 --overwrites 2 --readers 3");
    assert_eq!((&report["read"], &report["lost"]), (&(3 * 1_234).into(), &0.into()), "{report}");
}

#[test]
fn clients_that_were_away_get_every_message() {
    let report = Floor::start().load("offline --sessions 7 --messages 300");
    assert_eq!(report["lost"], 0, "{report}");
}

#[test]
fn a_stalled_subscriber_gets_in_order_what_it_gets() {
    let arguments = "stalled --pairs 5 --rate 1000 --flood-rate 10000 --payload 1000";
    let report = Floor::start().load(&format!("{arguments} --warm-up 0 --duration 1"));
    assert_eq!(report["flood_received"], report["flood_sent"], "the floor drops nothing: {report}");
    assert_eq!(report["stalled_connection_kept"], true, "{report}");
}

#[test]
fn a_plot_is_written() {
    let path = std::env::temp_dir().join(format!("mqtt-load-{}.svg", std::process::id()));
    Floor::start().load(&format!("pairs --pairs 2 --warm-up 0 --duration 0.5 --plot {}", path.display()));
    let picture = std::fs::read_to_string(&path).expect("written");
    std::fs::remove_file(&path).expect("removed");
    assert!(picture.starts_with("<svg") && picture.contains("latency by percentile"), "{picture}");
}

/// Passes connections on to `broker` and changes the last byte of whatever is long enough to be a delivery.
fn altering(broker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.expect("accepted");
            let broker = TcpStream::connect(broker).expect("connected");
            let (from_client, to_broker) =
                (client.try_clone().expect("ours"), broker.try_clone().expect("ours"));
            thread::spawn(move || pass(from_client, to_broker, 0));
            thread::spawn(move || pass(broker, client, 0x01));
        }
    });
    address
}

/// Copies until the end of the stream.
fn pass(mut from: TcpStream, mut to: TcpStream, change: u8) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if len >= 64 {
            buffer[len - 1] ^= change;
        }
        if to.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

#[test]
fn a_broker_that_alters_a_byte_is_found_out() {
    let floor = Floor::start();
    // One message at a time, so that one read of the proxy is one packet; none counts as delivered.
    let (code, report) =
        load(altering(floor.address), "pairs --pairs 1 --window 1 --warm-up 0 --duration 0.2");
    assert_eq!(code, 1, "{report}");
    assert_eq!(report["violation_texts"][0], "a payload arrived altered", "{report}");
    let (code, report) = load(altering(floor.address), "idle --connections 10 --probes 10 --hold 0");
    assert_eq!(code, 1, "{report}");
    let text = report["violation_texts"][0].as_str().expect("a violation");
    assert!(text.starts_with("of 10 messages to idle connections 10 were altered"), "{report}");
}
