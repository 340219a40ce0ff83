//! What the broker asks its surroundings, as traits: who may connect, who may publish and subscribe, what must be on
//! disk, and who wants to know.
//!
//! A port never blocks a core. It answers [`Decision::Now`], or [`Decision::Later`] and afterwards, from any thread,
//! through the [`Responder`] it was made with. Meanwhile only the connection concerned waits, in order and bounded.
//! Every core has ports of its own, made by a [`PortsFactory`] on that core.

mod authenticate;
mod authorize;
mod hooks;
mod store;

use std::sync::Arc;

use mqtt_proto::types::ReasonCode;

use crate::config::CoreId;
use crate::shard::ConnectionId;

pub use authenticate::{AllowAll, Authenticate, AuthenticateRequest, Authentication, Identity};
pub use authorize::{Authorize, AuthorizeRequest, Permission};
pub use hooks::{Event, Hooks, NoHooks};
pub use store::{Cold, Commit, MemoryStore, Store, StoreStatus};

/// The answer of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// Decided.
    Now(T),
    /// The answer comes through the [`Responder`], under the ticket of the question.
    Later,
}

/// Names one question, so that a late answer finds its connection, or nothing once that connection is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The core that asked.
    pub core: CoreId,
    /// The connection that waits.
    pub connection: ConnectionId,
    /// Counts the questions of this core.
    pub serial: u32,
}

/// The late answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Authenticate::authenticate`].
    Authentication(Authentication),
    /// To [`Authorize::authorize`].
    Permission(Permission),
}

/// What a port says after it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The late answer to a question.
    Answer(Ticket, Answer),
    /// The store of this core has committed every record up to this position.
    Committed(CoreId, u64),
}

/// Takes late replies to the core that waits for them; cheap to clone, usable from any thread.
#[derive(Clone)]
pub struct Responder(Arc<dyn Fn(Reply) + Send + Sync>);

impl Responder {
    /// A responder that calls `deliver`.
    pub fn new(deliver: impl Fn(Reply) + Send + Sync + 'static) -> Responder {
        Responder(Arc::new(deliver))
    }

    /// Answers the question `ticket`. An answer for a connection that is gone is dropped.
    pub fn answer(&self, ticket: Ticket, answer: Answer) {
        (self.0)(Reply::Answer(ticket, answer));
    }

    /// Says that the [`Store`] of `core` has committed every record up to `position`: the acknowledgements behind them
    /// may leave.
    pub fn committed(&self, core: CoreId, position: u64) {
        (self.0)(Reply::Committed(core, position));
    }
}

impl core::fmt::Debug for Responder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Responder")
    }
}

/// The ports of one core.
pub struct Ports {
    /// Who may connect.
    pub authenticate: Box<dyn Authenticate>,
    /// Who may publish and subscribe.
    pub authorize: Box<dyn Authorize>,
    /// What must be kept.
    pub store: Box<dyn Store>,
    /// Who wants to know.
    pub hooks: Box<dyn Hooks>,
}

impl Ports {
    /// Everyone may do everything, nothing outlives the process.
    pub fn allow_all() -> Ports {
        Ports {
            authenticate: Box::new(AllowAll),
            authorize: Box::new(AllowAll),
            store: Box::new(MemoryStore),
            hooks: Box::new(NoHooks),
        }
    }
}

/// Makes the ports of a core; called once a core, on that core's thread.
pub type PortsFactory = Arc<dyn Fn(CoreId, Responder) -> Ports + Send + Sync>;

/// Refusal with the Reason Code that the Client is told.
pub type Refusal = ReasonCode;
