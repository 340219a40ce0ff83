//! mqttd.
fn main() {}
