//! Files as they were written once: today's reader reads them and today's writer writes them, byte for byte.
//!
//! `golden/store` has them as rows of 16 bytes in hexadecimal behind their place in the file; rows of zeros are left
//! out, and `#` begins a remark.

use std::fmt::Write as _;
use std::path::Path;

use mqtt_broker::message::MessageRef;
use mqtt_broker::store::cold::{ChunkWriter, chunk_records, put_chunk, read_chunk};
use mqtt_broker::store::log::{
    Identity, Log, LogConfig, PAGE, ReadConfig, Reader, Recovered, SEGMENT_STEP, SnapshotReader,
    SnapshotWriter,
};
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::types::{Qos, TopicName};

use crate::disk::{Disk, File};

const IDENTITY: Identity = Identity { store: *b"a golden store's", core: 2 };

/// A byte of the last record, in the second segment.
const TORN: usize = 0x4035;

/// What the files say.
fn records() -> Vec<(u64, u8, Vec<u8>)> {
    vec![
        (1, 1, b"a first record".to_vec()),
        (2, 2, Vec::new()),
        // Longer than what is left of the first segment.
        (3, 3, vec![0; 61_000]),
        (4, 200, vec![b'x'; 200]),
        (5, 4, b"after a start".to_vec()),
    ]
}

fn read(disk: &Disk) -> (Vec<(u64, u8, Vec<u8>)>, Recovered) {
    let config = ReadConfig { identity: IDENTITY, from: 1, reach: 0, salvage: false };
    let mut reader = Reader::open(disk, config).expect("nothing is damaged");
    let mut records = Vec::new();
    while let Some(record) = reader.next_record().expect("nothing is damaged") {
        records.push((record.number, record.kind, record.body.to_vec()));
    }
    (records, reader.finish().expect("nothing is damaged"))
}

/// Writes these records, a boundary behind each that `ends` names.
fn write(disk: &mut Disk, log: &mut Log, records: &[(u64, u8, Vec<u8>)], ends: &[u64]) {
    for (number, kind, body) in records {
        assert_eq!(log.append(*kind, |out| out.extend_from_slice(body)), *number);
        if ends.contains(number) {
            flush(disk, log);
        }
    }
}

fn flush(disk: &mut Disk, log: &mut Log) {
    while let Some(segment) = log.poll_make() {
        disk.make(segment);
        log.made(true);
    }
    while let Some(write) = log.poll_write() {
        disk.file(write.segment).write(write.offset, &write.pages, |_| true);
        let bytes = write.pages.len();
        log.written(write, bytes).expect("all of it is written");
    }
}

#[test]
fn the_log_is_written_and_read_as_it_always_was() {
    let config = LogConfig { identity: IDENTITY, segment_bytes: SEGMENT_STEP, segments_max: 8 };
    let (records, mut disk) = (records(), Disk::default());
    let mut log = Log::open(config, read(&disk).1);
    write(&mut disk, &mut log, &records[..4], &[2, 3, 4]);
    log.end();
    flush(&mut disk, &mut log);
    assert!(log.is_ended());
    let mut golden = Disk::default();
    for number in 0..2 {
        golden.files.insert(number, golden_segment(&format!("segment-{number}.hex"), &disk.files[&number]));
    }
    let (found, recovered) = read(&golden);
    assert!(found == records[..4]);
    assert_eq!((recovered.clean, recovered.next, recovered.live.len()), (true, 5, 2));

    // A start goes on behind the mark of a clean end.
    let mut log = Log::open(config, read(&disk).1);
    write(&mut disk, &mut log, &records[4..], &[5]);
    let again = golden_segment("segment-1-again.hex", &disk.files[&1]);
    golden.files.insert(1, again);
    let (found, recovered) = read(&golden);
    assert!(found == records);
    assert_eq!((recovered.clean, recovered.next, recovered.live.len()), (false, 6, 2));

    // Where that was torn the next one goes on in another segment, as each start did once.
    disk.file(1).bytes_mut()[TORN] ^= 1;
    let mut log = Log::open(config, read(&disk).1);
    write(&mut disk, &mut log, &records[4..], &[5]);
    disk.file(1).bytes_mut()[TORN - TORN % PAGE..].fill(0);
    golden.files.insert(1, golden_segment("segment-1.hex", &disk.files[&1]));
    golden.files.insert(2, golden_segment("segment-2.hex", &disk.files[&2]));
    let (found, recovered) = read(&golden);
    assert!(found == records);
    assert_eq!((recovered.clean, recovered.next, recovered.live.len()), (false, 6, 3));
}

