//! What a log is read from: files, through traits that the runtime and the tests implement.
//!
//! Invariant: reading keeps at most 1 MiB of a file in memory, however long it is.

use std::io;

use super::damage::{Place, ReadError};
use super::format::{COMMIT_BYTES_MAX, PAGE};

/// A file to read from.
pub trait Source {
    /// Its bytes.
    ///
    /// # Errors
    ///
    /// If that cannot be told.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has none.
    ///
    /// # Errors
    ///
    /// If that cannot be told.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `out` from the byte `offset` on.
    ///
    /// # Errors
    ///
    /// If not all of it can be read.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// The segments of one core's log.
pub trait Media {
    /// The file of a segment.
    type File: Source;

    /// The numbers of all segments that have their name, in any order.
    ///
    /// # Errors
    ///
    /// If they cannot be listed.
    fn segments(&self) -> io::Result<Vec<u32>>;

    /// Opens a segment.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    fn open(&self, segment: u32) -> io::Result<Self::File>;
}

/// The segments, of which one is open.
pub(super) struct Files<'m, M: Media> {
    media: &'m M,
    open: Option<(u32, Window<M::File>)>,
    forgiving: bool,
}

impl<'m, M: Media> Files<'m, M> {
    /// `forgiving`: pages that cannot be read are taken for zeros.
    pub(super) fn new(media: &'m M, forgiving: bool) -> Files<'m, M> {
        Files { media, open: None, forgiving }
    }

    pub(super) fn numbers(&self) -> Result<Vec<u32>, ReadError> {
        let mut numbers =
            self.media.segments().map_err(|error| ReadError::Media { place: Place::Log, error })?;
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// Bytes of a segment.
    pub(super) fn len(&mut self, segment: u32) -> Result<u64, ReadError> {
        Ok(self.window(segment)?.len)
    }

    /// The first page of a segment, if it has one.
    pub(super) fn first_page(&mut self, segment: u32) -> Result<Option<&[u8]>, ReadError> {
        let window = self.window(segment)?;
        window.first_page().map_err(|error| ReadError::Media { place: Place::Segment(segment, 0), error })
    }

    /// `len` bytes of a segment from `offset` on, 1 MiB at most; none if it does not have them.
    pub(super) fn read(&mut self, segment: u32, offset: u64, len: usize) -> Result<Option<&[u8]>, ReadError> {
        let window = self.window(segment)?;
        window
            .at(offset, len)
            .map_err(|error| ReadError::Media { place: Place::Segment(segment, offset), error })
    }

    fn window(&mut self, segment: u32) -> Result<&mut Window<M::File>, ReadError> {
        if self.open.as_ref().is_none_or(|&(open, _)| open != segment) {
            let failed = |error| ReadError::Media { place: Place::Segment(segment, 0), error };
            let memory = self.open.take().map(|(_, window)| window.bytes).unwrap_or_default();
            let file = self.media.open(segment).map_err(failed)?;
            let window = Window::new(file, memory, self.forgiving).map_err(failed)?;
            self.open = Some((segment, window));
        }
        Ok(&mut self.open.as_mut().expect("it was opened just now").1)
    }
}

/// A file and the part of it that is in memory.
pub(super) struct Window<F> {
    file: F,
    len: u64,
    bytes: Vec<u8>,
    /// Where they are in the file.
    start: u64,
    /// Pages that cannot be read are taken for zeros.
    forgiving: bool,
}

impl<F: Source> Window<F> {
    /// `bytes` is memory to be used.
    pub(super) fn new(file: F, mut bytes: Vec<u8>, forgiving: bool) -> io::Result<Window<F>> {
        let len = file.len()?;
        bytes.clear();
        Ok(Window { file, len, bytes, start: 0, forgiving })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// `len` bytes from `offset` on, 1 MiB at most; none if the file does not have them.
    pub(super) fn at(&mut self, offset: u64, len: usize) -> io::Result<Option<&[u8]>> {
        debug_assert!(len <= COMMIT_BYTES_MAX);
        if offset.checked_add(len as u64).is_none_or(|end| end > self.len) {
            return Ok(None);
        }
        if offset < self.start || offset + len as u64 > self.start + self.bytes.len() as u64 {
            self.load(offset, COMMIT_BYTES_MAX)?;
        }
        let at = (offset - self.start) as usize;
        Ok(Some(&self.bytes[at..at + len]))
    }

    /// The first page, if it is whole; nothing else is read for that.
    pub(super) fn first_page(&mut self) -> io::Result<Option<&[u8]>> {
        if self.len < PAGE as u64 {
            return Ok(None);
        }
        self.load(0, PAGE)?;
        Ok(Some(&self.bytes))
    }

    fn load(&mut self, offset: u64, most: usize) -> io::Result<()> {
        let most = (self.len - offset).min(most as u64) as usize;
        // Should reading fail, there is nothing in memory.
        self.bytes.clear();
        self.start = offset;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.resize(most, 0);
        match self.file.read_at(offset, &mut bytes) {
            Err(_) if self.forgiving => {
                for (place, page) in bytes.chunks_mut(PAGE).enumerate() {
                    if self.file.read_at(offset + (place * PAGE) as u64, page).is_err() {
                        page.fill(0);
                    }
                }
            }
            done => done?,
        }
        self.bytes = bytes;
        Ok(())
    }
}
