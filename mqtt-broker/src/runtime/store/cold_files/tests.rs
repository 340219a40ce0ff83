//! Files of chunks in a directory of a test's own.

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

impl Place {
    fn len(&self, number: u64) -> u64 {
        fs::metadata(file(&folder(&self.0), number)).expect("it is there").len()
    }

    /// Changes the last byte of a chunk.
    fn damage(&self, chunk: Chunk) {
        let path = file(&folder(&self.0), chunk.file);
        let to = OpenOptions::new().write(true).open(path).expect("it is there");
        to.write_all_at(&[0xFF], chunk.offset + u64::from(chunk.bytes) - 1).expect("written");
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
    let Ok(Some(ColdDone::Parked(all))) = files.handle(ColdJob::Park(parks), 0) else { panic!("no answer") };
    assert!(all.iter().map(|(ticket, _)| *ticket).eq(1..=payloads.len() as u64));
    all.into_iter().map(|(_, chunk)| chunk.expect("written")).collect()
}

fn loaded(files: &mut ColdFiles, chunk: Chunk) -> Option<Vec<u8>> {
    match files.handle(ColdJob::Load(7, chunk), 0) {
        Ok(Some(ColdDone::Loaded(7, Loaded::Messages(messages)))) => {
            Some(messages[0].message.as_ref().payload.to_vec())
        }
        Ok(Some(ColdDone::Loaded(7, _))) => None,
        _ => panic!("no answer"),
    }
}

fn released(files: &mut ColdFiles, chunks: &[Chunk]) {
    assert!(files.handle(ColdJob::Release(chunks.to_vec()), 0).is_ok_and(|done| done.is_none()));
}

fn moved(files: &mut ColdFiles, now: u64, chunks: &[Chunk]) -> Vec<Option<Chunk>> {
    let moves = (1..).zip(chunks.iter().copied()).collect();
    let Ok(Some(ColdDone::Moved(all))) = files.handle(ColdJob::Move(moves), now) else { panic!("no answer") };
    assert!(all.iter().map(|(ticket, _)| *ticket).eq(1..=chunks.len() as u64));
    all.into_iter().map(|(_, chunk)| chunk).collect()
}

/// An image with a session that refers to these chunks.
fn image(chunks: &[Chunk]) -> Image {
    let mut image = Image::new([1, 2, 3, 4]);
    let opened = Record::Opened { client_id: "c", expiry_seconds: u32::MAX, next_packet_id: PacketId::FIRST };
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
    released(&mut files, &first[..2]);
    assert_eq!(place.files(), [1, 2]);
    released(&mut files, &[first[2], second[0]]);
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
    assert_eq!((place.files(), place.len(2)), (vec![1, 2], 0), "nobody needs the second");
    released(&mut files, &chunks[1..]);
    assert_eq!((place.files(), place.len(2)), (vec![2], 0), "it keeps its number taken");
}

/// A session may name a place that was another's, where salvage has lost what said that it is over.
#[test]
fn no_place_is_given_to_two_chunks_whatever_was_removed_and_started() {
    let place = Place::new();
    let mut given = std::collections::BTreeSet::new();
    let mut files = place.open(&[], false).expect("a new one");
    for start in 0..6 {
        let chunks = parked(&mut files, &[b"one", b"two"]);
        assert!(chunks.iter().all(|chunk| given.insert(chunk.place())), "{chunks:?} of {given:?}");
        match start % 3 {
            // All of it is over at the start, or before, or was current until then.
            0 => {}
            1 => {
                files = place.open(&[image(&chunks)], false).expect("all is there");
                released(&mut files, &chunks);
                assert_eq!(loaded(&mut files, chunks[0]), None);
            }
            _ => {
                parked(&mut files, &[&vec![7; FILE_BYTES as usize]]);
                parked(&mut files, &[b"in the next file"])
                    .iter()
                    .for_each(|chunk| _ = given.insert(chunk.place()));
                released(&mut files, &chunks);
            }
        }
        files = place.open(&[], false).expect("nothing is needed");
        assert_eq!(place.files().iter().map(|&number| place.len(number)).collect::<Vec<_>>(), [0]);
    }
}

#[test]
fn a_file_that_is_cut_or_missing_is_refused_until_what_was_there_is_given_up() {
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
        let (lost, are) = if len.is_some() { ("1 message", "is") } else { ("2 messages", "are") };
        let line = format!("{lost} that waited for \"c\" {are} gone");
        let refused = refused.to_string();
        assert!(refused.contains("000000000001") && refused.contains(&line), "{refused}");
        let mut left = image(&chunks);
        let told = cold_losses::give_up_missing(&place.0, [&mut left]).expect("it may be looked at");
        assert!(told.len() == 1 && refused.contains(&told[0]), "{told:?}");
        assert!(left.chunks().eq(chunks.iter().copied().take(usize::from(len.is_some()))));
        let mut files = place.open(&[left], true).expect("it keeps what it can");
        assert_eq!(loaded(&mut files, chunks[0]).is_some(), len.is_some());
    }
}

