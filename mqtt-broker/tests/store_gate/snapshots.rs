//! Snapshots: written in any slices, read whole or refused.

use mqtt_broker::store::log::{PAGE, ReadError, SnapshotReader, SnapshotWriter};

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

#[test]
fn a_snapshot_that_cannot_be_written_is_given_up() {
    let mut writer = SnapshotWriter::new(IDENTITY, 1);
    let write = writer.poll_write().expect("the header");
    let bytes = write.pages.len();
    writer.written(write, bytes - 1).expect_err("not all of it was written");
    writer.finish();
    assert!(writer.poll_write().is_none() && !writer.is_complete());
}
