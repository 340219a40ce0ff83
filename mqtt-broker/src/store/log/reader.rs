//! A log as it is read after a start: every chain that is whole, in order; what is torn at its end is dropped, and what is
//! damaged before that is said.
//!
//! Invariant: a record is given out only if all commits of its chain verify and follow on what is before them. The place
//! where the next commit should be ends the log only if nothing that was written later is there.

use std::ops::Range;

use super::damage::{Damage, Fault, Place, ReadError, Verdict};
use super::format::{COMMIT_HEADER, CommitHeader, END, Identity, Kind, MORE, PAGE, Parsed, parse_record};
use super::media::{Files, Media};
use super::space::{Live, Segment};
use super::survey::{Found, Survey};

/// What is to be read.
#[derive(Clone, Copy, Debug)]
pub struct ReadConfig {
    /// Whose log it is.
    pub identity: Identity,
    /// The first record that is wanted; 1 if there is no snapshot.
    pub from: u64,
    /// A record that is known to be in the log, as a snapshot was made when it was there. 0 if none is known.
    pub reach: u64,
    /// Goes around what is damaged and notes it, where otherwise reading ends with an error.
    pub salvage: bool,
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number. In a snapshot: the last record of the log that the state was made of.
    pub number: u64,
    /// What it is.
    pub kind: u8,
    /// What it says.
    pub body: &'a [u8],
    /// Whether something before it could not be read: it leans on none of the records that came last.
    pub is_behind_gap: bool,
}

/// What was dropped at the end of the log, as it was being written when the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Torn {
    /// In which segment it begins.
    pub segment: u32,
    /// At which byte of it.
    pub offset: u64,
    /// Bytes of the commits that could be told.
    pub bytes: u64,
}

/// A log that was read to its end, to be gone on with by [`Log::open`](super::Log::open).
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The number of the next record.
    pub next: u64,
    /// Records that were given out.
    pub records: u64,
    /// The first and the last of them.
    pub read: Option<(u64, u64)>,
    /// Whether the log was ended as it should be.
    pub clean: bool,
    /// What was dropped.
    pub torn: Option<Torn>,
    /// What is wrong; nothing unless it was to be salvaged.
    pub damage: Vec<Damage>,
    /// The segments that hold the log, oldest first.
    pub live: Vec<Live>,
    /// Where the next commit goes in the last of them. None if that is full, or if something is left there that was dropped: a
    /// commit of which the header is there, or part of a chain, would be taken for one that was written later.
    pub(super) end: Option<u64>,
    pub(super) free: Vec<Segment>,
    pub(super) next_number: u32,
    /// The highest that was used.
    pub(super) generation: u64,
}

/// Reads the log of one core: call [`Reader::next_record`] until there is none, then [`Reader::finish`].
pub struct Reader<'m, M: Media> {
    files: Files<'m, M>,
    config: ReadConfig,
    seed: u32,
    verdict: Verdict,
    survey: Survey,
    /// Which of the live segments is being read, how far, and what each is known to hold.
    at: usize,
    offset: u64,
    holds: Vec<u64>,
    /// The record that the next chain starts with.
    next: u64,
    /// Nothing but the rest of a chain that started before the first segment was met.
    is_rest: bool,
    chain: Option<Open>,
    /// The records of the chain, and those of them that were not given out yet if it is whole.
    bytes: Vec<u8>,
    left: Range<usize>,
    number: u64,
    /// The damage of which it is not known yet how far it goes.
    waiting: Option<usize>,
    /// The next record comes behind some.
    is_behind_gap: bool,
    clean: bool,
    torn: Option<Torn>,
    /// Where the log ends in its last segment.
    end: Option<u64>,
    records: u64,
    read: Option<(u64, u64)>,
}

/// A chain of which more must follow.
#[derive(Clone, Copy, Debug)]
struct Open {
    header: CommitHeader,
    /// Where it started, and its bytes on the disk.
    torn: Torn,
}

/// What is at a place.
enum Here {
    Commit(CommitHeader),
    /// A commit of which only the header verifies.
    Half(CommitHeader),
    Nothing,
}

