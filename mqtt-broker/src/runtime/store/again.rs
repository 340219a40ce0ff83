//! What could not be done for a shortage that passes, and is tried again: the system was out of open files, say.
//!
//! Invariant: one try a pause as long as the shortage lasts, and then all of it.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tracing::{info, warn};

/// How long nothing is tried again.
pub(super) const PAUSE_MILLIS: u64 = 1_000;

/// Whether an error says nothing of a file: what it wants others give back.
pub(super) fn is_passing(error: &io::Error) -> bool {
    let passing = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR, libc::EAGAIN];
    error.raw_os_error().is_some_and(|code| passing.contains(&code))
}

/// What waits to be tried again, the oldest first.
pub(super) struct Again<J> {
    jobs: VecDeque<J>,
    /// Monotonic milliseconds from which on the next one is tried.
    at: u64,
    /// The shortage was logged.
    is_told: bool,
}

impl<J> Default for Again<J> {
    fn default() -> Again<J> {
        Again { jobs: VecDeque::new(), at: 0, is_told: false }
    }
}

impl<J> Again<J> {
    /// `job` could not be done at `now`.
    pub(super) fn put(&mut self, job: J, error: &io::Error, now: u64) {
        self.jobs.push_back(job);
        self.at = now + PAUSE_MILLIS;
        if !std::mem::replace(&mut self.is_told, true) {
            warn!(%error, "the store cannot open or read a file for now: it is tried again each second");
        }
    }

    /// How long until the next one is due, if there is one.
    pub(super) fn pause(&self, now: u64) -> Option<Duration> {
        (!self.jobs.is_empty()).then(|| Duration::from_millis(self.at.saturating_sub(now)))
    }

    /// The next one, if it is due.
    pub(super) fn poll(&mut self, now: u64) -> Option<J> {
        if now >= self.at {
            return self.jobs.pop_front();
        }
        None
    }

    /// Something was done: if nothing waits, the shortage is over.
    pub(super) fn done(&mut self) {
        if self.jobs.is_empty() && std::mem::take(&mut self.is_told) {
            info!("the store can open and read its files again");
        }
    }

    /// Takes those that nobody wants any more.
    pub(super) fn extract(&mut self, is_over: impl Fn(&J) -> bool) -> Vec<J> {
        let (over, left) = std::mem::take(&mut self.jobs).into_iter().partition(is_over);
        self.jobs = left;
        Vec::from(over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_tried_a_pause_until_one_can_be_done() {
        let error = io::Error::from_raw_os_error(libc::EMFILE);
        let mut again = Again::default();
        assert_eq!((again.pause(0), again.poll(0)), (None, None));
        (1..=3).for_each(|job| again.put(job, &error, 10));
        let due = 10 + PAUSE_MILLIS;
        assert_eq!(
            (again.pause(11), again.poll(due - 1)),
            (Some(Duration::from_millis(PAUSE_MILLIS - 1)), None)
        );
        assert_eq!(again.poll(due), Some(1));
        again.put(1, &error, due);
        assert_eq!(again.poll(due), None, "there is a shortage still");
        assert_eq!(again.extract(|&job| job == 3), [3]);
        let due = due + PAUSE_MILLIS;
        assert_eq!([(); 3].map(|()| again.poll(due)), [Some(2), Some(1), None]);
    }

    #[test]
    fn an_error_of_the_disk_does_not_pass() {
        let passes = |code| is_passing(&io::Error::from_raw_os_error(code));
        assert!(passes(libc::EMFILE) && passes(libc::ENFILE) && passes(libc::ENOMEM));
        assert!(!passes(libc::EIO) && !passes(libc::ENOENT));
        assert!(!is_passing(&io::ErrorKind::UnexpectedEof.into()));
    }
}
