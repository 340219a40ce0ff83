//! SUBSCRIBE, SUBACK, UNSUBSCRIBE and UNSUBACK (sections 3.8 to 3.11).

use crate::packet::Properties;
use crate::types::{PacketId, Qos, ReasonCode};

/// Whether retained messages are sent when a subscription is made (section 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum RetainHandling {
    /// Always; the only way before 5.0.
    #[default]
    Send = 0,
    /// Only if the subscription did not exist.
    SendIfNew = 1,
    /// Never.
    DoNotSend = 2,
}

/// The Subscription Options byte; before 5.0 only the QoS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SubscriptionOptions {
    /// Maximum QoS of deliveries for this subscription.
    pub qos: Qos,
    /// Whether messages published by this very ClientID are left out [MQTT-3.8.3-3].
    pub no_local: bool,
    /// Whether the RETAIN flag is forwarded as published.
    pub retain_as_published: bool,
    /// Whether retained messages are sent now.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// Options with this maximum QoS, everything else as in 3.1.1.
    pub const fn new(qos: Qos) -> SubscriptionOptions {
        SubscriptionOptions {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    /// The options in `byte`, or `None` where a reserved bit or value is set [MQTT-3.8.3-5].
    pub const fn from_byte(byte: u8) -> Option<SubscriptionOptions> {
        let retain_handling = match byte >> 4 & 3 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        let Some(qos) = Qos::from_bits(byte & 3) else { return None };
        if byte >> 6 != 0 {
            return None;
        }
        Some(SubscriptionOptions {
            qos,
            no_local: byte & 4 != 0,
            retain_as_published: byte & 8 != 0,
            retain_handling,
        })
    }

    /// The Subscription Options byte; a 3.1.1 client sends `qos` alone.
    pub const fn to_byte(self) -> u8 {
        self.qos as u8
            | (self.no_local as u8) << 2
            | (self.retain_as_published as u8) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// One Topic Filter of a SUBSCRIBE with its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subscription<'a> {
    /// Well-formed UTF-8 without U+0000, otherwise as sent: parse it with
    /// [`SharedFilter::new`](crate::types::SharedFilter::new), so that a bad filter spoils only its own Reason Code.
    pub filter: &'a str,
    /// Its options.
    pub options: SubscriptionOptions,
}

/// Asks for one or more subscriptions [MQTT-3.8.3-2].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subscribe<'a> {
    /// Answered in SUBACK.
    pub packet_id: PacketId,
    /// Empty before 5.0; the Subscription Identifier is one of them.
    pub properties: Properties<'a>,
    /// At least one.
    pub subscriptions: Subscriptions<'a>,
}

/// The Server's answer to SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SubAck<'a> {
    /// That of the SUBSCRIBE [MQTT-2.2.1-6].
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// One a filter, in the SUBSCRIBE's order [MQTT-3.8.4-6]; before 5.0 every error is written as 0x80.
    pub reasons: Reasons<'a>,
}

/// Ends subscriptions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unsubscribe<'a> {
    /// Answered in UNSUBACK.
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// At least one [MQTT-3.10.3-2].
    pub filters: Filters<'a>,
}

/// The Server's answer to UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UnsubAck<'a> {
    /// That of the UNSUBSCRIBE [MQTT-2.2.1-6].
    pub packet_id: PacketId,
    /// Empty before 5.0.
    pub properties: Properties<'a>,
    /// One a filter in 5.0, in the UNSUBSCRIBE's order [MQTT-3.11.3-1]; empty before.
    pub reasons: Reasons<'a>,
}

/// The Reason Codes of SUBACK and UNSUBACK, one a byte as on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons<'a>(pub &'a [u8]);

impl<'a> Reasons<'a> {
    /// The codes, one a Topic Filter.
    pub fn iter(self) -> impl ExactSizeIterator<Item = ReasonCode> + Clone + 'a {
        self.0.iter().map(|&code| ReasonCode(code))
    }
}

impl core::fmt::Debug for Reasons<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The filters of a SUBSCRIBE with their options.
#[derive(Clone, Copy)]
pub struct Subscriptions<'a>(Source<'a, Subscription<'a>>);

/// The filters of an UNSUBSCRIBE.
#[derive(Clone, Copy)]
pub struct Filters<'a>(Source<'a, &'a str>);

#[derive(Clone, Copy)]
enum Source<'a, T> {
    /// Bytes of a packet, validated when it was decoded.
    Wire(&'a [u8]),
    List(&'a [T]),
}

impl<'a> Subscriptions<'a> {
    /// The given subscriptions.
    pub const fn new(list: &'a [Subscription<'a>]) -> Subscriptions<'a> {
        Subscriptions(Source::List(list))
    }

    /// Bytes that the decoder has validated.
    pub(crate) const fn from_wire(bytes: &'a [u8]) -> Subscriptions<'a> {
        Subscriptions(Source::Wire(bytes))
    }

    /// The subscriptions in order.
    pub const fn iter(self) -> SubscriptionIter<'a> {
        SubscriptionIter(self.0)
    }
}

impl<'a> Filters<'a> {
    /// The given filters.
    pub const fn new(list: &'a [&'a str]) -> Filters<'a> {
        Filters(Source::List(list))
    }

    /// Bytes that the decoder has validated.
    pub(crate) const fn from_wire(bytes: &'a [u8]) -> Filters<'a> {
        Filters(Source::Wire(bytes))
    }

    /// The filters in order: well-formed UTF-8 without U+0000, otherwise as sent.
    pub const fn iter(self) -> FilterIter<'a> {
        FilterIter(self.0)
    }
}

/// Iterates over [`Subscriptions`].
#[derive(Clone)]
pub struct SubscriptionIter<'a>(Source<'a, Subscription<'a>>);

/// Iterates over [`Filters`].
#[derive(Clone)]
pub struct FilterIter<'a>(Source<'a, &'a str>);

/// Takes a length-prefixed string off validated bytes.
fn take_str<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    core::str::from_utf8(text).ok()
}

impl<'a> Iterator for SubscriptionIter<'a> {
    type Item = Subscription<'a>;

    fn next(&mut self) -> Option<Subscription<'a>> {
        match &mut self.0 {
            Source::Wire(bytes) => {
                let filter = take_str(bytes)?;
                let (&options, rest) = bytes.split_first()?;
                *bytes = rest;
                Some(Subscription { filter, options: SubscriptionOptions::from_byte(options)? })
            }
            Source::List(list) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(*first)
            }
        }
    }
}

impl<'a> Iterator for FilterIter<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        match &mut self.0 {
            Source::Wire(bytes) => take_str(bytes),
            Source::List(list) => {
                let (first, rest) = list.split_first()?;
                *list = rest;
                Some(first)
            }
        }
    }
}

impl PartialEq for Subscriptions<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl PartialEq for Filters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl core::fmt::Debug for Subscriptions<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl core::fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
