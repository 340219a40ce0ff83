//! mqtt-load.
fn main() {}
