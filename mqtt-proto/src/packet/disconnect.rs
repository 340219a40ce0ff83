//! DISCONNECT (section 3.14).

use crate::packet::Properties;
use crate::types::ReasonCode;

/// The last packet on a Network Connection [MQTT-3.14.4-1].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disconnect<'a> {
    /// Why; always normal disconnection before 5.0.
    pub reason: ReasonCode,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
}

impl Disconnect<'_> {
    /// A DISCONNECT without properties.
    pub const fn new(reason: ReasonCode) -> Disconnect<'static> {
        Disconnect { reason, properties: Properties::EMPTY }
    }
}
