//! A whole broker from one number: a seed makes a scenario and a schedule, a run of them is judged by oracles, and
//! what fails is made smaller.
//!
//! [`simulate`] runs a seed. All time is virtual, all chance comes from the seed: the same seed gives the same run, to
//! the byte.

mod client;
mod cluster;
mod coverage;
mod crash;
mod epilogue;
mod groups;
mod network;
mod oracle;
mod ports;
mod random;
mod run;
mod scenario;
mod schedule;
mod shrink;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub(crate) use coverage::Coverage;
pub(crate) use crash::{crash, replay_crashes};
pub(crate) use groups::crash_groups;
pub(crate) use oracle::Violation;
pub(crate) use run::Outcome;
pub(crate) use scenario::Scenario;
pub(crate) use schedule::{Step, schedule};
pub(crate) use shrink::shrink;

/// Runs a scenario's schedule.
pub(crate) fn simulate(scenario: &Scenario, steps: &[Step], prints: bool) -> Outcome {
    guarded(|| Ok(run::Run::of(scenario, steps, prints))).unwrap_or_else(|violation| Outcome {
        violation: Some(violation),
        hash: 0,
        events: 0,
        micros: 0,
        messages: 0,
        coverage: Coverage::default(),
    })
}

/// A run of any kind. A panic of the broker is a violation like any other.
fn guarded<T>(run: impl FnOnce() -> Result<T, Violation>) -> Result<T, Violation> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
        Err(Violation { rule: "panic", text: said.unwrap_or_else(|| "a panic without words".to_owned()) })
    })
}
