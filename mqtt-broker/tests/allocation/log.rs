//! A record takes nothing, from its append to its commit and on to the release of its segment.

use std::io;

use mqtt_broker::store::log::{
    Identity, Log, LogConfig, Media, Purpose, ReadConfig, Reader, Room, SEGMENT_STEP, Source,
};

use crate::{ROUNDS, TRIES, WARM_UP, alone, bytes_taken};

const IDENTITY: Identity = Identity { store: [1; 16], core: 0 };

/// No file at all.
struct Nothing;

impl Media for Nothing {
    type File = Nothing;

    fn segments(&self) -> io::Result<Vec<u32>> {
        Ok(Vec::new())
    }

    fn open(&self, _: u32) -> io::Result<Nothing> {
        Err(io::ErrorKind::NotFound.into())
    }
}

impl Source for Nothing {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn a_record_takes_nothing_from_the_allocator() {
    let _alone = alone();
    let config = ReadConfig { identity: IDENTITY, from: 1, reach: 0, salvage: false };
    let empty = Reader::open(&Nothing, config).and_then(Reader::finish).expect("there is nothing to read");
    let mut log =
        Log::open(LogConfig { identity: IDENTITY, segment_bytes: SEGMENT_STEP, segments_max: 8 }, empty);
    let body = [7; 200];
    let mut turn = || {
        while log.poll_make().is_some() {
            log.made(true);
        }
        for _ in 0..64 {
            assert_eq!(log.room_for(body.len() + 3, Purpose::Keep), Room::Now);
            log.append(1, |out| out.extend_from_slice(&body));
            log.boundary();
        }
        while let Some(write) = log.poll_write() {
            let bytes = write.pages.len();
            log.written(write, bytes).expect("all of it is written");
        }
        log.release(log.committed());
    };
    assert_eq!(bytes_taken(&mut turn), 0);
    assert_eq!(log.committed(), 64 * (WARM_UP + TRIES * ROUNDS) as u64);
    assert!(log.live().len() == 1 && log.free() <= 7, "segments are used again");
}
