//! Which segments hold the log, in which order, from the first page of each.
//!
//! Invariant: a file without a header that verifies is free only if no commit in it verifies that could belong to the
//! log. Generations count up by one, so that a segment that is missing shows.

use super::damage::{Damage, Fault, Place, ReadError, Verdict};
use super::format::{COMMIT_HEADER, CommitHeader, FileHeader, Identity, Kind, NoHeader, PAGE, SEGMENT_STEP};
use super::media::{Files, Media};
use super::space::Segment;

/// A segment of the log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) segment: Segment,
    pub(super) generation: u64,
    /// As its header says, or its first commit if the header does not verify.
    pub(super) first: u64,
    has_header: bool,
}

/// What there is.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// What has to be read, in order of generation.
    pub(super) live: Vec<Found>,
    pub(super) free: Vec<Segment>,
    pub(super) next_number: u32,
}

impl Survey {
    /// Looks at all segments of a log that is to be read from the record `from` on.
    pub(super) fn make<M: Media>(
        files: &mut Files<'_, M>,
        identity: Identity,
        from: u64,
        verdict: &mut Verdict,
    ) -> Result<Survey, ReadError> {
        let numbers = files.numbers()?;
        let next_number = numbers.last().map_or(0, |&last| last.saturating_add(1));
        let mut survey = Survey { next_number, ..Survey::default() };
        for number in numbers {
            survey.look_at(number, files, identity, verdict)?;
        }
        survey.sort(from, verdict)?;
        Ok(survey)
    }

    /// The highest generation that was used.
    pub(super) fn generation(&self) -> u64 {
        self.live.last().map_or(0, |found| found.generation)
    }

    fn look_at<M: Media>(
        &mut self,
        number: u32,
        files: &mut Files<'_, M>,
        identity: Identity,
        verdict: &mut Verdict,
    ) -> Result<(), ReadError> {
        let damage = |fault| Damage { place: Place::Segment(number, 0), fault, lost: None };
        let len = files.len(number)?;
        let page = files.first_page(number)?.unwrap_or_default();
        match FileHeader::decode(Kind::Segment, page) {
            Ok(header) if header.identity != identity => verdict.note(damage(Fault::Foreign)),
            Ok(FileHeader { bytes, generation, first, .. }) => {
                if u64::from(bytes) != len {
                    verdict.note(damage(Fault::Length { found: len, expected: Some(bytes) }))?;
                }
                let segment = Segment { number, bytes };
                self.live.push(Found { segment, generation, first, has_header: true });
                Ok(())
            }
            Err(NoHeader::Version(found)) => {
                Err(ReadError::Version { place: Place::Segment(number, 0), found })
            }
            Err(NoHeader::Unverified) => {
                let is_whole = len > 0 && len.is_multiple_of(u64::from(SEGMENT_STEP));
                let bytes = u32::try_from(len).ok().filter(|_| is_whole);
                if bytes.is_none() {
                    verdict.note(damage(Fault::Length { found: len, expected: None }))?;
                }
                let segment = Segment { number, bytes: bytes.unwrap_or(u32::MAX) };
                match newest(files, number, identity.seed())? {
                    Some((generation, first)) => {
                        self.live.push(Found { segment, generation, first, has_header: false });
                    }
                    None => self.free.extend(bytes.map(|_| segment)),
                }
                Ok(())
            }
        }
    }

    /// Puts the segments in order and leaves out those that hold nothing from the record `from` on.
    fn sort(&mut self, from: u64, verdict: &mut Verdict) -> Result<(), ReadError> {
        self.live.sort_by_key(|found| (found.generation, !found.has_header));
        let mut twice = Vec::new();
        self.live.dedup_by(|second, first| {
            let same = second.generation == first.generation;
            if same && second.has_header {
                twice.push((second.segment.number, second.generation));
            }
            same
        });
        for (segment, generation) in twice {
            let place = Place::Segment(segment, 0);
            verdict.note(Damage { place, fault: Fault::Twice(generation), lost: None })?;
        }
        let start = self.live.iter().rposition(|found| found.first <= from);
        // What lies before it is stale: a commit in a file whose header was about to be written anew among it.
        let stale = self.live.drain(..start.unwrap_or(0));
        self.free.extend(stale.map(|found| found.segment).filter(|segment| segment.bytes != u32::MAX));
        for found in self.live.iter().filter(|found| !found.has_header) {
            let place = Place::Segment(found.segment.number, 0);
            verdict.note(Damage { place, fault: Fault::Header, lost: None })?;
        }
        if start.is_none() && (from > 1 || !self.live.is_empty()) {
            let lost = self.live.first().map(|found| (from, found.first - 1));
            verdict.note(Damage { place: Place::Log, fault: Fault::Start, lost })?;
        }
        Ok(())
    }
}

/// The newest generation among the commits of a file, and the first record that its commits know of. Their headers alone
/// are looked at.
fn newest<M: Media>(
    files: &mut Files<'_, M>,
    number: u32,
    seed: u32,
) -> Result<Option<(u64, u64)>, ReadError> {
    let mut newest = None;
    let mut offset = PAGE as u64;
    while let Some(bytes) = files.read(number, offset, COMMIT_HEADER)? {
        if let Some(header) = CommitHeader::decode(Kind::Segment, seed, bytes)
            && newest.is_none_or(|(generation, _)| header.generation > generation)
        {
            newest = Some((header.generation, header.chains_from()));
        }
        offset += PAGE as u64;
    }
    Ok(newest)
}
