//! A thread-per-core MQTT broker, as a library.

pub mod router;
