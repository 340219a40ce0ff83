//! The files of chunks: what waits for Clients that are away and is not in memory.
//!
//! ```text
//! DIRECTORY/cold/000000000001     chunks of any core's sessions, one behind the other
//! ```
//!
//! All cores' chunks go to one file, which is only appended to, by the thread that keeps the store; what a turn of a core
//! asks for is synced at once. When a file is long enough another one is begun; one of which no chunk is needed any more
//! is removed. They belong to the directory and not to a layout: a chunk stays where it is whatever core its session is at
//! home on.
//!
//! Invariant: a chunk is on the disk before the log tells of it, and until the log has told that it is over.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tracing::{error, warn};

use super::StoreError;
use super::files::sync_folder;
use crate::ports::{Cold, Commit};
use crate::shard::{Now, Shard};
use crate::store::cold::{Chunk, put_chunk, read_chunk};
use crate::store::image::{Delivery, Image};

/// Bytes from which on a file is not appended to any more. It stays as long as one chunk in it is needed.
const FILE_BYTES: u64 = 16 << 20;

/// What a shard has asked for and is not done yet.
#[derive(Default)]
pub(super) struct Asks {
    parks: Vec<Park>,
    loads: Vec<(u64, Chunk)>,
    /// With the record up to which the log has to be durable before they go.
    released: Vec<(Chunk, u64)>,
}

/// A chunk that is to be written.
pub(super) struct Park {
    ticket: u64,
    messages: u32,
    records: Vec<u8>,
}

/// What the thread is to do.
pub(super) enum ColdJob {
    Park(Vec<Park>),
    Load(u64, Chunk),
    /// Nobody needs these any more.
    Release(Vec<Chunk>),
}

/// What was done, under the tickets that it was asked for with.
pub(in crate::runtime) enum ColdDone {
    Parked(Vec<(u64, Option<Chunk>)>),
    Loaded(u64, Option<Vec<Delivery>>),
}

impl ColdDone {
    /// Tells the shard.
    pub(in crate::runtime) fn tell(self, shard: &mut Shard, now: Now) {
        match self {
            ColdDone::Parked(all) => {
                all.into_iter().for_each(|(ticket, chunk)| shard.chunk_parked(ticket, chunk, now));
            }
            ColdDone::Loaded(ticket, messages) => shard.chunk_loaded(ticket, messages, now),
        }
    }
}

impl Asks {
    /// What is to be done now that the log is durable up to the record `committed`.
    pub(super) fn take(&mut self, committed: u64) -> impl Iterator<Item = ColdJob> {
        let parks = std::mem::take(&mut self.parks);
        let over: Vec<Chunk> = self
            .released
            .extract_if(.., |(_, position)| *position <= committed)
            .map(|(chunk, _)| chunk)
            .collect();
        let parks = (!parks.is_empty()).then_some(ColdJob::Park(parks));
        let over = (!over.is_empty()).then_some(ColdJob::Release(over));
        let loads = std::mem::take(&mut self.loads).into_iter();
        parks.into_iter().chain(loads.map(|(ticket, chunk)| ColdJob::Load(ticket, chunk))).chain(over)
    }
}

/// The port for a shard.
pub(super) struct ColdPort(pub(super) Rc<RefCell<Asks>>);

impl Cold for ColdPort {
    fn park(&mut self, ticket: u64, messages: u32, records: Vec<u8>) {
        self.0.borrow_mut().parks.push(Park { ticket, messages, records });
    }

    fn load(&mut self, ticket: u64, chunk: Chunk) {
        self.0.borrow_mut().loads.push((ticket, chunk));
    }

    fn release(&mut self, chunk: Chunk, commit: Commit) {
        let position = match commit {
            Commit::Now => 0,
            Commit::At(position) => position,
        };
        self.0.borrow_mut().released.push((chunk, position));
    }
}

/// The files.
pub(in crate::runtime) struct ColdFiles {
    folder: PathBuf,
    /// In every checksum.
    key: [u64; 2],
    /// Chunks that are needed, by file. Those of sessions that ended while the broker was down count until the next start.
    needed: BTreeMap<u64, u64>,
    /// The file that is appended to, and its bytes.
    current: Option<(u64, File, u64)>,
    /// The number of the next file.
    next: u64,
}

