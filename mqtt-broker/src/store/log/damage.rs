//! What can be wrong with a log, in words that say what to do.
//!
//! Invariant: nothing that was acknowledged is left out without one of these.

use std::fmt;
use std::io;

use super::format::VERSION;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The file is of another store or core.
    Foreign,
    /// The file does not have the bytes that it should have.
    Length {
        /// Bytes that it has.
        found: u64,
        /// Bytes that it should have, if its header tells.
        expected: Option<u32>,
    },
    /// The header does not verify, but commits do.
    Header,
    /// Two segments have the same generation.
    Twice(u64),
    /// There is no segment of these generations, the first and the last, but there are earlier and later ones.
    Missing(u64, u64),
    /// No segment holds the record that has to be read first.
    Start,
    /// A commit does not verify, but what was written later is there.
    Commit,
    /// A commit verifies and does not follow on what is before it.
    Order,
    /// The records of commits that verify are not records.
    Records,
    /// The log ends before a record that was known to be in it.
    End,
    /// Part of a snapshot does not verify.
    Gap {
        /// The byte from which on it can be read again, or its end.
        until: u64,
    },
    /// A snapshot ends before its total, or its total is another.
    Total,
}

/// What something is said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// All segments together.
    Log,
    /// A byte of a segment.
    Segment(u32, u64),
    /// A byte of a snapshot.
    Snapshot(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Log => f.write_str("the log"),
            Place::Segment(segment, offset) => write!(f, "segment {segment}, byte {offset}"),
            Place::Snapshot(offset) => write!(f, "the snapshot, byte {offset}"),
        }
    }
}

/// Something that cannot be read and was there once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub place: Place,
    /// What is wrong there.
    pub fault: Fault,
    /// The records that are gone, the first and the last, as far as that is known.
    pub lost: Option<(u64, u64)>,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        match self.fault {
            Fault::Foreign => write!(f, "the file belongs to another store or another core")?,
            Fault::Length { found, expected: Some(expected) } => {
                write!(f, "the file has {found} bytes and not {expected}")?;
            }
            Fault::Length { found, expected: None } => {
                write!(f, "the file has {found} bytes, which is no length of a segment")?;
            }
            Fault::Header => write!(f, "the header of the file does not verify")?,
            Fault::Twice(generation) => write!(f, "another file has generation {generation} too")?,
            Fault::Missing(first, last) if first == last => {
                write!(f, "the segment of generation {first} is missing")?;
            }
            Fault::Missing(first, last) => {
                write!(f, "the segments of generations {first} to {last} are missing")?;
            }
            Fault::Start => write!(f, "no segment holds the record to begin with")?,
            Fault::Commit => write!(f, "a commit does not verify, and it is not the last one")?,
            Fault::Order => write!(f, "a commit does not follow on the one before it")?,
            Fault::Records => write!(f, "a commit verifies and holds no records")?,
            Fault::End => write!(f, "the log ends too early")?,
            Fault::Gap { until } => write!(f, "what is there up to byte {until} does not verify")?,
            Fault::Total => write!(f, "the snapshot ends here and is not complete")?,
        }
        match self.lost {
            Some((first, last)) if first == last => write!(f, " (record {first} is gone)")?,
            Some((first, last)) => write!(f, " (records {first} to {last} are gone)")?,
            None => {}
        }
        f.write_str(match self.fault {
            Fault::Foreign | Fault::Twice(_) => {
                ". Put back the files of this store alone, as they were when it was stopped"
            }
            _ => ". Put back a backup of all files of the store, or let salvage keep what can be read",
        })
    }
}

/// Why a log or a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused to read.
    #[error(
        "{place}: reading failed: {error}. Look for faults of the disk, then put back a backup or let salvage keep \
         what can be read"
    )]
    Media {
        /// Where.
        place: Place,
        /// What it said.
        error: io::Error,
    },
    /// Something is wrong with what was read.
    #[error("{0}")]
    Damage(Damage),
    /// The file has another version of the format. It is as it was written, so salvage does not go around it.
    #[error("{place}: the file has version {found} of the format, and this program reads {VERSION}")]
    Version {
        /// Which file.
        place: Place,
        /// Its version.
        found: u32,
    },
}

/// What was found to be wrong so far, and whether that ends the reading.
#[derive(Debug)]
pub(super) struct Verdict {
    /// Whether reading goes on, around what is damaged.
    pub(super) salvage: bool,
    pub(super) damage: Vec<Damage>,
}

impl Verdict {
    pub(super) fn new(salvage: bool) -> Verdict {
        Verdict { salvage, damage: Vec::new() }
    }

    /// Something is wrong.
    pub(super) fn note(&mut self, damage: Damage) -> Result<(), ReadError> {
        if !self.salvage {
            return Err(ReadError::Damage(damage));
        }
        self.damage.push(damage);
        Ok(())
    }
}
