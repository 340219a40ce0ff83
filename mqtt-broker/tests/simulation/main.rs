//! Random workloads on whole brokers in virtual time, each from one seed, and what has to hold whatever happens.
//!
//! A failure names its seed; `SIMULATION_SEED=n cargo test --test simulation` runs that one alone.

#[path = "../behaviour/cluster.rs"]
#[allow(dead_code, reason = "shared with the behaviour tests: each uses its part of it")]
mod cluster;
mod oracle;
mod workload;

use workload::{Plan, Workload};

/// Runs `plan` under many seeds.
fn run(plan: Plan, seeds: u64) {
    let one = std::env::var("SIMULATION_SEED").ok().and_then(|seed| seed.parse().ok());
    let all = one.map_or(0..seeds, |seed: u64| seed..seed + 1);
    for cores in [1, 2, 8] {
        for seed in all.clone() {
            let failed = std::panic::catch_unwind(|| Workload::new(cores, seed, plan).run()).is_err();
            assert!(!failed, "{plan:?} fails with {cores} cores and seed {seed}");
        }
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered() {
    run(Plan { steps: 300, shared: false, retained: false }, 60);
}

#[test]
fn shared_groups_neither_lose_nor_double() {
    run(Plan { steps: 300, shared: true, retained: false }, 60);
}

#[test]
fn the_last_retained_value_seen_is_the_last_published() {
    run(Plan { steps: 200, shared: false, retained: true }, 60);
}

#[test]
fn everything_at_once_adds_up() {
    run(Plan { steps: 600, shared: true, retained: true }, 60);
}
