//! A whole broker of many cores with its Clients and a rough network, in virtual time, each run from one seed, and
//! what has to hold whatever happens.
//!
//! A failure names its seed and the command that replays it with a trace; `SIMULATION_SEED=n` runs that one alone.

mod engine;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::{
    Coverage, Scenario, Violation, crash, crash_groups, replay_crashes, schedule, shrink, simulate,
};

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 2000;
const THREADS: usize = 2;
/// Seeds of runs in which the broker is killed.
const CRASH_SEEDS: u64 = 300;

#[derive(Default)]
struct Sum {
    micros: u64,
    messages: u64,
    coverage: Coverage,
    failed: Vec<(u64, Violation)>,
}

#[test]
fn what_has_to_hold_holds_whatever_happens() {
    let one: Option<u64> = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let scenario = Scenario::new(seed, None);
                    let outcome = simulate(&scenario, &schedule(&scenario), false);
                    let mut sum = sum.lock().expect("no thread panics");
                    sum.micros += outcome.micros;
                    sum.messages += outcome.messages;
                    sum.coverage.merge(&outcome.coverage);
                    sum.failed.extend(outcome.violation.map(|violation| (seed, violation)));
                }
            });
        }
    });
    let mut sum = sum.into_inner().expect("no thread panics");
    println!("{:.1} virtual hours, {} messages", sum.micros as f64 / 3.6e9, sum.messages);
    sum.failed.sort_by_key(|(seed, _)| *seed);
    for (seed, violation) in &sum.failed {
        println!("seed {seed}: {violation}");
    }
    if let Some((seed, violation)) = sum.failed.first() {
        panic!(
            "{} of {} seeds fail, first {seed}: {violation}\n\
             replay: cargo run -p mqtt-broker --no-default-features --example simulate -- --seed {seed}",
            sum.failed.len(),
            seeds.end - seeds.start
        );
    }
    if one.is_none() {
        nothing_was_left_out(&sum.coverage);
    }
}

/// A test of nothing holds as well: each of these has to have happened often.
fn nothing_was_left_out(coverage: &Coverage) {
    for what in [
        "Wills delivered",
        "aliases sent",
        "clock jumps",
        "cuts",
        "delivered at QoS 2",
        "delivered once more",
        "delivered with RETAIN",
        "disconnects",
        "dropped",
        "fed",
        "interest compared",
        "judged exactly",
        "keep alive timeouts",
        "resent by Clients",
        "retained topics compared",
        "rude",
        "sessions resumed",
        "takeovers",
        "unsubscribes",
    ] {
        let count = coverage.0.get(what).copied().unwrap_or(0);
        assert!(count > 50, "{what}: {count} times in {SEEDS} runs");
    }
    let inconclusive = coverage.0.get("inconclusive").copied().unwrap_or(0);
    assert!(inconclusive < SEEDS / 20, "{inconclusive} runs say nothing");
}

#[test]
fn what_was_acknowledged_outlives_crashes() {
    let mut crashes = 0;
    for seed in 0..CRASH_SEEDS {
        match crash(seed) {
            Ok(count) => crashes += count,
            Err(violation) => {
                // Prints the trace of the shortest run that fails so.
                let _as_before = replay_crashes(seed, true, true);
                panic!(
                    "seed {seed}: {violation}\n\
                     replay: cargo run -p mqtt-broker --no-default-features --example simulate -- --crashes --seed {seed}"
                )
            }
        }
    }
    assert!(crashes > CRASH_SEEDS, "a run has several: {crashes}");
}

#[test]
fn what_was_acknowledged_for_a_group_outlives_crashes() {
    let mut crashes = 0;
    for seed in 0..CRASH_SEEDS {
        match crash_groups(seed, false) {
            Ok(count) => crashes += count,
            Err(violation) => panic!(
                "seed {seed}: {violation}\n\
                 replay: cargo run -p mqtt-broker --no-default-features --example simulate -- --groups --seed {seed}"
            ),
        }
    }
    assert!(crashes > CRASH_SEEDS, "a run has several: {crashes}");
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for seed in 0..30 {
        let run = || {
            let scenario = Scenario::new(seed, None);
            simulate(&scenario, &schedule(&scenario), false)
        };
        let (first, second) = (run(), run());
        assert_eq!((first.hash, first.events), (second.hash, second.events), "seed {seed}");
    }
    let hash = |seed| {
        let scenario = Scenario::new(seed, None);
        simulate(&scenario, &schedule(&scenario), false).hash
    };
    assert_ne!(hash(1), hash(2), "the hash tells runs apart");
}

#[test]
fn a_failing_schedule_is_made_as_small_as_it_can_be() {
    let steps = schedule(&Scenario::new(3, None));
    let (first, last) = (steps[2].at, steps[steps.len() - 3].at);
    let mut runs = 0;
    // Two steps far apart are what it takes.
    let small = shrink(
        &steps,
        |step| step.party,
        |part| {
            runs += 1;
            part.iter().any(|step| step.at == first) && part.iter().any(|step| step.at == last)
        },
    );
    assert_eq!(small.iter().map(|step| step.at).collect::<Vec<_>>(), [first, last]);
    assert!(runs < 200, "{runs} runs for {} steps", steps.len());
}
