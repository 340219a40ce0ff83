//! The data directory from start to start, driven without a broker: what was committed is there, whatever happened between.

use std::fs;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{PacketId, Qos, TopicName};

use super::directory::Directory;
use super::{OfflineStore, OnDamage, Restored, StoreConfig, StoreError, Stored, layout, open, recover};
use crate::message::MessageRef;
use crate::shard::home_of;
use crate::store::cold::{Chunk, ChunkWriter, put_chunk};
use crate::store::image::Home;
use crate::store::log::PAGE;
use crate::store::record::{Identifiers, Record};

const SEED: [u64; 4] = [1, 2, 3, 4];

/// A directory of a test's own, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mqtt-store-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Place(path)
    }

    fn config(&self) -> StoreConfig {
        let mut config = StoreConfig::new(&self.0);
        (config.segment_bytes, config.log_bytes_max) = (64 << 10, 64 << 20);
        config
    }

    fn open(&self, cores: u16) -> Result<Stored, StoreError> {
        open(&self.config(), cores, SEED)
    }

    fn salvage(&self, cores: u16) -> Stored {
        let mut config = self.config();
        config.on_damage = OnDamage::Salvage;
        open(&config, cores, SEED).expect("it keeps what it can")
    }

    /// What is called so at the top.
    fn names(&self, prefix: &str) -> Vec<String> {
        let names =
            fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("listed").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("ours are ASCII")).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A session for each of so many Clients, with a subscription and `each` messages, written where it is at home.
fn fill(stored: &mut Stored, clients: u32, each: u32) {
    let (key, cores) = (stored.directory.hash_key(), stored.cores.len() as u16);
    for client in 0..clients {
        let client_id = &*format!("client-{client}");
        let core = &mut stored.cores[usize::from(home_of(key, cores, Home::Session(client_id)))];
        let next_packet_id = PacketId::new(1).expect("not 0");
        append(core, &Record::Opened { client_id, expiry_seconds: u32::MAX, next_packet_id });
        let options = SubscriptionOptions::default();
        append(core, &Record::Subscribed { client_id, filter: "a/+", options, identifier: 0 });
        for number in 0..each {
            let payload = format!("{client}: {number}");
            let topic = TopicName::try_from("a/b").expect("a topic");
            let message = MessageRef {
                topic,
                properties: &[],
                payload: payload.as_bytes(),
                qos: Qos::AtLeastOnce,
                retain: false,
                expires_at: None,
            };
            append(core, &Record::Message { message, publisher: 0, shared: false });
            let identifiers = Identifiers::EMPTY;
            let (qos, retain, packet_id) = (Qos::AtLeastOnce, false, None);
            append(core, &Record::Enqueued { client_id, qos, retain, identifiers, packet_id });
            write(core);
        }
    }
    stored.cores.iter_mut().for_each(write);
}

fn append(core: &mut Restored, record: &Record<'_>) {
    core.log.append(record.kind(), |out| record.encode(out));
}

/// Writes all that waits, as the ring and the thread of the store do.
fn write(core: &mut Restored) {
    loop {
        if let Some(segment) = core.log.poll_make() {
            core.files.make_segment(segment, false).expect("made");
            core.log.made(true);
        } else if let Some(write) = core.log.poll_write() {
            let file = core.files.open_to_write(write.segment, false).expect("opened");
            file.write_all_at(&write.pages, write.offset).expect("written");
            let bytes = write.pages.len();
            core.log.written(write, bytes).expect("all of it was written");
        } else {
            break;
        }
    }
}

/// Each Client's messages, by payload, in order.
fn kept(stored: &Stored, clients: u32) -> Vec<Vec<String>> {
    let (key, cores) = (stored.directory.hash_key(), stored.cores.len() as u16);
    let messages = |client| {
        let client_id = format!("client-{client}");
        let core = usize::from(home_of(key, cores, Home::Session(&client_id)));
        let Some(session) = stored.cores[core].image.find_session(&client_id) else { return Vec::new() };
        assert_eq!(session.subscriptions().iter().count(), 1);
        let payload = |message: &crate::message::Message| {
            String::from_utf8(message.as_ref().payload.to_vec()).expect("it was text")
        };
        session.waiting().map(|delivery| payload(&delivery.message)).collect()
    };
    (0..clients).map(messages).collect()
}

fn expected(clients: u32, each: u32) -> Vec<Vec<String>> {
    (0..clients).map(|client| (0..each).map(|number| format!("{client}: {number}")).collect()).collect()
}

/// A store of two cores with something in it, closed.
fn filled(place: &Place) {
    fill(&mut begun(place), 6, 3);
}

