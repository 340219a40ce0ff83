//! One Network Connection as the network has it: bytes on their way in both directions, and how they are held up.
//!
//! Bytes of a direction stay in order whatever happens, until the connection is cut: then each end has got some prefix
//! of what the other sent.

use std::collections::VecDeque;

use mqtt_broker::shard::{ConnectionId, Handed};

use super::random::Random;
use super::scenario::Net;

/// Where the broker has the connection.
#[derive(Debug)]
pub(crate) enum Place {
    On(usize, ConnectionId),
    /// On its way to its home core.
    Travelling {
        to: usize,
        handed: Box<Handed>,
    },
    /// The broker has forgotten it.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) place: Place,
    /// Whether the broker does not want to read.
    pub(crate) paused: bool,
    /// Bytes for the broker, each piece with the microsecond of its arrival.
    incoming: VecDeque<(u64, Vec<u8>)>,
    /// Bytes that have arrived where the broker does not read now.
    backlog: Vec<u8>,
    /// When the broker read last.
    pub(crate) read_at: u64,
    /// The send that the broker has under way, and how much of it the kernel has.
    sending: Option<(Vec<u8>, usize)>,
    /// The buffer of a send that is complete, until the broker is told.
    pub(crate) sent: Option<Vec<u8>>,
    /// Bytes that the kernel has for the Client.
    pipe: VecDeque<u8>,
    /// The broker's last bytes, and that it closes.
    last: Option<Vec<u8>>,
    pub(crate) client_reads: bool,
    /// Whether the Client has its end.
    pub(crate) client_open: bool,
    /// Whether its CONNECT was accepted. Before that at most one receive is under way, and none in the same turn after.
    pub(crate) established: bool,
    pub(crate) was_fed: bool,
    /// Whether an event for the Client's end is due.
    pub(crate) outgoing_due: bool,
    /// Whether the CONNACK, or something else instead, has been sent.
    pub(crate) answered: bool,
    pub(crate) random: Random,
}

impl Wire {
    pub(crate) fn new(place: Place, random: Random) -> Wire {
        Wire {
            place,
            paused: false,
            incoming: VecDeque::new(),
            backlog: Vec::new(),
            read_at: 0,
            sent: None,
            sending: None,
            pipe: VecDeque::new(),
            last: None,
            client_reads: true,
            client_open: true,
            established: false,
            was_fed: false,
            outgoing_due: false,
            answered: false,
            random,
        }
    }

    /// The Client sends; the moments at which pieces arrive.
    pub(crate) fn send(&mut self, mut bytes: &[u8], now: u64, net: &Net) -> Vec<u64> {
        let mut moments = Vec::new();
        while !bytes.is_empty() {
            let len = match net.splits && self.random.once_in(2) {
                true => 1 + self.random.index(bytes.len().min(40)),
                false => bytes.len(),
            };
            let (piece, rest) = bytes.split_at(len.min(bytes.len()));
            let before = self.incoming.back().map_or(0, |(at, _)| *at);
            let at = before.max(now + self.random.below(net.delay));
            self.incoming.push_back((at, piece.to_vec()));
            moments.push(at);
            bytes = rest;
        }
        moments
    }

    /// Bytes that have arrived by `now` are put where the broker reads from.
    pub(crate) fn arrive(&mut self, now: u64) {
        while let Some((_, piece)) = self.incoming.pop_front_if(|(at, _)| *at <= now) {
            self.backlog.extend_from_slice(&piece);
        }
    }

    /// What the broker reads now.
    pub(crate) fn take_arrived(&mut self, now: u64) -> Vec<u8> {
        self.read_at = now;
        core::mem::take(&mut self.backlog)
    }

    /// Whether the broker has read all that the Client sent.
    pub(crate) fn is_read(&self) -> bool {
        self.backlog.is_empty() && self.incoming.is_empty()
    }

    pub(crate) fn has_arrived(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// The connection is cut: of what is on its way to the broker a part arrives, or nothing.
    pub(crate) fn cut(&mut self, now: u64) {
        self.client_open = false;
        self.pipe.clear();
        let pieces = self.random.index(self.incoming.len() + 1);
        self.incoming.truncate(pieces);
        if let Some((_, last)) = self.incoming.back_mut()
            && self.random.once_in(2)
        {
            let kept = self.random.index(last.len() + 1);
            last.truncate(kept);
        }
        for (at, _) in &mut self.incoming {
            *at = now;
        }
        self.arrive(now);
    }

    /// The broker has bytes to send.
    pub(crate) fn transmit(&mut self, buffer: Vec<u8>) {
        assert!(self.sending.is_none() && self.sent.is_none(), "one send at a time is asked for");
        assert!(self.last.is_none(), "nothing is sent behind the last bytes");
        self.sending = Some((buffer, 0));
    }

    /// The broker closes: these are its last bytes.
    pub(crate) fn close(&mut self, last: Vec<u8>) {
        self.place = Place::Gone;
        self.last = Some(last);
    }

    /// Moves bytes from the broker's send into the kernel; whether that completes the send.
    pub(crate) fn pump(&mut self, pipe_bytes: usize) -> bool {
        let mut complete = false;
        if let Some((buffer, sent)) = &mut self.sending {
            let left = buffer.len() - *sent;
            // Where nobody reads it cannot be sent, and that is soon known.
            let room =
                if self.client_open { pipe_bytes.saturating_sub(self.pipe.len()).min(left) } else { left };
            if self.client_open {
                self.pipe.extend(&buffer[*sent..*sent + room]);
            }
            *sent += room;
            if *sent == buffer.len() {
                self.sent = self.sending.take().map(|(buffer, _)| buffer);
                complete = true;
            }
        }
        if self.sending.is_none()
            && self.client_open
            && let Some(last) = &mut self.last
        {
            self.pipe.extend(last.drain(..));
        }
        complete
    }

    /// Whether there is anything for the Client: bytes, or the end.
    pub(crate) fn has_for_client(&self) -> bool {
        self.client_open && (!self.pipe.is_empty() || self.is_at_end())
    }

    /// Whether the Client has read all that it will ever get.
    pub(crate) fn is_at_end(&self) -> bool {
        self.pipe.is_empty() && self.sending.is_none() && self.last.as_ref().is_some_and(Vec::is_empty)
    }

    /// The Client reads: all there is, or a part.
    pub(crate) fn read(&mut self, splits: bool) -> Vec<u8> {
        let len = match splits && self.random.once_in(3) && !self.pipe.is_empty() {
            true => 1 + self.random.index(self.pipe.len().min(60)),
            false => self.pipe.len(),
        };
        self.pipe.drain(..len.min(self.pipe.len())).collect()
    }
}
