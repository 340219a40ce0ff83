//! mqtt-load: load on any MQTT broker from one thread, and a check of everything that the broker delivers.
//!
//! `mqtt-load pairs --broker 127.0.0.1:1883 --pid $(pidof mqttd)` says how many messages a second pass between 50
//! publishers and their subscribers and what each costs the broker; `mqtt-load help` lists the other scenarios. The
//! exit code is 1 if the broker did what the standard forbids, 2 if the run could not be made.

#[path = "../load/mod.rs"]
mod load;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use mqtt_proto::{Qos, Version};

use load::clock::Clock;
use load::fleet::{Fleet, Stay};
use load::report::Report;
use load::{churn, flow, idle, observe, offline, part, payload, plot, retained, soak, sparse, stalled};

#[derive(Parser)]
#[command(name = "mqtt-load", version, about = ABOUT, long_about = DESCRIPTION, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    common: Common,
}

const ABOUT: &str = "Puts load on an MQTT broker and checks everything that it delivers";

const DESCRIPTION: &str = "\
Puts load on an MQTT broker and checks everything that it delivers.

One thread plays all clients. Each message says in its payload which stream it
belongs to and which one it is, so that a message that is altered, doubled, out
of order or sent to the wrong client is noticed and reported as a violation.
With --pid the report says what the broker's process paid for it.";

const EXAMPLES: &str = "\
Examples:
  mqtt-load pairs --broker localhost:1883 --pid $(pidof mqttd)
      how many messages a second, and microseconds of the broker's CPU for each
  mqtt-load paced --rate 10000 --plot latency.svg
      latency at a fixed rate, with a picture of its distribution
  mqtt-load idle --connections 10000 --pid $(pidof mqttd)
      bytes of memory for each connection
  mqtt-load help pairs
      the settings of a scenario

Exit code: 0 all is well, 1 the broker did what the standard forbids, 2 the run could not be made.";

