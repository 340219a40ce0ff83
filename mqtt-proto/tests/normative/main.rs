//! Statements of the standards one by one, at the edge of the codec and of the Client: `statements.toml` names them.

mod client;
mod client_connects;
mod client_receives;
mod client_sends;
mod connect;
mod data;
mod ending;
mod publish;
mod subscribe;
mod topics;

use mqtt_proto::Version;

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];
