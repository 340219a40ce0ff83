//! Replays the stored inputs of the fuzz targets: what fuzzing reached or broke once stays checked without a fuzzer.

#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/connection.rs"]
mod connection;
#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/decode.rs"]
mod decode;
#[path = "../../fuzz/src/replay.rs"]
mod replay;
#[expect(unreachable_pub, reason = "the fuzz targets call it")]
#[path = "../../fuzz/src/roundtrip.rs"]
mod roundtrip;

use replay::replay;

#[test]
fn stored_inputs_decode_as_before() {
    replay("decode", 50, decode::run);
}

#[test]
fn stored_inputs_make_the_round_trip() {
    replay("roundtrip", 50, roundtrip::run);
}

#[test]
fn stored_inputs_leave_connections_sound() {
    replay("connection", 50, connection::run);
}
