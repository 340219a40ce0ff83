//! Which segments there are, and how much room they leave.
//!
//! Invariant: a segment is either live, in the order of its generation, or free. The newest live one stays live until
//! there is a newer one: it tells the next start which generations were used.

use std::collections::VecDeque;

use super::format::{PAGE, SEGMENT_STEP};
use super::pending::pages_for;

/// Segments that only clean-up may take: one in which something is deleted, and one to get there.
const RESERVE: u64 = 2;

/// Free segments that are kept at hand: the next one, and the reserve.
const FREE: usize = 1 + RESERVE as usize;

/// The file of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number, by which the file has its name.
    pub number: u32,
    /// Bytes of the file.
    pub bytes: u32,
}

impl Segment {
    /// Pages for commits.
    fn pages(self) -> u64 {
        u64::from(self.bytes) / PAGE as u64 - 1
    }
}

/// A segment that holds part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which.
    pub segment: Segment,
    /// The last record of all chains of which something lies there, 0 if there is none.
    pub last: u64,
}

/// Whether there is room for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is.
    Now,
    /// There will be, once the segments are made that are asked for now.
    Soon,
    /// There is none until something is released.
    Full,
}

/// What room is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Records that keep something: the reserve is not for them.
    Keep,
    /// Records that say that something is gone.
    CleanUp,
}

/// What the disk said when a segment was to be made last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disk {
    Gives,
    /// It has no room for one.
    Refuses,
    /// It had none and is to be asked again. Nothing counts on what it will say.
    AskedAgain,
}

/// The segments of a log.
#[derive(Debug)]
pub(super) struct Space {
    live: VecDeque<Live>,
    free: VecDeque<Segment>,
    /// Pages of these together: room is asked for with each record.
    free_pages: u64,
    /// Bytes of a segment that is made now.
    segment_bytes: u32,
    /// Segments that there may be.
    segments_max: u32,
    next_number: u32,
    /// A segment is being made.
    making: bool,
    disk: Disk,
    /// So many bytes found no room, and no segment has become free since.
    lacked: Option<usize>,
    /// Free segments that somebody waits for.
    wanted: usize,
    /// Free segments without which what was appended cannot be written, whatever number there may be.
    owed: usize,
    /// Most live segments since the last release, and between that and the one before.
    peaks: [usize; 2],
}

impl Space {
    pub(super) fn new(
        segment_bytes: u32,
        segments_max: u32,
        live: VecDeque<Live>,
        free: VecDeque<Segment>,
        next_number: u32,
    ) -> Space {
        assert!(segment_bytes > 0 && segment_bytes.is_multiple_of(SEGMENT_STEP), "a multiple of 64 KiB");
        let peaks = [live.len(), live.len() + free.len()];
        let free_pages = free.iter().map(|segment| segment.pages()).sum();
        Space {
            live,
            free,
            free_pages,
            segment_bytes,
            segments_max,
            next_number,
            making: false,
            disk: Disk::Gives,
            lacked: None,
            wanted: 0,
            owed: 0,
            peaks,
        }
    }

    pub(super) fn live(&self) -> impl ExactSizeIterator<Item = Live> {
        self.live.iter().copied()
    }

    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// All segments and their bytes, with the one that was taken and is not live yet.
    pub(super) fn files(&self, taken: Option<Segment>) -> (u64, u64) {
        let segments = self.live.iter().map(|live| &live.segment).chain(&self.free).chain(&taken);
        segments.fold((0, 0), |(files, bytes), segment| (files + 1, bytes + u64::from(segment.bytes)))
    }

    /// Pages of all free segments.
    pub(super) fn free_pages(&self) -> u64 {
        self.free_pages
    }

    /// The segment to go on in. It is live once [`Space::begun`] says so.
    pub(super) fn take(&mut self) -> Option<Segment> {
        let taken = self.free.pop_front()?;
        self.free_pages -= taken.pages();
        Some(taken)
    }

    fn put_free(&mut self, segment: Segment) {
        self.free_pages += segment.pages();
        self.free.push_back(segment);
    }

    pub(super) fn next_segment(&self) -> Option<u32> {
        self.free.front().map(|segment| segment.number)
    }

    /// The segment has its header: it is the newest.
    pub(super) fn begun(&mut self, segment: Segment) {
        self.live.push_back(Live { segment, last: 0 });
        self.peaks[0] = self.peaks[0].max(self.live.len());
    }

