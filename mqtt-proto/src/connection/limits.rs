//! What the peer announced in CONNECT or CONNACK; what it left out has the standard's default.

use crate::packet::{ConnAck, Connect, Properties};
use crate::types::{Qos, Version};

/// The peer's limits and abilities for one Network Connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerLimits {
    /// The version of this Network Connection.
    pub version: Version,
    /// QoS 1 and 2 messages that may be unacknowledged; 65,535 before 5.0.
    pub receive_maximum: u16,
    /// Largest packet in bytes that the peer accepts; `u32::MAX` for no limit of its own.
    pub maximum_packet_size: u32,
    /// Highest Topic Alias that the peer accepts; 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether Reason Strings and User Properties may accompany any packet [MQTT-3.1.2-29].
    pub request_problem_information: bool,
    /// Whether Response Information may be returned [MQTT-3.1.2-28].
    pub request_response_information: bool,
    /// Seconds the session outlives its connection, if the peer said so. Left out, it is 0 in CONNECT, and in
    /// CONNACK what CONNECT asked for.
    pub session_expiry_interval: Option<u32>,
    /// Highest QoS that a Server takes [MQTT-3.2.2-11].
    pub maximum_qos: Qos,
    /// Whether a Server keeps retained messages [MQTT-3.2.2-14].
    pub retain_available: bool,
    /// Whether a Server supports wildcards in Topic Filters.
    pub wildcard_subscription_available: bool,
    /// Whether a Server supports Subscription Identifiers.
    pub subscription_identifier_available: bool,
    /// Whether a Server supports Shared Subscriptions.
    pub shared_subscription_available: bool,
    /// The Keep Alive in seconds that a Server wants used instead of CONNECT's [MQTT-3.1.2-21].
    pub server_keep_alive: Option<u16>,
}

impl PeerLimits {
    /// Those of a peer that announced nothing.
    pub const fn new(version: Version) -> PeerLimits {
        PeerLimits {
            version,
            receive_maximum: u16::MAX,
            maximum_packet_size: u32::MAX,
            topic_alias_maximum: 0,
            request_problem_information: true,
            request_response_information: false,
            session_expiry_interval: None,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            wildcard_subscription_available: true,
            subscription_identifier_available: version.has_properties(),
            shared_subscription_available: version.has_properties(),
            server_keep_alive: None,
        }
    }

    /// What a Client announced.
    pub fn from_connect(connect: &Connect<'_>) -> PeerLimits {
        let properties = carried(connect.properties, connect.version);
        PeerLimits {
            request_problem_information: properties.request_problem_information() != Some(0),
            request_response_information: properties.request_response_information() == Some(1),
            ..PeerLimits::common(properties, connect.version)
        }
    }

    /// What a Server announced on a Network Connection of this version.
    pub fn from_connack(connack: &ConnAck<'_>, version: Version) -> PeerLimits {
        let properties = carried(connack.properties, version);
        let defaults = PeerLimits::common(properties, version);
        let available = |said: Option<u8>, default| said.map_or(default, |value| value != 0);
        PeerLimits {
            maximum_qos: properties.maximum_qos().and_then(Qos::from_bits).unwrap_or(defaults.maximum_qos),
            retain_available: available(properties.retain_available(), defaults.retain_available),
            wildcard_subscription_available: available(
                properties.wildcard_subscription_available(),
                defaults.wildcard_subscription_available,
            ),
            subscription_identifier_available: available(
                properties.subscription_identifier_available(),
                defaults.subscription_identifier_available,
            ),
            shared_subscription_available: available(
                properties.shared_subscription_available(),
                defaults.shared_subscription_available,
            ),
            server_keep_alive: properties.server_keep_alive(),
            ..defaults
        }
    }

    /// What CONNECT and CONNACK have in common.
    fn common(properties: Properties<'_>, version: Version) -> PeerLimits {
        let defaults = PeerLimits::new(version);
        PeerLimits {
            receive_maximum: properties.receive_maximum().unwrap_or(defaults.receive_maximum),
            maximum_packet_size: properties.maximum_packet_size().unwrap_or(defaults.maximum_packet_size),
            topic_alias_maximum: properties.topic_alias_maximum().unwrap_or(defaults.topic_alias_maximum),
            session_expiry_interval: properties.session_expiry_interval(),
            ..defaults
        }
    }
}

/// The properties that the version can carry: none before 5.0.
pub(super) const fn carried(properties: Properties<'_>, version: Version) -> Properties<'_> {
    if version.has_properties() { properties } else { Properties::EMPTY }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Property;
    use crate::types::ReasonCode;

    fn connect(properties: Properties<'_>) -> Connect<'_> {
        Connect { properties, ..Connect::new(Version::V5, "") }
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        assert_eq!(PeerLimits::from_connect(&connect(Properties::EMPTY)), PeerLimits::new(Version::V5));
        let connack =
            ConnAck { session_present: false, reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
        assert_eq!(PeerLimits::from_connack(&connack, Version::V3_1_1), PeerLimits::new(Version::V3_1_1));
    }

    #[test]
    fn what_a_client_says_is_taken() {
        let said = [
            Property::ReceiveMaximum(10),
            Property::MaximumPacketSize(100),
            Property::TopicAliasMaximum(7),
            Property::RequestProblemInformation(0),
            Property::RequestResponseInformation(1),
            Property::SessionExpiryInterval(60),
        ];
        let limits = PeerLimits::from_connect(&connect(Properties::new(&said)));
        let expected = PeerLimits {
            receive_maximum: 10,
            maximum_packet_size: 100,
            topic_alias_maximum: 7,
            request_problem_information: false,
            request_response_information: true,
            session_expiry_interval: Some(60),
            ..PeerLimits::new(Version::V5)
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn what_a_server_says_is_taken() {
        let said = [
            Property::MaximumQos(1),
            Property::RetainAvailable(0),
            Property::WildcardSubscriptionAvailable(0),
            Property::SubscriptionIdentifierAvailable(0),
            Property::SharedSubscriptionAvailable(0),
            Property::ServerKeepAlive(30),
        ];
        let connack = ConnAck {
            session_present: false,
            reason: ReasonCode::SUCCESS,
            properties: Properties::new(&said),
        };
        let expected = PeerLimits {
            maximum_qos: Qos::AtLeastOnce,
            retain_available: false,
            wildcard_subscription_available: false,
            subscription_identifier_available: false,
            shared_subscription_available: false,
            server_keep_alive: Some(30),
            ..PeerLimits::new(Version::V5)
        };
        assert_eq!(PeerLimits::from_connack(&connack, Version::V5), expected);
    }
}
