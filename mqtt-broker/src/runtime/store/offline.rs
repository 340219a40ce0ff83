//! A store that no broker is using, for tools: looked at, begun from an image, or salvaged.
//!
//! Invariant: nothing in the directory is changed but by [`OfflineStore::create`] and [`OfflineStore::salvage`], and as long
//! as an [`OfflineStore`] lives no broker can start on it.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use super::cold_files::Unread;
use super::cold_losses::Losses;
use super::directory::{Directory, LOCK};
use super::files::CoreFiles;
use super::recover::{self, Found};
use super::{OnDamage, StoreError, cold_files, cold_losses, layout, meta};
use crate::config::CoreId;
use crate::shard::home_of;
use crate::store::cold::{Chunk, Parked};
use crate::store::image::{Delivery, Image, Session};
use crate::store::log::{Damage, Identity, Media as _, ReadConfig, Reader, SnapshotReader, Torn};
use crate::store::record::{Record, RecordError};

/// The seed of the hashes of images that no Client can reach.
const SEED: [u64; 4] = [0; 4];

/// The store in a data directory, locked.
///
/// ```no_run
/// use std::sync::atomic::AtomicU64;
/// use mqtt_broker::runtime::{OfflineStore, OnDamage};
///
/// let store = OfflineStore::open("/var/lib/mqttd".as_ref())?;
/// let cores = store.read(OnDamage::Refuse, &AtomicU64::new(0))?;
/// let sessions: usize = cores.iter().map(|core| core.image().session_count()).sum();
/// println!("{sessions} sessions on {} cores", cores.len());
/// # Ok::<(), mqtt_broker::runtime::StoreError>(())
/// ```
pub struct OfflineStore {
    directory: Directory,
}

/// What was read of one core.
pub struct StoredCore {
    found: Found,
    folder: PathBuf,
    segments: usize,
    segment_bytes: u64,
}

/// How the reading of a log went, besides its records.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LogRead {
    /// What was dropped at the end.
    pub torn: Option<Torn>,
    /// What could not be read, and was gone around.
    pub damage: Vec<Damage>,
}

impl OfflineStore {
    /// The version of the directory that is read and written; the log and its records have their own.
    pub const VERSION: u32 = meta::VERSION;

    /// Opens the store in the directory `path`.
    ///
    /// # Errors
    /// There is none, a broker or a tool has it, or META is not right.
    pub fn open(path: &Path) -> Result<OfflineStore, StoreError> {
        Directory::existing(path).map(|directory| OfflineStore { directory })
    }

