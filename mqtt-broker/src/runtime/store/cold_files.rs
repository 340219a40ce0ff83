//! The files of chunks: what waits for Clients that are away and is not in memory.
//!
//! ```text
//! DIRECTORY/cold/000000000001     chunks of any core's sessions, one behind the other
//! ```
//!
//! All cores' chunks go to one file, which is only appended to, by the thread that keeps the store; what a turn of a core
//! asks for is synced at once. When a file is long enough another one is begun; one of which no chunk is needed any more
//! is removed. Of one of which less than half is needed the cores are told: they have what they need of it copied to the
//! current file. They belong to the directory and not to a layout: a chunk stays where it is whatever core its session is
//! at home on.
//!
//! Invariant: a chunk is on the disk before the log tells of it, and until the log has told that it is over. No place is ever
//! that of two chunks: the last number stays taken by an empty file where there is no other, so a session that names a place still,
//! as salvage has lost what said that it is over, never finds another one's messages there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{error, warn};

use super::again::is_passing;
use super::cold::{ColdDone, ColdJob, Park};
use super::files::sync_folder;
use super::{StoreError, cold_losses};
use crate::store::cold::{Chunk, Loaded, chunk_records, put_chunk, read_chunk};
use crate::store::image::{Delivery, Image};

/// Bytes from which on a file is not appended to any more.
const FILE_BYTES: u64 = 16 << 20;

/// A file of which less than one in so many bytes is needed is to be emptied. What is moved for that is less than what
/// becomes free, and all files together take no more than twice what is needed, and the one that is appended to.
const NEEDED_SHARE: u64 = 2;

/// How long nothing is moved after something could not be written.
const RETRY_MILLIS: u64 = 10_000;

/// The files.
pub(in crate::runtime) struct ColdFiles {
    folder: PathBuf,
    /// In every checksum.
    key: [u64; 2],
    /// Whether messages that cannot be read are passed over.
    salvage: bool,
    /// The files of which something is needed, and the one that is appended to.
    files: BTreeMap<u64, Needed>,
    current: Option<(u64, File)>,
    /// The empty file that keeps the last number taken, if that is needed.
    mark: Option<u64>,
    /// The number of the next file.
    next: u64,
    /// Files of which little is needed, and no core was told.
    sparse: Vec<u64>,
    /// Monotonic milliseconds from which on chunks are moved: there was no room for them.
    move_from: u64,
}

/// What there is to know of a file.
#[derive(Clone, Copy, Default)]
struct Needed {
    /// Chunks that are needed.
    chunks: u64,
    /// Their bytes.
    live: u64,
    /// Bytes of the file.
    bytes: u64,
    /// The cores know that it is to be emptied.
    is_told: bool,
}

impl Needed {
    fn is_sparse(&self) -> bool {
        self.live * NEEDED_SHARE < self.bytes && !self.is_told
    }
}

/// Why a chunk was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unread {
    /// For a shortage that passes, which says nothing of the chunk.
    #[error("{0}")]
    Short(io::Error),
    /// It is not there as it was written; in words.
    #[error("{0}")]
    Damaged(String),
    /// The system does not give it out, which says nothing of what is there; in words.
    #[error("{0}")]
    Withheld(String),
}

impl ColdFiles {
    /// Opens the files of the data directory `directory`, and removes those that none of the images needs.
    ///
    /// # Errors
    /// The system refuses something, or a file that is needed is missing or too short.
    pub(super) fn open(
        directory: &Path,
        key: [u64; 2],
        images: &[Image],
        salvage: bool,
    ) -> Result<ColdFiles, StoreError> {
        let folder = folder(directory);
        let lengths = cold_losses::look_at_files(directory, images)?;
        let mut files = BTreeMap::<u64, Needed>::new();
        for chunk in images.iter().flat_map(Image::chunks) {
            let needed = files.entry(chunk.file).or_default();
            needed.chunks += 1;
            needed.live += u64::from(chunk.bytes);
            needed.bytes = lengths[&chunk.file];
        }
        let mut next = files.keys().next_back().map_or(1, |last| last + 1);
        let there = numbers(&folder).map_err(StoreError::system("list", &folder))?;
        next = there.iter().fold(next, |next, &number| next.max(number + 1));
        let mut mark = None;
        for number in there.into_iter().filter(|number| !files.contains_key(number)) {
            if number + 1 == next {
                // With bytes in it, where a full disk has no room for another name, it keeps the number taken as well.
                mark = Some(number);
                stays(&folder, number, empty(&folder, number));
            } else {
                fs::remove_file(file(&folder, number))
                    .map_err(StoreError::system("remove", &file(&folder, number)))?;
            }
        }
        let sparse = files.iter().filter(|(_, needed)| needed.is_sparse()).map(|(&number, _)| number);
        let sparse = sparse.collect();
        Ok(ColdFiles { folder, key, salvage, files, current: None, mark, next, sparse, move_from: 0 })
    }

