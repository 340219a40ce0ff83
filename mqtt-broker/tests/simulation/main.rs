//! A whole broker of many cores with its Clients and a rough network, in virtual time, each run from one seed, and
//! what has to hold whatever happens.
//!
//! A failure names its seed and the command that replays it with a trace; `SIMULATION_SEED=n` runs that one alone.

mod engine;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::{Coverage, Scenario, schedule, simulate};

/// Seeds that every run of the tests goes through.
const SEEDS: u64 = 2000;
const THREADS: usize = 2;

#[test]
fn what_has_to_hold_holds_whatever_happens() {
    let one: Option<u64> = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = one.map_or(0..SEEDS, |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let coverage = Mutex::new(Coverage::default());
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut own = Coverage::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let scenario = Scenario::new(seed, None);
                    let outcome = simulate(&scenario, &schedule(&scenario), false);
                    own.merge(&outcome.coverage);
                    if let Some(violation) = outcome.violation {
                        failed.lock().expect("no thread panics").push((seed, violation));
                    }
                }
                coverage.lock().expect("no thread panics").merge(&own);
            });
        }
    });
    let mut failed = failed.into_inner().expect("no thread panics");
    failed.sort_by_key(|(seed, _)| *seed);
    for (seed, violation) in &failed {
        println!("seed {seed}: {violation}");
    }
    if let Some((seed, violation)) = failed.first() {
        panic!(
            "{} of {} seeds fail, first {seed}: {violation}\n\
             replay: cargo run -p mqtt-broker --no-default-features --example simulate -- --seed {seed}",
            failed.len(),
            seeds.end - seeds.start
        );
    }
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
}
