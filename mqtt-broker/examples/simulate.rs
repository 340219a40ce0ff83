//! Runs the broker's simulation: many seeds, or one of them with a trace.
//!
//! ```sh
//! cargo run -p mqtt-broker --no-default-features --example simulate -- --seed 7
//! cargo run -p mqtt-broker --no-default-features --example simulate -- --minutes 60
//! ```
//!
//! With `--release` the shards do not check their invariants.

#[path = "../tests/simulation/engine/mod.rs"]
mod engine;

use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use engine::{
    Coverage, Scenario, Step, Violation, crash, crash_groups, replay_crashes, schedule, shrink, simulate,
};

/// Simulates a whole broker with its Clients and network, each run from one seed.
#[derive(Parser)]
struct Options {
    /// Runs this seed alone and prints all that happens
    #[arg(long)]
    seed: Option<u64>,
    /// Runs these seeds, as in 0..1000
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// Runs so many seeds
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs seeds for so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// So many cores in every run, instead of what its seed says
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=128))]
    cores: Option<u16>,
    /// Threads
    #[arg(long)]
    threads: Option<usize>,
    /// Only the runs in which the broker is killed
    #[arg(long)]
    crashes: bool,
    /// Only the runs in which the broker is killed while it keeps messages for groups
    #[arg(long)]
    groups: bool,
    /// Leaves a failing schedule as it is
    #[arg(long)]
    no_shrink: bool,
    /// Goes on after a failure
    #[arg(long)]
    keep_going: bool,
    /// Prints failures and nothing else
    #[arg(long)]
    quiet: bool,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parse = |part: &str| part.trim().parse().map_err(|_| format!("{part:?} is no number"));
    let (from, to) = text.split_once("..").ok_or("a range is written as 0..1000")?;
    Ok(parse(from)?..parse(to)?)
}

/// What all threads have done so far.
#[derive(Default)]
struct Sum {
    seeds: u64,
    micros: u64,
    messages: u64,
    events: u64,
    coverage: Coverage,
    crashes: u64,
    failed: Vec<(u64, Violation)>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    // A panic of the broker is a finding like any other and told as such.
    std::panic::set_hook(Box::new(|_| {}));
    match options.seed {
        Some(seed) => replay(seed, &options),
        None => explore(&options),
    }
}

/// One seed with a trace, made smaller if it fails.
fn replay(seed: u64, options: &Options) -> ExitCode {
    if options.crashes || options.groups {
        let held = match options.groups {
            true => crash_groups(seed, !options.quiet),
            false => replay_crashes(seed, !options.no_shrink, !options.quiet),
        };
        return match held {
            Ok(count) => {
                println!("seed {seed} holds: {count} crashes");
                ExitCode::SUCCESS
            }
            Err(violation) => {
                println!("seed {seed} fails: {violation}");
                ExitCode::FAILURE
            }
        };
    }
    let scenario = Scenario::new(seed, options.cores);
    let mut steps = schedule(&scenario);
    let mut outcome = simulate(&scenario, &steps, false);
    if let Some(violation) = outcome.violation.as_ref().filter(|_| !options.no_shrink) {
        let all = steps.len();
        steps = shrink(
            &steps,
            |step| step.party,
            |part| {
                simulate(&scenario, part, false).violation.is_some_and(|other| other.rule == violation.rule)
            },
        );
        println!("seed {seed} fails with {} of its {all} steps", steps.len());
    }
    if !options.quiet {
        describe(&scenario, &steps);
        outcome = simulate(&scenario, &steps, true);
    }
    match outcome.violation {
        Some(violation) => {
            println!("seed {seed} fails: {violation}");
            ExitCode::FAILURE
        }
        None => {
            println!("seed {seed} holds: {} events, trace {:016x}", outcome.events, outcome.hash);
            ExitCode::SUCCESS
        }
    }
}

fn describe(scenario: &Scenario, steps: &[Step]) {
    println!("{} cores, features: {}", scenario.cores, scenario.features.names().join(" "));
    println!("{:?}\n{:?}\n{:?}", scenario.net, scenario.ports, scenario.limits);
    for party in &scenario.parties {
        println!("{party:?}");
    }
    for step in steps {
        println!("{:>9} us  client {}  {:?}", step.at, step.party, step.what);
    }
}

/// Many seeds on many threads.
fn explore(options: &Options) -> ExitCode {
    let seeds = match (&options.seeds, options.minutes) {
        (Some(seeds), _) => seeds.clone(),
        (None, Some(_)) => options.from..u64::MAX,
        (None, None) => options.from..options.from.saturating_add(options.count),
    };
    let started = now();
    let patience = options.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let (next, stops) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    let threads =
        options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)).max(1);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stops.load(Ordering::Relaxed)
                    && patience.is_none_or(|patience| now().duration_since(started) < patience)
                {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let failed = one(seed, options, &sum);
                    stops.fetch_or(failed && !options.keep_going, Ordering::Relaxed);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panics");
    let seconds = now().duration_since(started).as_secs_f64();
    if !options.quiet {
        for (what, count) in &sum.coverage.0 {
            println!("{count:>12}  {what}");
        }
    }
    println!(
        "{} seeds in {seconds:.1} s on {threads} threads: {:.1} seeds/s, {:.1} virtual hours, {} messages, {} events, {} crashes",
        sum.seeds,
        sum.seeds as f64 / seconds,
        sum.micros as f64 / 3.6e9,
        sum.messages,
        sum.events,
        sum.crashes
    );
    if sum.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed; whether it failed.
fn one(seed: u64, options: &Options, sum: &Mutex<Sum>) -> bool {
    if options.crashes || options.groups {
        let (crashed, also) = match options.groups {
            true => (crash_groups(seed, false), " --groups"),
            false => (crash(seed), " --crashes"),
        };
        let mut sum = sum.lock().expect("no thread panics");
        sum.seeds += 1;
        sum.crashes += crashed.as_ref().copied().unwrap_or(0);
        return crashed.is_err_and(|violation| failed(seed, violation, also, &mut sum));
    }
    let crashed = crash(seed);
    let scenario = Scenario::new(seed, options.cores);
    let steps = schedule(&scenario);
    let outcome = simulate(&scenario, &steps, false);
    let of_groups = crash_groups(seed, false);
    let mut sum = sum.lock().expect("no thread panics");
    sum.seeds += 1;
    sum.micros += outcome.micros;
    sum.messages += outcome.messages;
    sum.events += outcome.events;
    sum.coverage.merge(&outcome.coverage);
    let cores = options.cores.map_or(String::new(), |cores| format!(" --cores {cores}"));
    sum.crashes += crashed.as_ref().copied().unwrap_or(0);
    match (outcome.violation, crashed, of_groups) {
        (Some(violation), _, _) => failed(seed, violation, &cores, &mut sum),
        (None, Err(violation), _) => failed(seed, violation, " --crashes", &mut sum),
        (None, Ok(_), Err(violation)) => failed(seed, violation, " --groups", &mut sum),
        (None, Ok(_), Ok(_)) => false,
    }
}

/// Tells of a seed that failed, and how it is replayed.
fn failed(seed: u64, violation: Violation, also: &str, sum: &mut Sum) -> bool {
    println!("seed {seed} fails: {violation}");
    println!(
        "  replay: cargo run -p mqtt-broker --no-default-features --example simulate -- --seed {seed}{also}"
    );
    sum.failed.push((seed, violation));
    true
}

#[expect(clippy::disallowed_methods, reason = "how long the runs take is told in real time")]
fn now() -> Instant {
    Instant::now()
}
