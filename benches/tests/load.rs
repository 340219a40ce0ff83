//! mqtt-load as a program, against mqtt-floor and against a broker that alters what it delivers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
    assert_eq!(idle["warnings"].as_array().map(Vec::len), Some(0), "{idle}");
    let churn = floor.load("churn --cycles 5000 --warm-up 100 --clients 4");
    assert!(churn["fd_growth"].as_i64() <= Some(4), "{churn}");
    // It has memory from all of that by now.
    let churn = floor.load("churn --cycles 1 --warm-up 0");
    assert!(churn["warnings"][0].as_str().is_some_and(|text| text.contains("restart it")), "{churn}");
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
    let phases = report["phases"].as_array().expect("when what began");
    let (names, begins): (Vec<_>, Vec<_>) =
        phases.iter().map(|phase| (&phase["phase"], phase["begin_unix_s"].as_f64())).unzip();
    let step = ["connecting", "subscribing", "holding"];
    let expected: Vec<_> = [&step[..2], &step, &step, &step, &["probing", "leaving"]].concat();
    assert_eq!(names, expected, "{report}");
    assert!(begins.is_sorted() && begins[0] > Some(1e9), "{report}");
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

/// What mqtt-load says when it cannot make the run.
fn refusal(broker: SocketAddr, arguments: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_mqtt-load"))
        .args(arguments.split_whitespace())
        .args(["--broker", &broker.to_string()])
        .output()
        .expect("mqtt-load runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments}: {errors}");
    errors
}

#[test]
fn what_cannot_be_measured_is_refused_before_the_run() {
    let floor = Floor::start();
    let own = std::process::id();
    let stranger = format!("pairs --pid {own}");
    for (arguments, reason) in [
        ("pairs --pairs 0", "'--pairs <PAIRS>'"),
        ("pairs --duration 0", "a number of seconds above 0"),
        ("paced --warm-up nan", "a number of seconds from 0 on"),
        ("idle --connections 0", "'--connections <CONNECTIONS>'"),
        ("idle --steps 100", "--connections 100"),
        ("idle --steps 100,50", "have to grow"),
        ("idle --plot idle.svg", "--plot is not for idle"),
        ("pairs --plot /no/such/folder/pairs.svg", "/no/such/folder: there is no such folder"),
        (&stranger, "does not listen on port"),
        ("pairs --pid 4294967295", "there is no process 4294967295"),
    ] {
        let said = refusal(floor.address, arguments);
        assert!(said.contains(reason), "{arguments}: {said}");
    }
}

#[test]
fn a_broker_that_is_not_there_or_lets_few_in_is_named_with_how_many_came_in() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let said = refusal(nobody, "pairs --pairs 5");
    assert!(said.contains(&nobody.to_string()) && said.contains("0 of 10 were connected"), "{said}");

    let few = terse(5, |_| false);
    let said = refusal(few, "idle --connections 20");
    // The fifth is the publisher.
    assert!(said.contains(&few.to_string()) && said.contains("; 4 of 20 were connected"), "{said}");
}

#[test]
fn idle_connections_that_do_not_last_end_the_run_at_once() {
    for (ends, what) in
        [(|_| true) as fn(usize) -> bool, |number| number == 7].into_iter().zip(["all", "one"])
    {
        let said = refusal(terse(11, ends), "idle --connections 10 --keep-alive 2 --hold 600");
        assert!(said.contains("while 10 connections were held"), "{what}: {said}");
    }
}

/// A broker that knows what idle clients say and no more. It lets `clients` in and cuts off those that `ends` names once
/// all of them have been there for a while.
fn terse(clients: usize, ends: fn(usize) -> bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (inside, pings) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let mut client = client.expect("accepted");
            if number >= clients {
                continue;
            }
            // One after the other, so that nobody is cut off before the last of them is in.
            answer(&mut client);
            inside.lock().expect("no panic").push(client.try_clone().expect("ours"));
            let (inside, pings) = (Arc::clone(&inside), Arc::clone(&pings));
            thread::spawn(move || {
                while let Some(packet) = answer(&mut client) {
                    if packet == 0xC0 && pings.fetch_add(1, Ordering::Relaxed) == 20 {
                        let inside = inside.lock().expect("no panic");
                        let ending = inside.iter().enumerate().filter(|(number, _)| ends(*number));
                        ending.for_each(|(_, client)| client.shutdown(Shutdown::Both).expect("open"));
                    }
                }
            });
        }
    });
    address
}

/// Answers one short packet; its first byte.
fn answer(client: &mut TcpStream) -> Option<u8> {
    let mut head = [0; 2];
    client.read_exact(&mut head).ok()?;
    let mut rest = vec![0; usize::from(head[1])];
    client.read_exact(&mut rest).ok()?;
    let answer: &[u8] = match head[0] {
        0x10 => &[0x20, 2, 0, 0],
        0x82 => &[0x90, 3, rest[0], rest[1], 0],
        _ => &[0xD0, 0],
    };
    client.write_all(answer).ok()?;
    Some(head[0])
}
