//! Any bytes at all: reading them ends, without a panic, and salvage gets through whatever reading does not.

use mqtt_broker::store::log::{Reader, SEGMENT_STEP, SnapshotReader};
use proptest::prelude::*;

use crate::disk::{Disk, File};
use crate::model::{IDENTITY, Rng, Store};

/// Reads all there is, in both ways.
fn read_all(disk: &Disk, from: u64, reach: u64) {
    for salvage in [false, true] {
        let mut config = Store::new(4).model.config(salvage);
        (config.from, config.reach) = (from, reach);
        let outcome = Reader::open(disk, config).and_then(|mut reader| {
            while reader.next_record()?.is_some() {}
            reader.finish()
        });
        assert!(outcome.is_ok() || !salvage, "salvage gets through");
    }
    for file in disk.files.values() {
        for salvage in [false, true] {
            let Ok(mut reader) = SnapshotReader::open(file.clone(), IDENTITY, salvage) else { continue };
            while let Ok(Some(_)) = reader.next_record() {}
        }
    }
}

/// A piece of a log of real commits: a place to take it from, and a length.
fn pieces() -> impl Strategy<Value = Vec<(u16, u16, u16, bool)>> {
    prop::collection::vec((any::<u16>(), any::<u16>(), 1u16..400, any::<bool>()), 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(
        files in prop::collection::vec(
            (prop_oneof![Just(SEGMENT_STEP as usize), 0usize..70_000],
             prop::collection::vec((any::<u16>(), any::<u8>()), 0..60), prop::option::of(any::<u64>())), 0..4),
        from in 0u64..30,
        reach in 0u64..30,
    ) {
        let mut disk = Disk::default();
        for (number, (length, bytes, noise)) in files.into_iter().enumerate() {
            let mut file = vec![0; length];
            if let Some(seed) = noise {
                let mut rng = Rng::new(seed);
                file.fill_with(|| rng.next() as u8);
            }
            for (place, byte) in bytes {
                if let Some(at) = file.get_mut(usize::from(place)) {
                    *at = byte;
                }
            }
            disk.files.insert(number as u32, File::new(file));
        }
        read_all(&disk, from, reach);
    }

    /// Whole sectors of a log that is sound, in other places, so that headers and bodies verify where they should not be.
    #[test]
    fn commits_in_other_places_never_panic(seed in 0u64..40, pieces in pieces(), from in 0u64..200) {
        let mut rng = Rng::new(seed);
        let mut store = Store::new(8);
        for _ in 0..10 {
            store.turn(&mut rng);
            store.flush();
        }
        let source: Vec<u8> = store.disk.files.values().flat_map(|file| file.bytes().to_vec()).collect();
        let mut disk = store.disk.clone();
        for (from, to, sectors, is_page) in pieces {
            let step = if is_page { 4096 } else { 512 };
            let (from, to) = (usize::from(from) * step % source.len(), usize::from(to) * step);
            let numbers: Vec<u32> = disk.files.keys().copied().collect();
            let file = disk.file(numbers[to / step % numbers.len()]).bytes_mut();
            let to = to % file.len();
            let length = (usize::from(sectors) * 512).min(source.len() - from).min(file.len() - to);
            file[to..to + length].copy_from_slice(&source[from..from + length]);
        }
        read_all(&disk, from, 0);
    }
}