    /// Does what is to be done; the answer, if one is waited for.
    ///
    /// # Errors
    /// For a shortage that passes a chunk cannot be read now.
    pub(super) fn handle(&mut self, job: ColdJob, now: u64) -> io::Result<Option<ColdDone>> {
        Ok(match job {
            ColdJob::Park(parks) => Some(ColdDone::Parked(self.park(parks))),
            ColdJob::Load(ticket, chunk) => Some(ColdDone::Loaded(ticket, self.load(chunk)?)),
            ColdJob::Move(moves) => Some(ColdDone::Moved(self.relocate(&moves, now))),
            ColdJob::Release(chunks) => {
                chunks.into_iter().for_each(|chunk| self.release(chunk));
                None
            }
        })
    }

    /// Files that the cores are to empty, as far as they were not told.
    pub(super) fn poll_sparse(&mut self, now: u64) -> Option<Vec<u64>> {
        if self.sparse.is_empty() || now < self.move_from {
            return None;
        }
        let mut sparse = std::mem::take(&mut self.sparse);
        sparse.retain(|number| {
            let needed = self.files.get_mut(number).filter(|needed| needed.is_sparse());
            needed.map(|needed| needed.is_told = true).is_some()
        });
        (!sparse.is_empty()).then_some(sparse)
    }

    /// How long until the cores are to be told of files, if that is put off.
    pub(super) fn pause(&self, now: u64) -> Option<Duration> {
        (!self.sparse.is_empty()).then(|| Duration::from_millis(self.move_from.saturating_sub(now)))
    }

    fn park(&mut self, parks: Vec<Park>) -> Vec<(u64, Option<Chunk>)> {
        let records = parks.iter().map(|park| (park.messages, &*park.records));
        let written = self.append(records).unwrap_or_else(|error| {
            warn!(folder = %self.folder.display(), %error, "queues of Clients that are away stay in memory: they could not be written");
            Vec::new()
        });
        let written = written.into_iter().map(Some).chain(std::iter::repeat(None));
        parks.iter().zip(written).map(|(park, chunk)| (park.ticket, chunk)).collect()
    }

