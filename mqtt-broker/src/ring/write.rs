//! Writing to a file: pages that are the ring's until the disk has them.
//!
//! Invariant: one write at most is under way. Its pages and its file stay until the completion; a ring that ends before
//! that leaks them rather than freeing what the kernel still reads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::{opcode, types};

use super::slot::{Operation, Token};
use super::{Ring, Step};
use crate::store::log::Buffer;

/// What is being written, and where to.
pub(super) struct Writing {
    /// Kept open.
    _file: Arc<File>,
    pages: Buffer,
}

impl Ring {
    /// Writes `pages` to `file` from the byte `offset` on; [`super::Event::Written`] says how that went. What of it is on
    /// the disk then depends on how the file was opened.
    ///
    /// # Panics
    /// If a write is under way.
    pub(crate) fn write(&mut self, file: Arc<File>, offset: u64, pages: Buffer) {
        assert!(self.writing.is_none(), "one write at a time");
        let fd = types::Fd(file.as_raw_fd());
        // The memory of a buffer stays where it is when the buffer itself moves.
        let entry = opcode::Write::new(fd, pages.as_ptr(), pages.len() as u32).offset(offset).build();
        self.writing = Some(Writing { _file: file, pages });
        self.submit(0, entry, Token::new(Operation::Write, 0, 0));
    }

    pub(super) fn handle_write(&mut self, result: i32) -> Step {
        let Writing { pages, .. } = self.writing.take().expect("its completion comes once");
        let result = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        Step::Written { pages, result }
    }
}
