//! What the broker promises its Clients, on one core and on several: shards without sockets, in virtual time.

mod basics;
mod bounds;
mod cluster;
mod shared;
mod waiting;
