//! The data directory: what outlives the process, as files.
//!
//! ```text
//! DIRECTORY/lock                                one broker at a time has it
//! DIRECTORY/META                                whose store it is, and which layout is the one
//! DIRECTORY/layout-1/core-0/segment-00000000    the log of a core
//! DIRECTORY/layout-1/core-0/snapshot-000000000001
//! DIRECTORY/cold/000000000001                   what waits for Clients that are away and is not in memory
//! ```
//!
//! A layout is made for a number of cores. Another number makes another layout, which counts from the moment that META
//! names it. At the start all is read, by one thread a core ([`recover`]). While the broker runs each core writes its own
//! log through its ring ([`disk`]); whatever else takes time is done by one thread of the broker ([`keeper`]).
//!
//! Invariant: a file has its name only once all of it is on the disk; META is the last to change.

mod again;
mod cold;
mod cold_files;
mod cold_losses;
mod directory;
mod disk;
mod files;
mod first;
mod keeper;
mod layout;
mod meta;
mod offline;
mod pace;
mod port;
mod recover;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::Range;
use crate::store::log::{ReadError, SEGMENT_STEP};

pub(super) use disk::Disk;
pub(super) use keeper::{Done, Jobs, spawn as keep};
pub use offline::{LogRead, OfflineStore, StoredCore};
pub(super) use recover::{Restored, Stored, open};

/// Where and how a broker keeps what must outlive it: see [`BrokerBuilder::store`](super::BrokerBuilder::store).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreConfig {
    /// The directory; it is made if there is none. One broker at a time can use it.
    pub directory: PathBuf,
    /// What to do if some of it is damaged.
    pub on_damage: OnDamage,
    /// Bytes of a segment of a log, a multiple of 64 KiB up to 1 GiB; 0: by the size of the disk, 4 to 64 MiB. Each core has four
    /// of them at least.
    pub segment_bytes: u32,
    /// Bytes that the log of a core may take, all segments together. Snapshots come on top.
    pub log_bytes_max: u64,
}

impl StoreConfig {
    /// A store in `directory`, with the defaults for everything else.
    pub fn new(directory: impl Into<PathBuf>) -> StoreConfig {
        StoreConfig {
            directory: directory.into(),
            on_damage: OnDamage::Refuse,
            segment_bytes: 0,
            log_bytes_max: 4 << 30,
        }
    }

    /// Segments of so many bytes that a core may have.
    fn segments_max(&self, segment_bytes: u32) -> u32 {
        u32::try_from(self.log_bytes_max / u64::from(segment_bytes)).unwrap_or(u32::MAX)
    }

    /// Bytes of a segment on a disk of so many bytes. The four segments of a core, written at its first start, take a 4,096th of
    /// the disk, rounded up to a power of two.
    fn segment_bytes_on(&self, disk_bytes: u64) -> u32 {
        if self.segment_bytes > 0 {
            return self.segment_bytes;
        }
        let by_disk = (disk_bytes >> 14).next_power_of_two().clamp(4 << 20, 64 << 20);
        let most = self.log_bytes_max / u64::from(SEGMENTS_MIN);
        let step = u64::from(SEGMENT_STEP);
        u32::try_from(by_disk.min(most / step * step)).expect("64 MiB at most")
    }

    /// The values that a field may have, if it is a number.
    pub fn range(name: &str) -> Option<Range> {
        match name {
            "segment_bytes" => Some(Range { low: 0, high: 1 << 30, unit: "bytes" }),
            "log_bytes_max" => Some(Range {
                low: u64::from(SEGMENTS_MIN) * u64::from(SEGMENT_STEP),
                high: u64::MAX,
                unit: "bytes",
            }),
            _ => None,
        }
    }

    /// Whether the sizes can be what they are, each and together; a start asks the same.
    ///
    /// # Errors
    /// Which cannot, and what to give instead.
    pub fn check(&self) -> Result<(), StoreConfigError> {
        let segment = ("segment_bytes", u64::from(self.segment_bytes));
        let log = ("log_bytes_max", self.log_bytes_max);
        let most = StoreConfig::range(segment.0).expect("it is a number").high;
        if !self.segment_bytes.is_multiple_of(SEGMENT_STEP) || segment.1 > most {
            let remedy =
                format!("give a multiple of {SEGMENT_STEP} up to {most}, or 0 for one that fits the disk");
            return Err(StoreConfigError { settings: vec![segment], remedy });
        }
        let bytes = if self.segment_bytes == 0 { SEGMENT_STEP } else { self.segment_bytes };
        if self.segments_max(bytes) < SEGMENTS_MIN {
            let least = u64::from(SEGMENTS_MIN) * u64::from(bytes);
            let remedy = format!(
                "a log takes {SEGMENTS_MIN} segments at least; give a log_bytes_max of {least} or more"
            );
            return Err(match self.segment_bytes {
                0 => StoreConfigError { settings: vec![log], remedy },
                _ => StoreConfigError {
                    settings: vec![log, segment],
                    remedy: format!("{remedy}, or smaller segments"),
                },
            });
        }
        Ok(())
    }
}

