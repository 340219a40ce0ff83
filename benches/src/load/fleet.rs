//! Many connections that are opened and subscribed before the measurement begins.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use mqtt_proto::{
    Ack, Connect, Disconnect, Packet, PacketId, PacketType, Properties, Property, Publish, Qos, ReasonCode,
    Subscribe, Subscription, SubscriptionOptions, Subscriptions, TopicName, Version, decode, encode,
};

use crate::load::clock::Clock;
use crate::load::net::{Link, Net, READ_LEN, Ready};
use crate::load::payload::{self, Header};
use crate::load::progress::Progress;

/// Requests without an answer while connections are opened or subscribed.
pub(crate) const UNANSWERED_MAX: usize = 128;
/// How long the broker may take for an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// What a session that stays is to outlive its connection by, in seconds.
const SESSION_EXPIRY: u32 = 3_600;
/// Largest packet that is taken.
pub(crate) const PACKET_MAX: u32 = 1 << 28;

/// Whether a session is there after its connection, and may have been before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stay {
    /// A clean one, which also ends what there was under its ClientID.
    No,
    /// It stays, for an hour in 5.0.
    After,
}

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
    pub(crate) progress: Progress,
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
            progress: Progress::new(),
        })
    }

    /// Opens `count` more connections with a clean session; all have their CONNACK then.
    pub(crate) fn connect_all(&mut self, count: usize, keep_alive: u16) -> io::Result<()> {
        self.connect_as(count, keep_alive, |_| Stay::No)
    }

    /// Opens `count` more connections with sessions as told; all have their CONNACK then.
    pub(crate) fn connect_as(
        &mut self,
        count: usize,
        keep_alive: u16,
        stay: impl Fn(usize) -> Stay,
    ) -> io::Result<()> {
        let first = self.links.len();
        self.progress.begin(self.clock, "connecting", Some(count as u64));
        self.request_all(first..first + count, PacketType::ConnAck, |fleet, at| {
            let client_id = format!("load-{}-{at}", fleet.run);
            fleet.open(at as u64, &client_id, keep_alive, stay(at))?;
            Ok(at)
        })
    }

    /// Opens one more connection, whose events have the key `key`, and queues its CONNECT.
    pub(crate) fn open(&mut self, key: u64, client_id: &str, keep_alive: u16, stay: Stay) -> io::Result<()> {
        let expiry = [Property::SessionExpiryInterval(SESSION_EXPIRY)];
        let mut connect = connect(client_id, keep_alive, self.version);
        if stay == Stay::After {
            connect.clean_start = false;
            if self.version == Version::V5 {
                connect.properties = Properties::new(&expiry);
            }
        }
        let mut link = self.net.connect(key)?;
        link.push(&Packet::Connect(connect), self.version)?;
        self.links.push(link);
        Ok(())
    }

    /// Ends all connections. The broker closes them once it has seen the DISCONNECT, so nobody is still there
    /// afterwards.
    pub(crate) fn leave(&mut self) -> io::Result<()> {
        let end = self.clock.elapsed() + PATIENCE;
        let mut here = self.links.len();
        for link in &mut self.links {
            link.push(&Packet::Disconnect(Disconnect::new(ReasonCode::SUCCESS)), self.version)?;
            link.flush(&self.net)?;
            link.shut_down_write()?;
        }
        while here > 0 {
            let now = self.clock.elapsed();
            if now >= end {
                return Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the broker kept connections after DISCONNECT",
                ));
            }
            self.net.wait(end - now, &mut self.ready)?;
            for ready in &self.ready {
                let link = &mut self.links[ready.key as usize];
                match link.read(&mut self.buffer) {
                    Ok(_) => {}
                    Err(error)
                        if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) =>
                    {
                        link.forget(&self.net)?;
                        here -= 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        self.links.clear();
        Ok(())
    }

    /// Subscribes the connections of `range`, each to its `filter`.
    pub(crate) fn subscribe_all(
        &mut self,
        range: Range<usize>,
        qos: Qos,
        filter: impl Fn(usize) -> String,
    ) -> io::Result<()> {
        self.progress.begin(self.clock, "subscribing", Some(range.len() as u64));
        self.request_all(range, PacketType::SubAck, |fleet, at| {
            subscribe(&mut fleet.links[at], &filter(at), qos, fleet.version)?;
            Ok(at)
        })
    }

    /// Makes the requests of `range` and waits for the answer to each, a bounded number at once. `request` says on which
    /// connection it is.
    pub(crate) fn request_all(
        &mut self,
        range: Range<usize>,
        answer: PacketType,
        request: impl FnMut(&mut Fleet, usize) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (count, mut answered) = (range.len(), 0);
        self.request_each(range, answer, request, &mut answered)
            .map_err(|error| but_only(error, answered, count, answer))
    }

    /// The same, and says in `answered` how far it came.
    fn request_each(
        &mut self,
        range: Range<usize>,
        answer: PacketType,
        mut request: impl FnMut(&mut Fleet, usize) -> io::Result<usize>,
        answered: &mut usize,
    ) -> io::Result<()> {
        let mut waiting: VecDeque<usize> = range.clone().collect();
        let mut unanswered = 0;
        let mut heard = self.clock.elapsed();
        while *answered < range.len() {
            while unanswered < UNANSWERED_MAX
                && let Some(at) = waiting.pop_front()
            {
                let link = request(self, at)?;
                self.links[link].flush(&self.net)?;
                unanswered += 1;
            }
            let before = *answered;
            self.turn(Duration::from_secs(1), |_, packet, _| {
                accept(packet, answer)?;
                *answered += 1;
                Ok(())
            })?;
            unanswered -= *answered - before;
            let now = self.clock.elapsed();
            self.progress.note(now, *answered as u64);
            if *answered > before {
                heard = now;
            }
            if now - heard > PATIENCE {
                return Err(silent());
            }
        }
        Ok(())
    }

    /// Waits once, shows each packet that came with the number of its connection, and sends what `handle` answers.
    pub(crate) fn turn(
        &mut self,
        timeout: Duration,
        mut handle: impl FnMut(usize, &Packet<'_>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.net.wait(timeout, &mut self.ready)?;
        for ready in &self.ready {
            let at = ready.key as usize;
            // What else is watched is not a connection.
            let Some(link) = self.links.get_mut(at) else { continue };
            if ready.readable
                && let Some(len) = link.read(&mut self.buffer)?
            {
                let mut input = &self.buffer[..len];
                while let Some(frame) =
                    link.framer.next_frame(&mut input, PACKET_MAX).map_err(io::Error::other)?
                {
                    let packet = decode(self.version, frame).map_err(io::Error::other)?;
                    handle(at, &packet, &mut link.out)?;
                }
            }
            if !link.is_flushed() {
                link.flush(&self.net)?;
            }
        }
        Ok(())
    }
}

/// The broker has said nothing for [`PATIENCE`].
pub(crate) fn silent() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no answer for {} s", PATIENCE.as_secs()))
}

