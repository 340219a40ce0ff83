//! Makes a failing schedule smaller: fewer Clients, fewer steps, as long as the same rule is broken.

use super::schedule::Step;

/// Runs that shrinking takes at most.
const RUNS_MAX: usize = 600;

/// A part of `steps` for which `fails` is true as it is for all of them: without Clients first, then without ever
/// smaller pieces, until no single step can be left out.
pub(crate) fn shrink(steps: &[Step], mut fails: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut runs = 0;
    let mut fails = |steps: &[Step]| {
        runs += 1;
        runs <= RUNS_MAX && fails(steps)
    };
    let mut best = steps.to_vec();
    for party in 0..best.iter().map(|step| step.party + 1).max().unwrap_or(0) {
        let without: Vec<Step> = best.iter().filter(|step| step.party != party).cloned().collect();
        if without.len() < best.len() && fails(&without) {
            best = without;
        }
    }
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
