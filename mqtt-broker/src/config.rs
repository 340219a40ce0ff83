//! Every bound of the broker, named, with its unit and default.
//!
//! A bound is never silent: each field says what happens when it is reached. Per-core bounds are shares of the
//! broker's bound, so that no core has to ask another.

use mqtt_proto::types::Qos;

use crate::router::Strategy;

/// One core of the broker: an executor with its own connections, sessions and part of the retained messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CoreId(pub u16);

impl CoreId {
    /// Most cores of a broker: a set of cores is one 128-bit word.
    pub const MAX: usize = 128;

    /// As an index into tables of one entry a core.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl core::fmt::Display for CoreId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a full queue does with one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Deserialize, serde::Serialize), serde(rename_all = "snake_case"))]
pub enum Overflow {
    /// The oldest queued message makes room: what arrives is kept.
    #[default]
    DropOldest,
    /// The message that arrives is dropped: what was kept stays.
    DropNewest,
}

/// Every bound and switch of the broker. `Limits::default()` suits a server that devices on the Internet use.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Deserialize, serde::Serialize),
    serde(default, deny_unknown_fields)
)]
#[non_exhaustive]
pub struct Limits {
    /// Network Connections of the whole broker; one more is closed at once. 0: as many as the process may have
    /// open files.
    pub connections_max: u32,
    /// Seconds from accepting a connection to its complete CONNECT; then it is closed. 1 to 3,600.
    pub connect_timeout_seconds: u32,
    /// Longest Keep Alive in seconds; a Client that asks for more, or for none, is told this one in Server Keep
    /// Alive [MQTT-3.1.2-21]. 0: any. Before 5.0 a Client cannot be told: its own stays in force.
    pub keep_alive_max_seconds: u16,
    /// Maximum Packet Size in bytes that Clients may send; a longer packet closes its connection with 0x95.
    /// 64 to 268,435,460.
    pub packet_bytes_max: u32,
    /// Bytes of a CONNECT, and of an AUTH before CONNACK; a longer one closes its connection, so that whoever is not let
    /// in yet cannot fill the memory. 1,024 to 268,435,460; at most `packet_bytes_max` counts.
    pub connect_bytes_max: u32,
    /// Receive Maximum: QoS 1 and 2 messages a Client may have unacknowledged; one more closes its connection with
    /// 0x93. 1 to 65,535. Clients before 5.0 are not told; from them 65,535 are accepted.
    pub receive_maximum: u16,
    /// Topic Alias Maximum: aliases a Client may set on its connection; a higher one closes it with 0x94.
    pub topic_alias_maximum: u16,
    /// Aliases the broker sets towards a Client that allows them; the least recently used one is re-assigned.
    pub outgoing_topic_aliases_max: u16,
    /// Levels of a Topic Name or Topic Filter; more are refused with 0x90 or 0x8F.
    pub topic_levels_max: u16,
    /// Bytes of a ClientID; a longer one is refused with 0x85.
    pub client_id_bytes_max: u16,
    /// QoS 1 and 2 messages in flight to a Client at once, whatever larger Receive Maximum it states; more wait in
    /// its queue. 1 to 65,535.
    pub in_flight_max: u16,

    /// Sessions of the whole broker, connected or not; a CONNECT that needs one more is refused with 0x97.
    pub sessions_max: u32,
    /// Longest Session Expiry Interval in seconds; a longer one is cut to it and the Client is told. 4,294,967,295:
    /// sessions may stay for ever.
    pub session_expiry_max_seconds: u32,
    /// Session Expiry Interval of Clients before 5.0 that connect with Clean Session 0, cut to the former.
    pub session_expiry_v3_seconds: u32,
    /// Subscriptions of a session; one more is refused with 0x97.
    pub subscriptions_per_session_max: u32,
    /// Messages that wait in a session's queue, beside those in flight; see `queue_overflow`.
    pub queue_messages_max: u32,
    /// Bytes that wait in a session's queue; see `queue_overflow`.
    pub queue_bytes_max: u64,
    /// What a full session queue does.
    pub queue_overflow: Overflow,
    /// Bytes of queued messages that a core keeps in memory, if it has a store: beyond, what waits for Clients that are away
    /// is kept on the disk until they return. 0: all is kept in memory.
    pub queue_memory_bytes_max: u64,
    /// Whether QoS 0 messages are queued for sessions whose Client is away; otherwise they are dropped.
    pub queue_qos0_offline: bool,
    /// Bytes that wait to be sent to a Client. Beyond, QoS 0 messages are dropped and QoS 1 and 2 wait in the queue.
    pub output_bytes_max: u32,
    /// Bytes of messages kept by the whole broker in queues and retained; beyond, queues overflow as if full and
    /// nothing more is retained, as at `retained_bytes_max`. 0: no bound.
    pub memory_bytes_max: u64,