    /// Begins a store of `cores` cores with what `image` holds, in a directory that is empty or made for it. Either all of
    /// it is in the store at the end, or nothing.
    ///
    /// # Errors
    /// The directory holds something, or the system refuses to write.
    ///
    /// # Panics
    /// If there is to be no core, or more than a broker can have.
    pub fn create(path: &Path, cores: u16, image: Image) -> Result<OfflineStore, StoreError> {
        assert!((1..=CoreId::MAX).contains(&cores.into()), "a broker has 1 to {} cores", CoreId::MAX);
        StoreError::not_a_directory(path)?;
        match fs::read_dir(path) {
            Ok(mut entries) => {
                let is_ours =
                    |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.file_name() == LOCK);
                if !entries.all(is_ours) {
                    return Err(StoreError::NotEmpty(path.to_owned()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::system("list", path)(error)),
        }
        let mut directory = Directory::open(path, cores)?;
        layout::lay_out(&mut directory, vec![image], cores, SEED)?;
        directory.tidy()?;
        Ok(OfflineStore { directory })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The number that is drawn for each layout, and is in every checksum of its files.
    pub fn id(&self) -> [u8; 16] {
        self.directory.meta.store
    }

    /// Which layout counts.
    pub fn layout(&self) -> u64 {
        self.directory.meta.layout
    }

    /// For how many cores it was made.
    pub fn cores(&self) -> u16 {
        self.directory.meta.cores
    }

    /// Reads the snapshot and the log of every core, each by a thread of its own, into memory. What waits outside them is
    /// looked at, a chunk at a time, and stays there: [`OfflineStore::waiting`] has it. `records` counts up meanwhile, for
    /// who wants to show how far it is.
    ///
    /// # Errors
    /// Something cannot be read; unless it is to be salvaged, something is damaged.
    pub fn read(&self, on_damage: OnDamage, records: &AtomicU64) -> Result<Vec<StoredCore>, StoreError> {
        let salvage = on_damage == OnDamage::Salvage;
        let mut found = recover::read(&self.directory, SEED, salvage, records)?;
        found.iter_mut().try_for_each(|found| self.look_at_chunks(found, salvage))?;
        (0..).zip(found).map(|(core, found)| StoredCore::new(&self.directory.core(core), found)).collect()
    }

    /// Reads what waits for Clients that are away and is in chunks. The image loses what cannot be read, of which there is a
    /// line for each file.
    fn look_at_chunks(&self, found: &mut Found, salvage: bool) -> Result<(), StoreError> {
        let mut damage = cold_losses::give_up_missing(self.path(), [&mut found.image])?;
        let (mut losses, mut short) = (Losses::default(), None);
        found.image.retain_parked(|client_id, chunk, messages| {
            let read = self.read_chunk(chunk);
            let is_there = read.is_ok();
            match read {
                Ok(_) => {}
                Err(Unread::Short(error)) => short = Some(error),
                Err(Unread::Damaged(what) | Unread::Withheld(what)) => {
                    losses.add(client_id, chunk, messages, || what)
                }
            }
            is_there
        });
        if let Some(error) = short {
            return Err(StoreError::system("read what waits in", self.path())(error));
        }
        damage.extend(losses.lines());
        if !damage.is_empty() && !salvage {
            return Err(StoreError::Cold { what: damage.join("\n") });
        }
        found.damage.extend(damage);
        Ok(())
    }

    fn read_chunk(&self, chunk: Chunk) -> Result<Vec<Delivery>, Unread> {
        cold_files::read_in(self.directory.path(), self.directory.hash_key(), chunk)
    }

    /// What waits to be sent to a session of this store, oldest first. No more than one chunk is in memory at a time.
    pub fn waiting<'a>(
        &'a self,
        session: &'a Session,
    ) -> impl Iterator<Item = Result<Delivery, StoreError>> + 'a {
        let mut taken = session.parked().map_or(0, Parked::taken) as usize;
        let chunks = session.parked().into_iter().flat_map(Parked::chunks);
        let parked = chunks.flat_map(move |chunk| {
            let over = std::mem::take(&mut taken);
            match self.read_chunk(chunk) {
                Ok(messages) => messages.into_iter().skip(over).map(Ok).collect(),
                Err(Unread::Short(error)) => {
                    vec![Err(StoreError::system("read what waits in", self.path())(error))]
                }
                Err(Unread::Damaged(what) | Unread::Withheld(what)) => vec![Err(StoreError::Cold { what })],
            }
        });
        parked.chain(session.waiting().cloned().map(Ok))
    }

    /// Reads the log of a core alone, from the record `from` on or from the first that is still needed, around what is
    /// damaged. `each` gets the number of each record, and what it says.
    ///
    /// # Errors
    /// There is no such core, or its files cannot be read.
    pub fn read_log(
        &self,
        core: u16,
        from: u64,
        mut each: impl FnMut(u64, Result<Record<'_>, RecordError>) -> ControlFlow<()>,
    ) -> Result<LogRead, StoreError> {
        if core >= self.cores() {
            return Err(StoreError::NoSuchCore { core, cores: self.cores() });
        }
        let (files, identity) = (self.directory.core(core), self.directory.identity(core));
        let failed = |error| StoreError::unread(&files.folder, error);
        // Read from the first on, not from `from`: the log may end before that, and nothing is gone then.
        let needed = first_needed(&files, identity)?;
        let config = ReadConfig { identity, from: needed, reach: 0, salvage: true };
        let mut reader = Reader::open(&files, config).map_err(failed)?;
        while let Some(record) = reader.next_record().map_err(failed)? {
            let number = record.number;
            if number < from {
                continue;
            }
            if each(number, Record::decode(record.kind, record.body)).is_break() {
                return Ok(LogRead { torn: None, damage: Vec::new() });
            }
        }
        let log = reader.finish().map_err(failed)?;
        Ok(LogRead { torn: log.torn, damage: log.damage })
    }

    /// Everything in one image, as if it had been one core: what was under way between the cores is given to those that had
    /// not taken it.
    ///
    /// # Panics
    /// If `cores` are not those of this store.
    pub fn merge(&self, cores: Vec<StoredCore>) -> Image {
        assert_eq!(cores.len(), usize::from(self.cores()), "all cores of this store");
        let images = cores.into_iter().map(|core| core.found.image).collect();
        let key = self.directory.hash_key();
        let mut merged = Image::deal(images, 1, SEED, |what, cores| home_of(key, cores, what));
        merged.pop().expect("there is one core")
    }

    /// Makes another layout of what could be read of a damaged store, and moves the damaged one aside. Tells where to, with a
    /// report of what is gone.
    ///
    /// # Errors
    /// Writing fails: then the store is as it was. Or the new layout counts already and cannot be read back, or the damaged one
    /// not be moved: then that is where it was, and the next start moves it.
    ///
    /// # Panics
    /// If `cores` are not those of this store.
    pub fn salvage(&mut self, cores: Vec<StoredCore>) -> Result<PathBuf, StoreError> {
        assert_eq!(cores.len(), usize::from(self.cores()), "all cores of this store");
        let aside = self.directory.aside(self.layout());
        let found = cores.into_iter().map(|core| core.found).collect();
        let number = self.cores();
        layout::go_over(&mut self.directory, found, number, SEED)?;
        // The damaged one goes out of the way only once the new one was read.
        recover::read(&self.directory, SEED, false, &AtomicU64::new(0))?;
        self.directory.tidy()?;
        Ok(aside)
    }
}

impl StoredCore {
    fn new(files: &CoreFiles, found: Found) -> Result<StoredCore, StoreError> {
        let sizes = || {
            let segments = files.segments()?;
            let mut bytes = 0;
            for &segment in &segments {
                bytes += fs::metadata(files.segment(segment))?.len();
            }
            io::Result::Ok((segments.len(), bytes))
        };
        let (segments, segment_bytes) = sizes().map_err(StoreError::system("list", &files.folder))?;
        Ok(StoredCore { found, folder: files.folder.clone(), segments, segment_bytes })
    }

    /// What it holds.
    pub fn image(&self) -> &Image {
        &self.found.image
    }

    /// The folder with its files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What is damaged: the file, the place, what is gone and what to do. Nothing unless it was to be salvaged.
    pub fn damage(&self) -> &[String] {
        &self.found.damage
    }

    /// What was dropped at the end of the log.
    pub fn torn(&self) -> Option<Torn> {
        self.found.log.torn
    }

    /// Whether the log was ended as it should be.
    pub fn is_clean(&self) -> bool {
        self.found.log.clean
    }

    /// The first and the last record of the log that were read, if there is one. What comes before is in the snapshot. Of a
    /// damaged log some between them may be gone.
    pub fn records(&self) -> Option<(u64, u64)> {
        self.found.log.read
    }

    /// The files of its log, and their bytes.
    pub fn segments(&self) -> (usize, u64) {
        (self.segments, self.segment_bytes)
    }

    /// Bytes of its snapshot; 0 if there is none.
    pub fn snapshot_bytes(&self) -> u64 {
        self.found.snapshot_bytes
    }
}

/// The first record of the log that the newest snapshot needs. One that cannot be read needs all there are.
fn first_needed(files: &CoreFiles, identity: Identity) -> Result<u64, StoreError> {
    let folder = &files.folder;
    for from in files.snapshots().map_err(StoreError::system("list", folder))? {
        let file = files.open_snapshot(from).map_err(StoreError::system("open", &files.snapshot(from)))?;
        if let Ok(reader) = SnapshotReader::open(file, identity, true) {
            return Ok(reader.header().from);
        }
    }
    Ok(1)
}
