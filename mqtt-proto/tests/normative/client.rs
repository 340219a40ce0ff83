//! A Client and what a Server would send it, byte by byte.

use mqtt_proto::connection::{Client, ConnectOptions, Event, Message};
use mqtt_proto::{Connect, Packet, PacketId, Properties, Property, Publish, Qos, TopicName, Version, decode};

use crate::VERSIONS;

/// A Client and the bytes that a Server would exchange with it.
pub(crate) struct Stage {
    pub(crate) client: Client<Message>,
    pub(crate) version: Version,
    /// Properties of the next CONNECT and CONNACK, as on the wire.
    pub(crate) connect: Vec<Property<'static>>,
    pub(crate) connack: Vec<u8>,
    /// Whether the application acknowledges messages itself.
    pub(crate) manual: bool,
}

impl Stage {
    /// A Client that is connected and has a session.
    pub(crate) fn new(version: Version) -> Stage {
        let mut stage = Stage::unconnected(version);
        stage.connects(false);
        stage
    }

    pub(crate) fn unconnected(version: Version) -> Stage {
        Stage { client: Client::default(), version, connect: Vec::new(), connack: Vec::new(), manual: false }
    }

    /// Connects; the Server says whether it has the session. What the Client sends after CONNECT stays to be looked at.
    pub(crate) fn connects(&mut self, session_present: bool) {
        self.client.connection_lost();
        let connect = Connect {
            clean_start: false,
            properties: Properties::new(&self.connect),
            ..Connect::new(self.version, "c")
        };
        let options = ConnectOptions { manual_acknowledgement: self.manual, ..ConnectOptions::new(connect) };
        self.client.connect(&options, 0).expect("it is closed");
        self.sent();
        let mut connack = vec![0x20, 2, u8::from(session_present && self.version != Version::V3_1), 0];
        if self.version == Version::V5 {
            connack[1] += 1 + self.connack.len() as u8;
            connack.push(self.connack.len() as u8);
            connack.extend(&self.connack);
        }
        self.hears(&connack);
    }

    /// The connection breaks and comes back, its session being kept.
    pub(crate) fn reconnects(&mut self) {
        self.connects(true);
    }

    /// The Client publishes to "a".
    pub(crate) fn publishes(&mut self, qos: Qos, payload: &[u8]) -> Option<PacketId> {
        self.client.publish(message(qos, payload), 0).expect("it is connected and has quota")
    }

    /// All that the Client sends now.
    pub(crate) fn sent(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.client.poll_transmit(&mut out);
        out
    }

    /// All that the Client sends now, with DUP cleared: what is sent again, DUP apart.
    pub(crate) fn sent_again(&mut self) -> Vec<u8> {
        let mut bytes = self.sent();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] >> 4 == 3 {
                bytes[at] &= !0b1000;
            }
            at += 2 + usize::from(bytes[at + 1]);
        }
        bytes
    }

    /// The payloads of the new messages in what the Server sends.
    pub(crate) fn hears(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(event) = self.client.poll_event(&mut bytes, 0).expect("the Server does nothing wrong")
        {
            if let Event::Message(publish) = event {
                messages.push(publish.payload.to_vec());
            }
        }
        messages
    }

    /// A PUBLISH to "a" as on the wire.
    pub(crate) fn publish(&self, first: u8, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 1, b'a'];
        body.extend(id.into_iter().flat_map(u16::to_be_bytes));
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload);
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend(body);
        bytes
    }
}

pub(crate) fn message(qos: Qos, payload: &[u8]) -> Message {
    Message::new(TopicName::new("a").expect("a topic"), qos, payload)
}

pub(crate) fn puback(id: u8) -> [u8; 4] {
    [0x40, 2, 0, id]
}

pub(crate) fn pubrec(id: u8) -> [u8; 4] {
    [0x50, 2, 0, id]
}

pub(crate) fn pubrel(id: u8) -> [u8; 4] {
    [0x62, 2, 0, id]
}

pub(crate) fn pubcomp(id: u8) -> [u8; 4] {
    [0x70, 2, 0, id]
}

pub(crate) fn everywhere(test: impl Fn(Stage)) {
    VERSIONS.into_iter().for_each(|version| test(Stage::new(version)));
}

/// Topic and Topic Alias of each PUBLISH in `bytes`.
pub(crate) fn topics(mut bytes: &[u8]) -> Vec<(Option<String>, Option<u16>)> {
    let mut topics = Vec::new();
    while !bytes.is_empty() {
        let (frame, rest) = bytes.split_at(2 + usize::from(bytes[1]));
        bytes = rest;
        let Ok(Packet::Publish(Publish { topic, properties, .. })) = decode(Version::V5, frame) else {
            panic!("{frame:x?}")
        };
        topics.push((topic.map(|topic| topic.to_string()), properties.topic_alias()));
    }
    topics
}

pub(crate) fn publish_to(stage: &mut Stage, topic: &str) {
    let message = Message::new(TopicName::new(topic).expect("a topic"), Qos::AtMostOnce, b"x");
    stage.client.publish(message, 0).expect("connected");
}