#[test]
fn where_nothing_can_be_written_the_answer_says_so_and_it_is_tried_anew() {
    let place = Place::new();
    let mut files = place.open(&[], false).expect("a new one");
    // A file stands where the folder should be.
    fs::write(folder(&place.0), b"").expect("written");
    let Ok(Some(ColdDone::Parked(all))) = files.handle(ColdJob::Park(vec![park(5, b"one")]), 0) else {
        panic!("no answer")
    };
    assert_eq!(all, [(5, None)]);
    fs::remove_file(folder(&place.0)).expect("it is there");
    let chunks = parked(&mut files, &[b"one"]);
    assert_eq!(loaded(&mut files, chunks[0]).as_deref(), Some(&b"one"[..]));
}
/// Nine in ten chunks are over, all over the files: what the files take comes down to what is needed.
#[test]
fn files_of_which_little_is_needed_are_emptied() {
    let place = Place::new();
    let mut files = place.open(&[], false).expect("a new one");
    let payload = vec![7; FILE_BYTES as usize / 10];
    let chunks: Vec<Chunk> = (0..100).flat_map(|_| parked(&mut files, &[&payload])).collect();
    let bytes = || place.files().iter().map(|&number| place.len(number)).sum::<u64>();
    let before = bytes();
    assert_eq!((place.files().len(), files.poll_sparse(0)), (10, None));
    let (over, left): (Vec<_>, Vec<_>) = (0..).zip(chunks).partition(|(nth, _)| nth % 10 > 0);
    let [over, left] = [over, left].map(|all| all.into_iter().map(|(_, chunk)| chunk).collect::<Vec<_>>());
    released(&mut files, &over[..36]);
    assert_eq!(files.poll_sparse(0), Some(vec![1, 2, 3, 4]));
    assert_eq!(files.poll_sparse(0), None, "they were told");
    released(&mut files, &over[36..]);
    assert_eq!(files.poll_sparse(0), Some((5..=9).collect()), "to the last is still appended");
    let copies = moved(&mut files, 0, &left[..9]);
    released(&mut files, &left[..9]);
    let copies: Vec<Chunk> = copies.into_iter().map(|copy| copy.expect("there is room")).collect();
    assert!(copies.iter().all(|&copy| loaded(&mut files, copy) == Some(payload.clone())));
    assert!(place.files().len() <= 2 && bytes() < before / 5, "{:?}: {}", place.files(), bytes());
    drop(files);
    let needed = [copies, left[9..].to_vec()].concat();
    let mut files = place.open(&[image(&needed)], false).expect("all is there");
    assert!(needed.iter().all(|&chunk| loaded(&mut files, chunk).is_some()));
}

