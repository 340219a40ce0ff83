//! What a process costs, from `/proc`: CPU time, resident memory, open files. And what this one may use.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Nanoseconds of CPU that its threads have used.
    pub(crate) cpu_ns: u64,
    /// Resident memory in bytes.
    pub(crate) rss: u64,
    /// The part of it that is not backed by files: heap and stacks.
    pub(crate) rss_anon: u64,
    /// Open file descriptors; 0 where we may not look.
    pub(crate) fds: u64,
}

/// Clock ticks a second in `/proc`, fixed by the kernel's interface.
const TICKS: u64 = 100;

/// Looks at the process `pid`.
///
/// # Errors
/// There is no such process.
pub(crate) fn sample(pid: u32) -> io::Result<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| io::Error::new(error.kind(), format!("process {pid}: {error}")))?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Ok(Sample { cpu_ns: cpu_ns(pid)?, rss: bytes("VmRSS"), rss_anon: bytes("RssAnon"), fds: fds(pid) })
}

/// The open files of a process. Listing them makes the kernel keep a kilobyte for each, so it is asked for their number
/// where it tells that (Linux 6.2).
fn fds(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/fd");
    match fs::metadata(&path).map(|files| files.len()) {
        Ok(0) => fs::read_dir(path).map_or(0, |entries| entries.count() as u64),
        Ok(fds) => fds,
        Err(_) => 0,
    }
}

/// What the kernel holds for everybody on this machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel {
    /// Bytes of its slab caches.
    pub(crate) slab: u64,
    /// Of them, those of operations of io_urings.
    pub(crate) io_uring: u64,
    /// Bytes in the buffers of TCP sockets.
    pub(crate) tcp_buffers: u64,
}

/// Bytes of a page as `/proc/net/sockstat` counts them.
const PAGE: u64 = 4096;

/// Looks at the kernel's memory; `None` without the right to.
pub(crate) fn kernel() -> Option<Kernel> {
    let slabs = fs::read_to_string("/proc/slabinfo").ok()?;
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let mut kernel = Kernel { tcp_buffers: tcp_pages(&sockets).unwrap_or(0) * PAGE, ..Kernel::default() };
    for line in slabs.lines().skip(2) {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        // Of whoever looked into /proc meanwhile.
        if name == "proc_inode_cache" {
            continue;
        }
        let mut fields = fields.skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
        let bytes = fields.next()? * fields.next()?;
        kernel.slab += bytes;
        if name.starts_with("io_kiocb") {
            kernel.io_uring += bytes;
        }
    }
    Some(kernel)
}

/// The pages of all TCP buffers.
fn tcp_pages(sockets: &str) -> Option<u64> {
    let line = sockets.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    line.split_whitespace().skip_while(|word| *word != "mem").nth(1)?.parse().ok()
}

/// The scheduler's nanoseconds of all threads, unless threads that have ended used more than a tick.
pub(crate) fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut running = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        running += schedstat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; behind it, utime and stime are the 12th and 13th field.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let ended = (ticks * 1_000_000_000 / TICKS).saturating_sub(running) > 1_000_000_000;
    Ok(if ended { ticks * 1_000_000_000 / TICKS } else { running })
}

/// Raises the limit of open files to what is allowed, and returns it.
pub(crate) fn raise_file_limit() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
