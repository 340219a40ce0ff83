//! Makes a failing schedule smaller: fewer Clients, fewer steps, as long as the same rule is broken.

use super::scenario::Scenario;
use super::schedule::Step;
use super::simulate;

/// Runs that shrinking takes at most.
const RUNS_MAX: usize = 600;

/// A part of `steps` that breaks `rule` as all of them do.
pub(crate) fn shrink(scenario: &Scenario, steps: &[Step], rule: &str) -> Vec<Step> {
    let mut runs = 0;
    let mut fails = |steps: &[Step]| {
        runs += 1;
        runs <= RUNS_MAX
            && simulate(scenario, steps, false).violation.is_some_and(|violation| violation.rule == rule)
    };
    let mut best = steps.to_vec();
    for party in 0..scenario.parties.len() {
        let without: Vec<Step> = best.iter().filter(|step| step.party != party).cloned().collect();
        if without.len() < best.len() && fails(&without) {
            best = without;
        }
    }
    // Ever smaller chunks are left out, until no single step can be.
    let mut chunk = best.len().div_ceil(2);
    while chunk > 0 {
        let (mut at, mut any) = (0, false);
        while at < best.len() {
            let end = (at + chunk).min(best.len());
            let without = [&best[..at], &best[end..]].concat();
            if fails(&without) {
                (best, any) = (without, true);
            } else {
                at = end;
            }
        }
        if !any || chunk > 1 {
            chunk /= 2;
        }
    }
    best
}
