//! How far a run has come: one line on the terminal that is written over, and the samples that a plot is made of.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::load::clock::Clock;
use crate::load::report::grouped;

/// Time between two samples, and between two looks of the line.
const EVERY: Duration = Duration::from_millis(100);
/// Goes back to the beginning of the line and clears it.
const CLEAR: &str = "\r\x1b[2K";

/// How many of something were done between two moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point {
    /// When, since the tool began.
    pub(crate) at: Duration,
    /// A second.
    pub(crate) rate: f64,
}

/// What is going on, and since when.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
    phase: &'static str,
    goal: Option<u64>,
    begin: Duration,
    last: (Duration, u64),
    points: Vec<Point>,
    phases: Vec<(&'static str, Duration)>,
}

impl Progress {
    /// Nothing yet. The line is shown only if standard error is a terminal.
    pub(crate) fn new() -> Progress {
        Progress {
            is_shown: std::io::stderr().is_terminal(),
            phase: "",
            goal: None,
            begin: Duration::ZERO,
            last: (Duration::ZERO, 0),
            points: Vec::new(),
            phases: Vec::new(),
        }
    }

    /// Begins a phase, in which `goal` of something are to be done. What was counted in the last one is counted anew.
    pub(crate) fn begin(&mut self, clock: Clock, phase: &'static str, goal: Option<u64>) {
        let now = clock.elapsed();
        self.phase = phase;
        self.goal = goal;
        self.begin = now;
        self.last = (now, 0);
        self.phases.push((phase, now));
        self.show(now, 0, 0.0);
    }

    /// The phases that have begun, and when.
    pub(crate) fn phases(&self) -> &[(&'static str, Duration)] {
        &self.phases
    }

    /// Says that `done` are done in this phase. Cheap unless a sample is due.
    pub(crate) fn note(&mut self, now: Duration, done: u64) {
        let (at, before) = self.last;
        let passed = now.saturating_sub(at);
        if passed < EVERY {
            return;
        }
        let rate = done.saturating_sub(before) as f64 / passed.as_secs_f64();
        self.points.push(Point { at: now, rate });
        self.last = (now, done);
        self.show(now, done, rate);
    }

    /// Clears the line and returns the samples of all phases.
    pub(crate) fn finish(&mut self) -> Vec<Point> {
        if self.is_shown {
            eprint!("{CLEAR}");
        }
        std::mem::take(&mut self.points)
    }

    fn show(&self, now: Duration, done: u64, rate: f64) {
        if !self.is_shown {
            return;
        }
        let mut line = format!(
            "{CLEAR}{:>6.1} s  {:<14} {:>14}  {:>12}/s",
            now.saturating_sub(self.begin).as_secs_f64(),
            self.phase,
            grouped(done),
            grouped(rate as u64)
        );
        if let Some(goal) = self.goal {
            line += &format!("  {:>3} %", done.min(goal) * 100 / goal.max(1));
        }
        let mut error = std::io::stderr().lock();
        // Whoever has closed the terminal does not want the line either.
        let _ = error.write_all(line.as_bytes()).and_then(|()| error.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_rates_between_notes_that_are_far_enough_apart() {
        let mut progress = Progress { is_shown: false, ..Progress::new() };
        for (millis, done) in [(50, 10), (200, 400), (250, 500), (400, 400)] {
            progress.note(Duration::from_millis(millis), done);
        }
        let rates: Vec<f64> = progress.finish().iter().map(|point| point.rate).collect();
        assert_eq!(rates, [2_000.0, 0.0]);
    }
}
