//! PUBLISH (section 3.3).

use crate::packet::Properties;
use crate::types::{PacketId, Qos, TopicName};

/// An Application Message on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Publish<'a> {
    /// Set when this is a delivery tried again [MQTT-3.3.1-1]; never at QoS 0 [MQTT-3.3.1-2].
    pub dup: bool,
    /// The quality of service of this delivery.
    pub qos: Qos,
    /// The RETAIN flag.
    pub retain: bool,
    /// The Topic Name; `None` (5.0 only) when the Topic Alias property stands for it.
    pub topic: Option<TopicName<'a>>,
    /// Present at QoS 1 and 2 only [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// The Application Message itself.
    pub payload: &'a [u8],
}
