//! Files that are not any more what was written: cut, flipped, zeroed, exchanged, gone, unreadable.

use mqtt_broker::store::log::{Damage, Fault, PAGE, Place, Purpose, ReadError, Reader};

use crate::Row;
use crate::disk::{Disk, File, SECTOR};
use crate::model::{Model, Rng, Store};

/// A log over two segments and a bit, the first of which holds records that are not needed any more; ended or not.
fn written(is_ended: bool) -> Store {
    let mut rng = Rng::new(7);
    let mut store = Store::new(16);
    while store.log.live().len() < 3 {
        store.append(rng.below(4) + 1, Purpose::Keep);
        store.make();
        store.flush();
        if store.log.live().len() == 2 && store.model.from == 1 {
            store.release(store.model.acked);
        }
    }
    for _ in 0..3 {
        store.turn(&mut rng);
        store.flush();
    }
    if is_ended {
        store.log.end();
        store.flush();
        assert!(store.log.is_ended());
    }
    assert!(store.model.from > 1 && store.model.before < store.model.acked);
    assert_eq!(store.model.check(&store.disk).expect("nothing is damaged").clean, is_ended);
    store
}

/// The bytes of the segments that hold the log.
fn places(store: &Store) -> Vec<(u32, usize)> {
    let live = store.log.live().map(|live| live.segment);
    live.flat_map(|segment| (0..segment.bytes as usize).map(move |place| (segment.number, place))).collect()
}

/// Reads what is left: all of it, or the damage. Only of a log that was not ended the last commit may be taken for torn.
fn judge(disk: &Disk, model: &Model, is_ended: bool, row: &mut Row) -> Option<Damage> {
    row.trials += 1;
    match model.check_up_to(disk, if is_ended { model.acked } else { model.before }) {
        Ok(found) => {
            let is_whole = found.next > model.acked;
            row.whole += u64::from(is_whole);
            row.dropped += u64::from(!is_whole);
            None
        }
        Err(ReadError::Damage(damage)) => {
            row.refused += 1;
            Some(damage)
        }
        Err(error) => panic!("it could be read: {error}"),
    }
}

/// What can be salvaged is true, and what is not there is said to be gone.
fn salvage(disk: &Disk, model: &Model, is_ended: bool) {
    let mut reader = Reader::open(disk, model.config(true)).expect("nothing stops this");
    let (mut next, mut gone) = (model.from, Vec::new());
    while let Some(record) = reader.next_record().expect("nor this") {
        assert!(record.number >= next, "in order, and once");
        assert!(model.says(&record), "and true");
        gone.extend(next..record.number);
        next = record.number + 1;
    }
    let damage = reader.finish().expect("nor this").damage;
    let named = |number: &u64| {
        damage.iter().filter_map(|damage| damage.lost).any(|(first, last)| (first..=last).contains(number))
    };
    assert!(gone.iter().all(named), "{gone:?} are gone: {damage:?}");
    let acked = if is_ended { model.acked } else { model.before };
    // How much is gone at the end of a file is not always known.
    let is_open = damage.iter().any(|damage| damage.lost.is_none());
    assert!(is_open || (next..=acked).all(|number| named(&number)), "{next} to {acked} are gone: {damage:?}");
}

#[test]
fn a_file_that_is_cut_at_any_byte_is_refused() {
    let (store, mut row) = (written(false), Row::default());
    for (number, place) in places(&store) {
        let mut disk = store.disk.clone();
        let bytes = disk.files[&number].bytes()[..place].to_vec();
        disk.files.insert(number, File::new(bytes));
        let damage = judge(&disk, &store.model, false, &mut row).expect("shorter than a segment");
        assert!(matches!(damage.fault, Fault::Length { .. }), "{damage:?}");
        assert_eq!(damage.place, Place::Segment(number, 0));
        if place % 997 == 0 {
            salvage(&disk, &store.model, false);
        }
    }
    row.report("cut at every byte");
}

#[test]
fn a_flipped_bit_is_found_wherever_it_matters() {
    for is_ended in [false, true] {
        let (mut store, mut rng) = (written(is_ended), Rng::new(3));
        let (mut row, mut more) = (Row::default(), Row::default());
        let places = places(&store);
        let random: Vec<_> = (0..4_000).map(|_| places[rng.below(places.len() as u64) as usize]).collect();
        // Every byte of the one, and every seventh of the other.
        let all = places.iter().step_by(if is_ended { 7 } else { 1 }).map(|&place| (place, 1));
        for ((number, place), length) in all.chain(random.iter().map(|&place| (place, 9))) {
            let file = store.disk.file(number).bytes_mut();
            let range = place..file.len().min(place + length);
            let before = file[range.clone()].to_vec();
            file[place] ^= 1 << rng.below(8);
            for byte in &mut file[range.clone()][1..] {
                *byte = rng.next() as u8;
            }
            let row = if length == 1 { &mut row } else { &mut more };
            judge(&store.disk, &store.model, is_ended, row);
            if row.trials % 64 == 0 {
                salvage(&store.disk, &store.model, is_ended);
            }
            store.disk.file(number).bytes_mut()[range].copy_from_slice(&before);
        }
        assert!(row.refused > 5_000 && more.refused > 500, "{row:?} {more:?}");
        assert_eq!(row.dropped == 0, is_ended);
        row.report(if is_ended { "a bit flipped, ended" } else { "a bit flipped in every byte" });
        more.report(if is_ended { "a few bytes written over, ended" } else { "a few bytes written over" });
    }
}

