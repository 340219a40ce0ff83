//! See [`mqtt_fuzz::shard`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mqtt_fuzz::shard::run(data));
