//! Disks that refuse: writes that fail, and no room for another segment.

use mqtt_broker::store::log::{PAGE, Purpose, Room, SEGMENT_STEP};

use crate::Row;
use crate::disk::SECTOR;
use crate::model::{Rng, Store};

#[test]
fn a_failed_or_short_write_ends_the_log() {
    let mut row = Row::default();
    for broken in 0..80 {
        for (shape, &bytes) in [0, 1, 512, 4095, usize::MAX].iter().enumerate() {
            let mut rng = Rng::new(5);
            let mut store = Store::new(16);
            for _ in 0..broken {
                store.turn(&mut rng);
                let Some(write) = store.log.poll_write() else { continue };
                store.land(write);
            }
            store.turn(&mut rng);
            let Some(write) = store.log.poll_write() else { continue };
            let seed = rng.next() + shape as u64;
            let lands = |sector: usize| match shape {
                0 => false,
                // An error says nothing of what is on the disk.
                4 => Rng::new(seed ^ sector as u64).below(2) == 0,
                _ => sector < bytes / SECTOR,
            };
            let bytes = bytes.min(write.pages.len() - 1);
            store.disk.file(write.segment).write(write.offset, &write.pages, lands);
            let committed = store.log.committed();
            let failed = store.log.written(write, bytes).expect_err("not all of it was written");
            // From now on it does nothing, whatever is asked of it.
            let next = store.log.next();
            assert_eq!(store.log.append(1, |out| out.push(1)), next);
            store.log.boundary();
            store.log.end();
            assert!(store.log.poll_write().is_none() && store.log.poll_make().is_none());
            assert_eq!((store.log.committed(), store.log.is_ended()), (committed, false));
            assert_eq!(store.log.failed(), Some(failed));
            store.model.check(&store.disk).expect("a failed write is no damage");
            row.trials += 1;
            row.whole += 1;
        }
    }
    row.report("write failed or short");
}

#[test]
fn without_room_for_a_segment_nothing_is_lost_and_clean_up_goes_on() {
    let mut row = Row::default();
    for refused in 0..12 {
        let mut rng = Rng::new(refused);
        let mut store = Store::new(10);
        let mut made = 0;
        // Segments are made until the disk is full, and records kept until there is no room.
        let (mut small, mut last_room) = (0, Room::Now);
        while small < 20 {
            while let Some(segment) = store.log.poll_make() {
                if made < refused {
                    store.disk.make(segment);
                }
                store.log.made(made < refused);
                made += 1;
            }
            let next = store.log.next();
            last_room = store.append(rng.below(3) + 1, Purpose::Keep);
            if last_room == Room::Full {
                assert_eq!(store.log.next(), next, "nothing was appended");
                small += 1;
            }
            store.flush();
        }
        assert_eq!(last_room, Room::Full);
        let kept = store.model.acked;
        assert_eq!(kept > 0, refused >= 3, "three segments are the least");
        // Two segments of clean-up, but for the page of the mark at the end, fit where nothing else does.
        let mut clean_up = 0;
        while store.append_these(vec![(9, vec![1; 20])], Purpose::CleanUp) == Room::Now {
            clean_up += 1;
            store.flush();
            assert_eq!(store.log.committed() + 1, store.log.next(), "what has room is written");
        }
        assert!(refused < 2 || clean_up >= 29, "{clean_up} pages");
        if refused > 0 {
            store.log.end();
            store.flush();
            assert!(store.log.is_ended(), "there is room for the mark at the end");
        }
        let found = store.model.check(&store.disk).expect("nothing is damaged");
        assert_eq!(found.next - 1, store.model.acked);
        row.trials += 1;
        row.whole += 1;

        // The next start goes on once something can be released.
        let mut store = Store::start(store.disk.clone(), store.model.clone(), 10, 1);
        store.release(store.model.acked);
        store.make();
        assert_eq!(store.append_these(vec![(1, vec![2; 100])], Purpose::Keep), Room::Now);
        store.flush();
        store.model.check(&store.disk).expect("nothing is damaged");
    }
    row.report("no room for a segment");
}

/// On a full disk there is no other: what a start took from the reserve it would never give back.
#[test]
fn starts_in_a_row_take_no_segment_each() {
    let pages = SEGMENT_STEP as usize / PAGE - 1;
    for is_ended in [false, true] {
        let mut store = Store::new(8);
        store.make();
        let mut written = 0;
        while written < 2 * pages {
            // A record that tells of the start, and the mark of the end.
            store.append_unasked(vec![(1, vec![2; 100])]);
            store.flush();
            if is_ended {
                store.log.end();
                store.flush();
            }
            written += 1 + usize::from(is_ended);
            assert_eq!(store.log.live().len(), written.div_ceil(pages), "all pages are used");
            store = Store::start(store.disk, store.model, 8, written as u64);
        }
        assert_eq!(store.log.free(), 1);
    }
}