    /// Retained messages of the whole broker; one more is delivered and not retained. A topic that has one may get
    /// another.
    pub retained_messages_max: u32,
    /// Bytes of retained messages of the whole broker; one that does not fit is delivered and not retained. If its
    /// topic had a retained message, that one is removed: it is no longer the last. A message that is not larger than
    /// the one it replaces always fits.
    pub retained_bytes_max: u64,
    /// Retained messages that a home core sends at once to a new subscription, before the subscriber asks for more.
    pub retained_slice_messages: u32,
    /// Bytes of such a slice: it ends with the message that reaches them.
    pub retained_slice_bytes: u32,
    /// Topics remembered as delivered live while the retained messages of a subscription are gathered; beyond, the
    /// gathering waits for all cores once more, which makes the memory superfluous.
    pub gather_live_topics_max: u32,

    /// Messages that wait for a member of a shared group; the oldest is dropped for one more.
    pub group_queue_messages_max: u32,
    /// Bytes that wait for a member of a shared group; as above.
    pub group_queue_bytes_max: u64,
    /// Who of a shared group gets a message.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "strategy", serialize_with = "as_text"))]
    pub shared_strategy: Strategy,

    /// Longest Will Delay Interval in seconds; a longer one is cut to it.
    pub will_delay_max_seconds: u32,
    /// Seconds from a start with a store within which Clients that it finds gone may come back before their Wills are
    /// published. A start that follows within them does not make them more.
    pub restart_grace_seconds: u32,
    /// Longest Message Expiry Interval in seconds, also given to messages without one. 0: no bound.
    pub message_expiry_max_seconds: u32,

    /// Bytes of messages on their way to one other core and not yet handled there; beyond, publishers that need
    /// that core are not read from.
    pub lane_bytes_max: u32,
    /// Bytes of records that wait to be written to a core's store; beyond, publishers of what is to be kept there are not
    /// read from until it is half of that. What Clients subscribe to, and their Wills, may come on top.
    pub store_waiting_bytes_max: u32,
    /// Answers (PUBACK, PUBREC, SUBACK, UNSUBACK) that a connection is owed while other cores or the store are waited
    /// for; with more, it is not read from until half of them have left. 1 to 65,535.
    pub pending_answers_max: u32,
    /// Bytes received from a connection that wait behind a packet which waits for a decision or a lane; beyond, the
    /// connection is closed with 0x97. Reading pauses long before.
    pub held_input_bytes_max: u32,
    /// Seconds a port may take to decide about a PUBLISH, SUBSCRIBE or AUTH; then the connection is closed with 0x89.
    /// 1 to 3,600. For CONNECT `connect_timeout_seconds` holds.
    pub decision_timeout_seconds: u32,
    /// Seconds a closing connection has to take its last bytes and to stop sending. 1 to 60.
    pub close_timeout_seconds: u32,
    /// Seconds a shutdown may take for flushing all connections. 1 to 600.
    pub shutdown_timeout_seconds: u32,

    /// Highest QoS of the broker; Clients are told Maximum QoS [MQTT-3.2.2-9], and a Will above it is refused with
    /// 0x9B. Given as 0, 1 or 2.
    #[cfg_attr(feature = "serde", serde(deserialize_with = "qos", serialize_with = "as_number"))]
    pub maximum_qos: Qos,
    /// Whether messages may be retained; else a retained Will is refused with 0x9A and a retained PUBLISH closes its
    /// connection with 0x9A.
    pub retain_available: bool,
    /// Whether filters may hold wildcards; else they are refused with 0xA2.
    pub wildcard_subscription_available: bool,
    /// Whether Shared Subscriptions may be made; else they are refused with 0x9E.
    pub shared_subscription_available: bool,
    /// Whether subscriptions may carry an identifier; else SUBSCRIBE closes its connection with 0xA1.
    pub subscription_identifier_available: bool,
    /// Whether a payload said to be UTF-8 is checked; one that is not is refused with 0x99.
    pub payload_format_checked: bool,