/// A start finds out by itself which files are hardly needed.
#[test]
fn a_start_tells_of_files_of_which_little_is_needed() {
    let place = Place::new();
    let chunks = parked(&mut place.open(&[], false).expect("a new one"), &[b"one", b"two", b"three"]);
    for (needed, sparse) in [(&chunks[..1], Some(vec![1])), (&chunks[1..], None)] {
        let mut files = place.open(&[image(needed)], false).expect("all is there");
        assert_eq!(files.poll_sparse(0), sparse);
    }
}

#[test]
fn what_cannot_be_moved_stays_and_is_tried_again_later() {
    let place = Place::new();
    let chunks = parked(&mut place.open(&[], false).expect("a new one"), &[b"one", b"two", b"three"]);
    let mut files = place.open(&[image(&chunks[..1])], false).expect("all is there");
    assert_eq!(files.poll_sparse(0), Some(vec![1]));
    // The name of the next file is taken.
    let next = file(&folder(&place.0), 2);
    fs::create_dir(&next).expect("made");
    assert_eq!(moved(&mut files, 1, &chunks[..1]), [None]);
    fs::remove_dir(&next).expect("it is there");
    assert_eq!(files.poll_sparse(RETRY_MILLIS), None, "not so soon");
    assert_eq!(files.pause(RETRY_MILLIS), Some(Duration::from_millis(1)));
    assert_eq!(moved(&mut files, RETRY_MILLIS, &chunks[..1]), [None]);
    assert_eq!(files.poll_sparse(RETRY_MILLIS + 1), Some(vec![1]));
    assert!(moved(&mut files, RETRY_MILLIS + 1, &chunks[..1])[0].is_some());
    // One that is over before its turn comes, and one that does not verify.
    released(&mut files, &chunks[..1]);
    assert_eq!(moved(&mut files, RETRY_MILLIS + 1, &chunks[..1]), [None]);
    let others = parked(&mut files, &[b"four", b"five"]);
    place.damage(others[0]);
    let copies = moved(&mut files, RETRY_MILLIS + 1, &others);
    assert!(copies[0].is_none() && copies[1].is_some(), "{copies:?}");
}

/// Acknowledged messages are not passed over unless somebody wants that.
#[test]
fn a_chunk_that_does_not_verify_stays_unless_it_is_to_be_salvaged() {
    let place = Place::new();
    let chunks = parked(&mut place.open(&[], false).expect("a new one"), &[b"one", b"two"]);
    place.damage(chunks[1]);
    for salvage in [false, true] {
        let mut files = place.open(&[image(&chunks)], salvage).expect("they are long enough");
        assert_eq!(loaded(&mut files, chunks[0]).as_deref(), Some(&b"one"[..]));
        match files.handle(ColdJob::Load(1, chunks[1]), 0) {
            Ok(Some(ColdDone::Loaded(1, Loaded::Unreadable(what)))) => {
                assert!(!salvage && what.contains("000000000001") && what.contains("repair"), "{what}");
                assert!(what.contains(&format!("from byte {} on", chunks[1].offset)), "{what}");
            }
            done => assert!(salvage && matches!(done, Ok(Some(ColdDone::Loaded(1, Loaded::Lost))))),
        }
        assert_eq!(place.files(), [1]);
    }
}

/// An error of the system says nothing of what is there: nothing is given up for it.
#[test]
fn a_chunk_that_the_system_withholds_is_not_salvaged() {
    let place = Place::new();
    let chunks = parked(&mut place.open(&[], false).expect("a new one"), &[b"one"]);
    let mut files = place.open(&[image(&chunks)], true).expect("all is there");
    let (path, aside) = (file(&folder(&place.0), 1), place.0.join("aside"));
    fs::rename(&path, &aside).expect("moved");
    std::os::unix::fs::symlink(&path, &path).expect("a link to itself");
    let done = files.handle(ColdJob::Load(1, chunks[0]), 0);
    assert!(matches!(done, Ok(Some(ColdDone::Loaded(1, Loaded::Unreadable(_))))), "it is kept");
    fs::rename(&aside, &path).expect("moved back");
    assert_eq!(loaded(&mut files, chunks[0]).as_deref(), Some(&b"one"[..]));
}
