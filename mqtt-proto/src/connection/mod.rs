//! One Network Connection, client or server side: what may come when, and what both sides agreed on.
//!
//! [`Receiver`] turns bytes into packets, [`Sender`] packets into bytes, both within the limits that the two sides
//! announced; [`KeepAlive`] and [`Ping`] are the deadlines. Nothing here outlives the Network Connection: that is
//! the [`Session`](crate::session::Session).

mod alias;
mod error;
mod keep_alive;
mod limits;
mod receiver;
mod sender;

pub use error::ProtocolError;
pub use keep_alive::{KeepAlive, Ping, PingAction};
pub use limits::PeerLimits;
pub use receiver::{Receiver, Role};
pub use sender::{Sender, TooLarge};
