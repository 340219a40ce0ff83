//! Messages on their way from the peer: QoS 2 identifiers between PUBLISH and PUBREL, and the Receive Maximum
//! that we announced.
//!
//! Invariant: the identifiers are sorted and unique. They belong to the session; the count against Receive Maximum
//! belongs to the Network Connection and mirrors the peer's send quota by the letter of section 4.9, so that it
//! never exceeds what a conforming peer believes. Lives on: the home core.

use alloc::vec::Vec;

use crate::types::{PacketId, Qos, ReasonCode};

/// What a QoS 1 or 2 PUBLISH is to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A new Application Message: take ownership of it.
    New,
    /// A QoS 2 PUBLISH whose identifier is still known: answer PUBREC, do not deliver it again
    /// [MQTT-4.3.3-10].
    Duplicate,
}

/// The peer sent more QoS 1 and 2 PUBLISH packets than the Receive Maximum allows [MQTT-3.3.4-7] [MQTT-3.3.4-9].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {limit} unacknowledged PUBLISH packets")]
pub struct ReceiveMaximumExceeded {
    /// The Receive Maximum that was announced.
    pub limit: u16,
}

/// The receiving half of a session.
#[derive(Clone, Debug, Default)]
pub struct Inbound {
    /// QoS 2 messages received and not yet released.
    awaiting: Vec<Awaiting>,
    /// PUBLISH packets of this Network Connection that have no final acknowledgement.
    unacknowledged: u16,
    /// PUBCOMPs sent on this Network Connection: the most that can be lost with it.
    completed: u16,
    /// PUBCOMPs that may have been lost with the connection before: so many unknown PUBRELs are no surprise, and
    /// their PUBCOMPs raise the peer's quota.
    completed_before: u16,
}

#[derive(Clone, Copy, Debug)]
struct Awaiting {
    id: PacketId,
    /// Its PUBLISH came on this Network Connection.
    counted: bool,
}

impl Inbound {
    /// No message under way.
    pub const fn new() -> Inbound {
        Inbound { awaiting: Vec::new(), unacknowledged: 0, completed: 0, completed_before: 0 }
    }

    /// A new Network Connection begins: the peer's quota starts anew, QoS 2 identifiers stay [MQTT-4.1.0-1].
    pub fn restart(&mut self) {
        self.awaiting.iter_mut().for_each(|awaiting| awaiting.counted = false);
        if self.awaiting.is_empty() {
            self.awaiting = Vec::new();
        }
        self.completed_before = self.completed;
        self.completed = 0;
        self.unacknowledged = 0;
    }

    /// A PUBLISH arrived with this QoS and Packet Identifier, when `receive_maximum` was announced. QoS 0 is always
    /// new.
    ///
    /// A QoS 1 PUBLISH is always a new message, whatever its DUP flag says [MQTT-4.3.2-5].
    ///
    /// # Errors
    /// [`ReceiveMaximumExceeded`] when too many are unacknowledged; a QoS 2 duplicate counts once.
    pub fn publish_received(
        &mut self,
        qos: Qos,
        id: PacketId,
        receive_maximum: u16,
    ) -> Result<Arrival, ReceiveMaximumExceeded> {
        let arrival = match qos {
            Qos::AtMostOnce => return Ok(Arrival::New),
            Qos::AtLeastOnce => {
                self.count(receive_maximum)?;
                Arrival::New
            }
            Qos::ExactlyOnce => match self.position(id) {
                Ok(at) if self.awaiting[at].counted => Arrival::Duplicate,
                Ok(at) => {
                    self.count(receive_maximum)?;
                    self.awaiting[at].counted = true;
                    Arrival::Duplicate
                }
                Err(at) => {
                    self.count(receive_maximum)?;
                    self.awaiting.insert(at, Awaiting { id, counted: true });
                    Arrival::New
                }
            },
        };
        self.check_invariants();
        Ok(arrival)
    }

