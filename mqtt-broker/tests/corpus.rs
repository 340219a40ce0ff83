//! Replays the stored inputs of the fuzz targets: what fuzzing reached or broke once stays checked without a fuzzer.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/filter.rs"]
mod filter;
#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/shard.rs"]
mod shard;

/// Runs every stored input of `target`; there are `at_least` so many.
fn replay(target: &str, at_least: usize, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= at_least, "{} inputs", paths.len());
    for path in paths {
        let input = fs::read(&path).expect("a readable file");
        // A panic within says what, this says where.
        println!("{}", path.display());
        run(&input);
    }
}

#[test]
fn stored_inputs_are_matched_as_the_definition_says() {
    replay("filter", 10, filter::run);
}

#[test]
fn stored_inputs_leave_the_shards_sound() {
    replay("shard", 50, shard::run);
}