/// Whoever is killed in the middle of a write leaves it behind. What came of that is not written over.
#[test]
fn a_start_goes_on_in_a_fresh_segment_if_something_was_torn() {
    let torn = |lands: fn(usize) -> bool| {
        let mut store = Store::new(8);
        store.make();
        for _ in 0..2 {
            store.append_unasked(vec![(1, vec![2; 10_000])]);
            store.flush();
        }
        store.append_unasked(vec![(1, vec![2; 10_000])]);
        let write = store.log.poll_write().expect("something waits");
        store.disk.file(write.segment).write(write.offset, &write.pages, lands);
        let mut store = Store::start(store.disk, store.model, 8, 1);
        let found = store.model.check(&store.disk).expect("a crash is no damage");
        store.append_unasked(vec![(3, vec![4; 10])]);
        store.flush();
        store.model.check(&store.disk).expect("nothing is damaged");
        (found.torn.is_some(), store.log.live().len())
    };
    assert_eq!(torn(|sector| sector < 1), (true, 2), "its header is there");
    assert_eq!(torn(|sector| sector > 1), (false, 1), "nothing tells of it");
    assert_eq!(torn(|_| false), (false, 1));
    assert_eq!(torn(|_| true), (false, 1), "all of it is there");
}

/// What is there of the chain lies before the place where the next commit would go.
#[test]
fn a_start_goes_on_in_a_fresh_segment_if_a_chain_was_torn() {
    let mut store = Store::new(20);
    store.make();
    store.append_unasked(vec![(1, vec![1; 100])]);
    store.flush();
    store.append_unasked(vec![(2, vec![2; 2 * SEGMENT_STEP as usize])]);
    // As much as goes into the first segment, and the header of the next.
    for _ in 0..2 {
        let write = store.log.poll_write().expect("something waits");
        store.land(write);
    }
    assert_eq!(store.log.live().len(), 2);
    let mut store = Store::start(store.disk, store.model, 20, 1);
    for _ in 0..20 {
        store.make();
        store.append_unasked(vec![(3, vec![3; 10])]);
        store.flush();
        let found = store.model.check(&store.disk).expect("nothing is damaged");
        assert!(found.torn.is_none() && found.live.len() >= 3, "{found:?}");
    }
}

#[test]
fn a_message_longer_than_the_free_segments_waits_for_more_or_is_refused() {
    let mut store = Store::new(20);
    store.make();
    let long = 10 * SEGMENT_STEP as usize;
    assert_eq!(store.log.room_for(long, Purpose::Keep), Room::Soon);
    store.make();
    assert_eq!(store.log.room_for(long, Purpose::Keep), Room::Now);
    assert_eq!(store.log.room_for(2 * long, Purpose::Keep), Room::Full);
    // A disk that refuses says so until it is asked again.
    assert_eq!(store.log.room_for(16 * SEGMENT_STEP as usize, Purpose::Keep), Room::Soon);
    assert!(store.log.poll_make().is_some());
    store.log.made(false);
    assert_eq!(store.log.room_for(16 * SEGMENT_STEP as usize, Purpose::Keep), Room::Full);
    assert_eq!(store.log.poll_make(), None);
    store.log.try_again();
    assert!(store.log.poll_make().is_some());
}

/// Should the segment that is being made not come, what was let in meanwhile leaves room for what is over, whether it was
/// written meanwhile or waits.
#[test]
fn nobody_is_let_in_for_more_than_the_segment_that_is_being_made() {
    for is_written in [false, true] {
        let mut store = Store::new(20);
        store.make();
        store.append_unasked(vec![(3, vec![3; 10_000])]);
        store.flush();
        let mut appended = 0;
        while !store.log.is_short() && appended < 100 {
            assert_ne!(store.log.room_for(10_000, Purpose::Keep), Room::Full);
            store.append_unasked(vec![(3, vec![3; 10_000])]);
            if is_written {
                store.flush();
            }
            appended += 1;
        }
        assert!(appended > 1, "the free segments but the reserve, and one more");
        assert!(store.log.poll_make().is_some());
        store.log.made(false);
        assert_eq!(store.log.room_for(10_000, Purpose::Keep), Room::Full);
        store.flush();
        assert_eq!(store.log.waiting_bytes(), 0, "all that was let in is written");
        assert_eq!(store.log.room_for(1, Purpose::CleanUp), Room::Now);
    }
}

/// A full store that lets one in at each look would tell one client yes and the next one no.
#[test]
fn a_full_store_is_full_until_a_segment_is_free() {
    let mut store = Store::new(20);
    store.make();
    let keep = |store: &mut Store| store.log.room_for(1_000, Purpose::Keep);
    let batch = |store: &mut Store, purpose| {
        let room = store.append_these(vec![(1, vec![2; 1_000])], purpose);
        store.flush();
        room
    };
    while batch(&mut store, Purpose::Keep) == Room::Now {}
    assert_eq!(keep(&mut store), Room::Soon);
    for _ in 0..3 {
        assert!(store.log.poll_make().is_some());
        store.log.made(false);
        assert_eq!(keep(&mut store), Room::Full);
        // What is over is still told, and gives nothing back by that.
        assert_eq!(batch(&mut store, Purpose::CleanUp), Room::Now);
        store.log.try_again();
        assert_eq!(keep(&mut store), Room::Full, "the disk has not answered");
    }
    assert_eq!(store.log.room_for(0, Purpose::Keep), Room::Full);
    let segment = store.log.poll_make().expect("it is asked again");
    store.disk.make(segment);
    store.log.made(true);
    assert_eq!(keep(&mut store), Room::Now);

    // The same where there may be no more segments: a snapshot frees one.
    let mut store = Store::new(8);
    while batch(&mut store, Purpose::Keep) != Room::Full {
        store.make();
    }
    let last = store.log.live().next().expect("it is full").last;
    store.release(last - 1);
    assert_eq!(keep(&mut store), Room::Full);
    store.release(last);
    assert_eq!(keep(&mut store), Room::Now);
}

