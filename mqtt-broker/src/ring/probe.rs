//! Whether this machine's io_uring has all that the ring uses.

use io_uring::{IoUring, Probe, opcode};

use super::error::{RingError, Surroundings};
use super::sys;

/// The switch of newer kernels that forbids io_uring.
pub(super) const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";

/// The oldest kernel with multishot receive, provided buffer rings and deferred task work.
const OLDEST: (u32, u32) = (6, 1);

/// The oldest kernel whose tables of sockets serve. Before, a socket that was taken out of a table stayed open until
/// everything had ended that was armed on any socket of the table before that.
const OLDEST_WITH_TABLES: (u32, u32) = (6, 13);

/// Every operation that the ring submits for sockets that are open files, and for files.
const OPERATIONS: [(u8, &str); 8] = [
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::RecvMulti::CODE, "recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::AsyncCancel::CODE, "cancel"),
    (opcode::Read::CODE, "read"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::Write::CODE, "write"),
];

/// Checks the release of the running kernel.
///
/// # Errors
/// [`RingError::KernelTooOld`]. A release that cannot be read or parsed is left to the probe of the operations.
pub(super) fn check_kernel() -> Result<(), RingError> {
    check_release(release().trim())
}

/// Whether sockets can be kept in tables of io_urings.
pub(crate) fn has_tables() -> bool {
    release_has_tables(release().trim())
}

fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

fn release_has_tables(release: &str) -> bool {
    parse(release).is_some_and(|version| version >= OLDEST_WITH_TABLES)
}

fn check_release(release: &str) -> Result<(), RingError> {
    match parse(release) {
        Some(version) if version < OLDEST => Err(RingError::KernelTooOld { found: release.to_owned() }),
        _ => Ok(()),
    }
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Asks the ring for each operation.
///
/// # Errors
/// [`RingError::Lacks`] with the first one that is not there.
pub(super) fn check_operations(ring: &IoUring) -> Result<(), RingError> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| RingError::Other { call: "io_uring_register (probe)", error })?;
    for (code, operation) in OPERATIONS {
        if !probe.is_supported(code) {
            return Err(RingError::Lacks { operation });
        }
    }
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(RingError::Lacks { operation: "waiting with a timeout" });
    }
    Ok(())
}

/// Reads what explains a refusal.
pub(super) fn surroundings() -> Surroundings {
    let disabled =
        std::fs::read_to_string(SWITCH).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    Surroundings { disabled, memlock_kib: sys::locked_memory_limit() / 1024 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_before_6_1_are_refused() {
        for old in ["5.15.0-91-generic", "5.14.0-362.el9", "6.0.19", "4.19"] {
            let error = check_release(old).expect_err(old).to_string();
            assert!(error.contains(old) && error.contains("6.1"), "{error}");
        }
        for good in ["6.1.0", "6.18.44-fc-v669", "7.0", "10.2-rc1", "unknown"] {
            assert!(check_release(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn only_kernels_that_let_go_of_a_socket_at_once_have_tables() {
        for old in ["6.1.0", "6.8.0-45-generic", "6.12.57", "unknown", ""] {
            assert!(!release_has_tables(old), "{old}");
        }
        assert!(release_has_tables("6.13.0") && release_has_tables("7.0-rc1"));
    }
}
