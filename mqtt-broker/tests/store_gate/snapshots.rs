//! Snapshots: written in any slices, read whole or refused.

use crc32c::{crc32c, crc32c_append};
use mqtt_broker::store::log::{Fault, Identity, PAGE, Place, ReadError, SnapshotReader, SnapshotWriter};

use crate::Row;
use crate::disk::File;
use crate::model::{IDENTITY, Rng, record};

/// Records with what they are as of.
type Records = Vec<(u64, u8, Vec<u8>)>;

/// A snapshot of slices, some longer than a commit.
fn written(seed: u64, slices: u64) -> (File, Records) {
    let mut rng = Rng::new(seed);
    let (mut file, mut records, mut as_of) = (File::default(), Records::new(), 100);
    let mut writer = SnapshotWriter::new(IDENTITY, 100);
    let write = |writer: &mut SnapshotWriter, file: &mut File| {
        let Some(write) = writer.poll_write() else { return false };
        assert_eq!(write.offset as usize, file.bytes().len(), "one behind the other");
        assert!(writer.poll_write().is_none(), "one at a time");
        file.write(write.offset, &write.pages, |_| true);
        let bytes = write.pages.len();
        writer.written(write, bytes).expect("all of it is written");
        true
    };
    for slice in 0..slices {
        as_of += rng.below(3);
        let count = if slice == 2 { 3_000 } else { rng.below(40) };
        for number in 0..count {
            let (kind, body) = record(number, slice);
            writer.append(as_of, kind, |out| out.extend_from_slice(&body));
            records.push((as_of, kind, body));
        }
        while rng.below(3) > 0 && write(&mut writer, &mut file) {}
    }
    writer.finish();
    while write(&mut writer, &mut file) {}
    assert!(writer.is_complete() && writer.waiting() == 0);
    (file, records)
}

fn read(file: &File, salvage: bool) -> Result<Records, ReadError> {
    let mut reader = SnapshotReader::open(file.clone(), IDENTITY, salvage)?;
    assert_eq!(reader.header().from, 100);
    let mut records = Records::new();
    while let Some(record) = reader.next_record()? {
        records.push((record.number, record.kind, record.body.to_vec()));
    }
    assert_eq!(reader.reach(), records.last().map_or(99, |&(as_of, ..)| as_of).max(99));
    Ok(records)
}

#[test]
fn a_snapshot_is_read_as_it_was_written() {
    for seed in 0..20 {
        for slices in [0, 1, 2, 9] {
            let (file, records) = written(seed, slices);
            assert!(read(&file, false).expect("nothing is damaged") == records);
        }
    }
}

#[test]
fn a_snapshot_that_is_cut_flipped_or_zeroed_is_refused() {
    let (file, records) = written(1, 2);
    let mut row = Row::default();
    let mut judge = |file: &File, is_padding: bool| {
        row.trials += 1;
        match read(file, false) {
            Ok(found) => {
                assert!(is_padding && found == records, "nothing is left out");
                row.whole += 1;
            }
            Err(ReadError::Damage(_)) => row.refused += 1,
            Err(error) => panic!("it could be read: {error}"),
        }
        if let Ok(found) = read(file, true) {
            assert!(found.iter().all(|record| records.contains(record)));
        }
    };
    let mut rng = Rng::new(4);
    for place in 0..file.bytes().len() {
        judge(&File::new(file.bytes()[..place].to_vec()), false);
        let mut flipped = file.clone();
        flipped.bytes_mut()[place] ^= 1 << rng.below(8);
        judge(&flipped, true);
    }
    for place in (0..file.bytes().len()).step_by(PAGE) {
        let mut zeroed = file.clone();
        zeroed.bytes_mut()[place..place + PAGE].fill(0);
        judge(&zeroed, false);
        let mut longer = file.clone();
        longer.bytes_mut().extend_from_slice(&file.bytes()[place..place + PAGE]);
        judge(&longer, false);
    }
    row.report("snapshots cut, flipped, zeroed");
}

/// A snapshot all of whose records hold as of the same, as a start or an import writes it; among them one that is longer
/// than a commit.
fn of_one_state(count: u64) -> (File, Records) {
    let (mut file, mut records, mut writer) =
        (File::default(), Records::new(), SnapshotWriter::new(IDENTITY, 100));
    for number in 0..count {
        let bytes = if number == count / 2 { 1_500_000 } else { 500 + number as usize % 90 };
        let body = vec![number as u8; bytes];
        writer.append(0, 7, |out| out.extend_from_slice(&body));
        records.push((0, 7, body));
    }
    writer.finish();
    while let Some(write) = writer.poll_write() {
        assert!(write.pages.len() <= 1 << 20);
        file.write(write.offset, &write.pages, |_| true);
        let bytes = write.pages.len();
        writer.written(write, bytes).expect("all of it is written");
    }
    (file, records)
}

/// What can be read of a damaged snapshot, and the records that come behind what cannot.
fn salvaged(reader: &mut SnapshotReader<File>) -> (Records, Vec<usize>) {
    let (mut records, mut behind) = (Records::new(), Vec::new());
    while let Some(record) = reader.next_record().expect("it is salvaged") {
        if record.is_behind_gap {
            behind.push(records.len());
        }
        records.push((record.number, record.kind, record.body.to_vec()));
    }
    (records, behind)
}