#[test]
fn a_damaged_commit_before_a_torn_one_is_not_taken_for_torn() {
    let mut store = written(false);
    // What shows of the last one is its header alone.
    let [(last, torn), (before, damaged)] = store.places;
    store.disk.file(last).bytes_mut()[torn as usize + 48] ^= 1;
    let found = store.model.check_up_to(&store.disk, store.model.before).expect("a torn commit is no damage");
    assert_eq!(found.torn.map(|torn| (torn.segment, torn.offset)), Some((last, torn)));
    store.disk.file(before).bytes_mut()[damaged as usize + 48] ^= 1;
    let damage = judge(&store.disk, &store.model, false, &mut Row::default()).expect("it was acknowledged");
    assert_eq!((damage.place, damage.fault), (Place::Segment(before, damaged), Fault::Commit));
    salvage(&store.disk, &store.model, false);
}

#[test]
fn zeroed_pages_and_sectors_are_found_wherever_they_matter() {
    for is_ended in [false, true] {
        let (store, mut row) = (written(is_ended), Row::default());
        for (number, place) in store.disk.places() {
            for size in [PAGE, SECTOR].into_iter().filter(|size| place % size == 0) {
                let mut disk = store.disk.clone();
                disk.file(number).bytes_mut()[place..place + size].fill(0);
                judge(&disk, &store.model, is_ended, &mut row);
                salvage(&disk, &store.model, is_ended);
            }
        }
        assert!(row.refused > 20, "{row:?}");
        row.report(if is_ended { "pages and sectors of zeros, ended" } else { "pages and sectors of zeros" });
    }
}

#[test]
fn files_that_are_gone_or_exchanged_are_refused() {
    let (store, mut row) = (written(true), Row::default());
    let live: Vec<u32> = store.log.live().map(|live| live.segment.number).collect();
    let last = live.len() - 1;
    for (place, &number) in live.iter().enumerate() {
        let mut disk = store.disk.clone();
        disk.files.remove(&number);
        if place == last {
            // Nothing but what a snapshot knows tells of the last one.
            let mut model = store.model.clone();
            model.reach = model.acked;
            let damage = judge(&disk, &model, true, &mut row).expect("the log ends too early");
            assert_eq!((damage.fault, damage.lost.map(|(_, last)| last)), (Fault::End, Some(model.acked)));
        } else {
            let damage = judge(&disk, &store.model, true, &mut row).expect("one is missing");
            assert!(matches!(damage.fault, Fault::Missing(..) | Fault::Start), "{damage:?}");
            salvage(&disk, &store.model, true);
        }
        // Another file has its place, with its generation.
        let other = store.disk.files[&live[(place + 1) % live.len()]].clone();
        disk.files.insert(number, other);
        let damage = judge(&disk, &store.model, true, &mut row).expect("one is there twice");
        assert!(matches!(damage.fault, Fault::Twice(_)), "{damage:?}");
    }
    row.report("files gone or exchanged");
}

#[test]
fn files_of_another_store_or_version_are_refused_with_a_sentence() {
    let store = written(true);
    let mut config = store.model.config(false);
    config.identity.core += 1;
    let error = Reader::open(&store.disk, config).err().expect("it is of another core");
    assert_eq!(
        error.to_string(),
        "segment 0, byte 0: the file belongs to another store or another core. Put back the files of this store \
         alone, as they were when it was stopped"
    );
    let mut disk = store.disk.clone();
    let header = disk.file(1).bytes_mut();
    header[12] = 2;
    let crc = crc32c::crc32c(&header[12..64]).to_le_bytes();
    header[8..12].copy_from_slice(&crc);
    for salvage in [false, true] {
        let config = store.model.config(salvage);
        let error = Reader::open(&disk, config).err().expect("it is of another version");
        assert_eq!(
            error.to_string(),
            "segment 1, byte 0: the file has version 2 of the format, and this program reads 1"
        );
    }
}

#[test]
fn what_the_disk_cannot_read_is_an_error_and_goes_to_salvage() {
    let (store, mut row) = (written(true), Row::default());
    for (number, place) in places(&store).into_iter().step_by(PAGE) {
        let mut disk = store.disk.clone();
        disk.file(number).make_unreadable(place as u64..place as u64 + 1);
        let error = store.model.check(&disk).expect_err("all of it is needed");
        assert!(
            matches!(error, ReadError::Media { place: Place::Segment(found, _), .. } if found == number),
            "{error}"
        );
        salvage(&disk, &store.model, true);
        (row.trials, row.refused) = (row.trials + 1, row.refused + 1);
    }
    row.report("pages that cannot be read");
}