/// A store of two cores, each of which is the home of some of six Clients: its key is drawn.
fn begun(place: &Place) -> Stored {
    loop {
        let stored = place.open(2).expect("a new one");
        let key = stored.directory.hash_key();
        let home = |client| home_of(key, 2, Home::Session(&format!("client-{client}")));
        if (1..6).any(|client| home(client) != home(0)) {
            return stored;
        }
        drop(stored);
        fs::remove_dir_all(&place.0).expect("it is there");
    }
}

fn some_segment(place: &Place) -> PathBuf {
    place.0.join("layout-1/core-0/segment-00000000")
}

fn flip(path: &Path, offset: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("it is long enough");
    file.write_all_at(&[byte[0] ^ 0xFF], offset).expect("written");
}

#[test]
fn what_was_committed_is_there_after_any_number_of_starts() {
    let place = Place::new();
    filled(&place);
    for _ in 0..3 {
        let mut stored = place.open(2).expect("it was right");
        assert_eq!(kept(&stored, 6), expected(6, 3));
        // A start writes too, and may end at any time.
        stored.cores.iter_mut().for_each(write);
    }
}

#[test]
fn nobody_else_can_read_it() {
    let place = Place::new();
    filled(&place);
    for path in ["", "META", "layout-1", "layout-1/core-0", "layout-1/core-0/segment-00000000"] {
        let mode = fs::metadata(place.0.join(path)).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{path}: {mode:o}");
    }
}

#[test]
fn another_broker_is_told_which_directory_is_in_use() {
    let place = Place::new();
    let first = place.open(1).expect("a new one");
    let error = place.open(1).err().expect("it is in use");
    let ours = Some(std::process::id());
    assert!(matches!(&error, StoreError::InUse { process, .. } if *process == ours), "{error}");
    assert!(error.to_string().contains(&place.0.display().to_string()), "{error}");
    drop(first);
    place.open(1).expect("it is free again");
}

#[test]
fn another_number_of_cores_has_the_same_sessions() {
    let place = Place::new();
    filled(&place);
    for cores in [3, 1, 5, 2] {
        let stored = place.open(cores).expect("it was right");
        assert_eq!(kept(&stored, 6), expected(6, 3), "{cores} cores");
        assert_eq!(place.names("layout-").len(), 1, "the old one is gone");
    }
    let mut stored = place.open(3).expect("it was right");
    fill(&mut stored, 6, 1);
    drop(stored);
    let stored = place.open(2).expect("it was right");
    assert!(kept(&stored, 6).iter().all(|messages| messages.len() == 4));
}

/// Everything up to the change of META is undone by the next start; everything after it is done.
#[test]
fn going_over_to_another_number_of_cores_may_end_at_any_step() {
    let place = Place::new();
    filled(&place);
    // Folders were made, a snapshot was begun.
    let directory = Directory::open(&place.0, 2).expect("it was right");
    let meta = directory.next_layout(3).expect("made");
    fs::write(directory.core_of(&meta, 0).folder.join("snapshot-000000000001.new"), b"half")
        .expect("written");
    drop(directory);
    assert_eq!(kept(&place.open(2).expect("the old one counts"), 6), expected(6, 3));
    assert_eq!(place.names("layout-"), ["layout-1"]);
    // META has changed, and the old one was not removed.
    let mut directory = Directory::open(&place.0, 2).expect("it was right");
    let found = recover::read(&directory, SEED, false, &AtomicU64::new(0)).expect("it was right");
    layout::go_over(&mut directory, found, 3, SEED).expect("gone over");
    assert_eq!(place.names("layout-"), ["layout-1", "layout-2"]);
    drop(directory);
    assert_eq!(kept(&place.open(3).expect("the new one counts"), 6), expected(6, 3));
    assert_eq!(place.names("layout-"), ["layout-2"]);
}

#[test]
fn damage_is_refused_by_file_and_place_and_salvage_keeps_the_rest() {
    let place = Place::new();
    filled(&place);
    flip(&some_segment(&place), 2 * PAGE as u64 + 60);
    let error = place.open(2).err().expect("it is damaged").to_string();
    assert!(error.contains("layout-1/core-0: segment 0, byte 8192") && error.contains("salvage"), "{error}");

    let stored = place.salvage(2);
    let found = kept(&stored, 6);
    let (mut lost, mut there) = (0, 0);
    for (found, expected) in found.iter().zip(expected(6, 3)) {
        assert!(found.iter().all(|message| expected.contains(message)) && found.is_sorted());
        lost += expected.len() - found.len();
        there += found.len();
    }
    assert!(lost > 0 && there > 9, "{lost} lost, {there} there");
    assert_eq!(
        (place.names("layout-"), place.names("damaged-")),
        (vec!["layout-2".into()], vec!["damaged-1".into()])
    );
    let report = fs::read_to_string(place.0.join("damaged-1/damage.txt")).expect("a report");
    assert!(report.contains("segment 0, byte 8192") && report.contains("gone"), "{report}");
    drop(stored);
    assert_eq!(kept(&place.open(2).expect("nothing is damaged any more"), 6), found);
}

