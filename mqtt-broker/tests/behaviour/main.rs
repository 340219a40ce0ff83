//! What the broker promises its Clients, on one core and on several: shards without sockets, in virtual time.

mod answers;
mod backpressure;
mod basics;
mod bounds;
#[allow(dead_code, reason = "shared with the simulation: each uses its part of it")]
mod cluster;
mod connecting;
mod deciding;
mod exactly_once;
mod faults;
mod forwarding;
mod idle;
mod retained;
mod rules_auth;
mod rules_ending;
mod rules_shared;
mod rules_subscribe;
mod rules_topics;
mod rules_unsubscribe;
mod shared;
mod sys;
mod takeover;
mod waiting;
mod wills;
