//! What the broker promises its Clients, on one core and on several: shards without sockets, in virtual time.

mod accounts;
mod answers;
mod backpressure;
mod basics;
mod bounds;
#[allow(dead_code, reason = "shared with the simulation: each uses its part of it")]
mod cluster;
mod connecting;
mod contract;
mod deciding;
mod exactly_once;
mod faults;
mod forwarding;
mod idle;
mod keeping;
mod moving;
mod recording;
mod retained;
mod rules_connack;
mod rules_connect;
mod rules_data;
mod rules_flow;
mod rules_publish;
mod rules_receiving;
mod rules_retained;
mod rules_sending;
mod rules_session;
mod rules_will;
mod seen;
mod shared;
mod sys;
mod takeover;
mod waiting;
mod wills;
