//! mqttd as a process: what its user and its clients see.

mod bounds;
mod client;
mod documents;
mod faults;
mod kill;
mod kill_groups;
mod power;
mod process;
mod program;
mod rumqttc_v4_v5;
mod store;
mod store_cold;
mod store_tools;
