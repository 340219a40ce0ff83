//! A snapshot: a file of records that stand for a log up to some point, made slice by slice while the log goes on.
//!
//! Invariant: a snapshot is read to its total, or it is damaged: its commits are counted, and the total has the number of
//! its records and the checksum of all of them.

use std::collections::VecDeque;

use super::buffer::Buffer;
use super::damage::{Damage, Fault, Place, ReadError, Verdict};
use super::format::{
    BODY_MAX, COMMIT_HEADER, CommitHeader, END, FileHeader, Identity, Kind, MORE, NoHeader, PAGE, Parsed,
    body_crc, commit_bytes, parse_record, put_record,
};
use super::media::{Source, Window};
use super::reader::Record;

/// Pages to be written to the file of a snapshot. The memory belongs to whoever writes until it is given back to
/// [`SnapshotWriter::written`].
#[derive(Debug)]
pub struct SnapshotWrite {
    /// From which byte on, always behind what was written before.
    pub offset: u64,
    /// What: whole pages, aligned to 4 KiB.
    pub pages: Buffer,
}

/// A write failed; the file is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("writing a snapshot failed at byte {offset}")]
pub struct SnapshotFailed {
    /// Where the write went.
    pub offset: u64,
}

/// Records of one state: they become commits of their own.
#[derive(Clone, Copy, Debug)]
struct Slice {
    as_of: u64,
    /// Its bytes that were not written yet.
    left: usize,
    /// Commits of it that were written.
    part: u32,
}

/// Writes a snapshot. Appending and writing may take turns in any way: what is appended waits in memory.
///
/// The file is to be written under another name, and gets its own once [`SnapshotWriter::is_complete`], all of it is on
/// the disk, and the log is durable up to the last record that the snapshot was made of. Then what is before `from` can
/// be released.
#[derive(Debug)]
pub struct SnapshotWriter {
    identity: Identity,
    seed: u32,
    from: u64,
    /// Records that wait; those before `taken` are written.
    bytes: Vec<u8>,
    taken: usize,
    slices: VecDeque<Slice>,
    offset: u64,
    commits: u64,
    records: u64,
    crc: u32,
    is_finished: bool,
    /// The write under way is the last.
    is_total: bool,
    is_complete: bool,
    /// Away while a write is under way.
    buffer: Option<Buffer>,
}

impl SnapshotWriter {
    /// A snapshot that needs the log from the record `from` on.
    ///
    /// # Panics
    ///
    /// If there is no such record: they count from 1.
    pub fn new(identity: Identity, from: u64) -> SnapshotWriter {
        assert!(from > 0, "records count from 1");
        let seed = identity.seed();
        SnapshotWriter {
            identity,
            seed,
            from,
            bytes: Vec::new(),
            taken: 0,
            slices: VecDeque::new(),
            offset: 0,
            commits: 0,
            records: 0,
            crc: seed,
            is_finished: false,
            is_total: false,
            is_complete: false,
            buffer: Some(Buffer::new()),
        }
    }

    /// Appends a record about a state to which the log had led with its record `as_of`.
    ///
    /// # Panics
    ///
    /// Behind [`SnapshotWriter::finish`].
    pub fn append(&mut self, as_of: u64, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
        assert!(!self.is_finished, "nothing comes behind the total");
        let before = self.bytes.len();
        put_record(&mut self.bytes, kind, fill);
        let added = self.bytes.len() - before;
        self.records += 1;
        match self.slices.back_mut() {
            Some(slice) if slice.as_of == as_of => slice.left += added,
            _ => self.slices.push_back(Slice { as_of, left: added, part: 0 }),
        }
    }

