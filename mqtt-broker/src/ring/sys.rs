//! The system calls that the standard library does not have, each behind a safe function.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// A counter in the kernel that one thread reads in its ring and others write to wake it.
#[derive(Debug)]
pub(crate) struct EventFd(File);

impl EventFd {
    /// A counter of 0.
    pub(crate) fn new() -> io::Result<EventFd> {
        // SAFETY: no pointers; a result that is not negative is a descriptor that nobody else owns.
        let fd = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        Ok(EventFd(File::from(fd)))
    }

    /// Wakes whoever reads it.
    pub(crate) fn signal(&self) {
        // It fails only when the counter is full, and then the reader is being woken already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Takes ownership of a descriptor that a completion reported.
pub(super) fn own(fd: RawFd) -> OwnedFd {
    debug_assert!(fd >= 0, "a completion of accept that is not an error carries a descriptor");
    // SAFETY: the caller got `fd` from an accept completion, which is reaped once, so nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Milliseconds of the monotonic clock, the same on all threads.
pub(crate) fn monotonic_millis() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes nothing else; this clock cannot fail on Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Random words that an attacker cannot guess.
pub(crate) fn random_words<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0u64; N];
    let bytes = size_of_val(&words);
    // SAFETY: the kernel writes at most `bytes`, into a local that outlives the call; every word is valid.
    let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), bytes, 0) };
    // Up to 256 bytes come whole.
    if got == bytes as isize { Ok(words) } else { Err(io::Error::last_os_error()) }
}

/// The CPUs that this thread may run on.
pub(crate) fn allowed_cpus() -> Vec<usize> {
    // SAFETY: a `cpu_set_t` is a plain array of words, for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the size given, into a local that outlives the call.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Vec::new();
    }
    // SAFETY: every index is below CPU_SETSIZE, the number of bits in the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect()
}

fn limits(resource: libc::__rlimit_resource_t) -> libc::rlimit {
    let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limits` outlives the call, which writes nothing else; on failure it stays 0.
    unsafe { libc::getrlimit(resource, &mut limits) };
    limits
}

/// Raises a soft limit to its hard one and returns what is then in force.
fn raise(resource: libc::__rlimit_resource_t) -> u64 {
    let mut wanted = limits(resource);
    if wanted.rlim_cur < wanted.rlim_max {
        wanted.rlim_cur = wanted.rlim_max;
        // SAFETY: `wanted` outlives the call, which only reads it.
        unsafe { libc::setrlimit(resource, &wanted) };
    }
    limits(resource).rlim_cur
}

/// Raises the limit of open files as far as allowed and returns it.
pub(crate) fn raise_file_limit() -> u64 {
    raise(libc::RLIMIT_NOFILE)
}

/// Raises the limit of locked memory as far as allowed and returns it in bytes.
pub(crate) fn raise_locked_memory_limit() -> u64 {
    raise(libc::RLIMIT_MEMLOCK)
}

/// The limit of locked memory in bytes.
pub(super) fn locked_memory_limit() -> u64 {
    limits(libc::RLIMIT_MEMLOCK).rlim_cur
}