impl ColdFiles {
    /// Opens the files of the data directory `directory`, and removes those that none of the images needs.
    ///
    /// # Errors
    /// The system refuses something, or a file that is needed is missing or too short, unless that is to be `salvaged`.
    pub(super) fn open(
        directory: &Path,
        key: [u64; 2],
        images: &[Image],
        salvage: bool,
    ) -> Result<ColdFiles, StoreError> {
        let folder = folder(directory);
        let (mut needed, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for chunk in images
            .iter()
            .flat_map(Image::sessions)
            .filter_map(|session| session.parked())
            .flat_map(|parked| parked.chunks())
        {
            *needed.entry(chunk.file).or_insert(0) += 1;
            let end: &mut u64 = ends.entry(chunk.file).or_default();
            *end = (*end).max(chunk.offset + u64::from(chunk.bytes));
        }
        let mut next = needed.keys().next_back().map_or(1, |last| last + 1);
        let there = numbers(&folder).map_err(StoreError::system("list", &folder))?;
        for number in there {
            next = next.max(number + 1);
            if !needed.contains_key(&number) {
                let path = file(&folder, number);
                fs::remove_file(&path).map_err(StoreError::system("remove", &path))?;
            }
        }
        for (&number, &end) in &ends {
            let path = file(&folder, number);
            let what = match fs::metadata(&path) {
                Ok(found) if found.len() >= end => continue,
                Ok(found) => format!("{} of {end} bytes are left", found.len()),
                Err(error) => error.to_string(),
            };
            let what =
                format!("{}: {what}: messages that wait for Clients that are away are gone", path.display());
            if !salvage {
                return Err(StoreError::Cold { what });
            }
            error!("{what}");
        }
        Ok(ColdFiles { folder, key, needed, current: None, next })
    }

    /// Does what is to be done; the answer, if one is waited for.
    pub(super) fn handle(&mut self, job: ColdJob) -> Option<ColdDone> {
        match job {
            ColdJob::Park(parks) => Some(ColdDone::Parked(self.park(parks))),
            ColdJob::Load(ticket, chunk) => Some(ColdDone::Loaded(ticket, self.load(chunk))),
            ColdJob::Release(chunks) => {
                chunks.into_iter().for_each(|chunk| self.release(chunk));
                None
            }
        }
    }

    fn park(&mut self, parks: Vec<Park>) -> Vec<(u64, Option<Chunk>)> {
        match self.write(&parks) {
            Ok(chunks) => parks.iter().zip(chunks).map(|(park, chunk)| (park.ticket, Some(chunk))).collect(),
            Err(error) => {
                warn!(folder = %self.folder.display(), %error, "queues of Clients that are away stay in memory: they could not be written");
                // What of it is on the disk nobody knows.
                self.finish_current();
                parks.iter().map(|park| (park.ticket, None)).collect()
            }
        }
    }

    fn write(&mut self, parks: &[Park]) -> io::Result<Vec<Chunk>> {
        if self.current.as_ref().is_some_and(|&(_, _, len)| len >= FILE_BYTES) {
            self.finish_current();
        }
        if self.current.is_none() {
            let number = self.next;
            self.next += 1;
            self.current = Some((number, make(&self.folder, number)?, 0));
        }
        let (number, file, len) = self.current.as_mut().expect("made above");
        let mut bytes = Vec::new();
        let chunks: Vec<Chunk> = parks
            .iter()
            .map(|park| {
                let offset = *len + bytes.len() as u64;
                put_chunk(&mut bytes, self.key, (*number, offset), park.messages, &park.records)
            })
            .collect();
        file.write_all_at(&bytes, *len)?;
        file.sync_data()?;
        *len += bytes.len() as u64;
        *self.needed.entry(*number).or_insert(0) += chunks.len() as u64;
        Ok(chunks)
    }

    fn load(&self, chunk: Chunk) -> Option<Vec<Delivery>> {
        match read(&self.folder, self.key, chunk) {
            Ok(messages) => Some(messages),
            Err(error) => {
                error!(%error, "messages that waited for a Client that was away cannot be read");
                None
            }
        }
    }

    fn release(&mut self, chunk: Chunk) {
        let Some(count) = self.needed.get_mut(&chunk.file) else { return };
        *count -= 1;
        if *count == 0 && self.current.as_ref().is_none_or(|&(number, ..)| number != chunk.file) {
            self.remove(chunk.file);
        }
    }

    /// No more is appended to the current file.
    fn finish_current(&mut self) {
        if let Some((number, ..)) = self.current.take()
            && self.needed.get(&number).is_none_or(|&count| count == 0)
        {
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        self.needed.remove(&number);
        let path = file(&self.folder, number);
        if let Err(error) = fs::remove_file(&path) {
            // The next start tries again.
            warn!(path = %path.display(), %error, "a file that is not needed any more stays");
        }
    }
}

/// The messages of a chunk in the data directory `directory`.
///
/// # Errors
/// It cannot be read, in words.
pub(super) fn read_in(directory: &Path, key: [u64; 2], chunk: Chunk) -> Result<Vec<Delivery>, String> {
    read(&folder(directory), key, chunk)
}

fn read(folder: &Path, key: [u64; 2], chunk: Chunk) -> Result<Vec<Delivery>, String> {
    let path = file(folder, chunk.file);
    let failed = |error: &dyn std::fmt::Display| {
        format!("{}: {} bytes from byte {} on: {error}", path.display(), chunk.bytes, chunk.offset)
    };
    let read = || {
        let file = File::open(&path)?;
        // A reference that is wrong takes no memory.
        if file.metadata()?.len() < chunk.offset + u64::from(chunk.bytes) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; chunk.bytes as usize];
        file.read_exact_at(&mut bytes, chunk.offset)?;
        io::Result::Ok(bytes)
    };
    let bytes = read().map_err(|error| failed(&error))?;
    read_chunk(&bytes, key, chunk).map_err(|error| failed(&error))
}

fn folder(directory: &Path) -> PathBuf {
    directory.join("cold")
}

fn file(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:012}"))
}