    /// All was appended.
    pub fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Whether the total is written.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Bytes that were appended and are not taken up by a write yet.
    pub fn waiting(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// The next write: the header, a commit that is full or will not grow any more, or the total. None while one is under
    /// way.
    pub fn poll_write(&mut self) -> Option<SnapshotWrite> {
        if self.is_complete {
            return None;
        }
        let mut pages = self.buffer.take()?;
        if self.offset == 0 {
            let out = pages.pages(PAGE);
            out.fill(0);
            let header = FileHeader { identity: self.identity, bytes: 0, generation: 0, first: self.from };
            header.encode(Kind::Snapshot, out);
        } else if let Some(&slice) = self.slices.front() {
            let will_grow = self.slices.len() == 1 && !self.is_finished;
            // One byte more: so something is left to end the slice with.
            if will_grow && slice.left <= BODY_MAX {
                self.buffer = Some(pages);
                return None;
            }
            self.commit(slice, &mut pages);
        } else if self.is_finished {
            let total = [&self.records.to_le_bytes()[..], &self.crc.to_le_bytes()].concat();
            self.encode(&mut pages, &total, self.from, 0, END);
            self.is_total = true;
        } else {
            self.buffer = Some(pages);
            return None;
        }
        Some(SnapshotWrite { offset: self.offset, pages })
    }

    /// A write is over: `bytes` of it are in the file, 0 if it failed.
    ///
    /// # Errors
    ///
    /// If not all of it was written: then this is to be given up and the file to be removed.
    pub fn written(&mut self, write: SnapshotWrite, bytes: usize) -> Result<(), SnapshotFailed> {
        if bytes != write.pages.len() {
            return Err(SnapshotFailed { offset: write.offset });
        }
        self.offset += bytes as u64;
        self.is_complete = self.is_total;
        self.buffer = Some(write.pages);
        Ok(())
    }

    /// A commit of the slice in front.
    fn commit(&mut self, slice: Slice, pages: &mut Buffer) {
        let length = slice.left.min(BODY_MAX);
        let rest = slice.left - length;
        // Taken out for a moment: the borrow checker cannot see that encoding does not touch it.
        let bytes = std::mem::take(&mut self.bytes);
        let body = &bytes[self.taken..self.taken + length];
        self.crc = body_crc(self.crc, body);
        let more = if rest > 0 { MORE } else { 0 };
        self.encode(pages, body, slice.as_of, slice.part, more);
        self.bytes = bytes;
        self.taken += length;
        if self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        if rest == 0 {
            self.slices.pop_front();
        } else if let Some(slice) = self.slices.front_mut() {
            (slice.left, slice.part) = (rest, slice.part + 1);
        }
    }

    fn encode(&mut self, pages: &mut Buffer, body: &[u8], as_of: u64, part: u32, flags: u32) {
        let out = pages.pages(commit_bytes(body.len()));
        out[COMMIT_HEADER..COMMIT_HEADER + body.len()].copy_from_slice(body);
        out[COMMIT_HEADER + body.len()..].fill(0);
        self.commits += 1;
        let header = CommitHeader {
            body_crc: body_crc(self.seed, body),
            length: body.len() as u32,
            generation: self.commits,
            first: as_of,
            last: as_of,
            part,
            flags,
        };
        header.encode(Kind::Snapshot, self.seed, out);
    }
}

/// What the header of a snapshot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotHeader {
    /// Whose state it is.
    pub identity: Identity,
    /// The first record of the log that is still needed.
    pub from: u64,
}

/// Reads a snapshot: call [`SnapshotReader::next_record`] until there is none. What was read before an error is of no use,
/// unless it is to be salvaged.
pub struct SnapshotReader<F> {
    window: Window<F>,
    header: SnapshotHeader,
    seed: u32,
    verdict: Verdict,
    offset: u64,
    /// The last commit that was read, and how many there were.
    last: Option<CommitHeader>,
    commits: u64,
    /// Records, the first of which may be only begun.
    bytes: Vec<u8>,
    at: usize,
    records: u64,
    crc: u32,
    reach: u64,
    is_over: bool,
}

