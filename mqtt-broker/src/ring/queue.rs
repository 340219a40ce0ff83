//! The submission and completion queues: entering the kernel, and nothing about sockets.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::time::Duration;

use io_uring::{IoUring, squeue, types};

use super::error::RingError;
use super::probe;

/// Entries of the submission queue; when full it is submitted at once. Fewer where few sockets are busy.
pub(super) const SUBMISSIONS: u32 = 1024;
pub(super) const SUBMISSIONS_FEW: u32 = 256;

/// Entries of the completion queue. It also sizes the table in which cancellation looks an operation up: a smaller
/// one makes cancelling among thousands of armed receives several times dearer.
const COMPLETIONS: u32 = 8192;

/// Enters in a row to run the deferred work that one enter leaves behind (it runs about 20 items): together about
/// 640 items before the turn goes on. Fewer where there are many queues.
pub(super) const ENTERS_MAX: usize = 32;
pub(super) const ENTERS_MAX_FEW: usize = 4;

/// Completions that end the time in which a waiting ring gathers them.
const GATHERED_MAX: usize = 32;

/// How long [`Queue::enter`] waits for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all.
    No,
    /// At most so long.
    For(Duration),
    /// Until there is one.
    Forever,
}

/// A completion.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// An io_uring of one thread.
pub(super) struct Queue {
    io: IoUring,
    /// Enters in a row at most.
    enters_max: usize,
    /// Completions taken out of the queue before they were asked for; they come first.
    aside: VecDeque<Completion>,
    /// A single-issuer ring stays on its thread.
    _not_send: PhantomData<*const ()>,
}

impl Queue {
    /// A queue of so many submissions, entered so often in a row.
    pub(super) fn new(submissions: u32, enters_max: usize) -> Result<Queue, RingError> {
        probe::check_kernel()?;
        let io = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .dontfork()
            .build(submissions)
            .map_err(|error| RingError::from_setup(error, &probe::surroundings()))?;
        probe::check_operations(&io)?;
        Ok(Queue { io, enters_max, aside: VecDeque::new(), _not_send: PhantomData })
    }

    pub(super) fn io(&self) -> &IoUring {
        &self.io
    }

    /// Queues an operation for the next enter.
    ///
    /// # Safety
    /// All memory that `entry` names must stay valid and, where the kernel writes, untouched until the last
    /// completion of the operation has been reaped.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise is the one that `push` asks for.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            match self.io.submit() {
                Ok(_) => {}
                Err(error) if retry(&error) => self.make_room(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes all completions aside: a full completion queue can keep the kernel from submitting.
    fn make_room(&mut self) {
        while let Some(completion) = self.next() {
            self.aside.push_back(completion);
        }
    }

    fn next(&mut self) -> Option<Completion> {
        let entry = self.io.completion().next()?;
        Some(Completion { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() })
    }

    /// Submits what is queued, waits as told, and runs the deferred work that makes completions. A wait goes on for the
    /// time of `gather` where the kernel can do that, unless many completions end it, so that one wake-up brings several.
    ///
    /// # Errors
    /// The ring is broken: the caller's core cannot go on.
    pub(super) fn enter(&mut self, wait: Wait, gather: Duration) -> io::Result<()> {
        let idle = !self.has_completions();
        if (wait == Wait::No || !idle) && !self.has_work() {
            return Ok(());
        }
        let gathers = !gather.is_zero() && self.io.params().is_feature_min_timeout();
        let (wanted, gather) = if gathers { (GATHERED_MAX, gather.as_micros() as u32) } else { (1, 0) };
        let arguments = types::SubmitArgs::new().min_wait_usec(gather);
        let entered = match wait {
            Wait::For(time) if idle && !time.is_zero() => {
                let time = types::Timespec::from(time);
                self.io.submitter().submit_with_args(wanted, &arguments.timespec(&time))
            }
            Wait::Forever if idle && gathers => self.io.submitter().submit_with_args(wanted, &arguments),
            Wait::Forever if idle => self.io.submit_and_wait(1),
            _ => self.io.submit(),
        };
        settled(entered)?;
        for _ in 1..self.enters_max {
            let submissions = self.io.submission();
            let more = submissions.taskrun() || submissions.cq_overflow();
            drop(submissions);
            if !more || self.io.completion().is_full() {
                break;
            }
            settled(self.io.submit())?;
        }
        Ok(())
    }

    /// The next completion that an enter brought.
    pub(super) fn pop(&mut self) -> Option<Completion> {
        self.aside.pop_front().or_else(|| self.next())
    }

    /// Whether an enter would submit something, or run deferred work that makes completions.
    pub(super) fn has_work(&mut self) -> bool {
        let submissions = self.io.submission();
        !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Whether new work signals the eventfd that is registered.
    pub(super) fn set_signals(&mut self, signals: bool) {
        let completions = self.io.completion();
        if signals {
            completions.enable_eventfd();
        } else {
            completions.disable_eventfd();
        }
    }

    /// Completions that wait to be popped.
    pub(super) fn completions(&mut self) -> usize {
        self.aside.len() + self.io.completion().len()
    }

    /// Whether completions wait to be popped.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.aside.is_empty() || !self.io.completion().is_empty()
    }
}

/// A timeout, a signal and a full completion queue are not errors: the caller reaps and enters again.
fn settled(entered: io::Result<usize>) -> io::Result<()> {
    match entered {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ETIME) || retry(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

#[cfg(test)]
mod tests {
    use io_uring::opcode;

    use super::*;

    #[test]
    fn completions_taken_aside_come_first_and_none_is_lost() {
        let mut queue = Queue::new(SUBMISSIONS, ENTERS_MAX).expect("a ring");
        for user_data in 0..20_000u64 {
            let entry = opcode::Nop::new().build().user_data(user_data);
            // SAFETY: it names no memory.
            unsafe { queue.push(&entry) }.expect("queued");
            if user_data % 5_000 == 0 {
                queue.make_room();
            }
        }
        let mut expected = 0;
        while expected < 20_000 {
            queue.enter(Wait::For(Duration::from_secs(10)), Duration::ZERO).expect("entered");
            while let Some(completion) = queue.pop() {
                assert_eq!(completion.user_data, expected);
                expected += 1;
            }
        }
    }
}
