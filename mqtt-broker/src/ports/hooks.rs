//! The port that is told what happens. It decides nothing.

use std::net::SocketAddr;

use mqtt_proto::types::{ReasonCode, Version};

/// Something that happened on this core.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A Client was accepted: its CONNACK is on its way.
    Connected {
        /// The effective ClientID.
        client_id: &'a str,
        /// Where it comes from.
        peer: Option<SocketAddr>,
        /// Its version.
        version: Version,
        /// Whether it resumed a session.
        session_present: bool,
    },
    /// Its Network Connection ended.
    Disconnected {
        /// The effective ClientID.
        client_id: &'a str,
        /// Why: what was said in DISCONNECT by either side, or the nearest Reason Code.
        reason: ReasonCode,
    },
    /// A subscription was made or replaced.
    Subscribed {
        /// The effective ClientID.
        client_id: &'a str,
        /// The whole Topic Filter.
        filter: &'a str,
    },
    /// A subscription was ended by its Client.
    Unsubscribed {
        /// The effective ClientID.
        client_id: &'a str,
        /// The whole Topic Filter.
        filter: &'a str,
    },
    /// A session ended: expired, or cleared by a Clean Start.
    SessionEnded {
        /// The effective ClientID.
        client_id: &'a str,
    },
}

/// Wants to know what happens.
pub trait Hooks {
    /// Called in the middle of the core's work: it must return at once.
    fn on_event(&mut self, event: &Event<'_>);
}

/// Wants to know nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn on_event(&mut self, _: &Event<'_>) {}
}
