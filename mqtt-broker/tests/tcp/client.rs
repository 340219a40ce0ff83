//! A blocking client that shows every byte: packets are made and read by hand.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for anything; only a failing test takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Packet types, as the upper four bits of the first byte.
pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBLISH: u8 = 0x30;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const PINGRESP: u8 = 0xd0;
pub(crate) const DISCONNECT: u8 = 0xe0;

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
}

/// A Control Packet: its first byte and what follows the Remaining Length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

impl Packet {
    pub(crate) fn kind(&self) -> u8 {
        self.first & 0xf0
    }
}

impl Client {
    /// A TCP connection on which nothing was sent.
    pub(crate) fn open(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, input: Vec::new() }
    }

    /// A 5.0 Client, connected.
    pub(crate) fn connect(address: SocketAddr, client_id: &str) -> Client {
        let mut client = Client::open(address);
        client.send(&connect(client_id));
        let connack = client.expect(CONNACK);
        assert_eq!(connack.body[1], 0, "accepted");
        client
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    pub(crate) fn subscribe(&mut self, filter: &str) {
        self.send(&subscribe(filter));
        let suback = self.expect(SUBACK);
        assert_eq!(suback.body.last(), Some(&0), "granted");
    }

    /// The next packet; `None` at the end of the connection.
    pub(crate) fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some((packet, len)) = cut(&self.input) {
                self.input.drain(..len);
                return Some(packet);
            }
            let mut bytes = [0; 65536];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    assert!(self.input.is_empty(), "ended within a packet");
                    return None;
                }
                Ok(len) => self.input.extend_from_slice(&bytes[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no packet: {error}"),
            }
        }
    }

    pub(crate) fn expect(&mut self, kind: u8) -> Packet {
        let packet = self.packet().expect("a packet before the end");
        assert_eq!(packet.kind(), kind, "{packet:02x?}");
        packet
    }

    /// Topic and payload of the next packet, a QoS 0 PUBLISH of 5.0 without properties.
    pub(crate) fn message(&mut self) -> (String, Vec<u8>) {
        let body = self.expect(PUBLISH).body;
        let (topic, rest) = body[2..].split_at(usize::from(u16::from_be_bytes([body[0], body[1]])));
        assert_eq!(rest[0], 0, "no properties");
        (String::from_utf8(topic.to_vec()).expect("UTF-8"), rest[1..].to_vec())
    }
}

pub(crate) fn cut(input: &[u8]) -> Option<(Packet, usize)> {
    let (mut len, mut at) = (0, 1);
    loop {
        let byte = *input.get(at)?;
        len |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let body = input.get(at..at + len)?.to_vec();
    Some((Packet { first: input[0], body }, at + len))
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut len = body.len();
    loop {
        let byte = (len & 0x7f) as u8;
        len >>= 7;
        bytes.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// CONNECT of 5.0, Clean Start, no Keep Alive.
pub(crate) fn connect(client_id: &str) -> Vec<u8> {
    packet(0x10, &[&string("MQTT")[..], &[5, 2, 0, 0, 0], &string(client_id)].concat())
}

/// SUBSCRIBE of 5.0 with QoS 0.
pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1, 0][..], &string(filter), &[0]].concat())
}

/// SUBSCRIBE of 5.0 with QoS 1.
pub(crate) fn subscribe_qos1(filter: &str) -> Vec<u8> {
    packet(0x82, &[&[0, 1, 0][..], &string(filter), &[1]].concat())
}

/// PUBLISH of 5.0 with QoS 0.
pub(crate) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    packet(0x30, &[&string(topic)[..], &[0], payload].concat())
}

/// PUBLISH of 5.0 with QoS 1.
pub(crate) fn publish_qos1(topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
    packet(0x32, &[&string(topic)[..], &id.to_be_bytes(), &[0], payload].concat())
}