    /// Writes chunks of these messages and records to the current file, or to a new one.
    fn append<'r>(&mut self, all: impl Iterator<Item = (u32, &'r [u8])>) -> io::Result<Vec<Chunk>> {
        let is_long = |number: u64| self.files.get(&number).is_some_and(|file| file.bytes >= FILE_BYTES);
        if self.current.as_ref().is_some_and(|&(number, _)| is_long(number)) {
            self.finish_current();
        }
        if self.current.is_none() {
            let number = self.next;
            self.next += 1;
            self.current = Some((number, make(&self.folder, number)?));
            self.files.insert(number, Needed::default());
            if let Some(mark) = self.mark.take() {
                remove(&self.folder, mark);
            }
        }
        let (number, to) = self.current.as_ref().expect("made above");
        let known = self.files.get_mut(number).expect("it is there as long as it is current");
        let mut bytes = Vec::new();
        let mut put = |(messages, records): (u32, &[u8])| {
            let place = (*number, known.bytes + bytes.len() as u64);
            put_chunk(&mut bytes, self.key, place, messages, records)
        };
        let chunks: Vec<Chunk> = all.map(&mut put).collect();
        if let Err(error) = to.write_all_at(&bytes, known.bytes).and_then(|()| to.sync_data()) {
            // What of it is on the disk nobody knows.
            self.finish_current();
            return Err(error);
        }
        known.bytes += bytes.len() as u64;
        known.chunks += chunks.len() as u64;
        known.live += bytes.len() as u64;
        Ok(chunks)
    }

    fn load(&self, chunk: Chunk) -> io::Result<Loaded> {
        let error = match read(&self.folder, self.key, chunk) {
            Ok(messages) => return Ok(Loaded::Messages(messages)),
            Err(Unread::Damaged(error)) => error,
            Err(Unread::Withheld(error)) => {
                return Ok(Loaded::Unreadable(format!(
                    "{error}. Look after the disk, and who may read this file"
                )));
            }
            Err(Unread::Short(error)) => return Err(error),
        };
        if !self.salvage {
            return Ok(Loaded::Unreadable(format!(
                "{error}. Stop the broker; then \"mqttd store check\" says what else is damaged, and \"mqttd store repair \
                 --salvage\" gives up what cannot be read (on_damage = \"salvage\" in [store] does so at once)"
            )));
        }
        let messages = chunk.messages;
        error!("{error}: {messages} messages that wait for a Client that was away cannot be read");
        Ok(Loaded::Lost)
    }

    /// Copies chunks to the current file. Where one cannot be read, it is for the one who wants its messages to say so.
    fn relocate(&mut self, moves: &[(u64, Chunk)], now: u64) -> Vec<(u64, Option<Chunk>)> {
        if now < self.move_from {
            self.tell_again(moves);
            return moves.iter().map(|&(ticket, _)| (ticket, None)).collect();
        }
        let (mut records, mut is_short) = (Vec::new(), false);
        for &(ticket, chunk) in moves {
            let read = read_bytes(&self.folder, chunk).and_then(|bytes| {
                chunk_records(&bytes, self.key, chunk)
                    .map(<[u8]>::to_vec)
                    .map_err(|error| Unread::Damaged(failed(&self.folder, chunk, &error)))
            });
            match read {
                Ok(read) => records.push((ticket, chunk.messages, read)),
                // It was over before its turn came.
                Err(_) if !self.files.contains_key(&chunk.file) => {}
                Err(error) => {
                    is_short |= matches!(error, Unread::Short(_));
                    warn!(%error, "messages that wait for a Client that is away stay where they are")
                }
            }
        }
        let written = self.append(records.iter().map(|(_, messages, records)| (*messages, &**records)));
        let written = written.unwrap_or_else(|error| {
            warn!(folder = %self.folder.display(), %error, "files that are hardly needed stay: what is could not be moved");
            is_short = true;
            Vec::new()
        });
        if is_short {
            self.move_from = now + RETRY_MILLIS;
            self.tell_again(moves);
        }
        let mut copies: BTreeMap<u64, Chunk> =
            records.iter().map(|&(ticket, ..)| ticket).zip(written).collect();
        moves.iter().map(|&(ticket, _)| (ticket, copies.remove(&ticket))).collect()
    }

    /// The files of these chunks are to be emptied later.
    fn tell_again(&mut self, moves: &[(u64, Chunk)]) {
        for (_, chunk) in moves {
            if let Some(needed) = self.files.get_mut(&chunk.file)
                && std::mem::take(&mut needed.is_told)
            {
                self.sparse.push(chunk.file);
            }
        }
    }

    fn release(&mut self, chunk: Chunk) {
        let Some(needed) = self.files.get_mut(&chunk.file) else { return };
        needed.chunks -= 1;
        needed.live -= u64::from(chunk.bytes);
        if self.current.as_ref().is_none_or(|&(number, _)| number != chunk.file) {
            self.look_at(chunk.file);
        }
    }

    /// No more is appended to the current file.
    fn finish_current(&mut self) {
        if let Some((number, _)) = self.current.take() {
            self.look_at(number);
        }
    }

    /// A file that is not appended to goes if it is not needed, and is to be emptied if little of it is.
    fn look_at(&mut self, number: u64) {
        match self.files.get(&number) {
            Some(needed) if needed.chunks == 0 => self.remove(number),
            Some(needed) if needed.is_sparse() && !self.sparse.contains(&number) => self.sparse.push(number),
            _ => {}
        }
    }

    fn remove(&mut self, number: u64) {
        self.files.remove(&number);
        if self.mark.max(self.files.keys().next_back().copied()) > Some(number) {
            return remove(&self.folder, number);
        }
        self.mark = Some(number);
        stays(&self.folder, number, empty(&self.folder, number));
    }
}