#[derive(Args)]
struct Common {
    /// The broker.
    #[arg(long, global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:1883")]
    broker: String,
    /// Process of the broker on this machine: its CPU time, memory and open files are reported.
    #[arg(long, global = true)]
    pid: Option<u32>,
    /// Protocol version of the clients.
    #[arg(long, global = true, value_enum, default_value = "3.1.1")]
    mqtt: MqttVersion,
    /// One line of JSON instead of the summary.
    #[arg(long, global = true)]
    json: bool,
    /// Draws throughput over time and the distribution of latency.
    #[arg(long, global = true, value_name = "FILE.SVG")]
    plot: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum MqttVersion {
    #[value(name = "3.1.1")]
    V3_1_1,
    #[value(name = "5.0")]
    V5,
}

#[derive(Subcommand)]
enum Scenario {
    /// Publishers with one subscriber each, as fast as the window allows.
    Pairs {
        /// Pairs.
        #[arg(long, default_value_t = 50, value_parser = at_least_one())]
        pairs: usize,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        messages: Messages,
        #[command(flatten)]
        count: Count,
    },
    /// Pairs at a fixed rate, whatever the broker does; latency counts from when a message was due.
    Paced {
        /// Pairs.
        #[arg(long, default_value_t = 50, value_parser = at_least_one())]
        pairs: usize,
        /// Messages a second of all pairs together.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        rate: u64,
        #[command(flatten)]
        messages: Messages,
        #[command(flatten)]
        count: Count,
    },
    /// One publisher, many subscribers to one topic.
    FanOut {
        /// Subscribers.
        #[arg(long, default_value_t = 100, value_parser = at_least_one())]
        subscribers: usize,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        messages: Messages,
        #[command(flatten)]
        count: Count,
    },
    /// Many publishers, one subscriber to all of them.
    FanIn {
        /// Publishers.
        #[arg(long, default_value_t = 100, value_parser = at_least_one())]
        publishers: usize,
        #[command(flatten)]
        window: Window,
        #[command(flatten)]
        messages: Messages,
        #[command(flatten)]
        count: Count,
    },
    /// Very many subscriptions, of which each message meets few.
    Sparse {
        /// Subscriptions, five levels deep, one in a hundred with a wildcard.
        #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        subscriptions: u32,
        /// Clients that share those without wildcards; 50 more have the others.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        clients: u32,
        /// Filters in one SUBSCRIBE.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
        filters_per_packet: u16,
        /// Messages that are not delivered yet, at most.
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
        window: u16,
        #[command(flatten)]
        time: Time,
    },
    /// Connections with one subscription each that do nothing.
    Idle {
        /// Connections; more than this process may have open files are shared out to more processes.
        #[arg(long, default_value_t = 10_000, value_parser = at_least_one())]
        connections: usize,
        /// Growing numbers of connections at which memory is looked at instead: bytes a connection are the slope.
        #[arg(long, value_name = "N,N,...", value_delimiter = ',', conflicts_with = "connections", value_parser = at_least_one())]
        steps: Vec<usize>,
        /// Keep alive in seconds.
        #[arg(long, default_value_t = 600)]
        keep_alive: u16,
        /// Connections that must receive a message at the end.
        #[arg(long, default_value_t = 100)]
        probes: usize,
        /// Seconds that all of them stay before memory is looked at.
        #[arg(long, default_value = "1", value_parser = seconds)]
        hold: Duration,
    },
    /// A process with a part of the idle connections.
    #[command(hide = true)]
    IdlePart {
        #[command(flatten)]
        part: Part,
    },
    /// Connect, subscribe, publish, receive, disconnect, over and over.
    Churn {
        /// Cycles that are measured.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
        cycles: u64,
        /// Cycles before these.
        #[arg(long, default_value_t = 5_000)]
        warm_up: u64,
        /// Clients at a time.
        #[arg(long, default_value_t = 16, value_parser = at_least_one())]
        clients: usize,
    },
    /// Retained messages: set, set anew, and read by clients that come later.
    Retained {
        /// Topics.
        #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
        topics: u32,
        /// How often each is set anew.
        #[arg(long, default_value_t = 1)]
        overwrites: u64,
        /// Clients that read all of them, one after the other.
        #[arg(long, default_value_t = 5, value_parser = at_least_one())]
        readers: usize,
        /// Bytes of a payload.
        #[arg(long, default_value_t = 64, value_parser = payload_len)]
        payload: usize,
    },
    /// QoS 1 messages for clients that are away and come back.
    Offline {
        /// Clients that are away.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        sessions: u16,
        /// Messages for each; some brokers keep 1,000 at most unless told otherwise.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
        messages: u64,
        /// Bytes of a payload.
        #[arg(long, default_value_t = 64, value_parser = payload_len)]
        payload: usize,
    },
    /// A subscriber that stops reading: the broker's memory, and the latency of others beside it.
    Stalled {
        /// Pairs beside it.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        pairs: u16,
        /// Messages a second of all pairs together.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        rate: u64,
        /// Messages a second to the one that does not read.
        #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
        flood_rate: u64,
        #[command(flatten)]
        messages: Messages,
    },
    /// Clients that come, go and publish at mixed QoS for minutes, with every promise of the standard checked.
    Soak {
        /// Clients.
        #[arg(long, default_value_t = 2_000, value_parser = at_least_one())]
        clients: usize,
        /// Minutes.
        #[arg(long, default_value = "10", value_parser = minutes)]
        minutes: Duration,
        /// Messages a second of all publishers together.
        #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        rate: u64,
        /// Receive Maximum of the 5.0 clients that resume sessions.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
        receive_maximum: u16,
        /// Seed of everything that is left to chance.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

impl Scenario {
    /// Whether figures are what the broker's memory grows by.
    const fn looks_at_growth(&self) -> bool {
        matches!(
            self,
            Scenario::Idle { .. }
                | Scenario::Sparse { .. }
                | Scenario::Churn { .. }
                | Scenario::Retained { .. }
                | Scenario::Offline { .. }
        )
    }
}

#[derive(Args)]
struct Part {
    #[arg(long)]
    first: usize,
    #[arg(long)]
    source: u32,
    #[arg(long)]
    run: String,
    #[arg(long)]
    keep_alive: u16,
}

#[derive(Args)]
struct Window {
    /// Messages of a publisher that are not delivered yet, at most.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    window: u64,
}

#[derive(Args)]
struct Messages {
    /// QoS of messages and subscriptions.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 64, value_parser = payload_len)]
    payload: usize,
    /// Subscribers have sessions that outlive their connections, as brokers keep on disk if they do.
    #[arg(long)]
    persistent: bool,
    #[command(flatten)]
    time: Time,
}

#[derive(Args)]
struct Count {
    /// Deliveries after which the measurement ends early.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

#[derive(Args)]
struct Time {
    /// Seconds that are not measured.
    #[arg(long, default_value = "1", value_parser = seconds)]
    warm_up: Duration,
    /// Seconds that are measured.
    #[arg(long, default_value = "5", value_parser = some_seconds)]
    duration: Duration,
}

/// A payload length that has room for what is checked.
fn payload_len(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(len) if (payload::HEADER_LEN..=1 << 27).contains(&len) => Ok(len),
        _ => Err(format!("a payload has {} to {} bytes", payload::HEADER_LEN, 1 << 27)),
    }
}

/// How many there are of something without which there is no load.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=100_000_000)
}

/// Seconds, which may be none.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "a number of seconds from 0 on is meant".to_owned())
}

/// Seconds in which something can happen.
fn some_seconds(text: &str) -> Result<Duration, String> {
    let some = seconds(text).ok().filter(|seconds| !seconds.is_zero());
    some.ok_or_else(|| "a number of seconds above 0 is meant".to_owned())
}

/// Minutes in which something can happen.
fn minutes(text: &str) -> Result<Duration, String> {
    let minutes = some_seconds(text).ok().and_then(|minutes| minutes.checked_mul(60));
    minutes.ok_or_else(|| "a number of minutes above 0 is meant".to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Scenario::IdlePart { part } = &cli.scenario {
        return match serve_part(part, &cli.common) {
            Ok(()) => ExitCode::SUCCESS,
            // Nobody listens any more.
            Err(_) => ExitCode::from(2),
        };
    }
    let report = match run(&cli) {
        Ok(report) => report,
        Err(error) => return failed(&error),
    };
    if cli.common.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    match draw(&cli, &report) {
        Err(error) => failed(&error),
        Ok(()) if report.violation_count() > 0 => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// Says why the run could not be made, or its picture not be drawn.
fn failed(error: &io::Error) -> ExitCode {
    eprintln!("mqtt-load: {error}");
    ExitCode::from(2)
}

/// Refuses what can only go wrong, before anything is measured.
fn check(cli: &Cli) -> io::Result<()> {
    let refused = |text: String| Err(io::Error::other(text));
    if let Scenario::Idle { steps, .. } = &cli.scenario {
        if let [only] = steps[..] {
            return refused(format!("--steps takes two numbers or more; for one, say --connections {only}"));
        }
        if !steps.is_sorted_by(|one, next| one < next) {
            return refused("the numbers of connections of --steps have to grow".to_owned());
        }
    }
    let Some(path) = &cli.common.plot else { return Ok(()) };
    if matches!(cli.scenario, Scenario::Idle { .. } | Scenario::Soak { .. }) {
        return refused(
            "--plot is not for idle and soak: they have no rate and no latency to draw".to_owned(),
        );
    }
    match path.parent() {
        Some(folder) if folder != Path::new("") && !folder.is_dir() => {
            refused(format!("{}: there is no such folder", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Draws the picture, if one is wanted.
fn draw(cli: &Cli, report: &Report) -> io::Result<()> {
    let Some(path) = &cli.common.plot else { return Ok(()) };
    // The command again, but for what says nothing about the load.
    let mut title = "mqtt-load".to_owned();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => {}
            "--plot" | "--pid" => drop(arguments.next()),
            _ => title = title + " " + &argument,
        }
    }
    plot::draw(path, &title, &report.points, report.latency.as_ref())
        .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// Has a part of the idle connections of another process of this program.
fn serve_part(part: &Part, common: &Common) -> io::Result<()> {
    let mut fleet = new_fleet(common)?;
    fleet.run.clone_from(&part.run);
    fleet.net.set_next_source(part.source);
    part::run(part::Plan { first: part.first, keep_alive: part.keep_alive }, fleet)
}

/// No connection yet, but all that it takes.
fn new_fleet(common: &Common) -> io::Result<Fleet> {
    observe::raise_file_limit()?;
    let version = match common.mqtt {
        MqttVersion::V3_1_1 => Version::V3_1_1,
        MqttVersion::V5 => Version::V5,
    };
    Fleet::new(resolve(&common.broker)?, version, Clock::start())
}

/// Makes the run, and names the broker in whatever goes wrong with it.
fn run(cli: &Cli) -> io::Result<Report> {
    check(cli)?;
    let fleet = new_fleet(&cli.common)?;
    let doubts = match cli.common.pid {
        Some(pid) => observe::check_broker(pid, fleet.net.broker().port(), cli.scenario.looks_at_growth())?,
        None => Vec::new(),
    };
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", cli.common.broker));
    let mut report = run_scenario(cli, fleet).map_err(named)?;
    doubts.into_iter().for_each(|doubt| report.warn(doubt));
    Ok(report)
}

fn run_scenario(cli: &Cli, fleet: Fleet) -> io::Result<Report> {
    let pid = &cli.common.pid;
    let flow = |shape, messages: &Messages, window: u64, rate, count: Option<u64>| flow::Plan {
        shape,
        qos: Qos::from_bits(messages.qos).unwrap_or_default(),
        payload_len: messages.payload,
        window,
        rate,
        stay: if messages.persistent { Stay::After } else { Stay::No },
        warm_up: messages.time.warm_up,
        duration: messages.time.duration,
        count,
        pid: *pid,
    };
    match &cli.scenario {
        Scenario::Pairs { pairs, window, messages, count } => {
            flow::run(&flow(flow::Shape::Pairs(*pairs), messages, window.window, None, count.count), fleet)
        }
        Scenario::Paced { pairs, rate, messages, count } => {
            flow::run(&flow(flow::Shape::Pairs(*pairs), messages, u64::MAX, Some(*rate), count.count), fleet)
        }
        Scenario::FanOut { subscribers, window, messages, count } => flow::run(
            &flow(flow::Shape::FanOut(*subscribers), messages, window.window, None, count.count),
            fleet,
        ),
        Scenario::FanIn { publishers, window, messages, count } => flow::run(
            &flow(flow::Shape::FanIn(*publishers), messages, window.window, None, count.count),
            fleet,
        ),
        Scenario::Idle { connections, steps, keep_alive, probes, hold } => {
            let steps = if steps.is_empty() { vec![*connections] } else { steps.clone() };
            let (keep_alive, probes) = (*keep_alive, *probes);
            idle::run(&idle::Plan { steps, keep_alive, probes, hold: *hold, pid: *pid }, fleet)
        }
        Scenario::IdlePart { .. } => Err(io::Error::other("a part reports to its parent alone")),
        Scenario::Sparse { subscriptions, clients, filters_per_packet, window, time } => {
            let plan = sparse::Plan {
                subscriptions: *subscriptions,
                clients: *clients,
                filters_per_packet: usize::from(*filters_per_packet),
                window: usize::from(*window),
                warm_up: time.warm_up,
                duration: time.duration,
                pid: *pid,
            };
            sparse::run(&plan, fleet)
        }
        Scenario::Retained { topics, overwrites, readers, payload } => {
            let (topics, overwrites, readers) = (*topics, *overwrites, *readers);
            retained::run(
                &retained::Plan { topics, overwrites, readers, payload_len: *payload, pid: *pid },
                fleet,
            )
        }
        Scenario::Offline { sessions, messages, payload } => {
            let (sessions, messages) = (usize::from(*sessions), *messages);
            offline::run(&offline::Plan { sessions, messages, payload_len: *payload, pid: *pid }, fleet)
        }
        Scenario::Stalled { pairs, rate, flood_rate, messages } => {
            let pairs = usize::from(*pairs);
            let flow = flow(flow::Shape::Pairs(pairs), messages, u64::MAX, Some(*rate), None);
            stalled::run(&stalled::Plan { pairs, flow, flood_rate: *flood_rate }, fleet)
        }
        Scenario::Churn { cycles, warm_up, clients } => {
            let plan = churn::Plan { cycles: *cycles, warm_up: *warm_up, clients: *clients, pid: *pid };
            churn::run(&plan, fleet)
        }
        Scenario::Soak { clients, minutes, rate, receive_maximum, seed } => {
            let plan = soak::Plan {
                clients: *clients,
                duration: *minutes,
                rate: *rate,
                receive_maximum: *receive_maximum,
                seed: *seed,
                pid: *pid,
                shows_progress: !cli.common.json,
            };
            soak::run(&plan, fleet)
        }
    }
}

/// The first address of `HOST:PORT`.
fn resolve(broker: &str) -> io::Result<SocketAddr> {
    let mut addresses = broker
        .to_socket_addrs()
        .map_err(|error| io::Error::new(error.kind(), format!("{broker}: {error}")))?;
    addresses.next().ok_or_else(|| io::Error::other(format!("{broker} has no address")))
}