#[test]
fn a_snapshot_is_written_and_read_as_it_always_was() {
    let records: [(u64, u8, &[u8]); 3] = [(2, 1, b"a first record"), (2, 5, b""), (4, 200, &[b'x'; 200])];
    let (mut file, mut writer) = (File::default(), SnapshotWriter::new(IDENTITY, 3));
    for (as_of, kind, body) in records {
        writer.append(as_of, kind, |out| out.extend_from_slice(body));
    }
    writer.finish();
    while let Some(write) = writer.poll_write() {
        file.write(write.offset, &write.pages, |_| true);
        let bytes = write.pages.len();
        writer.written(write, bytes).expect("all of it is written");
    }
    let mut bytes = golden_file("snapshot.hex", file.bytes());
    bytes.resize(file.bytes().len(), 0);
    let mut reader = SnapshotReader::open(File::new(bytes), IDENTITY, false).expect("nothing is damaged");
    assert_eq!(reader.header().from, 3);
    for (as_of, kind, body) in records {
        let record = reader.next_record().expect("nothing is damaged").expect("there are three");
        assert_eq!((record.number, record.kind, record.body), (as_of, kind, body));
    }
    assert!(reader.next_record().expect("nothing is damaged").is_none());
    assert_eq!(reader.reach(), 4);
}

/// A chunk, and the same in another place.
#[test]
fn a_chunk_is_written_and_read_as_it_always_was() {
    let key = [0x0102_0304_0506_0708, 0x1112_1314_1516_1718];
    let topic = TopicName::new("a/b").expect("a topic");
    let mut writer = ChunkWriter::default();
    let first = MessageRef {
        topic,
        properties: &[1, 1],
        payload: b"hi",
        qos: Qos::ExactlyOnce,
        retain: true,
        expires_at: Some(1000),
    };
    let second =
        MessageRef { properties: &[], payload: b"", qos: Qos::AtLeastOnce, expires_at: None, ..first };
    for (message, retain, identifiers) in [(first, false, &[5, 300][..]), (second, true, &[])] {
        let (qos, identifiers) = (message.qos, Identifiers::new(identifiers));
        writer.append(
            &Record::Message { message, publisher: 0, shared: false },
            &Record::Enqueued { client_id: "c1", qos, retain, identifiers, packet_id: None },
        );
    }
    let (messages, records) = writer.finish();
    let mut file = Vec::new();
    let chunk = put_chunk(&mut file, key, (7, 0), messages, &records);
    let copied = chunk_records(&file, key, chunk).expect("just written").to_vec();
    let copy = put_chunk(&mut file, key, (7, chunk.bytes.into()), messages, &copied);
    let mut golden = golden_file("chunk.hex", &file);
    golden.resize(file.len(), 0);
    for chunk in [chunk, copy] {
        let bytes = &golden[chunk.offset as usize..][..chunk.bytes as usize];
        let found = read_chunk(bytes, key, chunk).expect("nothing is damaged");
        let found: Vec<_> =
            found.iter().map(|found| (found.message.as_ref().payload, found.qos, found.retain)).collect();
        assert_eq!(found, [(&b"hi"[..], Qos::ExactlyOnce, false), (b"", Qos::AtLeastOnce, true)]);
    }
}

/// A golden segment, as it was `written`.
fn golden_segment(name: &str, written: &File) -> File {
    let mut bytes = golden_file(name, written.bytes());
    bytes.resize(SEGMENT_STEP as usize, 0);
    File::new(bytes)
}

/// The bytes of a golden file, which must be `written` but for zeros at its end.
fn golden_file(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/store").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let rows: String =
        text.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |mut rows, line| {
            let _ = writeln!(rows, "{}", line.split('#').next().unwrap_or_default().trim_end());
            rows
        });
    let today = rows_of(written);
    assert!(rows == today, "{name} is written differently today:\n{today}");
    let mut bytes = Vec::new();
    for row in rows.lines() {
        let (place, digits) = row.split_once("  ").expect("a place and 16 bytes");
        bytes.resize(usize::from_str_radix(place, 16).expect("a place"), 0);
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hexadecimal"));
        bytes.extend(pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")));
    }
    bytes
}

fn rows_of(bytes: &[u8]) -> String {
    let mut rows = String::new();
    for (row, bytes) in bytes.chunks(16).enumerate().filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))
    {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = writeln!(rows, "{:06x}  {digits}", row * 16);
    }
    rows
}
