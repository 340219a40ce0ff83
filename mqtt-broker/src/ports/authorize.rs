//! The port that decides who may publish where and subscribe to what.

use mqtt_proto::types::{Qos, TopicName};

use super::{Decision, Identity, Refusal, Ticket};

/// What a Client wants to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AuthorizeRequest<'a> {
    /// Publish an Application Message, or have it published as its Will.
    Publish {
        /// The effective ClientID.
        client_id: &'a str,
        /// Who it acts for.
        identity: &'a Identity,
        /// Where to.
        topic: TopicName<'a>,
        /// With which QoS.
        qos: Qos,
        /// Whether it is to be retained.
        retain: bool,
    },
    /// Subscribe.
    Subscribe {
        /// The effective ClientID.
        client_id: &'a str,
        /// Who it acts for.
        identity: &'a Identity,
        /// The whole Topic Filter, `$share/{ShareName}/` included.
        filter: &'a str,
        /// The Maximum QoS it asks for.
        qos: Qos,
    },
}

/// The answer to an [`AuthorizeRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Go on.
    Allow,
    /// No: a 5.0 Client is told this Reason Code where the packet has an answer; a message is dropped.
    Deny(Refusal),
}

/// Decides who may publish where and subscribe to what.
pub trait Authorize {
    /// Judges one request.
    fn authorize(&mut self, request: &AuthorizeRequest<'_>, ticket: Ticket) -> Decision<Permission>;
}
