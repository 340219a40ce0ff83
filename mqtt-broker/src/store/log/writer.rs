//! The log as it is written: records collect while one write is under way, the next write takes them.
//!
//! Invariants: one write at most is under way; places are written in order and each once a generation; a segment's header
//! is on the disk before a commit is written behind it; a chain is begun only if there is room for all of it. After a
//! failed write nothing is written any more.

use super::buffer::Buffer;
use super::format::{
    BODY_MAX, COMMIT_BYTES_MAX, COMMIT_HEADER, CommitHeader, END, FileHeader, Identity, Kind, MORE, PAGE,
    body_crc, commit_bytes,
};
use super::pending::{Chain, Pending};
use super::reader::Recovered;
use super::space::{Live, Purpose, Room, Segment, Space};

/// What a log is given at its start.
#[derive(Clone, Copy, Debug)]
pub struct LogConfig {
    /// Whose log it is.
    pub identity: Identity,
    /// Bytes of a segment that is made, a multiple of 64 KiB.
    pub segment_bytes: u32,
    /// Segments that there may be, four at least; more only for what is appended without asking for room.
    pub segments_max: u32,
}

/// Pages to be written to a segment. The memory belongs to whoever writes until it is given back to [`Log::written`].
#[derive(Debug)]
pub struct Write {
    /// To which segment.
    pub segment: u32,
    /// From which byte of it on, a multiple of 4 KiB.
    pub offset: u64,
    /// What: whole pages, aligned to 4 KiB.
    pub pages: Buffer,
}

/// A write failed, now or before: what the disk holds is not known, and nothing is written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log of core {core} failed at byte {offset} of segment {segment}; nothing was committed after that"
)]
pub struct LogFailed {
    /// Whose log.
    pub core: u16,
    /// Where the write went.
    pub segment: u32,
    /// Where in it.
    pub offset: u64,
}

/// The log of one core. It belongs to the core's thread.
///
/// Records are appended as the state changes. Once a turn the caller asks for what is to be done; when that is done it
/// says so, and learns up to which record all is durable:
///
/// 1. [`Log::append`], any number of times, with a [`Log::boundary`] between what may be written apart,
/// 2. [`Log::poll_write`] and then [`Log::poll_make`], each of which gives one thing at a time,
/// 3. [`Log::made`] when there is the segment, [`Log::written`] when the disk has the pages; then 2 again.
#[derive(Debug)]
pub struct Log {
    identity: Identity,
    seed: u32,
    pending: Pending,
    space: Space,
    /// The segment that is written to, with the place of its next commit.
    current: Option<(Segment, u64)>,
    /// The highest that was used.
    generation: u64,
    /// The chain of which some is written, or is next.
    chain: Option<Begun>,
    /// Away while a write is under way.
    buffer: Option<Buffer>,
    under_way: Option<UnderWay>,
    committed: u64,
    /// The record that was the next one when it was opened.
    began: u64,
    /// Commits that were written since.
    commits: u64,
    end: Ending,
    failed: Option<LogFailed>,
}

/// A chain that is being written.
#[derive(Clone, Copy, Debug)]
struct Begun {
    chain: Chain,
    /// What is still to be written begins here.
    from: u64,
    part: u32,
    flags: u32,
}

/// What the write under way holds.
#[derive(Clone, Copy, Debug)]
enum UnderWay {
    Header(Segment),
    /// Part of a chain, and whether it is its last.
    Commit(bool),
}

/// Whether the log has its mark of a clean end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Open,
    Asked,
    Marked,
}

impl Log {
    /// Goes on with a log as it was found, in its last segment. If that is full, or has something in it that was torn, in a
    /// fresh one.
    ///
    /// What was found has to be durable before anything is written: the last process may have ended before the disk had
    /// what a cache gives out. So the segments that hold the log are synced first.
    ///
    /// # Panics
    ///
    /// If the segments of `config` are not as they have to be.
    pub fn open(config: LogConfig, found: Recovered) -> Log {
        assert!(config.segments_max >= 4, "one to write to, one that is next, two in reserve");
        let last = found.live.last().map(|live| live.segment);
        Log {
            identity: config.identity,
            seed: config.identity.seed(),
            pending: Pending::new(found.next, config.segment_bytes as usize - PAGE - COMMIT_HEADER),
            space: Space::new(
                config.segment_bytes,
                config.segments_max,
                found.live.into(),
                found.free.into(),
                found.next_number,
            ),
            current: last.zip(found.end),
            generation: found.generation,
            chain: None,
            buffer: Some(Buffer::new()),
            under_way: None,
            committed: found.next - 1,
            began: found.next,
            commits: 0,
            end: if found.clean { Ending::Marked } else { Ending::Open },
            failed: None,
        }
    }

