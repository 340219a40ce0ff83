//! What a process costs, from `/proc`: CPU time, resident memory, open files. And what this one may use.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

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
    /// Bytes that it made the kernel write to devices; `None` where we may not look.
    pub(crate) written: Option<u64>,
}

/// Clock ticks a second in `/proc`, fixed by the kernel's interface.
const TICKS: u64 = 100;

/// Looks at the process `pid`.
///
/// # Errors
/// There is no such process.
pub(crate) fn sample(pid: u32) -> io::Result<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| io::Error::new(error.kind(), format!("there is no process {pid} ({error})")))?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let (rss, rss_anon) = (bytes("VmRSS"), bytes("RssAnon"));
    Ok(Sample { cpu_ns: cpu_ns(pid)?, rss, rss_anon, fds: fds(pid), written: written(pid) })
}

fn written(pid: u32) -> Option<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
}

/// A broker may take three seconds to listen.
const START_LOOKS: u32 = 150;
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// CPU that a broker may have used before a run and still be as it was when it started.
const FRESH_NS: u64 = 100_000_000;

/// Checks that the process `pid` is the broker at `port`, and says what makes figures of it doubtful: that this cannot be
/// seen, or, where it matters what its memory grows by, that it has some from before, which it uses again.
///
/// # Errors
/// There is no such process, or it is another one.
pub(crate) fn check_broker(pid: u32, port: u16, growth_matters: bool) -> io::Result<Vec<String>> {
    let broker = sample(pid)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let process = format!("process {pid} ({})", name.trim_end());
    let mut doubts = Vec::new();
    // One that was started just now may not have come to that.
    for _ in 0..START_LOOKS {
        if listens(pid, port) != Some(false) {
            break;
        }
        sleep(LOOK_PAUSE);
    }
    match listens(pid, port) {
        Some(true) => {}
        Some(false) => {
            return Err(io::Error::other(format!(
                "{process} does not listen on port {port}: --pid has to be the broker's own process"
            )));
        }
        None => {
            doubts.push(format!("it cannot be seen from here whether {process} is the broker at port {port}"))
        }
    }
    if growth_matters && broker.cpu_ns > FRESH_NS {
        doubts.push(format!(
            "the broker had worked before ({:.1} s of CPU, {} open files, {} MB): restart it for figures of memory",
            broker.cpu_ns as f64 / 1e9,
            broker.fds,
            broker.rss / 1_000_000
        ));
    }
    Ok(doubts)
}

/// Whether the process `pid` listens on `port`; `None` if it is somebody else's, or has a network of its own.
fn listens(pid: u32, port: u16) -> Option<bool> {
    let network = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
    if network(&pid.to_string())? != network("self")? {
        return None;
    }
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let Ok(table) = fs::File::open(table) else { continue };
        // Those that listen come first, and a million others may follow.
        let lines = BufReader::new(table).lines().skip(1).map_while(Result::ok);
        let there = lines.map_while(|line| listener(&line)).filter(|(at, _)| *at == port);
        let sockets: Vec<_> = there.map(|(_, inode)| PathBuf::from(format!("socket:[{inode}]"))).collect();
        let mut files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        if !sockets.is_empty()
            && files.any(|file| fs::read_link(file.path()).is_ok_and(|file| sockets.contains(&file)))
        {
            return Some(true);
        }
    }
    Some(false)
}

/// The port and the inode of a line of `/proc/net/tcp`; `None` if the socket of the line does not listen.
fn listener(line: &str) -> Option<(u16, u64)> {
    let mut fields = line.split_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let is_listening = fields.nth(1)? == "0A";
    let inode = fields.nth(5)?.parse().ok()?;
    is_listening.then_some((u16::from_str_radix(port, 16).ok()?, inode))
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_process_listens_on_its_ports_alone() {
        let own = std::process::id();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may be without IPv6.
            let Ok(socket) = TcpListener::bind(address) else { continue };
            let port = socket.local_addr().expect("bound").port();
            assert_eq!(listens(own, port), Some(true), "{address}");
            assert_eq!(check_broker(own, port, false).expect("it does"), Vec::<String>::new());
            drop(socket);
            assert_eq!(listens(own, port), Some(false), "{address}");
        }
        let error = check_broker(own, 1, false).expect_err("another's port").to_string();
        assert!(error.contains(&own.to_string()) && error.contains("does not listen on port 1:"), "{error}");
        let error = check_broker(u32::MAX, 1, false).expect_err("no process").to_string();
        assert!(error.contains("no process 4294967295"), "{error}");
    }
}
