//! The broker's memory and open files over time, and whether they stay where they are.

use std::time::Duration;

use crate::load::observe::Sample;
use crate::load::report::Report;

/// Time between two samples.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// Samples below which nothing is said about memory.
const SAMPLES_MIN: usize = 12;
/// Growth between the thirds of the run that is noise: a part of the memory, and bytes.
const NOISE: (f64, f64) = (0.05, 2_097_152.0);
/// Open files more than before the run that are not held to be leaked.
const FDS_NOISE: u64 = 4;

/// The samples of a run.
#[derive(Debug, Default)]
pub(super) struct Watch {
    rss: Vec<u64>,
    before: Option<Sample>,
}

impl Watch {
    /// Watches a broker that looks like this before the first client comes.
    pub(super) const fn new(before: Option<Sample>) -> Watch {
        Watch { rss: Vec::new(), before }
    }

    /// Adds a sample.
    pub(super) fn add(&mut self, sample: Sample) {
        self.rss.push(sample.rss);
    }

    /// Whether more files are open than before the run.
    pub(super) fn has_leaked_fds(&self, now: &Sample) -> bool {
        self.before.is_some_and(|before| now.fds > before.fds + FDS_NOISE)
    }

    /// Says whether memory was flat: the first third of the run is warm-up, the others are compared. `after` is the
    /// broker once all clients are gone.
    pub(super) fn report(&self, after: Option<Sample>, report: &mut Report) {
        let (Some(before), Some(after)) = (self.before, after) else { return };
        report.add("rss_before_bytes", before.rss);
        report.add("rss_max_bytes", self.rss.iter().copied().max().unwrap_or(0));
        report.add("rss_after_bytes", after.rss);
        report.add("fds_before", before.fds);
        report.add("fds_after", after.fds);
        if self.has_leaked_fds(&after) {
            report.violation(format!("{} fds before the run, {} after it", before.fds, after.fds));
        }
        let third = self.rss.len() / 3;
        if self.rss.len() < SAMPLES_MIN {
            report.add("verdict", "too short to judge memory");
            return;
        }
        let middle = median(&self.rss[third..2 * third]);
        let last = median(&self.rss[2 * third..]);
        report.add("rss_middle_third_bytes", middle);
        report.add("rss_last_third_bytes", last);
        let allowed = middle as f64 * (1.0 + NOISE.0) + NOISE.1;
        if last as f64 > allowed {
            report.add("verdict", "memory grows");
            report.violation(format!("memory grew from {middle} to {last} bytes after the warm-up"));
        } else {
            report.add("verdict", "flat");
        }
    }
}

/// The sample in the middle.
fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(rss: impl Iterator<Item = u64>, fds_after: u64) -> u64 {
        let before = Sample { fds: 10, ..Sample::default() };
        let mut watch = Watch::new(Some(before));
        for rss in rss {
            watch.add(Sample { rss, ..before });
        }
        let mut report = Report::new();
        watch.report(Some(Sample { fds: fds_after, ..before }), &mut report);
        report.violation_count()
    }

    #[test]
    fn growth_during_the_warm_up_is_flat_and_later_growth_is_not() {
        let mib = 1 << 20;
        assert_eq!(violations((0..30).map(|at| at.min(10) * 10 * mib), 10), 0);
        assert_eq!(violations((0..30).map(|at| at * 10 * mib), 10), 1);
    }

    #[test]
    fn files_left_open_are_noticed() {
        assert_eq!(violations([1; 30].into_iter(), 10 + FDS_NOISE), 0);
        assert_eq!(violations([1; 30].into_iter(), 11 + FDS_NOISE), 1);
    }
}