    /// Appends a record whose body is what `fill` appends, and answers its number. It is written with what else is
    /// appended up to the next [`Log::boundary`]. A log that failed forgets it.
    ///
    /// This never refuses: [`Log::room_for`] is asked before anything is changed. What is appended without room waits
    /// until there is some.
    pub fn append(&mut self, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> u64 {
        debug_assert!(self.end != Ending::Asked, "nothing comes behind the end");
        if self.failed.is_some() {
            return self.pending.skip();
        }
        self.pending.append(kind, fill)
    }

    /// What is appended from now on may become durable later than what was appended before, and be lost without it.
    pub fn boundary(&mut self) {
        self.pending.boundary();
    }

    /// Whether so many bytes of records may be appended now. Two segments are kept for clean-up.
    pub fn room_for(&mut self, bytes: usize, purpose: Purpose) -> Room {
        // One page is for the mark at the end.
        let left = self.pages_left().saturating_sub(self.pending.pages() + 1);
        self.space.room_for(bytes, left, purpose)
    }

    /// Whether so much waits that it needs a segment which is not even being made. Who appends more should wait: should the
    /// next segment not be made, the two for clean-up would be taken up by what was let in before.
    pub fn is_short(&self) -> bool {
        self.space.is_short(self.pending.pages() + 1, self.pages_left())
    }

    /// The next write. There is none while one is under way, nothing waits, or a segment has to be made first, for which
    /// [`Log::poll_make`] asks then. It ends what was appended so far, as [`Log::boundary`] does.
    pub fn poll_write(&mut self) -> Option<Write> {
        if self.failed.is_some() || self.under_way.is_some() {
            return None;
        }
        self.pending.boundary();
        if self.chain.is_none() {
            self.begin_chain()?;
        }
        let write = match self.current.filter(|&(segment, offset)| offset < u64::from(segment.bytes)) {
            Some((segment, offset)) => self.write_commit(segment, offset),
            None => self.write_header()?,
        };
        self.check_invariants();
        Some(write)
    }

    /// A write is over: `bytes` of it are on the disk, for good; 0 if it failed. Answers up to which record all is
    /// durable now.
    ///
    /// # Errors
    ///
    /// If not all of it was written; and from then on.
    ///
    /// # Panics
    ///
    /// If no write was under way.
    pub fn written(&mut self, write: Write, bytes: usize) -> Result<u64, LogFailed> {
        let under_way = self.under_way.take().expect("a write was under way");
        if bytes != write.pages.len() {
            let failed = LogFailed { core: self.identity.core, segment: write.segment, offset: write.offset };
            self.failed = Some(failed);
            self.pending.clear();
            return Err(failed);
        }
        self.buffer = Some(write.pages);
        match under_way {
            UnderWay::Header(segment) => {
                self.space.begun(segment);
                self.current = Some((segment, PAGE as u64));
                self.generation += 1;
            }
            UnderWay::Commit(is_last) => {
                self.commits += 1;
                let begun = self.chain.as_mut().expect("it is part of a chain");
                begun.part += 1;
                self.space.holds(begun.chain.last);
                if let Some((_, offset)) = &mut self.current {
                    *offset += bytes as u64;
                }
                if is_last {
                    self.committed = begun.chain.last;
                    self.end = if begun.flags & END != 0 { Ending::Marked } else { self.end };
                    self.chain = None;
                }
            }
        }
        self.check_invariants();
        Ok(self.committed)
    }

    /// The next segment to be made: a file full of zeros, which gets its name once all of it is on the disk, as one that
    /// is shorter than it should be is taken for damaged. To be answered by [`Log::made`], before which there is no
    /// other.
    pub fn poll_make(&mut self) -> Option<Segment> {
        if self.failed.is_some() {
            return None;
        }
        self.space.poll_make()
    }

    /// A free segment that is to be removed: the log has not been so long lately that it will be needed. It is not used any
    /// more.
    pub fn poll_remove(&mut self) -> Option<Segment> {
        self.space.poll_remove()
    }

    /// The segment was made, or could not be: then none is asked for until [`Log::try_again`].
    ///
    /// # Panics
    ///
    /// If none was asked for.
    pub fn made(&mut self, done: bool) {
        self.space.made(done);
    }

    /// The disk may have room again: a segment is asked for once more. What found no room finds some once it is made.
    pub fn try_again(&mut self) {
        self.space.try_again();
    }

    /// Records up to this one are not needed any more, for a snapshot stands for them: segments that hold nothing else
    /// are used again.
    ///
    /// # Panics
    ///
    /// If not all of them are durable: what a snapshot stands for must not be gone from the log alone.
    pub fn release(&mut self, up_to: u64) {
        assert!(up_to <= self.committed, "a snapshot stands for what is durable");
        self.space.release(up_to);
    }

    /// Ends the log: once all that waits is written, the mark of a clean end is.
    pub fn end(&mut self) {
        if self.end == Ending::Open || self.pending.next() != self.committed + 1 {
            self.end = Ending::Asked;
        }
    }

    /// Whether all is written, with the mark of a clean end behind it.
    pub fn is_ended(&self) -> bool {
        self.end == Ending::Marked && self.failed.is_none() && self.pending.next() == self.committed + 1
    }

    /// The last record that is durable with all before it, 0 if there is none.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Records appended since it was opened.
    pub fn appended(&self) -> u64 {
        self.next() - self.began
    }

    /// Commits written since it was opened.
    pub fn commits(&self) -> u64 {
        self.commits
    }

    /// The number of the next record.
    pub fn next(&self) -> u64 {
        self.pending.next()
    }

    /// Bytes of records that no write has taken yet.
    pub fn waiting_bytes(&self) -> u64 {
        self.pending.waiting()
    }

    /// The segments that hold the log, oldest first.
    pub fn live(&self) -> impl ExactSizeIterator<Item = Live> {
        self.space.live()
    }

    /// The segment that the next commit goes to, if there is room in one that was begun.
    pub fn current_segment(&self) -> Option<u32> {
        let is_open = |&(segment, offset): &(Segment, u64)| offset < u64::from(segment.bytes);
        self.current.filter(is_open).map(|(segment, _)| segment.number)
    }

    /// The segment that is begun when the current one is full.
    pub fn next_segment(&self) -> Option<u32> {
        self.space.next_segment()
    }

    /// Files that there are, and their bytes: those that hold the log, and those that are kept for what comes.
    pub fn files(&self) -> (u64, u64) {
        let begun = match self.under_way {
            Some(UnderWay::Header(segment)) => Some(segment),
            _ => None,
        };
        self.space.files(begun)
    }

    /// Segments that can be written to.
    pub fn free(&self) -> usize {
        self.space.free()
    }

    /// What failed, if something did.
    pub fn failed(&self) -> Option<LogFailed> {
        self.failed
    }

    /// Pages for commits in the current segment and all free ones.
    fn pages_left(&self) -> u64 {
        let current = self.current.map_or(0, |(segment, offset)| u64::from(segment.bytes) - offset);
        current / PAGE as u64 + self.space.free_pages()
    }

    /// Takes up the next chain, if there is one and room for it.
    fn begin_chain(&mut self) -> Option<()> {
        let left = self.pages_left();
        let front = self.pending.front();
        self.space.owe(front.map_or(0, |chain| chain.pages().saturating_sub(left)));
        match front {
            Some(chain) if chain.pages() <= left => {
                self.pending.pop();
                self.chain = Some(Begun { chain, from: chain.start, part: 0, flags: 0 });
                // What is behind it takes the mark of a clean end away.
                self.end = if self.end == Ending::Marked { Ending::Open } else { self.end };
            }
            None if self.end == Ending::Asked && left > 0 => {
                let (first, last) = (self.committed + 1, self.committed);
                let chain = Chain { start: 0, end: 0, first, last };
                self.chain = Some(Begun { chain, from: 0, part: 0, flags: END });
            }
            _ => return None,
        }
        Some(())
    }

    /// As much of the chain as goes into one commit at this place.
    fn write_commit(&mut self, segment: Segment, offset: u64) -> Write {
        let begun = self.chain.as_mut().expect("there is a chain to write");
        let mut pages = self.buffer.take().expect("no write is under way");
        let room = (u64::from(segment.bytes) - offset).min(COMMIT_BYTES_MAX as u64) as usize - COMMIT_HEADER;
        let rest = begun.chain.end - begun.from;
        let length = rest.min(room as u64).min(BODY_MAX as u64) as usize;
        let is_last = length as u64 == rest;

        let out = pages.pages(commit_bytes(length));
        let body = self.pending.take(length);
        out[COMMIT_HEADER..COMMIT_HEADER + length].copy_from_slice(body);
        out[COMMIT_HEADER + length..].fill(0);
        let header = CommitHeader {
            body_crc: body_crc(self.seed, body),
            length: length as u32,
            generation: self.generation,
            first: begun.chain.first,
            last: begun.chain.last,
            part: begun.part,
            flags: begun.flags | if is_last { 0 } else { MORE },
        };
        header.encode(Kind::Segment, self.seed, out);
        begun.from += length as u64;
        self.pending.give_back();
        self.under_way = Some(UnderWay::Commit(is_last));
        Write { segment: segment.number, offset, pages }
    }

    /// The header of the next segment.
    fn write_header(&mut self) -> Option<Write> {
        let segment = self.space.take()?;
        let begun = self.chain.as_ref().expect("there is a chain to write");
        let mut pages = self.buffer.take().expect("no write is under way");
        let out = pages.pages(PAGE);
        out.fill(0);
        let header = FileHeader {
            identity: self.identity,
            bytes: segment.bytes,
            generation: self.generation + 1,
            // A chain that goes on here did not start here.
            first: if begun.part == 0 { begun.chain.first } else { begun.chain.last + 1 },
        };
        header.encode(Kind::Segment, out);
        self.under_way = Some(UnderWay::Header(segment));
        Some(Write { segment: segment.number, offset: 0, pages })
    }

    fn check_invariants(&self) {
        debug_assert_eq!(self.under_way.is_some(), self.buffer.is_none(), "the buffer is where the write is");
        debug_assert!(self.committed < self.pending.next(), "what is durable was appended");
        debug_assert!(
            self.chain.is_none_or(|begun| begun.chain.first == self.committed + 1),
            "chains become durable in order"
        );
    }
}