    /// A PUBACK leaves, with whatever Reason Code.
    pub fn puback_sent(&mut self) {
        self.uncount();
    }

    /// A PUBREC leaves. With an error the identifier is free again [MQTT-4.3.3-9].
    pub fn pubrec_sent(&mut self, id: PacketId, reason: ReasonCode) {
        if !reason.is_error() {
            return;
        }
        if let Ok(at) = self.position(id) {
            self.awaiting.remove(at);
            self.uncount();
        }
        self.check_invariants();
    }

    /// A PUBREL arrived; PUBCOMP is its answer in any case [MQTT-4.3.3-11]. Returns whether the identifier was
    /// known: if not, PUBCOMP says 0x92 (Packet Identifier not found). Afterwards the identifier is free
    /// [MQTT-4.3.3-12].
    pub fn pubrel_received(&mut self, id: PacketId) -> bool {
        let known = match self.position(id) {
            Ok(at) => {
                self.awaiting.remove(at);
                self.completed = self.completed.saturating_add(1);
                self.uncount();
                true
            }
            Err(_) if self.completed_before > 0 => {
                self.completed_before -= 1;
                self.uncount();
                false
            }
            Err(_) => false,
        };
        self.check_invariants();
        known
    }

    /// The identifiers of QoS 2 messages whose PUBREL has not come, in ascending order.
    pub fn awaiting_pubrel(&self) -> impl ExactSizeIterator<Item = PacketId> + '_ {
        self.awaiting.iter().map(|awaiting| awaiting.id)
    }

    /// Whether nothing is left to be remembered once the Network Connection has ended.
    pub const fn is_over(&self) -> bool {
        self.awaiting.is_empty() && self.completed == 0
    }

    /// PUBLISH packets of this Network Connection that count against the Receive Maximum.
    pub const fn unacknowledged(&self) -> u16 {
        self.unacknowledged
    }

    /// Takes up a stored identifier whose PUBREL has not come, when a session is read back from storage.
    pub fn restore(&mut self, id: PacketId) {
        if let Err(at) = self.position(id) {
            self.awaiting.insert(at, Awaiting { id, counted: false });
        }
    }

    fn count(&mut self, receive_maximum: u16) -> Result<(), ReceiveMaximumExceeded> {
        if self.unacknowledged >= receive_maximum {
            return Err(ReceiveMaximumExceeded { limit: receive_maximum });
        }
        self.unacknowledged += 1;
        Ok(())
    }

    /// The peer's quota rises, never above its start: a PUBREL that was sent again took nothing from it.
    fn uncount(&mut self) {
        self.unacknowledged = self.unacknowledged.saturating_sub(1);
    }

    /// Peers hand out identifiers in ascending order, so the ends are looked at first.
    fn position(&self, id: PacketId) -> Result<usize, usize> {
        match (self.awaiting.first(), self.awaiting.last()) {
            (None, _) | (_, None) => Err(0),
            (Some(first), _) if first.id == id => Ok(0),
            (_, Some(last)) if last.id < id => Err(self.awaiting.len()),
            _ => self.awaiting.binary_search_by_key(&id, |awaiting| awaiting.id),
        }
    }

    /// Asserts, in debug builds, what this module promises.
    pub fn check_invariants(&self) {
        debug_assert!(self.awaiting.is_sorted_by(|a, b| a.id < b.id), "sorted and unique");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketId {
        PacketId::new(value).expect("not zero")
    }

    #[test]
    fn a_qos_2_message_is_new_once_until_it_is_released() {
        let mut inbound = Inbound::new();
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(7), 10), Ok(Arrival::New));
        inbound.pubrec_sent(id(7), ReasonCode::SUCCESS);
        inbound.restart();
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(7), 10), Ok(Arrival::Duplicate));
        assert!(inbound.pubrel_received(id(7)));
        assert!(!inbound.pubrel_received(id(7)));
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(7), 10), Ok(Arrival::New));
    }

    #[test]
    fn a_qos_1_message_is_always_new() {
        let mut inbound = Inbound::new();
        for _ in 0..3 {
            assert_eq!(inbound.publish_received(Qos::AtLeastOnce, id(7), 10), Ok(Arrival::New));
        }
    }

    #[test]
    fn a_refused_qos_2_message_frees_its_identifier() {
        let mut inbound = Inbound::new();
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(1), 1), Ok(Arrival::New));
        inbound.pubrec_sent(id(1), ReasonCode::QUOTA_EXCEEDED);
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(1), 1), Ok(Arrival::New));
    }

    #[test]
    fn the_receive_maximum_counts_both_qos_levels_and_no_duplicate() {
        let mut inbound = Inbound::new();
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(1), 2).is_ok());
        assert!(inbound.publish_received(Qos::ExactlyOnce, id(2), 2).is_ok());
        assert!(inbound.publish_received(Qos::ExactlyOnce, id(2), 2).is_ok());
        let exceeded = ReceiveMaximumExceeded { limit: 2 };
        assert_eq!(inbound.publish_received(Qos::AtLeastOnce, id(3), 2), Err(exceeded));
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(3), 2), Err(exceeded));
        assert_eq!(inbound.publish_received(Qos::AtMostOnce, id(3), 2), Ok(Arrival::New));
        inbound.puback_sent();
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(3), 2).is_ok());
        // PUBREC alone ends no flow; PUBREL does.
        inbound.pubrec_sent(id(2), ReasonCode::SUCCESS);
        assert_eq!(inbound.publish_received(Qos::AtLeastOnce, id(4), 2), Err(exceeded));
        assert!(inbound.pubrel_received(id(2)));
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(4), 2).is_ok());
    }

    #[test]
    fn a_resent_message_counts_on_its_new_connection() {
        let mut inbound = Inbound::new();
        assert!(inbound.publish_received(Qos::ExactlyOnce, id(1), 1).is_ok());
        inbound.restart();
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(1), 1), Ok(Arrival::Duplicate));
        assert!(inbound.publish_received(Qos::ExactlyOnce, id(2), 1).is_err());
    }

    /// Section 4.9: a PUBREL sent again takes no quota, yet its PUBCOMP gives one back.
    #[test]
    fn the_count_follows_the_quota_of_a_peer_that_resends_pubrel() {
        let mut inbound = Inbound::new();
        for n in 1..=2 {
            assert!(inbound.publish_received(Qos::ExactlyOnce, id(n), 2).is_ok());
        }
        assert!(inbound.pubrel_received(id(1)));
        // The PUBCOMP of 1 is lost with the connection.
        inbound.restart();
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(3), 2).is_ok());
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(4), 2).is_ok());
        assert!(!inbound.pubrel_received(id(1)));
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(5), 2).is_ok());
        // No second one was lost: an unknown PUBREL gives nothing more.
        assert!(!inbound.pubrel_received(id(1)));
        assert!(inbound.publish_received(Qos::AtLeastOnce, id(6), 2).is_err());
    }

    #[test]
    fn a_restored_identifier_is_a_duplicate_until_it_is_released() {
        let mut inbound = Inbound::new();
        for n in [9, 3, 9, 5] {
            inbound.restore(id(n));
        }
        assert_eq!(inbound.awaiting_pubrel().map(PacketId::get).collect::<Vec<_>>(), [3, 5, 9]);
        inbound.restart();
        assert_eq!(inbound.unacknowledged(), 0, "they came on another connection");
        assert_eq!(inbound.publish_received(Qos::ExactlyOnce, id(5), 1), Ok(Arrival::Duplicate));
        assert_eq!(inbound.unacknowledged(), 1);
        assert!(inbound.pubrel_received(id(9)));
        assert!(inbound.pubrel_received(id(3)));
        assert_eq!(inbound.awaiting_pubrel().collect::<Vec<_>>(), [id(5)]);
    }

    #[test]
    fn an_empty_half_is_small() {
        assert!(size_of::<Inbound>() <= 40);
    }
}
