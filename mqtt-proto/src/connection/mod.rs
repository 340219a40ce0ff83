//! One Network Connection, client or server side: what may come when, and what both sides agreed on.
//!
//! [`Receiver`] turns bytes into packets, [`Sender`] packets into bytes, both within the limits that the two sides
//! announced; [`KeepAlive`] and [`Ping`] are the deadlines. A Server that has its own loop takes these parts.
//! [`Handshake`] and [`Connection`] join them for one who has not, and [`Client`] is a whole MQTT Client. Nothing
//! here but the Client outlives the Network Connection: that is the [`Session`](crate::session::Session).

mod alias;
mod client;
mod error;
mod exchange;
mod handshake;
mod keep_alive;
mod limits;
mod receiver;
mod request;
mod sender;

pub use client::Client;
pub use error::ProtocolError;
pub use exchange::Event;
pub use handshake::{Connection, Handshake};
pub use keep_alive::{KeepAlive, Ping, PingAction};
pub use limits::PeerLimits;
pub use receiver::{Receiver, Role};
pub use request::{ConnectOptions, Message, Outgoing, RequestError, Unsent};
pub use sender::{Sender, TooLarge};
