//! The receive buffers that all connections of a bay share: the kernel picks one when bytes arrive, so that an idle
//! connection owns none.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::error::RingError;
use super::queue::Queue;

/// Buffers of the first bay and of each further one, powers of two. When all are taken, connections wait until one
/// comes back.
pub(super) const BUFFERS: u16 = 256;
pub(super) const BUFFERS_FEW: u16 = 32;

/// Bytes of a buffer.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;

/// The group under which receives name these buffers.
pub(super) const GROUP: u16 = 0;

/// A page-aligned mapping of zeroes; pages that were never touched cost nothing.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> Result<Mapping, RingError> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_ANONYMOUS | libc::MAP_PRIVATE);
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        match NonNull::new(start.cast::<u8>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { start, bytes }),
            _ => Err(RingError::Other { call: "mmap", error: std::io::Error::last_os_error() }),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, unmapped once; `Ring::drop` has waited for every operation
        // that might write to it, or has leaked it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

/// The provided buffer ring of one bay.
pub(super) struct Buffers {
    /// How many, a power of two.
    count: u16,
    entries: Mapping,
    pool: Mapping,
    /// Where the next buffer is given back; wraps.
    tail: u16,
    /// Buffers that the kernel has not got: being read by us, or named by completions not yet reaped.
    taken: u16,
}

impl Buffers {
    /// So many buffers, a power of two.
    pub(super) fn new(queue: &Queue, count: u16) -> Result<Buffers, RingError> {
        let entries = Mapping::new(usize::from(count) * size_of::<BufRingEntry>())?;
        let pool = Mapping::new(usize::from(count) * BUFFER_BYTES)?;
        let address = entries.start.as_ptr() as u64;
        // SAFETY: the mapping has room for that many entries and lives as long as the ring, whose owner drops the
        // queue first.
        unsafe { queue.io().submitter().register_buf_ring_with_flags(address, count, GROUP, 0) }.map_err(
            |error| match error.raw_os_error() {
                Some(libc::EINVAL) => RingError::Lacks { operation: "provided buffer rings" },
                Some(libc::ENOMEM) => {
                    RingError::Memory { limit_kib: super::sys::locked_memory_limit() / 1024 }
                }
                _ => RingError::Other { call: "io_uring_register (buffer ring)", error },
            },
        )?;
        let mut buffers = Buffers { count, entries, pool, tail: 0, taken: count };
        for id in 0..count {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    /// Buffers that the kernel has, provided that every completion was reaped.
    pub(super) fn available(&self) -> u16 {
        self.count - self.taken
    }

    /// Notes that a completion carried a buffer.
    pub(super) fn take(&mut self) {
        self.taken += 1;
        debug_assert!(self.taken <= self.count, "the kernel hands out only what it was given");
    }

    /// The first `len` bytes of a buffer that a completion carried and that was not given back yet.
    pub(super) fn bytes(&self, id: u16, len: usize) -> &[u8] {
        assert!(id < self.count && len <= BUFFER_BYTES, "a completion names a buffer of ours and fits in it");
        // SAFETY: in range of the pool (asserted); the kernel wrote these bytes before it completed and does not
        // touch the buffer until `give_back`, which needs `&mut self`.
        unsafe {
            std::slice::from_raw_parts(self.pool.start.as_ptr().add(usize::from(id) * BUFFER_BYTES), len)
        }
    }

    /// Returns a buffer to the kernel.
    pub(super) fn give_back(&mut self, id: u16) {
        assert!(id < self.count, "a buffer of ours");
        debug_assert!(self.taken > 0, "given back twice");
        self.taken -= 1;
        let base = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is masked to the size of the mapping. The kernel reads an entry only after the tail has
        // passed it, and the tail store below, with release, comes after the entry is written. The tail lies in a
        // reserved field of entry 0 that the setters do not write.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & (self.count - 1)));
            entry.set_addr(self.pool.start.as_ptr() as u64 + u64::from(id) * BUFFER_BYTES as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            (*BufRingEntry::tail(base).cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }
}
