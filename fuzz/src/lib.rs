//! What the fuzz targets do with their input. The tests replay the stored inputs through the same functions.

pub mod connection;
pub mod decode;
pub mod filter;
pub mod roundtrip;
pub mod shard;
