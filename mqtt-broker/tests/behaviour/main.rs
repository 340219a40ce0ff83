//! What the broker promises its Clients, on one core and on several: shards without sockets, in virtual time.

mod basics;
mod cluster;
mod connecting;
mod takeover;
mod wills;
