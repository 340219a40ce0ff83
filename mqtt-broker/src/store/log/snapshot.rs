//! A snapshot: a file of records that stand for a log up to some point, made slice by slice while the log goes on.
//!
//! Invariant: a snapshot is read to its total, or it is damaged: its commits are counted, and the total has the number of
//! its records and the checksum of all of them. A commit holds whole records, unless one alone is longer than a commit is as
//! a rule; so what is behind a damaged commit can be read without it.

use std::collections::VecDeque;

use super::buffer::Buffer;
use super::damage::{Damage, Fault, Place, ReadError, Verdict};
use super::format::{
    BODY_MAX, COMMIT_BYTES_MAX, COMMIT_HEADER, CommitHeader, END, FileHeader, Identity, Kind, MORE, NoHeader,
    PAGE, Parsed, body_crc, commit_bytes, parse_record, put_record,
};
use super::media::{Source, Window};
use super::reader::Record;

/// Bytes of records in a commit, unless one record has more: as much as is lost with one page.
const COMMIT_BODY: usize = (64 << 10) - COMMIT_HEADER;

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

/// Records of one state that become one commit; or a long one, which becomes several.
#[derive(Clone, Copy, Debug)]
struct Chain {
    as_of: u64,
    /// Its bytes that were not written yet.
    left: usize,
    /// Commits of it that were written.
    part: u32,
}

impl Chain {
    /// Whether so many bytes more of this state go into its commit.
    fn takes(&self, as_of: u64, bytes: usize) -> bool {
        self.as_of == as_of && self.part == 0 && self.left + bytes <= COMMIT_BODY
    }