#[test]
fn a_damaged_page_of_a_snapshot_costs_no_more_than_its_commit() {
    const COMMIT_MAX: usize = 64 << 10;
    let (file, records) = of_one_state(600);
    for place in (PAGE..file.bytes().len() - PAGE).step_by(5 * PAGE) {
        let mut damaged = file.clone();
        damaged.bytes_mut()[place + 40] ^= 1;
        let mut reader = SnapshotReader::open(damaged, IDENTITY, true).expect("its header is whole");
        let (found, behind) = salvaged(&mut reader);
        let damage = match *reader.damage() {
            [] => {
                // Nothing is there but what fills a page up.
                assert!(found == records && behind.is_empty());
                continue;
            }
            [damage] => damage,
            ref more => panic!("{more:?}"),
        };
        let (Place::Snapshot(from), Fault::Gap { until }) = (damage.place, damage.fault) else {
            panic!("{damage}");
        };
        assert!((from..until).contains(&(place as u64)), "{damage}: byte {place}");
        let gone = records.len() - found.len();
        assert_eq!(reader.records(), (found.len() as u64, Some(records.len() as u64)));
        // All before it, and all behind it.
        let first = behind.first().copied().unwrap_or(found.len());
        assert!(found[..first] == records[..first] && found[first..] == records[first + gone..]);
        let bytes: usize = records[first..first + gone].iter().map(|(_, _, body)| body.len()).sum();
        assert!(bytes < COMMIT_MAX || gone == 1, "{gone} records of {bytes} bytes");
        assert!(until - from <= COMMIT_MAX as u64 || gone == 1, "{damage}");
    }
}

#[test]
fn what_is_wrong_with_a_snapshot_is_named_with_its_place() {
    let (file, _) = of_one_state(300);
    let fault = |file: &File| match read(file, false).expect_err("it is damaged") {
        ReadError::Damage(damage) => (damage.place, damage.fault),
        error => panic!("{error}"),
    };
    let flipped = |place: usize| {
        let mut file = file.clone();
        file.bytes_mut()[place] ^= 1;
        file
    };
    let (place, Fault::Gap { until }) = fault(&flipped(PAGE + 100)) else { panic!("it does not verify") };
    assert!(place == Place::Snapshot(PAGE as u64) && until as usize > PAGE);
    let second = until as usize;
    assert_eq!(fault(&flipped(second)).0, Place::Snapshot(until));
    assert_eq!(fault(&flipped(9)), (Place::Snapshot(0), Fault::Header));
    let cut = File::new(file.bytes()[..second].to_vec());
    assert_eq!(fault(&cut), (Place::Snapshot(until), Fault::Total));
    assert_eq!(fault(&File::default()), (Place::Snapshot(0), Fault::Total));
}

#[test]
fn a_commit_of_a_snapshot_that_verifies_and_holds_no_records_is_named_by_its_own_place() {
    let (mut file, records) = of_one_state(300);
    let bytes = file.bytes_mut();
    // A length with a needless byte.
    bytes[PAGE + 48 + 1..PAGE + 48 + 3].copy_from_slice(&[0x80, 0]);
    let seed = crc32c_append(crc32c(&IDENTITY.store), &IDENTITY.core.to_le_bytes());
    let length = u32::from_le_bytes(bytes[PAGE + 12..PAGE + 16].try_into().expect("four bytes")) as usize;
    let of_records = crc32c_append(seed, &bytes[PAGE + 48..PAGE + 48 + length]);
    bytes[PAGE + 8..PAGE + 12].copy_from_slice(&of_records.to_le_bytes());
    let of_header = crc32c_append(seed, &bytes[PAGE + 8..PAGE + 48]);
    bytes[PAGE + 4..PAGE + 8].copy_from_slice(&of_header.to_le_bytes());
    let mut reader = SnapshotReader::open(file, IDENTITY, true).expect("its header is whole");
    let (found, behind) = salvaged(&mut reader);
    let damage = reader.damage().first().expect("some is gone");
    assert_eq!((damage.place, damage.fault), (Place::Snapshot(PAGE as u64), Fault::Records));
    assert!(behind == [0] && !found.is_empty() && records.ends_with(&found));
}

#[test]
fn a_snapshot_is_salvaged_without_its_header() {
    let (mut file, records) = of_one_state(300);
    file.bytes_mut()[..PAGE].fill(0);
    let mut reader = SnapshotReader::behind_header(file.clone(), IDENTITY, 100).expect("it can be read");
    assert_eq!((reader.header().from, reader.reach()), (100, 99));
    assert!(salvaged(&mut reader) == (records, vec![]) && reader.damage().is_empty());
    // Nothing of another store passes for it.
    let other = Identity { core: IDENTITY.core + 1, ..IDENTITY };
    let mut reader = SnapshotReader::behind_header(file, other, 100).expect("it can be read");
    assert_eq!((salvaged(&mut reader).0.len(), reader.records()), (0, (0, None)));
}

#[test]
fn a_snapshot_that_cannot_be_written_is_given_up() {
    let mut writer = SnapshotWriter::new(IDENTITY, 1);
    let write = writer.poll_write().expect("the header");
    let bytes = write.pages.len();
    writer.written(write, bytes - 1).expect_err("not all of it was written");
    writer.finish();
    assert!(writer.poll_write().is_none() && !writer.is_complete());
}
