//! Why a ring cannot be had, and what the operator does about it.

use std::io;

/// A ring could not be made. Each message names the cause and the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The kernel is older than the oldest one that has all operations.
    #[error("this kernel is Linux {found}, the broker needs Linux 6.1 or newer: boot a newer kernel")]
    KernelTooOld {
        /// The release of the running kernel.
        found: String,
    },
    /// The kernel was built without io_uring.
    #[error("this kernel has no io_uring: boot one that is built with CONFIG_IO_URING=y")]
    Missing,
    /// `kernel.io_uring_disabled` forbids it.
    #[error(
        "io_uring is switched off on this machine (kernel.io_uring_disabled = {value}): \
         allow it with `sysctl -w kernel.io_uring_disabled=0`"
    )]
    Disabled {
        /// The value of the switch: 1 (only for a group) or 2 (for all).
        value: u8,
    },
    /// A seccomp filter, usually that of a container, forbids it.
    #[error(
        "io_uring is forbidden by a seccomp filter (Docker's default profile does that): \
         allow io_uring_setup, io_uring_enter and io_uring_register, \
         for instance with `docker run --security-opt seccomp=unconfined`"
    )]
    Forbidden,
    /// The kernel would not give or lock the memory.
    #[error(
        "no memory for io_uring (the locked memory limit is {limit_kib} KiB): \
         allow at least 512 KiB a core with `ulimit -l 65536` or LimitMEMLOCK=64M in the systemd unit"
    )]
    Memory {
        /// The soft limit of locked memory in KiB.
        limit_kib: u64,
    },
    /// No file descriptor was left for it.
    #[error(
        "no file descriptor left for io_uring: allow more open files with `ulimit -n 1048576` \
         or LimitNOFILE=1048576 in the systemd unit"
    )]
    FileDescriptors,
    /// The kernel lacks, or a restriction removes, an operation that every connection needs.
    #[error("this kernel's io_uring lacks {operation}: boot an unrestricted Linux 6.1 or newer")]
    Lacks {
        /// The operation.
        operation: &'static str,
    },
    /// Anything else.
    #[error("{call} failed ({error}): see `dmesg` and the limits of this process")]
    Other {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// What the surroundings say about io_uring; read once, when making a ring has failed.
pub(super) struct Surroundings {
    pub(super) disabled: u8,
    pub(super) memlock_kib: u64,
}

impl RingError {
    /// Explains a failed `io_uring_setup`.
    pub(super) fn from_setup(error: io::Error, around: &Surroundings) -> RingError {
        match error.raw_os_error() {
            Some(libc::EPERM) if around.disabled > 0 => RingError::Disabled { value: around.disabled },
            // A kernel that is new enough and still says "no such call" was told so by a filter, unless it has no
            // switch: then it was built without io_uring.
            Some(libc::EPERM | libc::EACCES) => RingError::Forbidden,
            Some(libc::ENOSYS) if std::path::Path::new(super::probe::SWITCH).exists() => RingError::Forbidden,
            Some(libc::ENOSYS) => RingError::Missing,
            Some(libc::ENOMEM) => RingError::Memory { limit_kib: around.memlock_kib },
            Some(libc::EMFILE | libc::ENFILE) => RingError::FileDescriptors,
            Some(libc::EINVAL) => RingError::Lacks { operation: "deferred task work for a single issuer" },
            _ => RingError::Other { call: "io_uring_setup", error },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(errno: i32, disabled: u8) -> String {
        let around = Surroundings { disabled, memlock_kib: 64 };
        RingError::from_setup(io::Error::from_raw_os_error(errno), &around).to_string()
    }

    #[test]
    fn a_refused_ring_names_cause_and_remedy() {
        assert!(explain(libc::EPERM, 2).contains("kernel.io_uring_disabled = 2"));
        assert!(explain(libc::EPERM, 2).contains("sysctl -w"));
        assert!(explain(libc::EPERM, 0).contains("seccomp=unconfined"));
        assert!(
            explain(libc::ENOMEM, 0).contains("64 KiB") && explain(libc::ENOMEM, 0).contains("LimitMEMLOCK")
        );
        assert!(explain(libc::EMFILE, 0).contains("LimitNOFILE"));
        assert!(explain(libc::EINVAL, 0).contains("6.1"));
        assert!(explain(libc::EIO, 0).contains("io_uring_setup failed"));
    }
}
