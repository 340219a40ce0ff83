//! A small blocking client, 3.1.1 or as little of 5.0 as tests need, that remembers, as a good client does, what it has not finished: so that what a broker
//! loses or sends twice shows. It serves tests in which the broker is killed at any time.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::process::DEADLINE;

/// What the broker has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    Publish {
        topic: String,
        payload: String,
        qos: u8,
        packet_id: u16,
    },
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    SubAck(u16),
    /// A PUBACK or PUBREC of 5.0 that says no, and why.
    Refused(u16, u8),
}

/// A connection.
pub(crate) struct Client {
    stream: TcpStream,
    /// Protocol Version: 4 or 5.
    version: u8,
    input: Vec<u8>,
    /// What came while something else was waited for.
    early: VecDeque<Packet>,
    /// Whether the broker had its session.
    pub(crate) session_present: bool,
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut rest) = (vec![first], body.len());
    while rest > 127 {
        packet.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    packet.push(rest as u8);
    packet.extend_from_slice(body);
    packet
}

/// The first packet in `input`, as far as it is there: bytes before its body, and those of its body.
fn frame(input: &[u8]) -> Option<(usize, usize)> {
    let digits = input.get(1..)?;
    let last = digits.iter().position(|byte| byte & 0x80 == 0)?;
    let length = digits[..=last].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    Some((2 + last, length)).filter(|(head, length)| input.len() >= head + length)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Client {
    /// Connects with Clean Session 0 and takes CONNACK.
    pub(crate) fn connect(address: SocketAddr, client_id: &str) -> io::Result<Client> {
        Client::connect_as(4, address, client_id)
    }

    /// Connects with Clean Start 0 and no Session Expiry Interval.
    pub(crate) fn connect_5(address: SocketAddr, client_id: &str) -> io::Result<Client> {
        Client::connect_as(5, address, client_id)
    }

    fn connect_as(version: u8, address: SocketAddr, client_id: &str) -> io::Result<Client> {
        match Client::ask(version, address, client_id)? {
            (client, 0) => Ok(client),
            _ => Err(broken("a CONNACK that refuses")),
        }
    }

    /// The code in the CONNACK to one that connects like that, of this Protocol Version; 0 if it is let in.
    pub(crate) fn code(version: u8, address: SocketAddr, client_id: &str) -> io::Result<u8> {
        Client::ask(version, address, client_id).map(|(_, code)| code)
    }

    fn ask(version: u8, address: SocketAddr, client_id: &str) -> io::Result<(Client, u8)> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        let (input, early, session_present) = (Vec::new(), VecDeque::new(), false);
        let mut client = Client { stream, version, input, early, session_present };
        let mut body = b"\x00\x04MQTT".to_vec();
        body.extend_from_slice(&[version, 0, 0, 0]);
        client.no_properties(&mut body);
        text(&mut body, client_id);
        client.stream.write_all(&packet(0x10, &body))?;
        let (first, body) = client.read()?;
        if first != 0x20 {
            return Err(broken("no CONNACK"));
        }
        client.session_present = body[0] == 1;
        Ok((client, body[1]))
    }

    /// Subscribes and takes SUBACK.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut body = vec![0, 1];
        self.no_properties(&mut body);
        text(&mut body, filter);
        body.push(qos);
        self.stream.write_all(&packet(0x82, &body))?;
        loop {
            match self.receive_next()? {
                Packet::SubAck(1) => return Ok(()),
                // A broker may send messages before it (section 3.8.4).
                other => self.early.push_back(other),
            }
        }
    }

    pub(crate) fn publish(
        &mut self,
        topic: &str,
        payload: &str,
        qos: u8,
        packet_id: u16,
        dup: bool,
    ) -> io::Result<()> {
        self.publish_as(0x30 | u8::from(dup) << 3 | qos << 1, topic, payload, packet_id)
    }

    /// A message to be retained, at QoS 1.
    pub(crate) fn retain(&mut self, topic: &str, payload: &str, packet_id: u16) -> io::Result<()> {
        self.publish_as(0x33, topic, payload, packet_id)
    }

    fn publish_as(&mut self, first: u8, topic: &str, payload: &str, packet_id: u16) -> io::Result<()> {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend_from_slice(&packet_id.to_be_bytes());
        self.no_properties(&mut body);
        body.extend_from_slice(payload.as_bytes());
        self.stream.write_all(&packet(first, &body))
    }

    fn no_properties(&self, body: &mut Vec<u8>) {
        if self.version == 5 {
            body.push(0);
        }
    }

    /// Sends an acknowledgement: 0x40 PUBACK, 0x50 PUBREC, 0x62 PUBREL, 0x70 PUBCOMP.
    pub(crate) fn acknowledge(&mut self, first: u8, packet_id: u16) -> io::Result<()> {
        self.stream.write_all(&packet(first, &packet_id.to_be_bytes()))
    }

    /// The next packet.
    pub(crate) fn receive(&mut self) -> io::Result<Packet> {
        self.early.pop_front().map_or_else(|| self.receive_next(), Ok)
    }

    fn receive_next(&mut self) -> io::Result<Packet> {
        let (first, body) = self.read()?;
        let id = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
        Ok(match first >> 4 {
            4 | 5 if body.get(2).is_some_and(|&reason| reason >= 0x80) => Packet::Refused(id(0), body[2]),
            3 => {
                let end = 2 + usize::from(id(0));
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (topic, qos) = (text(&body[2..end]), first >> 1 & 3);
                let (packet_id, payload) = match qos {
                    0 => (0, text(&body[end..])),
                    _ => (id(end), text(&body[end + 2..])),
                };
                Packet::Publish { topic, payload, qos, packet_id }
            }
            4 => Packet::PubAck(id(0)),
            5 => Packet::PubRec(id(0)),
            6 => Packet::PubRel(id(0)),
            7 => Packet::PubComp(id(0)),
            9 => Packet::SubAck(id(0)),
            _ => return Err(broken("a packet that was not expected")),
        })
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((head, length)) = frame(&self.input) {
                let (first, body) = (self.input[0], self.input[head..head + length].to_vec());
                self.input.drain(..head + length);
                return Ok((first, body));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.input.extend_from_slice(&bytes[..length]),
                // As when the tests were stopped for a while and go on.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Cuts the connection from another thread.
    pub(crate) fn stream(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }
}

/// The receiving side of a session: takes each message once, as the QoS says.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    /// QoS 2 Packet Identifiers of which PUBREL has not come.
    open: BTreeSet<u16>,
    /// What came, in order: topic and payload.
    pub(crate) taken: Vec<(String, String)>,
}

impl Receiver {
    /// Answers a packet.
    pub(crate) fn handle(&mut self, client: &mut Client, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::Publish { topic, payload, qos, packet_id } => {
                if qos < 2 || self.open.insert(packet_id) {
                    self.taken.push((topic, payload));
                }
                match qos {
                    0 => Ok(()),
                    1 => client.acknowledge(0x40, packet_id),
                    _ => client.acknowledge(0x50, packet_id),
                }
            }
            Packet::PubRel(packet_id) => {
                self.open.remove(&packet_id);
                client.acknowledge(0x70, packet_id)
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }
}