    /// Something of a chain that ends with `last` lies in the newest segment.
    pub(super) fn holds(&mut self, last: u64) {
        self.live.back_mut().expect("something was written to it").last = last;
    }

    /// Frees all that hold nothing behind `up_to`.
    pub(super) fn release(&mut self, up_to: u64) {
        while self.live.len() > 1 && self.live[0].last <= up_to {
            let oldest = self.live.pop_front().expect("there are two").segment;
            self.put_free(oldest);
            self.lacked = None;
        }
        self.peaks = [self.live.len(), self.peaks[0]];
    }

    /// A free segment beyond those that the log took of late: it is not free any more.
    pub(super) fn poll_remove(&mut self) -> Option<Segment> {
        let needed = self.peaks[0].max(self.peaks[1]) + FREE.max(self.wanted).max(self.owed);
        if self.making || self.live.len() + self.free.len() <= needed {
            return None;
        }
        let removed = self.free.pop_back()?;
        self.free_pages -= removed.pages();
        Some(removed)
    }

    /// What waits takes so many pages more than there are.
    pub(super) fn owe(&mut self, pages: u64) {
        self.owed = if pages == 0 { 0 } else { self.free.len() + pages.div_ceil(self.pages_each()) as usize };
    }

    /// Pages for commits of a segment that is made now.
    fn pages_each(&self) -> u64 {
        u64::from(self.segment_bytes) / PAGE as u64 - 1
    }

    /// Whether `bytes` of records go into `left` pages and the free segments, which may not be taken up altogether. What is
    /// to be kept and found no room finds none before a segment has become free: a page here and there lets nobody in.
    pub(super) fn room_for(&mut self, bytes: usize, left: u64, purpose: Purpose) -> Room {
        let each = self.pages_each();
        let reserve = match purpose {
            Purpose::Keep => RESERVE * each,
            Purpose::CleanUp => 0,
        };
        let missing = (pages_for(bytes) + reserve).saturating_sub(left);
        let lacks = purpose == Purpose::Keep && self.lacked.is_some_and(|lacked| lacked <= bytes);
        if missing == 0 && !lacks {
            return Room::Now;
        }
        let more = missing.div_ceil(each).max(u64::from(lacks));
        let there = (self.live.len() + self.free.len()) as u64;
        let may_have_more = there + more <= u64::from(self.segments_max) && self.disk != Disk::Refuses;
        if may_have_more {
            self.wanted = self.wanted.max(self.free.len() + more as usize);
        }
        if may_have_more && self.disk == Disk::Gives && !lacks {
            return Room::Soon;
        }
        if purpose == Purpose::Keep {
            self.lacked = Some(self.lacked.map_or(bytes, |lacked| lacked.min(bytes)));
        }
        Room::Full
    }

    /// Whether `waiting` pages that were let in need more than is `left` beside the reserve, and the segment that is to be
    /// made. Should that one not be made there would be nothing left for what is over. A log that begins has no reserve yet.
    pub(super) fn is_short(&self, waiting: u64, left: u64) -> bool {
        let each = self.pages_each();
        !self.live.is_empty() && waiting + RESERVE * each > left + each
    }

    /// The segment to be made now. What was appended without asking for room must become durable, or a snapshot that stands
    /// for it would wait for ever: it gets segments beyond the number that there may be.
    pub(super) fn poll_make(&mut self) -> Option<Segment> {
        let free = self.free.len();
        let enough = free >= self.wanted.max(self.owed).max(FREE);
        let most = self.live.len() + free >= self.segments_max as usize && free >= self.owed;
        if enough || most || self.making || self.disk == Disk::Refuses {
            return None;
        }
        self.making = true;
        Some(Segment { number: self.next_number, bytes: self.segment_bytes })
    }

    /// It was made, or could not be.
    pub(super) fn made(&mut self, done: bool) {
        assert!(std::mem::take(&mut self.making), "a segment was asked for");
        self.disk = if done { Disk::Gives } else { Disk::Refuses };
        if done {
            self.lacked = None;
            self.put_free(Segment { number: self.next_number, bytes: self.segment_bytes });
            self.next_number += 1;
        }
        if self.free.len() >= self.wanted {
            self.wanted = 0;
        }
    }

    /// A segment may be asked for again. There is no more room before it is made.
    pub(super) fn try_again(&mut self) {
        if self.disk == Disk::Refuses {
            self.disk = Disk::AskedAgain;
        }
    }
}