/// A message that is none does not leave its place to the one before it.
#[test]
fn a_message_that_cannot_be_read_is_not_taken_for_another_one() {
    const MESSAGE: u8 = 3;
    let place = Place::new();
    let mut stored = place.open(1).expect("a new one");
    fill(&mut stored, 2, 1);
    let core = &mut stored.cores[0];
    core.log.append(MESSAGE, |out| out.push(0xFF));
    let (qos, identifiers) = (Qos::AtLeastOnce, Identifiers::EMPTY);
    append(
        core,
        &Record::Enqueued { client_id: "client-0", qos, retain: false, identifiers, packet_id: None },
    );
    write(core);
    drop(stored);
    let error = place.open(1).err().expect("a record is none").to_string();
    assert!(error.contains("record 10") && error.contains("byte of flags"), "{error}");
    let stored = place.salvage(1);
    assert_eq!(kept(&stored, 2), expected(2, 1), "client-1's last message is not client-0's");
}

/// The version of a file's header, with its checksum made right.
fn make_newer(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("it is there");
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).expect("a header");
    header[12..16].copy_from_slice(&2u32.to_le_bytes());
    let crc = crc32c::crc32c(&header[12..]);
    header[8..12].copy_from_slice(&crc.to_le_bytes());
    file.write_all_at(&header, 0).expect("written");
}

/// An older version goes on with nothing that a newer one has written, and gives up nothing of it.
#[test]
fn what_a_newer_version_has_written_is_refused_whatever_is_to_be_done_about_damage() {
    let spoil: [fn(&Place) -> &'static str; 3] = [
        |place| {
            let mut stored = place.open(1).expect("it was right");
            stored.cores[0].log.append(40, |out| out.push(1));
            write(&mut stored.cores[0]);
            "kind 40 needs version 2"
        },
        |place| {
            make_newer(&some_segment(place));
            "segment 0, byte 0: the file has version 2 of the format"
        },
        |place| {
            drop(place.open(2).expect("it was right"));
            drop(place.open(1).expect("it was right"));
            let core = fs::read_dir(place.0.join("layout-3/core-0")).expect("it is there");
            let paths: Vec<_> = core.map(|entry| entry.expect("listed").path()).collect();
            make_newer(paths.iter().find(|path| path.to_string_lossy().contains("snapshot")).expect("one"));
            "the snapshot, byte 0: the file has version 2 of the format"
        },
    ];
    for spoil in spoil {
        let place = Place::new();
        fill(&mut place.open(1).expect("a new one"), 1, 1);
        let what = spoil(&place);
        let layouts = place.names("layout-");
        for on_damage in [OnDamage::Refuse, OnDamage::Salvage] {
            let config = StoreConfig { on_damage, ..place.config() };
            let offline = OfflineStore::open(&place.0).expect("META is right");
            let read = offline.read(on_damage, &AtomicU64::new(0)).err().expect("it is newer");
            drop(offline);
            let start = open(&config, 1, SEED).err().expect("it is newer");
            for error in [read, start] {
                assert!(matches!(error, StoreError::Newer { .. }) && !error.is_damage(), "{error}");
                assert!(error.to_string().contains(what), "{error}");
            }
        }
        assert_eq!((place.names("layout-"), place.names("damaged-")), (layouts, vec![]));
    }
}