    /// Bytes of records of its next commit.
    fn next(&self) -> usize {
        self.left.min(BODY_MAX)
    }
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
    chains: VecDeque<Chain>,
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
            chains: VecDeque::new(),
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
        match self.chains.back_mut() {
            Some(chain) if chain.takes(as_of, added) => chain.left += added,
            _ => self.chains.push_back(Chain { as_of, left: added, part: 0 }),
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

    /// The next write: the header, commits that are full or will not grow any more, or the total. None while one is under
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
            return Some(SnapshotWrite { offset: 0, pages });
        }
        let mut len = 0;
        while let Some(chain) = self.next_chain()
            && len + commit_bytes(chain.next()) <= COMMIT_BYTES_MAX
        {
            len = self.commit(chain, &mut pages, len);
        }
        if len == 0 && self.chains.is_empty() && self.is_finished {
            let total = [&self.records.to_le_bytes()[..], &self.crc.to_le_bytes()].concat();
            len = self.encode(&mut pages, len, &total, self.from, 0, END);
            self.is_total = true;
        }
        if len == 0 {
            self.buffer = Some(pages);
            return None;
        }
        Some(SnapshotWrite { offset: self.offset, pages })
    }

    /// The records that can be written now.
    fn next_chain(&self) -> Option<Chain> {
        let chain = *self.chains.front()?;
        let may_grow = self.chains.len() == 1 && !self.is_finished && chain.left < COMMIT_BODY;
        (!may_grow || chain.part > 0).then_some(chain)
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

    /// A commit of the chain in front, behind the first `len` bytes of the pages. Answers where it ends.
    fn commit(&mut self, chain: Chain, pages: &mut Buffer, len: usize) -> usize {
        let length = chain.next();
        let rest = chain.left - length;
        // Taken out for a moment: the borrow checker cannot see that encoding does not touch it.
        let bytes = std::mem::take(&mut self.bytes);
        let body = &bytes[self.taken..self.taken + length];
        self.crc = body_crc(self.crc, body);
        let more = if rest > 0 { MORE } else { 0 };
        let end = self.encode(pages, len, body, chain.as_of, chain.part, more);
        self.bytes = bytes;
        self.taken += length;
        if self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        if rest == 0 {
            self.chains.pop_front();
        } else if let Some(chain) = self.chains.front_mut() {
            (chain.left, chain.part) = (rest, chain.part + 1);
        }
        end
    }

    fn encode(
        &mut self,
        pages: &mut Buffer,
        at: usize,
        body: &[u8],
        as_of: u64,
        part: u32,
        flags: u32,
    ) -> usize {
        let end = at + commit_bytes(body.len());
        let out = &mut pages.pages(end)[at..];
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
        end
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
    /// Where that one begins.
    at_commit: u64,
    /// Records, the first of which may be only begun.
    bytes: Vec<u8>,
    at: usize,
    records: u64,
    crc: u32,
    /// Records that the total counts.
    total: Option<u64>,
    reach: u64,
    /// Something was lost since the last record.
    is_behind_gap: bool,
    is_over: bool,
}

impl<F: Source> SnapshotReader<F> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// If that fails, or it is no header of a snapshot of this store and core.
    pub fn open(file: F, identity: Identity, salvage: bool) -> Result<SnapshotReader<F>, ReadError> {
        let mut reader = SnapshotReader::begin(file, identity, salvage)?;
        let page = reader.window.at(0, PAGE).map_err(failed)?.unwrap_or_default();
        let fault = match FileHeader::decode(Kind::Snapshot, page) {
            Ok(header) if header.identity == identity => {
                reader.header.from = header.first;
                reader.reach = header.first - 1;
                return Ok(reader);
            }
            Ok(_) => Fault::Foreign,
            Err(NoHeader::Version(found)) => {
                return Err(ReadError::Version { place: Place::Snapshot(0), found });
            }
            Err(NoHeader::Unverified) if page.is_empty() => Fault::Total,
            Err(NoHeader::Unverified) => Fault::Header,
        };
        Err(ReadError::Damage(Damage { place: Place::Snapshot(0), fault, lost: None }))
    }

    /// Goes on behind a header that does not verify, to salvage what is there: every commit tells by its checksum whose it
    /// is. `from` is what the header said, which the file is named by.
    ///
    /// # Errors
    ///
    /// If the file cannot be read at all.
    pub fn behind_header(file: F, identity: Identity, from: u64) -> Result<SnapshotReader<F>, ReadError> {
        let mut reader = SnapshotReader::begin(file, identity, true)?;
        (reader.header.from, reader.reach) = (from, from.saturating_sub(1));
        Ok(reader)
    }

    fn begin(file: F, identity: Identity, salvage: bool) -> Result<SnapshotReader<F>, ReadError> {
        Ok(SnapshotReader {
            window: Window::new(file, Vec::new(), salvage).map_err(failed)?,
            header: SnapshotHeader { identity, from: 0 },
            seed: identity.seed(),
            verdict: Verdict::new(salvage),
            offset: PAGE as u64,
            last: None,
            commits: 0,
            at_commit: PAGE as u64,
            bytes: Vec::new(),
            at: 0,
            records: 0,
            crc: identity.seed(),
            total: None,
            reach: 0,
            is_behind_gap: false,
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

    /// What is damaged so far, if it is to be salvaged.
    pub fn damage(&self) -> &[Damage] {
        &self.verdict.damage
    }

    /// Records that were read, and how many there are, if the total is there to tell.
    pub fn records(&self) -> (u64, Option<u64>) {
        (self.records, self.total)
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
                Parsed::Bad => self.lose_from(self.at_commit, Some(Fault::Records))?,
                Parsed::Partial if self.is_over => return Ok(None),
                Parsed::Partial => self.step()?,
            }
        };
        self.records += 1;
        let number = self.last.map_or(0, |header| header.first);
        let is_behind_gap = std::mem::take(&mut self.is_behind_gap);
        Ok(Some(Record { number, kind, body: &self.bytes[body], is_behind_gap }))
    }

    /// Reads the next commit.
    fn step(&mut self) -> Result<(), ReadError> {
        let Some(header) = self.look(self.offset)? else {
            let is_cut = self.offset >= self.window.len();
            return self.lose(is_cut.then_some(Fault::Total));
        };
        let goes_on = self.last.filter(|last| last.has(MORE));
        let follows = header.generation == self.commits + 1
            && match goes_on {
                Some(last) => header.part == last.part + 1 && header.first == last.first,
                None => header.part == 0 && self.at == self.bytes.len(),
            };
        if !follows {
            return self.lose(Some(Fault::Order));
        }
        let whole = self.window.at(self.offset, COMMIT_HEADER + header.length as usize).map_err(failed)?;
        let body = &whole.expect("it was read just now")[COMMIT_HEADER..];
        self.at_commit = self.offset;
        self.offset += header.bytes();
        self.commits = header.generation;
        if header.has(END) {
            let total = [&self.records.to_le_bytes()[..], &self.crc.to_le_bytes()].concat();
            self.is_over = true;
            self.total = body.first_chunk().map(|records| u64::from_le_bytes(*records));
            if self.verdict.damage.is_empty() && (body != total || self.offset != self.window.len()) {
                return self.lose(Some(Fault::Total));
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

    /// Something is gone, as far as to the next chain that can be read: goes on with that, if it is to be salvaged. No
    /// fault: what is here does not verify.
    fn lose(&mut self, fault: Option<Fault>) -> Result<(), ReadError> {
        self.lose_from(self.offset, fault)
    }

    /// The same of what begins at this byte.
    fn lose_from(&mut self, offset: u64, fault: Option<Fault>) -> Result<(), ReadError> {
        let place = Place::Snapshot(offset);
        self.bytes.clear();
        self.at = 0;
        self.last = None;
        self.is_behind_gap = true;
        while !self.is_over {
            match self.look(self.offset)? {
                Some(header) if header.part == 0 && header.generation > self.commits => {
                    self.commits = header.generation - 1;
                    break;
                }
                Some(header) => self.offset += header.bytes(),
                None => self.offset += PAGE as u64,
            }
            self.is_over = self.offset >= self.window.len();
        }
        let until = self.offset.min(self.window.len());
        self.verdict.note(Damage { place, fault: fault.unwrap_or(Fault::Gap { until }), lost: None })
    }
}

fn failed(error: std::io::Error) -> ReadError {
    ReadError::Media { place: Place::Snapshot(0), error }
}
