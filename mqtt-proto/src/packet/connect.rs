//! CONNECT and CONNACK (sections 3.1 and 3.2).

use crate::packet::Properties;
use crate::types::{Qos, ReasonCode, TopicName, Version};

/// Opens the MQTT connection; the first packet of a Network Connection [MQTT-3.1.0-1].
#[derive(Clone, Copy, PartialEq)]
pub struct Connect<'a> {
    /// From Protocol Name and Protocol Version.
    pub version: Version,
    /// Clean Start (Clean Session before 5.0).
    pub clean_start: bool,
    /// Keep Alive in seconds, 0 to turn it off.
    pub keep_alive: u16,
    /// The ClientID, possibly empty.
    pub client_id: &'a str,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// The Will Message, if the Will Flag is set.
    pub will: Option<Will<'a>>,
    /// The User Name, if present.
    pub user_name: Option<&'a str>,
    /// The Password, if present; 5.0 allows it without a User Name.
    pub password: Option<&'a [u8]>,
}

impl<'a> Connect<'a> {
    /// A CONNECT that asks for a new Session and nothing else: Clean Start, no Keep Alive, no properties, no Will,
    /// neither User Name nor Password.
    ///
    /// What else is wanted goes around it:
    ///
    /// ```
    /// use mqtt_proto::packet::Connect;
    /// use mqtt_proto::types::Version;
    ///
    /// let connect = Connect { keep_alive: 60, user_name: Some("hall"), ..Connect::new(Version::V5, "lamp") };
    /// assert!(connect.clean_start && connect.will.is_none());
    /// ```
    pub const fn new(version: Version, client_id: &'a str) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive: 0,
            client_id,
            properties: Properties::EMPTY,
            will: None,
            user_name: None,
            password: None,
        }
    }
}

impl core::fmt::Debug for Connect<'_> {
    /// Leaves the Password out: it does not belong in logs.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("properties", &self.properties)
            .field("will", &self.will)
            .field("user_name", &self.user_name)
            .field("password", &self.password.map(|_| "<hidden>"))
            .finish()
    }
}

/// The message that the Server publishes when the connection ends without a normal DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Will<'a> {
    /// Will Topic.
    pub topic: TopicName<'a>,
    /// Will Payload.
    pub payload: &'a [u8],
    /// Will QoS.
    pub qos: Qos,
    /// Will Retain.
    pub retain: bool,
    /// Will Properties, empty before 5.0; the Will Delay Interval is one of them.
    pub properties: Properties<'a>,
}

/// The Server's answer to CONNECT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ConnAck<'a> {
    /// Whether the Server resumed a session. Never set with an error [MQTT-3.2.2-6]. 3.1 has no such flag.
    pub session_present: bool,
    /// Before 5.0 the Connect Return code, mapped by [`ReasonCode::to_v3_connect_return`].
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}