    /// Seconds between two publications of the `$SYS` tree. 0: no `$SYS` tree.
    pub sys_interval_seconds: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        const MIB: u64 = 1024 * 1024;
        Limits {
            connections_max: 0,
            connect_timeout_seconds: 10,
            keep_alive_max_seconds: 0,
            packet_bytes_max: 8 * MIB as u32,
            connect_bytes_max: 512 * 1024,
            receive_maximum: 1024,
            topic_alias_maximum: 64,
            outgoing_topic_aliases_max: 16,
            topic_levels_max: 128,
            client_id_bytes_max: u16::MAX,
            in_flight_max: 1024,
            sessions_max: 10_000_000,
            session_expiry_max_seconds: u32::MAX,
            session_expiry_v3_seconds: u32::MAX,
            subscriptions_per_session_max: 100_000,
            queue_messages_max: 100_000,
            queue_bytes_max: 256 * MIB,
            queue_overflow: Overflow::DropOldest,
            queue_memory_bytes_max: 32 * MIB,
            queue_qos0_offline: false,
            output_bytes_max: 8 * MIB as u32,
            memory_bytes_max: 0,
            retained_messages_max: 10_000_000,
            retained_bytes_max: 4096 * MIB,
            retained_slice_messages: 64,
            retained_slice_bytes: 64 * 1024,
            gather_live_topics_max: 4096,
            group_queue_messages_max: 100_000,
            group_queue_bytes_max: 256 * MIB,
            shared_strategy: Strategy::RoundRobin,
            will_delay_max_seconds: u32::MAX,
            restart_grace_seconds: 30,
            message_expiry_max_seconds: 0,
            lane_bytes_max: 4 * MIB as u32,
            store_waiting_bytes_max: 64 * MIB as u32,
            pending_answers_max: 4096,
            held_input_bytes_max: 16 * MIB as u32,
            decision_timeout_seconds: 10,
            close_timeout_seconds: 5,
            shutdown_timeout_seconds: 10,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            wildcard_subscription_available: true,
            shared_subscription_available: true,
            subscription_identifier_available: true,
            payload_format_checked: true,
            sys_interval_seconds: 10,
        }
    }
}

#[cfg(feature = "serde")]
fn qos<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Qos, D::Error> {
    let bits = <u8 as serde::Deserialize>::deserialize(deserializer)?;
    Qos::from_bits(bits).ok_or_else(|| serde::de::Error::custom("expected 0, 1 or 2"))
}

#[cfg(feature = "serde")]
fn strategy<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Strategy, D::Error> {
    let name = <String as serde::Deserialize>::deserialize(deserializer)?;
    name.parse().map_err(serde::de::Error::custom)
}

#[cfg(feature = "serde")]
fn as_number<S: serde::Serializer>(qos: &Qos, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u8(qos.bits())
}

#[cfg(feature = "serde")]
fn as_text<S: serde::Serializer>(value: &impl core::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// The values that a setting may have which is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The lowest.
    pub low: u64,
    /// The highest.
    pub high: u64,
    /// What is counted, in the plural.
    pub unit: &'static str,
}

impl Range {
    /// Whether a setting may have this value.
    pub fn contains(&self, value: u64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

impl core::fmt::Display for Range {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let low = Grouped(self.low);
        match self.high {
            u64::MAX => write!(f, "{low} {} or more", self.unit),
            high => write!(f, "{low} to {} {}", Grouped(high), self.unit),
        }
    }
}

/// A number as people read it: 1,048,576.
struct Grouped(u64);

impl core::fmt::Display for Grouped {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Grouped(number) = *self;
        match number / 1000 {
            0 => write!(f, "{number}"),
            thousands => write!(f, "{},{:03}", Grouped(thousands), number % 1000),
        }
    }
}

/// A [`Limits`] field with a value that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}; it must be {allowed}")]
pub struct LimitError {
    /// The field.
    pub name: &'static str,
    /// The value it has.
    pub value: u64,
    /// The values it may have.
    pub allowed: Range,
}