/// What is written takes fewer pages than it was reckoned with: that is no room for the next.
#[test]
fn a_page_that_was_not_needed_is_no_room_in_a_full_store() {
    let mut store = Store::new(8);
    let keep = |store: &mut Store| store.log.room_for(1_000, Purpose::Keep);
    while keep(&mut store) != Room::Full {
        store.make();
        store.append_unasked(vec![(1, vec![2; 1_000])]);
    }
    store.flush();
    assert_eq!(store.log.committed() + 1, store.log.next(), "all of it is written");
    assert_eq!(keep(&mut store), Room::Full);
    store.release(store.model.acked);
    assert_eq!(keep(&mut store), Room::Now);
}

#[test]
fn what_is_appended_without_room_waits_as_a_whole() {
    let mut store = Store::new(20);
    store.make();
    let long = vec![(1, vec![1; 4 * SEGMENT_STEP as usize]), (2, vec![2; 100])];
    store.append_unasked(long);
    assert!(store.log.poll_write().is_none(), "what is begun is finished");
    assert_eq!(store.log.room_for(0, Purpose::Keep), Room::Soon);
    store.make();
    store.flush();
    assert_eq!(store.log.committed(), 2);
    store.model.check(&store.disk).expect("nothing is damaged");
}

#[test]
fn the_files_of_a_log_are_those_on_the_disk() {
    let mut rng = Rng::new(11);
    let mut store = Store::new(16);
    for turn in 0..400 {
        store.turn(&mut rng);
        while let Some(write) = store.log.poll_write() {
            let files = store.disk.files.len() as u64;
            assert_eq!(store.log.files(), (files, files * u64::from(SEGMENT_STEP)));
            store.land(write);
        }
        if turn % 20 == 0 {
            store.release(store.model.acked);
        }
    }
    assert!(store.disk.files.len() > 4);
}

#[test]
fn a_segment_is_used_again_only_when_its_last_record_is_released() {
    let mut store = Store::new(16);
    while store.log.live().len() < 3 {
        store.make();
        store.append(3, Purpose::Keep);
        store.flush();
    }
    let [first, second] = [0, 1].map(|place| store.log.live().nth(place).expect("there are three").last);
    store.release(first - 1);
    assert_eq!(store.log.live().len(), 3);
    store.release(first);
    assert_eq!(store.log.live().len(), if first == second { 1 } else { 2 });
}

/// Records of what is over are appended whether there is room or not. A snapshot waits until they are durable, and room for
/// them only comes of a snapshot: so they get segments of their own. What was made for them is removed again.
#[test]
fn what_is_appended_to_a_full_log_is_written_and_the_log_is_short_again_later() {
    for batch in [20, 3 * SEGMENT_STEP as usize] {
        let mut rng = Rng::new(3);
        let mut store = Store::new(8);
        while store.append(rng.below(5) + 1, Purpose::Keep) != Room::Full {
            store.make();
            store.flush();
        }
        let full = store.log.live().len() + store.log.free();
        assert!(full <= 8);
        for _ in 0..12 * SEGMENT_STEP as usize / batch {
            store.append_unasked(vec![(9, vec![1; batch])]);
        }
        while store.log.committed() + 1 < store.log.next() {
            let live = store.log.live().len();
            store.flush();
            store.make();
            assert!(store.log.live().len() + store.log.free() > live, "nothing moves");
        }
        assert!(store.log.live().len() > 12);
        store.model.check(&store.disk).expect("nothing is damaged");
        // A log that was long a while ago is not long now.
        for _ in 0..3 {
            assert!(store.log.poll_remove().is_none() || store.log.live().len() < 3);
            store.release(store.model.acked);
            store.make();
            assert_eq!(store.append(1, Purpose::Keep), Room::Now);
            store.flush();
            while let Some(segment) = store.log.poll_remove() {
                store.disk.remove(segment.number);
            }
            store.model.check(&store.disk).expect("nothing is damaged");
        }
        assert!(store.log.live().len() + store.log.free() <= 5, "{} live", store.log.live().len());
        let mut store = Store::start(store.disk.clone(), store.model.clone(), 8, 1);
        assert_eq!(store.append(1, Purpose::Keep), Room::Now);
        store.flush();
        store.model.check(&store.disk).expect("nothing is damaged");
    }
}