/// The records that are wanted first are in a segment that is gone: a session that begins behind them may have had messages.
#[test]
fn what_begins_behind_a_log_without_a_beginning_may_have_been_there_before() {
    let place = Place::new();
    let mut stored = place.open(1).expect("a new one");
    fill(&mut stored, 1, 40);
    // Another segment: each commit of the first takes a page of its sixteen.
    let core = &mut stored.cores[0];
    let [client_id, one] = ["client-0", "one"];
    let next_packet_id = PacketId::FIRST;
    append(core, &Record::Opened { client_id, expiry_seconds: u32::MAX, next_packet_id });
    let options = SubscriptionOptions::default();
    append(core, &Record::Subscribed { client_id, filter: "a/+", options, identifier: 0 });
    write(core);
    let topic = TopicName::try_from("a/b").expect("a topic");
    let (qos, retain, identifiers) = (Qos::AtLeastOnce, false, Identifiers::EMPTY);
    let payload = one.as_bytes();
    let message = MessageRef { topic, properties: &[], payload, qos, retain, expires_at: None };
    append(core, &Record::Message { message, publisher: 0, shared: false });
    append(core, &Record::Enqueued { client_id, qos, retain, identifiers, packet_id: None });
    append(core, &Record::Sent { client_id, packet_id: next_packet_id });
    append(core, &Record::Acknowledged { client_id, packet_id: next_packet_id });
    write(core);
    drop(stored);
    for segment in ["segment-00000000", "segment-00000001"] {
        fs::remove_file(place.0.join("layout-1/core-0").join(segment)).expect("it is there");
    }
    let found = kept(&place.salvage(1), 1).remove(0);
    assert_eq!(found.last().map(String::as_str), Some(one), "{found:?}");
}

/// The originals are not lost if the process ends between the change of META and their move.
#[test]
fn damaged_files_are_kept_wherever_a_salvage_ends() {
    let place = Place::new();
    filled(&place);
    flip(&some_segment(&place), 2 * PAGE as u64 + 60);
    let mut directory = Directory::open(&place.0, 2).expect("META is right");
    let found = recover::read(&directory, SEED, true, &AtomicU64::new(0)).expect("it keeps what it can");
    layout::go_over(&mut directory, found, 2, SEED).expect("gone over");
    drop(directory);
    place.open(2).expect("the new one is right");
    assert_eq!(place.names("damaged-"), ["damaged-1"]);
    assert!(place.0.join("damaged-1/core-0/segment-00000000").exists());
}

#[test]
fn what_cannot_be_gone_over_to_leaves_nothing_behind() {
    let place = Place::new();
    filled(&place);
    flip(&some_segment(&place), 2 * PAGE as u64 + 60);
    let mut store = OfflineStore::open(&place.0).expect("META is right");
    let mut salvage = || {
        let cores = store.read(OnDamage::Salvage, &AtomicU64::new(0)).expect("it keeps what it can");
        store.salvage(cores).map_err(|error| error.to_string())
    };
    // Nobody can make a folder where a file is, and none is on a disk that is full.
    let blocked = place.0.join("layout-2");
    fs::write(&blocked, b"").expect("written");
    let error = salvage().expect_err("there is no place for it");
    assert!(error.contains("layout-2"), "{error}");
    assert!(!place.0.join("layout-1/damage.txt").exists(), "nothing was moved, so nothing tells of it");
    fs::remove_file(&blocked).expect("it is there");
    // Something is where META is written, once the layout is whole.
    let blocked = place.0.join("META.new");
    fs::create_dir(&blocked).expect("made");
    let error = salvage().expect_err("META cannot change");
    assert!(error.contains("META"), "{error}");
    assert_eq!(place.names("layout-"), ["layout-1"]);
    assert!(!place.0.join("layout-1/damage.txt").exists());
    fs::remove_dir(&blocked).expect("it is there");
    // What a process left that ended in between is in nobody's way.
    fs::create_dir_all(place.0.join("layout-2/core-0")).expect("made");
    salvage().expect("there is room now");
    assert_eq!(
        (place.names("layout-"), place.names("damaged-")),
        (vec!["layout-2".into()], vec!["damaged-1".into()])
    );
}

/// The first file of chunks, with one.
fn put_chunk_file(place: &Place, key: [u64; 2], client_id: &str) -> Chunk {
    let mut writer = ChunkWriter::default();
    let (topic, qos, retain) = (TopicName::try_from("a/b").expect("a topic"), Qos::AtLeastOnce, false);
    let message = MessageRef { topic, properties: &[], payload: b"parked", qos, retain, expires_at: None };
    let identifiers = Identifiers::EMPTY;
    writer.append(
        &Record::Message { message, publisher: 0, shared: false },
        &Record::Enqueued { client_id, qos, retain, identifiers, packet_id: None },
    );
    let (messages, records) = writer.finish();
    let mut bytes = Vec::new();
    let chunk = put_chunk(&mut bytes, key, (1, 0), messages, &records);
    fs::create_dir(place.0.join("cold")).expect("made");
    fs::write(place.0.join("cold/000000000001"), bytes).expect("written");
    chunk
}