/// A number among the limits.
struct Number {
    name: &'static str,
    of: fn(&Limits) -> u64,
    allowed: Range,
}

/// Declares the numbers among the limits, each with its range and what it counts.
macro_rules! numbers {
    ($($name:ident: $low:expr, $high:expr, $unit:literal;)*) => {
        const NUMBERS: &[Number] = &[$(Number {
            name: stringify!($name),
            of: |limits| limits.$name.into(),
            allowed: Range { low: $low, high: $high, unit: $unit },
        }),*];
    };
}

const U16: u64 = u16::MAX as u64;
const U32: u64 = u32::MAX as u64;

numbers! {
    connections_max: 0, U32, "connections";
    connect_timeout_seconds: 1, 3_600, "seconds";
    keep_alive_max_seconds: 0, U16, "seconds";
    packet_bytes_max: 64, 268_435_460, "bytes";
    connect_bytes_max: 1024, 268_435_460, "bytes";
    receive_maximum: 1, U16, "messages";
    topic_alias_maximum: 0, U16, "aliases";
    outgoing_topic_aliases_max: 0, U16, "aliases";
    topic_levels_max: 1, U16, "levels";
    client_id_bytes_max: 23, U16, "bytes";
    in_flight_max: 1, U16, "messages";
    sessions_max: 1, U32, "sessions";
    session_expiry_max_seconds: 0, U32, "seconds";
    session_expiry_v3_seconds: 0, U32, "seconds";
    subscriptions_per_session_max: 0, U32, "subscriptions";
    queue_messages_max: 1, U32, "messages";
    queue_bytes_max: 1024, u64::MAX, "bytes";
    queue_memory_bytes_max: 0, u64::MAX, "bytes";
    output_bytes_max: 1024, 1 << 30, "bytes";
    memory_bytes_max: 0, u64::MAX, "bytes";
    retained_messages_max: 0, U32, "messages";
    retained_bytes_max: 0, u64::MAX, "bytes";
    retained_slice_messages: 1, U16, "messages";
    retained_slice_bytes: 1024, 1 << 24, "bytes";
    gather_live_topics_max: 1, 1 << 20, "topics";
    group_queue_messages_max: 0, U32, "messages";
    group_queue_bytes_max: 0, u64::MAX, "bytes";
    will_delay_max_seconds: 0, U32, "seconds";
    restart_grace_seconds: 0, U32, "seconds";
    message_expiry_max_seconds: 0, U32, "seconds";
    lane_bytes_max: 65_536, 1 << 30, "bytes";
    store_waiting_bytes_max: 1, 1 << 30, "bytes";
    pending_answers_max: 1, U16, "answers";
    held_input_bytes_max: 65_536, 1 << 30, "bytes";
    decision_timeout_seconds: 1, 3_600, "seconds";
    close_timeout_seconds: 1, 60, "seconds";
    shutdown_timeout_seconds: 1, 600, "seconds";
    sys_interval_seconds: 0, U32, "seconds";
}

impl Limits {
    /// The values that a field may have, if it is a number.
    pub fn range(name: &str) -> Option<Range> {
        NUMBERS.iter().find(|number| number.name == name).map(|number| number.allowed)
    }

    /// Checks every range that the fields state.
    ///
    /// # Errors
    /// The first field out of its range.
    pub fn check(&self) -> Result<(), LimitError> {
        for Number { name, of, allowed } in NUMBERS {
            let value = of(self);
            if !allowed.contains(value) {
                return Err(LimitError { name, value, allowed: *allowed });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_within_their_own_ranges() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let limits = Limits { connect_timeout_seconds: 0, ..Limits::default() };
        let error = limits.check().expect_err("0 is out of range");
        assert_eq!(error.to_string(), "connect_timeout_seconds is 0; it must be 1 to 3,600 seconds");
    }

    #[test]
    fn a_range_is_told_as_people_write_it() {
        let told = |name| Limits::range(name).map(|range| range.to_string());
        assert_eq!(told("queue_messages_max").as_deref(), Some("1 to 4,294,967,295 messages"));
        assert_eq!(told("queue_bytes_max").as_deref(), Some("1,024 bytes or more"));
        assert_eq!(told("queue_overflow"), None);
        assert_eq!(Grouped(1_000_007).to_string(), "1,000,007");
    }
}
