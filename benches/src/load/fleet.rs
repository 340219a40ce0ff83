//! Many connections that are opened and subscribed before the measurement begins.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use mqtt_proto::{
    Connect, Packet, PacketId, PacketType, Properties, Qos, Subscribe, Subscription, SubscriptionOptions,
    Subscriptions, Version, decode,
};

use crate::load::clock::Clock;
use crate::load::net::{Link, Net, READ_LEN, Ready};

/// Requests without an answer while connections are opened or subscribed.
const UNANSWERED_MAX: usize = 128;
/// How long the broker may take for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Largest packet that is taken.
pub(crate) const PACKET_MAX: u32 = 1 << 28;

/// Connections numbered from 0; the number is the key of a connection's events.
pub(crate) struct Fleet {
    pub(crate) net: Net,
    pub(crate) links: Vec<Link>,
    pub(crate) version: Version,
    pub(crate) clock: Clock,
    /// Tells this run's topics and ClientIDs from those of any other.
    pub(crate) run: String,
    pub(crate) buffer: Vec<u8>,
    pub(crate) ready: Vec<Ready>,
}

impl Fleet {
    /// No connections yet.
    pub(crate) fn new(broker: SocketAddr, version: Version, clock: Clock) -> io::Result<Fleet> {
        Ok(Fleet {
            net: Net::new(broker)?,
            links: Vec::new(),
            version,
            clock,
            run: format!("{:x}", std::process::id()),
            buffer: vec![0; READ_LEN],
            ready: Vec::new(),
        })
    }

    /// Opens `count` more connections with a clean session; all have their CONNACK then.
    pub(crate) fn connect_all(&mut self, count: usize, keep_alive: u16) -> io::Result<()> {
        let first = self.links.len();
        self.request_all(first..first + count, PacketType::ConnAck, |fleet, at| {
            let mut link = fleet.net.connect(at as u64)?;
            link.push(
                &Packet::Connect(connect(&format!("load-{}-{at}", fleet.run), keep_alive, fleet.version)),
                fleet.version,
            )?;
            fleet.links.push(link);
            Ok(())
        })
    }

    /// Subscribes the connections of `range`, each to its `filter`.
    pub(crate) fn subscribe_all(
        &mut self,
        range: Range<usize>,
        qos: Qos,
        filter: impl Fn(usize) -> String,
    ) -> io::Result<()> {
        self.request_all(range, PacketType::SubAck, |fleet, at| {
            subscribe(&mut fleet.links[at], &filter(at), qos, fleet.version)
        })
    }

    /// Makes a request on each connection of `range` and waits for its answer, a bounded number at once.
    fn request_all(
        &mut self,
        range: Range<usize>,
        answer: PacketType,
        mut request: impl FnMut(&mut Fleet, usize) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut waiting: VecDeque<usize> = range.clone().collect();
        let mut unanswered = 0;
        let mut answered = 0;
        let mut heard = self.clock.elapsed();
        while answered < range.len() {
            while unanswered < UNANSWERED_MAX
                && let Some(at) = waiting.pop_front()
            {
                request(self, at)?;
                self.links[at].flush(&self.net)?;
                unanswered += 1;
            }
            self.net.wait(Duration::from_secs(1), &mut self.ready)?;
            for at in 0..self.ready.len() {
                let ready = self.ready[at];
                let link = &mut self.links[ready.key as usize];
                if ready.writable {
                    link.flush(&self.net)?;
                }
                if ready.readable
                    && let Some(len) = link.read(&mut self.buffer)?
                {
                    let mut input = &self.buffer[..len];
                    while let Some(frame) =
                        link.framer.next_frame(&mut input, PACKET_MAX).map_err(io::Error::other)?
                    {
                        let packet = decode(self.version, frame).map_err(io::Error::other)?;
                        accept(&packet, answer)?;
                        answered += 1;
                        unanswered -= 1;
                    }
                    heard = self.clock.elapsed();
                }
            }
            if self.clock.elapsed() - heard > PATIENCE {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("{} of {} {answer:?} did not come", range.len() - answered, range.len()),
                ));
            }
        }
        Ok(())
    }
}

/// A CONNECT with a clean session.
pub(crate) const fn connect(client_id: &str, keep_alive: u16, version: Version) -> Connect<'_> {
    Connect {
        version,
        clean_start: true,
        keep_alive,
        client_id,
        properties: Properties::EMPTY,
        will: None,
        user_name: None,
        password: None,
    }
}

/// Queues a SUBSCRIBE with one filter.
pub(crate) fn subscribe(link: &mut Link, filter: &str, qos: Qos, version: Version) -> io::Result<()> {
    let subscription = [Subscription { filter, options: SubscriptionOptions::new(qos) }];
    let subscribe = Subscribe {
        packet_id: PacketId::FIRST,
        properties: Properties::EMPTY,
        subscriptions: Subscriptions::new(&subscription),
    };
    link.push(&Packet::Subscribe(subscribe), version)
}

/// Checks that `packet` is the `answer` that was waited for, and that it grants what was asked.
pub(crate) fn accept(packet: &Packet<'_>, answer: PacketType) -> io::Result<()> {
    let refusal = match packet {
        Packet::ConnAck(connack) => Some(connack.reason).filter(|reason| reason.is_error()),
        Packet::SubAck(suback) => suback.reasons.iter().find(|reason| reason.is_error()),
        _ => None,
    };
    if let Some(reason) = refusal {
        return Err(io::Error::other(format!("the broker refused: {reason}")));
    }
    if packet.packet_type() == answer {
        Ok(())
    } else {
        Err(io::Error::other(format!("{:?} instead of {answer:?}", packet.packet_type())))
    }
}