/// A new file, whose name is on the disk.
fn make(folder: &Path, number: u64) -> io::Result<File> {
    if !folder.exists() {
        DirBuilder::new().mode(0o700).create(folder)?;
        sync_folder(folder.parent().unwrap_or(Path::new(".")))?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file(folder, number))?;
    sync_folder(folder)?;
    Ok(file)
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
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use mqtt_proto::types::{PacketId, Qos, TopicName};

    use super::*;
    use crate::message::MessageRef;
    use crate::store::cold::ChunkWriter;
    use crate::store::record::{Identifiers, Record};

    const KEY: [u64; 2] = [3, 4];

    /// A data directory of a test's own, removed when dropped.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("mqtt-cold-{}-{count}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).expect("the temporary folder is writable");
            Place(path)
        }

        fn open(&self, images: &[Image], salvage: bool) -> Result<ColdFiles, StoreError> {
            ColdFiles::open(&self.0, KEY, images, salvage)
        }

        fn files(&self) -> Vec<u64> {
            let mut numbers = numbers(&folder(&self.0)).expect("listed");
            numbers.sort_unstable();
            numbers
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn park(ticket: u64, payload: &[u8]) -> Park {
        let mut writer = ChunkWriter::default();
        let (topic, qos, retain) = (TopicName::new("a").expect("a topic"), Qos::AtLeastOnce, false);
        let message = MessageRef { topic, properties: &[], payload, qos, retain, expires_at: None };
        let identifiers = Identifiers::EMPTY;
        writer.append(
            &Record::Message { message, publisher: 0, shared: false },
            &Record::Enqueued { client_id: "c", qos, retain, identifiers, packet_id: None },
        );
        let (messages, records) = writer.finish();
        Park { ticket, messages, records }
    }

    fn parked(files: &mut ColdFiles, payloads: &[&[u8]]) -> Vec<Chunk> {
        let parks = (1..).zip(payloads).map(|(ticket, payload)| park(ticket, payload)).collect();
        let Some(ColdDone::Parked(all)) = files.handle(ColdJob::Park(parks)) else { panic!("no answer") };
        assert!(all.iter().map(|(ticket, _)| *ticket).eq(1..=payloads.len() as u64));
        all.into_iter().map(|(_, chunk)| chunk.expect("written")).collect()
    }

    fn loaded(files: &mut ColdFiles, chunk: Chunk) -> Option<Vec<u8>> {
        let Some(ColdDone::Loaded(7, messages)) = files.handle(ColdJob::Load(7, chunk)) else {
            panic!("no answer")
        };
        messages.map(|messages| messages[0].message.as_ref().payload.to_vec())
    }

    /// An image with a session that refers to these chunks.
    fn image(chunks: &[Chunk]) -> Image {
        let mut image = Image::new([1, 2, 3, 4]);
        let opened =
            Record::Opened { client_id: "c", expiry_seconds: u32::MAX, next_packet_id: PacketId::FIRST };
        image.apply(1, &opened).expect("it keeps no message");
        for (seq, &chunk) in (2..).zip(chunks) {
            image.apply(seq, &Record::Parked { client_id: "c", chunk }).expect("it keeps no message");
        }
        image
    }

    #[test]
    fn chunks_are_read_back_and_a_file_goes_with_the_last_that_is_needed() {
        let place = Place::new();
        let mut files = place.open(&[], false).expect("a new one");
        let large = vec![7; FILE_BYTES as usize];
        let first = parked(&mut files, &[b"one", b"two", &large]);
        let second = parked(&mut files, &[b"three"]);
        assert_eq!(place.files(), [1, 2], "the first is long enough");
        assert_eq!(loaded(&mut files, first[1]).as_deref(), Some(&b"two"[..]));
        assert_eq!(loaded(&mut files, second[0]).as_deref(), Some(&b"three"[..]));
        files.handle(ColdJob::Release(first[..2].to_vec()));
        assert_eq!(place.files(), [1, 2]);
        files.handle(ColdJob::Release(vec![first[2], second[0]]));
        assert_eq!(place.files(), [2], "to which is still appended");
        assert_eq!(loaded(&mut files, first[0]), None);
    }

    #[test]
    fn a_start_keeps_what_is_needed_and_goes_on_in_another_file() {
        let place = Place::new();
        let mut files = place.open(&[], false).expect("a new one");
        let chunks = parked(&mut files, &[b"one", b"two"]);
        drop(files);
        let image = image(&chunks[1..]);
        let mut files = place.open(std::slice::from_ref(&image), false).expect("all is there");
        let more = parked(&mut files, &[b"three"]);
        assert_eq!((more[0].file, place.files()), (2, vec![1, 2]));
        assert_eq!(loaded(&mut files, chunks[1]).as_deref(), Some(&b"two"[..]));
        drop(files);
        let mut files = place.open(&[image], false).expect("all is there");
        assert_eq!(place.files(), [1], "nobody needs the second");
        files.handle(ColdJob::Release(vec![chunks[1]]));
        assert!(place.files().is_empty());
    }

    #[test]
    fn a_file_that_is_cut_or_missing_is_refused_unless_it_is_to_be_salvaged() {
        let place = Place::new();
        let chunks = parked(&mut place.open(&[], false).expect("a new one"), &[b"one", b"two"]);
        let path = file(&folder(&place.0), 1);
        let whole = fs::metadata(&path).expect("it is there").len();
        let cut = OpenOptions::new().write(true).open(&path).expect("it is there");
        for len in [Some(whole - 1), None] {
            match len {
                Some(len) => cut.set_len(len).expect("it can be cut"),
                None => fs::remove_file(&path).expect("it is there"),
            }
            let refused = place.open(&[image(&chunks)], false).err().expect("something is gone");
            assert!(refused.to_string().contains("000000000001"), "{refused}");
            let mut files = place.open(&[image(&chunks)], true).expect("it keeps what it can");
            let first = loaded(&mut files, chunks[0]);
            assert_eq!((first.is_some(), loaded(&mut files, chunks[1])), (len.is_some(), None));
        }
    }

    #[test]
    fn where_nothing_can_be_written_the_answer_says_so_and_it_is_tried_anew() {
        let place = Place::new();
        let mut files = place.open(&[], false).expect("a new one");
        // A file stands where the folder should be.
        fs::write(folder(&place.0), b"").expect("written");
        let Some(ColdDone::Parked(all)) = files.handle(ColdJob::Park(vec![park(5, b"one")])) else {
            panic!("no answer")
        };
        assert_eq!(all, [(5, None)]);
        fs::remove_file(folder(&place.0)).expect("it is there");
        let chunks = parked(&mut files, &[b"one"]);
        assert_eq!(loaded(&mut files, chunks[0]).as_deref(), Some(&b"one"[..]));
    }

    #[test]
    fn a_chunk_that_is_over_goes_once_the_log_says_so() {
        let asks = Rc::new(RefCell::new(Asks::default()));
        let mut port = ColdPort(Rc::clone(&asks));
        let chunk = |offset| Chunk { file: 1, offset, bytes: 100, messages: 1 };
        port.release(chunk(0), Commit::At(5));
        port.release(chunk(1), Commit::Now);
        let taken = |committed| -> Vec<Chunk> {
            let mut asks = asks.borrow_mut();
            let chunks = asks.take(committed).flat_map(|job| match job {
                ColdJob::Release(chunks) => chunks,
                _ => panic!("nothing else was asked for"),
            });
            chunks.collect()
        };
        assert_eq!(taken(0), [chunk(1)], "one that the log never told of");
        assert_eq!(taken(4), []);
        assert_eq!(taken(5), [chunk(0)]);
    }
}