/// Fields of a [`StoreConfig`] that cannot be what they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {remedy}", described(settings))]
pub struct StoreConfigError {
    /// The fields and their values: one that cannot work by itself, or those that contradict each other.
    pub settings: Vec<(&'static str, u64)>,
    /// What to give instead.
    pub remedy: String,
}

/// Fields with their values.
fn described(settings: &[(&'static str, u64)]) -> String {
    settings.iter().map(|(name, value)| format!("{name} is {value}")).collect::<Vec<_>>().join(" and ")
}

/// One to write to, one that is next, two in reserve, and as many again that hold what a snapshot is being made of.
const SEGMENTS_MIN: u32 = 8;

/// What a broker does if what it finds at its start is damaged: not merely torn at the end, as after a power cut, but such
/// that something is gone that was acknowledged. What lies outside memory may turn out to be so when its Client returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "snake_case"))]
pub enum OnDamage {
    /// It does not start, and says what is damaged. Who waits for what turns out to be so later is refused.
    #[default]
    Refuse,
    /// It keeps all that can be read, says what is gone, moves the damaged files aside, and starts.
    Salvage,
}

/// Why a store cannot be used. Each message is one sentence or two, with the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A setting cannot work.
    #[error("store: {0}")]
    Config(#[from] StoreConfigError),
    /// A core was asked for that the store does not have.
    #[error("there is no core {core}: give one below {cores}")]
    NoSuchCore {
        /// The one asked for.
        core: u16,
        /// How many there are.
        cores: u16,
    },
    /// Another broker has it.
    #[error(
        "the data directory {} is in use by another broker{}: stop that one, or give this one a directory of its own",
        directory.display(),
        process.map_or_else(String::new, |process| format!(", process {process}"))
    )]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The process that has it, if it says so.
        process: Option<u32>,
    },
    /// There is none to look at.
    #[error("there is no store in {}: give the data directory of a broker", .0.display())]
    Missing(PathBuf),
    /// A file is where the directory should be.
    #[error("{} is a file: give a directory to keep the data in, which is made if there is none", .0.display())]
    NotADirectory(PathBuf),
    /// A store is to be begun where something is.
    #[error("{} holds something already: give a directory that is empty, or one that there is not yet", .0.display())]
    NotEmpty(PathBuf),
    /// The system refused something.
    #[error("cannot {doing} {}: {error}{}", path.display(), remedy(path, error))]
    System {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What it said.
        error: io::Error,
    },
    /// META is not what it should be.
    #[error("{}: {what}", path.display())]
    Meta {
        /// The file.
        path: PathBuf,
        /// What is wrong, and the remedy.
        what: String,
    },
    /// A log or a snapshot cannot be read.
    #[error("{}: {error} (on_damage = \"salvage\" in [store])", path.display())]
    Read {
        /// The folder of the core, or its snapshot.
        path: PathBuf,
        /// The file in that folder, the place, what is wrong and the remedy.
        error: ReadError,
    },
    /// What waits for Clients that are away, and is not in the log, is not there.
    #[error(
        "{what}\nPut back what is missing, or a backup; `mqttd store check` says all that is damaged, and \
         `mqttd store repair --salvage` keeps the rest (on_damage = \"salvage\" in [store] does so at once)"
    )]
    Cold {
        /// A line on each file: what is wrong with it, and what is gone.
        what: String,
    },
    /// A newer version has written to it. That is no damage, so nothing of it is given up.
    #[error(
        "{}: {what}. A newer mqttd has written here: start that one again, or have it export the store for this one \
         (`mqttd store export`). Nothing was changed, whatever on_damage says",
        path.display()
    )]
    Newer {
        /// The folder of the core, or its snapshot.
        path: PathBuf,
        /// What this version does not understand.
        what: String,
    },
    /// A record verifies and says nothing.
    #[error(
        "{}: record {number}: {what}. Put back a backup of all files of the store, or let salvage keep what can be read \
         (on_damage = \"salvage\" in [store])",
        folder.display()
    )]
    Record {
        /// The folder of the core.
        folder: PathBuf,
        /// Which record.
        number: u64,
        /// What is wrong.
        what: String,
    },
}

/// A number of things, in the singular or the plural.
fn count(number: usize, thing: &str) -> String {
    let end = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// What can be done about an error of the system.
fn remedy(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => {
            ". Give a data directory on a file system that can be written to".to_owned()
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ". Make room on this disk".to_owned(),
        io::ErrorKind::PermissionDenied => {
            let there = path.ancestors().find_map(|path| Some((path, path.metadata().ok()?.uid())));
            let ours = Path::new("/proc/self").metadata().map(|process| process.uid());
            let (Some((there, owner)), Ok(user)) = (there, ours) else { return String::new() };
            format!(
                ". This process runs as user {user}, and {} belongs to user {owner}: let it be written to, or give another \
                 data directory",
                there.display()
            )
        }
        _ => String::new(),
    }
}

impl StoreError {
    /// Whether something is damaged that had been acknowledged.
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Read { error, .. } => matches!(error, ReadError::Damage(_)),
            StoreError::Meta { .. } | StoreError::Cold { .. } | StoreError::Record { .. } => true,
            _ => false,
        }
    }

    /// A file is where a directory has to be, if that is what is wrong with `path`.
    fn not_a_directory(path: &Path) -> Result<(), StoreError> {
        match path.ancestors().find(|folder| folder.exists()) {
            Some(there) if !there.is_dir() => Err(StoreError::NotADirectory(there.to_owned())),
            _ => Ok(()),
        }
    }

    /// For `map_err` of reading what `path` is or holds.
    fn unread(path: &Path, error: ReadError) -> StoreError {
        let path = path.to_owned();
        match error {
            ReadError::Version { .. } => StoreError::Newer { path, what: error.to_string() },
            error => StoreError::Read { path, error },
        }
    }

    /// For `map_err` of something done to `path`.
    fn system(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.to_owned();
        move |error| StoreError::System { doing, path, error }
    }
}