impl<F: Source> SnapshotReader<F> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// If that fails, or it is no header of a snapshot of this store and core; salvage does not help then.
    pub fn open(file: F, identity: Identity, salvage: bool) -> Result<SnapshotReader<F>, ReadError> {
        let mut window = Window::new(file, Vec::new(), salvage).map_err(failed)?;
        let page = window.at(0, PAGE).map_err(failed)?.unwrap_or_default();
        let damaged = |fault| ReadError::Damage(Damage { place: Place::Snapshot(0), fault, lost: None });
        let header = FileHeader::decode(Kind::Snapshot, page).map_err(|no| match no {
            NoHeader::Version(version) => damaged(Fault::Version(version)),
            NoHeader::Unverified => damaged(Fault::Total),
        })?;
        if header.identity != identity {
            return Err(damaged(Fault::Foreign));
        }
        Ok(SnapshotReader {
            window,
            header: SnapshotHeader { identity, from: header.first },
            seed: identity.seed(),
            verdict: Verdict::new(salvage),
            offset: PAGE as u64,
            last: None,
            commits: 0,
            bytes: Vec::new(),
            at: 0,
            records: 0,
            crc: identity.seed(),
            reach: header.first.saturating_sub(1),
            is_over: false,
        })
    }

    /// What it says of itself.
    pub fn header(&self) -> SnapshotHeader {
        self.header
    }

    /// The last record of the log of which a state that was read so far was made: the log has to reach that far.
    pub fn reach(&self) -> u64 {
        self.reach
    }

    /// What is damaged, if it is to be salvaged.
    pub fn damage(&self) -> &[Damage] {
        &self.verdict.damage
    }

    /// The next record, whose number says as of which record of the log it holds. None behind the total.
    ///
    /// # Errors
    ///
    /// If reading fails, or the snapshot is damaged or not complete.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        let (kind, body) = loop {
            match parse_record(&self.bytes[self.at..]) {
                Parsed::Record(kind, body) => {
                    let at = self.at;
                    self.at += body.end;
                    break (kind, at + body.start..at + body.end);
                }
                Parsed::Bad => self.lose(Fault::Records)?,
                Parsed::Partial if self.is_over => return Ok(None),
                Parsed::Partial => self.step()?,
            }
        };
        self.records += 1;
        let number = self.last.map_or(0, |header| header.first);
        Ok(Some(Record { number, kind, body: &self.bytes[body] }))
    }

    /// Reads the next commit.
    fn step(&mut self) -> Result<(), ReadError> {
        let Some(header) = self.look(self.offset)? else { return self.lose(Fault::Total) };
        let goes_on = self.last.filter(|last| last.has(MORE));
        let follows = header.generation == self.commits + 1
            && match goes_on {
                Some(last) => header.part == last.part + 1 && header.first == last.first,
                None => header.part == 0 && self.at == self.bytes.len(),
            };
        if !follows {
            return self.lose(Fault::Total);
        }
        let whole = self.window.at(self.offset, COMMIT_HEADER + header.length as usize).map_err(failed)?;
        let body = &whole.expect("it was read just now")[COMMIT_HEADER..];
        self.offset += header.bytes();
        self.commits = header.generation;
        if header.has(END) {
            let total = [&self.records.to_le_bytes()[..], &self.crc.to_le_bytes()].concat();
            self.is_over = true;
            if self.verdict.damage.is_empty() && (body != total || self.offset != self.window.len()) {
                return self.lose(Fault::Total);
            }
            return Ok(());
        }
        self.crc = body_crc(self.crc, body);
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(body);
        self.reach = self.reach.max(header.first);
        self.last = Some(header);
        Ok(())
    }

    /// The commit at a place.
    fn look(&mut self, offset: u64) -> Result<Option<CommitHeader>, ReadError> {
        let seed = self.seed;
        let bytes = self.window.at(offset, COMMIT_HEADER).map_err(failed)?;
        let header = bytes.and_then(|bytes| CommitHeader::decode(Kind::Snapshot, seed, bytes));
        let Some(header) = header else { return Ok(None) };
        let whole = self.window.at(offset, COMMIT_HEADER + header.length as usize).map_err(failed)?;
        Ok(whole.is_some_and(|bytes| header.verifies(seed, &bytes[COMMIT_HEADER..])).then_some(header))
    }

    /// Something is gone: goes on with the next slice that can be read, if it is to be salvaged.
    fn lose(&mut self, fault: Fault) -> Result<(), ReadError> {
        self.verdict.note(Damage { place: Place::Snapshot(self.offset), fault, lost: None })?;
        self.bytes.clear();
        self.at = 0;
        self.last = None;
        while !self.is_over {
            match self.look(self.offset)? {
                Some(header) if header.part == 0 && header.generation > self.commits => {
                    self.commits = header.generation - 1;
                    return Ok(());
                }
                Some(header) => self.offset += header.bytes(),
                None => self.offset += PAGE as u64,
            }
            self.is_over = self.offset >= self.window.len();
        }
        Ok(())
    }
}

fn failed(error: std::io::Error) -> ReadError {
    ReadError::Media { place: Place::Snapshot(0), error }
}
