//! The process ends at any moment, with any part of the write under way on the disk.

use mqtt_broker::store::log::{Live, Purpose, Room, Write};

use crate::Row;
use crate::disk::{Disk, SECTOR};
use crate::model::{Rng, Store};

/// A log whose segments hold old bytes below new ones.
fn worn(rng: &mut Rng, segments_max: u32) -> Store {
    let mut store = Store::new(segments_max);
    for _ in 0..120 {
        store.turn(rng);
        store.flush();
        store.release(store.model.acked);
    }
    assert!(store.disk.files.len() < 12, "segments are used again");
    store
}

/// All ways in which a write is torn that are tried.
fn tears(write: &Write, rng: &mut Rng, mut tried: impl FnMut(&dyn Fn(usize) -> bool)) {
    let sectors = write.pages.len() / SECTOR;
    let pages = sectors / 8;
    tried(&|_| false);
    tried(&|_| true);
    for page in 0..pages.min(20) {
        tried(&|sector| sector / 8 == page);
        tried(&|sector| sector / 8 != page);
        tried(&|sector| sector / 8 < page);
    }
    for one in 0..sectors.min(24) {
        tried(&|sector| sector == one);
        tried(&|sector| sector != one);
        tried(&|sector| sector < one);
    }
    for _ in 0..8 {
        let seed = rng.next();
        let of = |seed: u64, place: usize| Rng::new(seed ^ place as u64).below(2) == 0;
        tried(&move |sector| of(seed, sector / 8));
        tried(&move |sector| of(seed, sector));
        tried(&move |sector| !sector.is_multiple_of(8) && of(seed, sector));
    }
}

#[test]
fn a_crash_at_any_write_loses_nothing_that_was_acknowledged() {
    let mut rng = Rng::new(1);
    let mut store = worn(&mut rng, 12);
    let (mut row, mut going_on, mut torn) = (Row::default(), Row::default(), 0);
    for turn in 0..60 {
        store.turn(&mut rng);
        while let Some(write) = store.log.poll_write() {
            tears(&write, &mut rng.clone(), |lands| {
                let mut disk = store.disk.clone();
                disk.file(write.segment).write(write.offset, &write.pages, lands);
                let found = store.model.check(&disk).expect("a crash is no damage");
                torn += u64::from(found.torn.is_some());
                row.trials += 1;
                row.whole += 1;
                if row.trials % 16 == 0 {
                    go_on(disk, &store, &mut going_on);
                }
            });
            store.land(write);
        }
        if turn % 8 == 7 {
            store.release(store.model.acked - 40);
        }
    }
    assert!(torn > 0, "some of it shows");
    row.report("crash at a write, torn");
    going_on.report("crash, then a start and some writes");
}

/// The next process writes some, ends or crashes, and one more reads all.
fn go_on(disk: Disk, before: &Store, row: &mut Row) {
    let mut next = Store::start(disk, before.model.clone(), 16, 1 + row.trials);
    let mut rng = Rng::new(row.trials);
    for _ in 0..3 {
        next.turn(&mut rng);
        next.flush();
    }
    if rng.below(2) == 0 {
        next.log.end();
        next.flush();
        assert!(next.log.is_ended());
    }
    let found = next.model.check(&next.disk).expect("nothing is damaged");
    assert_eq!(found.clean, next.log.is_ended());
    let needed = |live: &Live| live.last >= next.model.from;
    let live: Vec<_> = next.log.live().filter(needed).collect();
    assert_eq!(
        found.live.into_iter().filter(needed).collect::<Vec<_>>(),
        live,
        "what each holds is known again"
    );
    assert_eq!(found.torn, None, "what was torn was left behind by the start");
    row.trials += 1;
    row.whole += 1;
}

#[test]
fn crashes_over_many_generations_lose_nothing_that_was_acknowledged() {
    let (mut row, mut generations) = (Row::default(), 0);
    for seed in 0..24 {
        let mut rng = Rng::new(seed);
        let mut store = Store::new(14);
        for round in 1..80 {
            for _ in 0..rng.below(12) {
                store.turn(&mut rng);
                for _ in 0..rng.below(6) {
                    let Some(write) = store.log.poll_write() else { break };
                    generations += u64::from(write.offset == 0);
                    store.land(write);
                }
                if rng.below(3) == 0 {
                    let up_to =
                        store.model.acked - rng.below(30).min(store.model.acked + 1 - store.model.from);
                    store.release(up_to);
                }
            }
            let seed = rng.next();
            if let Some(write) = store.log.poll_write() {
                let lands = |sector: usize| Rng::new(seed ^ sector as u64).below(4) != 0;
                store.disk.file(write.segment).write(write.offset, &write.pages, lands);
            }
            store = Store::start(store.disk, store.model, 14, round);
            // What a snapshot stands for; or the log would fill.
            store.release(store.model.acked.saturating_sub(rng.below(200)));
            row.trials += 1;
            row.whole += 1;
        }
        assert!(store.disk.files.len() <= 14);
        store.release(store.model.acked);
        while store.append(1, Purpose::Keep) != Room::Now {
            store.make();
        }
    }
    assert!(generations > 1_000, "segments were used over and over: {generations}");
    row.report("crashes over many generations");
}