/// Files of chunks that only what is gone has named belong to it; one that is still needed stays where it is.
#[test]
fn files_of_chunks_that_nobody_names_any_more_are_kept_with_what_was_damaged() {
    let salvages: [fn(&Place); 3] = [
        |place| drop(place.salvage(2)),
        |place| {
            let mut store = OfflineStore::open(&place.0).expect("META is right");
            let cores = store.read(OnDamage::Salvage, &AtomicU64::new(0)).expect("it keeps what it can");
            store.salvage(cores).expect("written");
        },
        // It ends before anything is moved, and is done once more by the next start.
        |place| {
            let mut directory = Directory::open(&place.0, 2).expect("META is right");
            let found =
                recover::read(&directory, SEED, true, &AtomicU64::new(0)).expect("it keeps what it can");
            layout::go_over(&mut directory, found, 2, SEED).expect("gone over");
        },
    ];
    for salvage in salvages {
        let place = Place::new();
        let mut stored = begun(&place);
        fill(&mut stored, 6, 3);
        let key = stored.directory.hash_key();
        // The log of core 0 is damaged, and this one is not.
        let client = (0..6).map(|client| format!("client-{client}"));
        let client_id = client.into_iter().find(|id| home_of(key, 2, Home::Session(id)) == 1);
        let client_id = &*client_id.expect("there is one on each core");
        let chunk = put_chunk_file(&place, key, client_id);
        append(&mut stored.cores[1], &Record::Parked { client_id, chunk });
        write(&mut stored.cores[1]);
        drop(stored);
        let (named, unnamed) = ("cold/000000000001", "cold/000000000002");
        fs::copy(place.0.join(named), place.0.join(unnamed)).expect("copied");
        flip(&some_segment(&place), 2 * PAGE as u64 + 60);
        salvage(&place);
        drop(place.open(2).expect("nothing is damaged any more"));
        let kept = fs::read(place.0.join("damaged-1").join(unnamed)).expect("nothing removes it");
        assert_eq!(kept, fs::read(place.0.join(named)).expect("it is needed"));
        let left = fs::metadata(place.0.join(unnamed)).expect("its number stays taken").len();
        assert_eq!(left, 0, "nobody needs it");
        assert!(!place.0.join("damaged-1").join(named).exists());
    }
}

#[test]
fn a_directory_without_its_meta_is_not_taken_for_a_new_one() {
    let place = Place::new();
    filled(&place);
    let meta = place.0.join("META");
    let text = fs::read_to_string(&meta).expect("it is there");
    fs::remove_file(&meta).expect("removed");
    let error = place.open(2).err().expect("there is data").to_string();
    assert!(error.contains("META: the file is missing"), "{error}");
    fs::write(&meta, text.replace("cores 2", "cores 3")).expect("written");
    let error = place.open(2).err().expect("its checksum is wrong").to_string();
    assert!(error.contains("META: the file is damaged"), "{error}");
    fs::write(&meta, text).expect("written");
    assert_eq!(kept(&place.open(2).expect("it is right again"), 6), expected(6, 3));
}

/// A first start that ended before it had written META.
#[test]
fn a_directory_in_which_nothing_was_kept_is_a_new_one() {
    let place = Place::new();
    fs::create_dir_all(place.0.join("layout-1/core-0")).expect("made");
    drop(place.open(2).expect("nothing is in it"));
    assert_eq!(place.names("layout-"), ["layout-1"]);
}

#[test]
fn a_config_that_cannot_work_is_said() {
    let place = Place::new();
    for (segment_bytes, log_bytes_max) in [(1000, 1 << 30), (0, 1 << 18), (1 << 20, 1 << 20)] {
        let mut config = place.config();
        (config.segment_bytes, config.log_bytes_max) = (segment_bytes, log_bytes_max);
        assert!(matches!(open(&config, 1, SEED), Err(StoreError::Config(_))), "{segment_bytes}");
    }
    assert!(!place.0.exists(), "nothing was made");
}

#[test]
fn segments_fit_the_disk_unless_their_size_is_given() {
    let mut config = StoreConfig::new("");
    let on = |config: &StoreConfig, gigabytes: u64| config.segment_bytes_on(gigabytes << 30) >> 20;
    assert_eq!([1, 64, 100, 256, 1000, 8000].map(|disk| on(&config, disk)), [4, 4, 8, 16, 64, 64]);
    config.log_bytes_max = 100 << 20;
    assert_eq!(config.segment_bytes_on(1000 << 30), (100 << 20) / 8 / 65536 * 65536);
    assert_eq!(config.segments_max(config.segment_bytes_on(1000 << 30)), 8);
    config.segment_bytes = 1 << 20;
    assert_eq!(on(&config, 1000), 1);
}
