//! mqttd as a process: what its user and its clients see.

mod documents;
mod process;
mod program;
mod rumqttc_v4_v5;
mod store_tools;
