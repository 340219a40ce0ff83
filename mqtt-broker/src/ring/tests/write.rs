//! Writing to files.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Bench, Seen};
use crate::store::log::{Buffer, Identity, SnapshotWriter};

/// A page that has something in it.
fn page() -> Buffer {
    let identity = Identity { store: *b"a store of tests", core: 0 };
    SnapshotWriter::new(identity, 1).poll_write().expect("it begins with a header").pages
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mqtt-ring-{name}-{}", std::process::id()))
}

#[test]
fn a_write_gives_its_pages_back_when_the_file_has_them() {
    let path = path("write");
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).custom_flags(libc::O_DSYNC).open(&path);
    let file = Arc::new(file.expect("the temporary folder is writable"));
    let mut bench = Bench::new(1_000);
    let pages = page();
    let expected = pages.to_vec();
    for place in 0..3 {
        bench.ring.write(Arc::clone(&file), place * 4096, page());
        bench.until("the write", |bench| bench.saw(&Seen::Written(4096, Ok(4096))));
        bench.seen.clear();
        assert_eq!(fs::read(&path).expect("it is there")[place as usize * 4096..], expected);
    }
    // The file stays open as long as something is written to it.
    bench.ring.write(file, 0, pages);
    bench.until("the write", |bench| bench.saw(&Seen::Written(4096, Ok(4096))));
    fs::remove_file(path).expect("it is there");
}

#[test]
fn a_write_that_is_refused_says_why() {
    let path = path("refused");
    fs::write(&path, b"").expect("the temporary folder is writable");
    let mut bench = Bench::new(1_000);
    bench.ring.write(Arc::new(File::open(&path).expect("it is there")), 0, page());
    bench.until("the error", |bench| {
        bench.seen.iter().any(|seen| matches!(seen, Seen::Written(4096, Err(_))))
    });
    let why = |seen: &Seen| matches!(seen, Seen::Written(_, Err(why)) if *why != ErrorKind::Interrupted);
    assert!(bench.seen.iter().any(why), "{:?}", bench.seen);
    fs::remove_file(path).expect("it is there");
}

/// What the kernel still reads must not be freed: under a checker of memory this shows.
#[test]
fn a_ring_that_ends_waits_for_its_write() {
    let path = path("ends");
    let file = Arc::new(File::create(&path).expect("the temporary folder is writable"));
    let mut bench = Bench::new(1_000);
    bench.ring.write(Arc::clone(&file), 0, page());
    drop(bench);
    assert_eq!(Arc::strong_count(&file), 1, "the ring has come to rest and let go of the file");
    fs::remove_file(path).expect("it is there");
}
