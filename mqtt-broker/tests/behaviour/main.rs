//! What the broker promises its Clients, on one core and on several: shards without sockets, in virtual time.

mod answers;
mod basics;
mod cluster;
mod connecting;
mod deciding;
mod exactly_once;
mod faults;
mod forwarding;
mod takeover;
mod wills;
