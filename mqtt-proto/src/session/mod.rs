//! What outlives a Network Connection on either side: QoS 1 and 2 flows, by section 4.3 and 4.4.
//!
//! A [`Session`] holds no packet and sends none. Its owner tells it what arrived and what it is about to send, and
//! is told what that means: which Packet Identifier, whether a PUBLISH is new, what has to be sent again. `M` is
//! whatever the owner keeps of an Application Message until its delivery is acknowledged.

mod inbound;
mod outbound;

pub use inbound::{Arrival, Inbound, ReceiveMaximumExceeded};
pub use outbound::{Discarded, Outbound, Phase, PubRec, Resend, UnknownPacketId};

/// The Session State of section 4.1 that both Client and Server keep.
#[derive(Clone, Debug)]
pub struct Session<M> {
    /// Messages on their way to the peer.
    pub outbound: Outbound<M>,
    /// Messages on their way from the peer.
    pub inbound: Inbound,
}

impl<M> Session<M> {
    /// An empty session. Nothing can be sent before [`Session::restart`].
    pub const fn new() -> Session<M> {
        Session { outbound: Outbound::new(), inbound: Inbound::new() }
    }

    /// A Network Connection begins whose peer announced `receive_maximum`.
    pub fn restart(&mut self, receive_maximum: u16) {
        self.outbound.restart(receive_maximum);
        self.inbound.restart();
    }

    /// Whether no flow is under way in either direction.
    pub fn is_idle(&self) -> bool {
        self.outbound.in_flight() == 0 && self.inbound.awaiting_pubrel().len() == 0
    }
}

impl<M> Default for Session<M> {
    fn default() -> Session<M> {
        Session::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{PacketId, Qos, ReasonCode};

    #[test]
    fn a_flow_in_either_direction_keeps_a_session_busy() {
        let mut session: Session<u32> = Session::new();
        session.restart(1);
        assert!(session.is_idle());
        let id = session.outbound.start(Qos::AtLeastOnce, 7).expect("quota");
        assert!(!session.is_idle());
        assert_eq!(session.outbound.handle_puback(id, ReasonCode::SUCCESS), Ok(7));
        assert!(session.is_idle());
        assert_eq!(session.inbound.publish_received(Qos::ExactlyOnce, PacketId::FIRST, 1), Ok(Arrival::New));
        assert!(!session.is_idle());
        assert!(session.inbound.pubrel_received(PacketId::FIRST));
        assert!(session.is_idle());
    }
}
