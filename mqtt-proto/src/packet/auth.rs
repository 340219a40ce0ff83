//! AUTH (section 3.15).

use crate::packet::Properties;
use crate::types::ReasonCode;

/// A step of enhanced authentication; only in 5.0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate [MQTT-3.15.2-1].
    pub reason: ReasonCode,
    /// Authentication Method and Data among them.
    pub properties: Properties<'a>,
}
