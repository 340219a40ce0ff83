//! Replays the stored inputs of the fuzz targets: what fuzzing reached or broke once stays checked without a fuzzer.

#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/filter.rs"]
mod filter;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/shard.rs"]
mod shard;

use replay::replay;

#[test]
fn stored_inputs_are_matched_as_the_definition_says() {
    replay("filter", 10, filter::run);
}

#[test]
fn stored_inputs_leave_the_shards_sound() {
    replay("shard", 50, shard::run);
}