fn remove(folder: &Path, number: u64) {
    stays(folder, number, fs::remove_file(file(folder, number)));
}

/// What cannot be removed now is at the next start.
fn stays(folder: &Path, number: u64, removed: io::Result<()>) {
    if let Err(error) = removed {
        let path = file(folder, number);
        warn!(path = %path.display(), %error, "a file that is not needed any more stays");
    }
}

/// Puts an empty file in the place of one, which may have another name elsewhere and is itself left as it is.
fn empty(folder: &Path, number: u64) -> io::Result<()> {
    let path = file(folder, number);
    if fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
        return Ok(());
    }
    let new = path.with_extension("new");
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    fs::rename(&new, &path)
}

/// Puts the files that none of `images` needs, which the next start removes, into the folder `aside` too: they belong to what
/// was damaged, and cost nothing as long as both have them.
///
/// # Errors
/// The system refuses it.
pub(super) fn keep_unnamed(directory: &Path, aside: &Path, images: &[Image]) -> Result<(), StoreError> {
    let (from, to) = (folder(directory), folder(aside));
    let named: BTreeSet<u64> = images.iter().flat_map(Image::chunks).map(|chunk| chunk.file).collect();
    let keep = || {
        let mut unnamed = numbers(&from)?;
        unnamed.retain(|number| !named.contains(number));
        if unnamed.is_empty() {
            return Ok(());
        }
        make_folder(&to)?;
        for number in unnamed {
            let (old, new) = (file(&from, number), file(&to, number));
            // Not every file system has a second name for a file, and it may have got it before.
            let moved = || fs::rename(&old, &new).and_then(|()| empty(&from, number));
            fs::hard_link(&old, &new).or_else(|_| moved())?;
        }
        sync_folder(&to)
    };
    keep().map_err(StoreError::system("keep what belongs to damaged files in", &to))
}

/// The messages of a chunk in the data directory `directory`.
///
/// # Errors
/// It cannot be read.
pub(super) fn read_in(directory: &Path, key: [u64; 2], chunk: Chunk) -> Result<Vec<Delivery>, Unread> {
    read(&folder(directory), key, chunk)
}

fn read(folder: &Path, key: [u64; 2], chunk: Chunk) -> Result<Vec<Delivery>, Unread> {
    let bytes = read_bytes(folder, chunk)?;
    read_chunk(&bytes, key, chunk).map_err(|error| Unread::Damaged(failed(folder, chunk, &error)))
}

fn read_bytes(folder: &Path, chunk: Chunk) -> Result<Vec<u8>, Unread> {
    let read = || {
        let file = File::open(file(folder, chunk.file))?;
        // A reference that is wrong takes no memory.
        if file.metadata()?.len() < chunk.offset + u64::from(chunk.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; chunk.bytes as usize];
        file.read_exact_at(&mut bytes, chunk.offset)?;
        io::Result::Ok(bytes)
    };
    read().map_err(|error| {
        let what = failed(folder, chunk, &error);
        match error.kind() {
            _ if is_passing(&error) => Unread::Short(error),
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => Unread::Damaged(what),
            _ => Unread::Withheld(what),
        }
    })
}

fn failed(folder: &Path, chunk: Chunk, error: &dyn fmt::Display) -> String {
    let path = file(folder, chunk.file);
    format!("{}: {} bytes from byte {} on: {error}", path.display(), chunk.bytes, chunk.offset)
}

pub(super) fn folder(directory: &Path) -> PathBuf {
    directory.join("cold")
}

pub(super) fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}"))
}

/// A new file, whose name is on the disk.
fn make(folder: &Path, number: u64) -> io::Result<File> {
    make_folder(folder)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file(folder, number))?;
    sync_folder(folder)?;
    Ok(file)
}

fn make_folder(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        DirBuilder::new().mode(0o700).create(folder)?;
        sync_folder(folder.parent().unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// The numbers of the files there are.
fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests;