impl<'m, M: Media> Reader<'m, M> {
    /// Looks which segments there are.
    ///
    /// # Errors
    ///
    /// If that fails, or shows damage.
    pub fn open(media: &'m M, config: ReadConfig) -> Result<Reader<'m, M>, ReadError> {
        let mut verdict = Verdict::new(config.salvage);
        let mut files = Files::new(media, config.salvage);
        let survey = Survey::make(&mut files, config.identity, config.from, &mut verdict)?;
        let next = survey.live.first().map_or(config.from.max(1), |found| found.first);
        Ok(Reader {
            files,
            config,
            seed: config.identity.seed(),
            verdict,
            at: 0,
            offset: PAGE as u64,
            holds: vec![0; survey.live.len()],
            survey,
            next,
            is_rest: true,
            chain: None,
            bytes: Vec::new(),
            left: 0..0,
            number: 0,
            waiting: None,
            is_behind_gap: false,
            clean: false,
            torn: None,
            end: None,
            records: 0,
            read: None,
        })
    }

    /// The next record, none at the end of the log. It is in memory with its chain, besides 1 MiB of the file.
    ///
    /// # Errors
    ///
    /// If reading fails or something is damaged; unless it is to be salvaged, the log cannot be used then.
    pub fn next_record(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        let (number, kind, body) = loop {
            if self.left.is_empty() {
                if !self.step()? {
                    return Ok(None);
                }
                continue;
            }
            let Parsed::Record(kind, body) = parse_record(&self.bytes[self.left.clone()]) else {
                unreachable!("all of the chain was looked at before");
            };
            let (start, number) = (self.left.start, self.number);
            self.left.start += body.end;
            self.number += 1;
            if number >= self.config.from {
                break (number, kind, start + body.start..start + body.end);
            }
        };
        self.records += 1;
        self.read = Some((self.read.map_or(number, |(first, _)| first), number));
        let is_behind_gap = std::mem::take(&mut self.is_behind_gap);
        Ok(Some(Record { number, kind, body: &self.bytes[body], is_behind_gap }))
    }

    /// What there is to go on with, once there is no further record.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_record`], if there is something left that was not read.
    pub fn finish(mut self) -> Result<Recovered, ReadError> {
        while self.next_record()?.is_some() {}
        let reach = self.config.reach.max(self.config.from.saturating_sub(1));
        if self.next <= reach {
            let lost = Some((self.next, reach));
            self.verdict.note(Damage { place: Place::Log, fault: Fault::End, lost })?;
            self.next = reach + 1;
        }
        let generation = self.survey.generation();
        let end = self.end.filter(|_| self.torn.is_none() && self.verdict.damage.is_empty());
        let segments = self.survey.live.iter().zip(self.holds);
        Ok(Recovered {
            next: self.next,
            records: self.records,
            read: self.read,
            clean: self.clean && self.torn.is_none() && self.verdict.damage.is_empty(),
            torn: self.torn,
            damage: self.verdict.damage,
            live: segments.map(|(found, last)| Live { segment: found.segment, last }).collect(),
            end,
            free: self.survey.free,
            next_number: self.survey.next_number,
            generation,
        })
    }

    /// Looks at the next place. False at the end of the log.
    fn step(&mut self) -> Result<bool, ReadError> {
        let Some(&found) = self.survey.live.get(self.at) else { return Ok(false) };
        if self.offset >= u64::from(found.segment.bytes) {
            self.go_on(found)?;
            return Ok(true);
        }
        match self.look(found, self.offset)? {
            Here::Commit(header) => self.accept(found, header)?,
            here => self.nothing(found, &here)?,
        }
        Ok(true)
    }

    /// What is at a place of the segment that is being read.
    fn look(&mut self, found: Found, offset: u64) -> Result<Here, ReadError> {
        let (seed, segment) = (self.seed, found.segment.number);
        let bytes = self.files.read(segment, offset, COMMIT_HEADER)?;
        let header = bytes.and_then(|bytes| CommitHeader::decode(Kind::Segment, seed, bytes));
        let Some(header) = header.filter(|header| header.generation == found.generation) else {
            return Ok(Here::Nothing);
        };
        let whole = self.files.read(segment, offset, COMMIT_HEADER + header.length as usize)?;
        Ok(match whole {
            Some(bytes) if header.verifies(seed, &bytes[COMMIT_HEADER..]) => Here::Commit(header),
            _ => Here::Half(header),
        })
    }

    /// A commit verifies.
    fn accept(&mut self, found: Found, header: CommitHeader) -> Result<(), ReadError> {
        if self.is_rest && header.part > 0 && header.last + 1 == self.next {
            self.offset += header.bytes();
            return Ok(());
        }
        let follows = match self.chain {
            Some(Open { header: before, .. }) => {
                let place = (header.first, header.last, header.part);
                place == (before.first, before.last, before.part + 1)
            }
            None => header.part == 0 && header.first == self.next,
        };
        let is_sound = if header.has(END) {
            header.last + 1 == header.first && header.length == 0 && !header.has(MORE)
        } else {
            header.first <= header.last
        };
        if !follows || !is_sound {
            self.lose(Fault::Order, Some(header.chains_from()))?;
            if !is_sound || header.part > 0 || header.first < self.next {
                self.offset += header.bytes();
                return Ok(());
            }
        }
        self.is_rest = false;
        if header.part == 0 {
            self.resolve(header.first);
            self.next = header.first;
            self.bytes.clear();
        }
        let segment = found.segment.number;
        let whole = self.files.read(segment, self.offset, COMMIT_HEADER + header.length as usize)?;
        self.bytes.extend_from_slice(&whole.expect("it was read just now")[COMMIT_HEADER..]);
        let holds = &mut self.holds[self.at];
        *holds = header.last.max(*holds);
        self.clean = header.has(END);
        if header.has(MORE) {
            let torn = self.chain.map_or(Torn { segment, offset: self.offset, bytes: 0 }, |open| open.torn);
            let torn = Torn { bytes: torn.bytes + header.bytes(), ..torn };
            self.chain = Some(Open { header, torn });
        } else {
            self.chain = None;
            self.give_out(header)?;
        }
        self.offset += header.bytes();
        Ok(())
    }

    /// The chain is whole: its records can be given out, if they are the ones it says.
    fn give_out(&mut self, header: CommitHeader) -> Result<(), ReadError> {
        let (mut at, mut count) = (0, 0);
        while let Parsed::Record(_, body) = parse_record(&self.bytes[at..]) {
            at += body.end;
            count += 1;
        }
        if at < self.bytes.len() || header.first + count != header.last + 1 {
            return self.lose(Fault::Records, Some(header.last + 1));
        }
        (self.left, self.number, self.next) = (0..at, header.first, header.last + 1);
        Ok(())
    }

    /// There is no commit where the next one should be.
    fn nothing(&mut self, found: Found, here: &Here) -> Result<(), ReadError> {
        let later = self.survey.live.get(self.at + 1).copied();
        let later = later.filter(|later| later.generation == found.generation + 1);
        if later.is_some_and(|later| later.first == self.next) {
            // A start before this one dropped what is here, and the log went on from there.
            return self.go_on(found);
        }
        if let Some((offset, header)) = self.find_behind(found)? {
            self.lose(Fault::Commit, Some(header.chains_from()))?;
            self.offset = offset;
            return Ok(());
        }
        if let Some(later) = later {
            self.lose(Fault::Commit, Some(later.first))?;
        }
        if self.at + 1 < self.survey.live.len() {
            return self.go_on(found);
        }
        let half = match here {
            Here::Half(header) => header.bytes(),
            _ => 0,
        };
        self.end(Torn { segment: found.segment.number, offset: self.offset, bytes: half });
        Ok(())
    }

    /// The next commit of this segment behind one that does not verify. A header alone tells that there was one: a commit
    /// is written only once all before it are on the disk.
    fn find_behind(&mut self, found: Found) -> Result<Option<(u64, CommitHeader)>, ReadError> {
        let mut offset = self.offset;
        loop {
            offset += PAGE as u64;
            if offset >= u64::from(found.segment.bytes) {
                return Ok(None);
            }
            match self.look(found, offset)? {
                Here::Commit(header) | Here::Half(header) => return Ok(Some((offset, header))),
                Here::Nothing => {}
            }
        }
    }

    /// Goes on with the segment behind this one, if there is one.
    fn go_on(&mut self, found: Found) -> Result<(), ReadError> {
        let Some(&later) = self.survey.live.get(self.at + 1) else {
            self.end(Torn { segment: found.segment.number, offset: self.offset, bytes: 0 });
            return Ok(());
        };
        if later.generation != found.generation + 1 {
            // Whatever else is not known, that much is.
            self.waiting = None;
            let missing = Fault::Missing(found.generation + 1, later.generation - 1);
            self.lose(missing, Some(later.first))?;
        } else if later.first == self.next {
            self.chain = None;
        } else if self.chain.is_none_or(|open| later.first != open.header.last + 1) {
            self.lose(Fault::Order, Some(later.first))?;
        }
        self.at += 1;
        self.offset = PAGE as u64;
        Ok(())
    }

    /// Nothing is behind this. What is left of a chain was torn, and so is what `torn` says, if that is anything.
    fn end(&mut self, torn: Torn) {
        let begun = self.chain.take().map(|open| open.torn);
        let begun = begun.map_or(torn, |begun| Torn { bytes: begun.bytes + torn.bytes, ..begun });
        self.torn = (begun.bytes > 0).then_some(begun);
        let bytes = self.survey.live.last().map_or(0, |found| found.segment.bytes);
        self.end = Some(self.offset).filter(|&offset| offset < u64::from(bytes));
        self.at = self.survey.live.len();
    }

    /// Something is gone from here on; `until` is the record that is there again.
    fn lose(&mut self, fault: Fault, until: Option<u64>) -> Result<(), ReadError> {
        self.chain = None;
        if self.waiting.is_some() {
            return Ok(());
        }
        let segment = self.survey.live.get(self.at).map(|found| found.segment.number);
        let place = segment.map_or(Place::Log, |segment| Place::Segment(segment, self.offset));
        let lost = until.filter(|&until| until > self.next).map(|until| (self.next, until - 1));
        self.verdict.note(Damage { place, fault, lost })?;
        self.waiting = Some(self.verdict.damage.len() - 1);
        Ok(())
    }

    /// The log goes on with this record: what is gone ends before it.
    fn resolve(&mut self, first: u64) {
        if let Some(damage) = self.waiting.take() {
            self.is_behind_gap = true;
            self.verdict.damage[damage].lost = (first > self.next).then(|| (self.next, first - 1));
        }
    }
}