/// `error`, with how many of `count` clients had their `answer` by then.
pub(crate) fn but_only(error: io::Error, answered: usize, count: usize, answer: PacketType) -> io::Error {
    let done = match answer {
        PacketType::ConnAck => "connected",
        PacketType::SubAck => "subscribed",
        _ => "done",
    };
    io::Error::new(error.kind(), format!("{error}; {answered} of {count} were {done}"))
}

/// Seconds, for clients that never fall silent so long: 0 would be no keep alive, with which some brokers let nobody in.
pub(crate) const KEEP_ALIVE: u16 = 65_535;

/// A CONNECT with a clean session.
pub(crate) const fn connect(client_id: &str, keep_alive: u16, version: Version) -> Connect<'_> {
    Connect { keep_alive, ..Connect::new(version, client_id) }
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

/// Queues a PUBLISH at QoS 0 whose payload of `len` bytes says `header`.
pub(crate) fn publish(
    link: &mut Link,
    topic: &str,
    header: Header,
    len: usize,
    version: Version,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    payload::write(header, len, &mut bytes);
    let publish = Publish {
        dup: false,
        qos: Qos::AtMostOnce,
        retain: false,
        topic: TopicName::new(topic).ok(),
        packet_id: None,
        properties: Properties::EMPTY,
        payload: &bytes,
    };
    link.push(&Packet::Publish(publish), version)
}

/// Queues the first answer to a PUBLISH; QoS 0 has none.
pub(crate) fn acknowledge(
    qos: Qos,
    packet_id: Option<PacketId>,
    version: Version,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let Some(packet_id) = packet_id else { return Ok(()) };
    let ack = Ack::new(packet_id, ReasonCode::SUCCESS);
    let packet = if qos == Qos::AtLeastOnce { Packet::PubAck(ack) } else { Packet::PubRec(ack) };
    encode(&packet, version, out).map_err(io::Error::other)
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
