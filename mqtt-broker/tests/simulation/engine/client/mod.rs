//! Clients: what one knows of a connection, of its session, of itself. Conforming to the letter unless told to be rude.

mod receive;
mod send;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mqtt_proto::connection::{PeerLimits, Receiver, Role};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, Version};

use super::oracle::{Goodbye, MessageId, SessionId};
use super::schedule::{ConnectPlan, PublishPlan};

/// A Client over all of its connections.
#[derive(Debug, Default)]
pub(crate) struct Party {
    /// The connection that it opened last.
    pub(crate) current: Option<usize>,
    pub(crate) opened: u64,
    pub(crate) holds: bool,
    pub(crate) silent: bool,
    pub(crate) to_publish: VecDeque<PublishPlan>,
}

/// The Client's end of a Network Connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) party: usize,
    pub(crate) version: Version,
    pub(crate) plan: ConnectPlan,
    pub(crate) will: Option<MessageId>,
    pub(crate) receiver: Receiver,
    pub(crate) opened_at: u64,
    /// When the broker accepted its CONNECT, and whether that has to resume a session.
    pub(crate) established_at: Option<u64>,
    pub(crate) expected: Option<bool>,
    pub(crate) session: Option<SessionId>,
    /// CONNACK has come with success.
    pub(crate) is_open: bool,
    /// Another connection of the same ClientID was accepted since.
    pub(crate) superseded: bool,
    pub(crate) goodbye: Option<Goodbye>,
    pub(crate) rude: bool,
    /// The broker has let go of it, or the Client has.
    pub(crate) closed_at: Option<u64>,
    pub(crate) has_ended: bool,
    /// Closed by the broker for no reason known yet.
    pub(crate) unexplained: bool,
    pub(crate) taken_over: bool,
    pub(crate) server: PeerLimits,
    /// What has to be answered, in this order.
    pub(crate) requests: VecDeque<Request>,
    pub(crate) releases: VecDeque<PacketId>,
    pub(crate) pings: u32,
    /// QoS 1 and 2 messages received on this connection and not done.
    pub(crate) window: BTreeSet<PacketId>,
    /// Acknowledgements to be sent, each at its time.
    pub(crate) acknowledgements: VecDeque<(u64, Acknowledgement)>,
    /// Topic by alias less one, as far as we have set them.
    pub(crate) aliases: Vec<String>,
    pub(crate) last_reason: Option<ReasonCode>,
    pub(crate) sent_at: u64,
    pub(crate) keep_alive: u16,
    /// When it looks next whether something is to be sent; past if it does not.
    pub(crate) wakes_at: u64,
}

/// A request whose answer is due.
#[derive(Debug)]
pub(crate) enum Request {
    Publish {
        qos: Qos,
        packet_id: PacketId,
    },
    Subscribe {
        packet_id: PacketId,
        subscriptions: Vec<usize>,
        denied: Vec<bool>,
    },
    /// `exists`: there certainly is such a subscription.
    Unsubscribe {
        packet_id: PacketId,
        subscriptions: Vec<usize>,
        exists: bool,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Acknowledgement {
    /// PUBACK.
    Taken(PacketId, ReasonCode),
    /// PUBREC.
    Received(PacketId, ReasonCode),
    /// PUBCOMP.
    Completed(PacketId),
}

/// What a Client keeps for a session from connection to connection.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    /// Its messages without their last acknowledgement.
    pub(crate) sent: VecDeque<Sent>,
    /// Messages received that it has not acknowledged for good: which, on what connection, at what QoS.
    pub(crate) unacknowledged: BTreeMap<PacketId, Unacknowledged>,
    /// The last message seen under a Packet Identifier, and on what connection.
    pub(crate) past: BTreeMap<PacketId, (Option<MessageId>, usize)>,
    pub(crate) next_id: u16,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Unacknowledged {
    /// `None`: it was empty.
    pub(crate) message: Option<MessageId>,
    pub(crate) connection: usize,
    pub(crate) qos: Qos,
    /// A group's message may go elsewhere when the connection breaks.
    pub(crate) shared: bool,
}

#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) packet_id: PacketId,
    pub(crate) message: MessageId,
    pub(crate) released: bool,
}

impl Link {
    pub(crate) fn new(party: usize, version: Version, plan: ConnectPlan, now: u64) -> Link {
        let maximum = plan.maximum_packet_size.filter(|_| version == Version::V5).unwrap_or(u32::MAX);
        let mut receiver = Receiver::new(Role::Client, maximum);
        receiver.set_version(version);
        receiver.set_topic_alias_maximum(if version == Version::V5 { plan.topic_alias_maximum } else { 0 });
        Link {
            party,
            version,
            keep_alive: plan.keep_alive,
            plan,
            will: None,
            receiver,
            opened_at: now,
            established_at: None,
            expected: None,
            session: None,
            is_open: false,
            superseded: false,
            goodbye: None,
            rude: false,
            closed_at: None,
            has_ended: false,
            unexplained: false,
            taken_over: false,
            server: PeerLimits::new(version),
            requests: VecDeque::new(),
            releases: VecDeque::new(),
            pings: 0,
            window: BTreeSet::new(),
            acknowledgements: VecDeque::new(),
            aliases: Vec::new(),
            last_reason: None,
            sent_at: now,
            wakes_at: 0,
        }
    }

    /// QoS 1 and 2 messages that it takes at once.
    pub(crate) fn receive_maximum(&self) -> usize {
        match self.version {
            Version::V5 => self.plan.receive_maximum.map_or(usize::from(u16::MAX), usize::from),
            _ => usize::from(u16::MAX),
        }
    }
}
