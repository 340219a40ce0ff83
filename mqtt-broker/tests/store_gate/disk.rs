//! Files in memory, and what a write leaves of itself when it is cut short.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use mqtt_broker::store::log::{Media, Segment, Source};

/// Bytes that a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;

/// The segments of one core.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<u32, File>,
}

/// A file; a copy shares the bytes until either changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    bytes: Rc<Vec<u8>>,
    /// Bytes that cannot be read.
    unreadable: Range<u64>,
}

impl File {
    pub(crate) fn new(bytes: Vec<u8>) -> File {
        File { bytes: Rc::new(bytes), unreadable: 0..0 }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        Rc::make_mut(&mut self.bytes)
    }

    pub(crate) fn make_unreadable(&mut self, range: Range<u64>) {
        self.unreadable = range;
    }

    /// What of a write to `offset` is landed as `lands` says for each of its sectors.
    pub(crate) fn write(&mut self, offset: u64, pages: &[u8], mut lands: impl FnMut(usize) -> bool) {
        let end = offset as usize + pages.len();
        let file = self.bytes_mut();
        if file.len() < end {
            file.resize(end, 0);
        }
        for (sector, bytes) in pages.chunks(SECTOR).enumerate() {
            if lands(sector) {
                let at = offset as usize + sector * SECTOR;
                file[at..at + bytes.len()].copy_from_slice(bytes);
            }
        }
    }
}

impl Disk {
    pub(crate) fn make(&mut self, segment: Segment) {
        let made = self.files.insert(segment.number, File::new(vec![0; segment.bytes as usize]));
        assert!(made.is_none(), "a segment is made once");
    }

    pub(crate) fn remove(&mut self, segment: u32) {
        self.files.remove(&segment).expect("it was made");
    }

    pub(crate) fn file(&mut self, number: u32) -> &mut File {
        self.files.get_mut(&number).expect("segments are written to once they are made")
    }

    /// Bytes of all files.
    pub(crate) fn places(&self) -> Vec<(u32, usize)> {
        let files = self.files.iter();
        files.flat_map(|(&number, file)| (0..file.bytes.len()).map(move |place| (number, place))).collect()
    }
}

impl Media for Disk {
    type File = File;

    fn segments(&self) -> io::Result<Vec<u32>> {
        Ok(self.files.keys().rev().copied().collect())
    }

    fn open(&self, segment: u32) -> io::Result<File> {
        self.files.get(&segment).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Source for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset + out.len() as u64;
        if offset < self.unreadable.end && self.unreadable.start < end {
            return Err(io::Error::other("a bad sector"));
        }
        let bytes = self.bytes.get(offset as usize..end as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }
}
