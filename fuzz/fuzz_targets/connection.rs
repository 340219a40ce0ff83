//! See [`mqtt_fuzz::connection`]; the memory that one input may take is bounded by its length.
#![no_main]

use std::alloc::System;

use cap::Cap;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

/// Bytes on the heap that an input may take whatever its length, and for each of its bytes.
const FIXED: usize = 64 << 10;
const EACH: usize = 256;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // An allocation above the limit fails, which aborts.
    HEAP.set_limit(HEAP.allocated() + FIXED + EACH * data.len()).expect("more than is allocated");
    mqtt_fuzz::connection::run(data);
    HEAP.set_limit(usize::MAX).expect("more than is allocated");
});
