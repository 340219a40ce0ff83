//! Crashes: a whole broker with its disks in memory, killed at any instant and started again, on as many cores or on others.
//!
//! What the broker has acknowledged has to reach every subscriber that was there, QoS 2 once, in order; sessions last as
//! long as they are to, Wills are published in time and once. Disks are full, slow, or fail, and at times the broker ends of
//! its own accord. A run is a row of steps drawn from its seed; between two of them anything may wait.

mod act;
mod client;
mod judge;
mod pile;
mod plan;
mod restart;
mod take;
mod wills;
mod world;

use super::{Violation, guarded, shrink};
use plan::plan;
use world::World;

pub(crate) use plan::{Setting, Step};

/// Runs a seed; how often the broker was killed.
pub(crate) fn crash(seed: u64) -> Result<u64, Violation> {
    let (setting, steps) = plan(seed);
    run(&setting, &steps, false)
}

/// Runs a seed with a trace, behind making its steps as few as still break the same rule, if it breaks one.
pub(crate) fn replay_crashes(seed: u64, shrinks: bool, prints: bool) -> Result<u64, Violation> {
    let (setting, mut steps) = plan(seed);
    let failed = run(&setting, &steps, false).err();
    if let Some(violation) = failed.filter(|_| shrinks) {
        let all = steps.len();
        let fails =
            |part: &[Step]| run(&setting, part, false).is_err_and(|other| other.rule == violation.rule);
        steps = shrink(&steps, |_| 0, fails);
        println!("seed {seed} fails with {} of its {all} steps", steps.len());
    }
    if prints {
        println!("{setting:?}");
        let names: Vec<String> = steps.iter().map(|step| format!("{:?}", step.what)).collect();
        println!("{}", names.join(" "));
    }
    run(&setting, &steps, prints)
}

fn run(setting: &Setting, steps: &[Step], prints: bool) -> Result<u64, Violation> {
    guarded(|| World::new(setting, prints).run(steps))
}
