//! Makes a failing schedule smaller: fewer Clients, fewer steps, as long as the same rule is broken.

/// Runs that shrinking takes at most.
const RUNS_MAX: usize = 600;

/// A part of `steps` for which `fails` is true as it is for all of them: without Clients first, then without ever
/// smaller pieces, until no single step can be left out. `party` says whose a step is.
pub(crate) fn shrink<T: Clone>(
    steps: &[T],
    party: impl Fn(&T) -> usize,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut runs = 0;
    let mut fails = |steps: &[T]| {
        runs += 1;
        runs <= RUNS_MAX && fails(steps)
    };
    let mut best = steps.to_vec();
    for nth in 0..best.iter().map(|step| party(step) + 1).max().unwrap_or(0) {
        let without: Vec<T> = best.iter().filter(|step| party(step) != nth).cloned().collect();
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
