//! Frames in, frames out: connections, the sessions behind them, and the least of MQTT that keeps clients going.
//!
//! A session is an output buffer and its filters. One that is kept without a connection goes on filling its buffer, which
//! is all there is to an offline queue here. Acknowledgements are answered by their type alone, with the Packet
//! Identifier that came: nothing is remembered of a message.

use std::rc::Rc;

use crate::ring::SocketId;
use crate::table::{Map, Table, matches, prefix};

/// Everything but the sockets.
#[derive(Default)]
pub(crate) struct Exchange {
    /// By the index of the socket.
    connections: Vec<Connection>,
    sessions: Vec<Session>,
    free: Vec<u32>,
    /// Sessions that outlive their connection, by ClientID.
    kept: Map<Box<[u8]>, u32>,
    table: Table,
    /// Frames by topic.
    retained: Map<Box<[u8]>, Box<[u8]>>,
    /// Sessions with something to send that is not being sent.
    dirty: Vec<u32>,
    /// Empty buffers.
    spare: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Connection {
    session: Option<u32>,
    /// The beginning of a frame whose rest has not arrived.
    partial: Vec<u8>,
    /// Topic of the last PUBLISH, who gets it, and the table's generation then.
    topic: Vec<u8>,
    route: Vec<u32>,
    generation: u64,
}

#[derive(Default)]
struct Session {
    out: Vec<u8>,
    socket: Option<SocketId>,
    is_sending: bool,
    is_dirty: bool,
    is_kept: bool,
    filters: Vec<Rc<[u8]>>,
}

/// `None`: nothing that this program understands.
type Understood = Option<()>;

impl Exchange {
    /// A client has connected.
    pub(crate) fn open(&mut self, socket: SocketId) {
        let at = socket.index as usize;
        if at >= self.connections.len() {
            self.connections.resize_with(at + 1, Connection::default);
        }
        self.connections[at] = Connection::default();
    }

    /// The connection is over.
    pub(crate) fn close(&mut self, socket: SocketId) {
        let connection = std::mem::take(&mut self.connections[socket.index as usize]);
        let Some(at) = connection.session else { return };
        let session = &mut self.sessions[at as usize];
        if session.socket != Some(socket) {
            return;
        }
        session.socket = None;
        session.is_sending = false;
        if session.is_kept {
            return;
        }
        let Session { filters, out, .. } = std::mem::take(session);
        self.recycle(out);
        for filter in filters {
            self.table.remove(&filter, at);
        }
        self.free.push(at);
    }

    /// Takes what arrived; `false` if it is nothing that this program understands.
    pub(crate) fn receive(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        let mut joined = std::mem::take(&mut self.connections[socket.index as usize].partial);
        let is_joined = !joined.is_empty();
        if is_joined {
            joined.extend_from_slice(bytes);
        }
        let input = if is_joined { &joined } else { bytes };
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match cut(rest) {
                Cut::Frame { body, end } => {
                    if self.handle(socket, &rest[..end], body).is_none() {
                        return false;
                    }
                    taken += end;
                }
                Cut::Incomplete => break,
                Cut::Nonsense => return false,
            }
        }
        if taken < input.len() {
            self.connections[socket.index as usize].partial = if is_joined {
                joined.drain(..taken);
                joined
            } else {
                bytes[taken..].to_vec()
            };
        }
        true
    }

    /// A buffer of [`Exchange::poll_send`] has left.
    pub(crate) fn sent(&mut self, socket: SocketId, buffer: Vec<u8>) {
        self.recycle(buffer);
        let Some(at) = self.connections[socket.index as usize].session else { return };
        let session = &mut self.sessions[at as usize];
        if session.socket == Some(socket) {
            session.is_sending = false;
            if !session.out.is_empty() {
                self.mark(at);
            }
        }
    }

    /// The next buffer to be sent: one a connection and turn.
    pub(crate) fn poll_send(&mut self) -> Option<(SocketId, Vec<u8>)> {
        loop {
            let session = &mut self.sessions[self.dirty.pop()? as usize];
            session.is_dirty = false;
            if let Some(socket) = session.socket
                && !session.is_sending
                && !session.out.is_empty()
            {
                session.is_sending = true;
                return Some((socket, std::mem::take(&mut session.out)));
            }
        }
    }

    /// Does what `frame` asks for; `body` is where its variable header begins.
    fn handle(&mut self, socket: SocketId, frame: &[u8], body: usize) -> Understood {
        let body = &frame[body..];
        if frame[0] >> 4 == 1 {
            return self.connect(socket, body);
        }
        let at = self.connections[socket.index as usize].session?;
        match (frame[0] >> 4, body) {
            (3, _) => self.publish(socket, at, frame, body)?,
            // What acknowledges the acknowledgement of QoS 2.
            (5, [high, low, ..]) => self.reply(at, &[0x62, 2, *high, *low]),
            (6, [high, low, ..]) => self.reply(at, &[0x70, 2, *high, *low]),
            (8, _) => self.subscribe(at, body)?,
            (12, _) => self.reply(at, &[0xD0, 0]),
            // PUBACK, PUBCOMP, DISCONNECT: nothing was remembered.
            (4 | 7 | 14, _) => {}
            _ => return None,
        }
        Some(())
    }

    /// CONNECT: only whether the session is to be kept, and under which name.
    fn connect(&mut self, socket: SocketId, body: &[u8]) -> Understood {
        let (fixed, rest) = body.split_at_checked(10)?;
        let (client_id, _) = text(rest)?;
        if fixed[..7] != *b"\0\x04MQTT\x04" || self.connections[socket.index as usize].session.is_some() {
            return None;
        }
        let keep = fixed[7] & 0x02 == 0;
        let known = if keep { self.kept.get(client_id).copied() } else { None };
        let at = known.unwrap_or_else(|| {
            self.free.pop().unwrap_or_else(|| {
                self.sessions.push(Session::default());
                (self.sessions.len() - 1) as u32
            })
        });
        if keep && known.is_none() {
            self.kept.insert(client_id.into(), at);
        }
        let session = &mut self.sessions[at as usize];
        session.is_kept = keep;
        session.is_sending = false;
        session.socket = Some(socket);
        // CONNACK goes before what was waiting.
        let connack = [0x20, 2, u8::from(known.is_some()), 0];
        session.out.splice(..0, connack);
        self.connections[socket.index as usize].session = Some(at);
        self.mark(at);
        Some(())
    }

    /// SUBSCRIBE: each filter into the table, SUBACK, and what is retained.
    fn subscribe(&mut self, at: u32, body: &[u8]) -> Understood {
        let (id, mut rest) = body.split_first_chunk::<2>()?;
        let mut granted = Vec::new();
        let first = self.sessions[at as usize].filters.len();
        while !rest.is_empty() {
            let (filter, after) = text(rest)?;
            let (qos, after) = after.split_first()?;
            granted.push(qos & 0x03);
            let filter = self.table.insert(filter, at);
            self.sessions[at as usize].filters.push(filter);
            rest = after;
        }
        let session = &mut self.sessions[at as usize];
        session.out.push(0x90);
        push_len(2 + granted.len(), &mut session.out);
        session.out.extend_from_slice(id);
        session.out.extend_from_slice(&granted);
        for filter in &session.filters[first..] {
            if prefix(filter).is_none() {
                session.out.extend(self.retained.get(&**filter).into_iter().flatten());
            } else {
                let matching = self.retained.iter().filter(|(topic, _)| matches(filter, topic));
                matching.for_each(|(_, frame)| session.out.extend_from_slice(frame));
            }
        }
        self.mark(at);
        Some(())
    }

    /// PUBLISH: the frame as it came to all who asked for its topic.
    fn publish(&mut self, socket: SocketId, at: u32, frame: &[u8], body: &[u8]) -> Understood {
        let (topic, rest) = text(body)?;
        let payload = match frame[0] >> 1 & 0x03 {
            0 => rest,
            qos @ (1 | 2) => {
                let (id, payload) = rest.split_first_chunk::<2>()?;
                self.reply(at, &[if qos == 1 { 0x40 } else { 0x50 }, 2, id[0], id[1]]);
                payload
            }
            _ => return None,
        };
        let connection = &mut self.connections[socket.index as usize];
        if connection.generation != self.table.generation || connection.topic != topic {
            connection.generation = self.table.generation;
            connection.topic.clear();
            connection.topic.extend_from_slice(topic);
            self.table.route(topic, &mut connection.route);
        }
        let is_retained = frame[0] & 0x01 == 1;
        for &to in &connection.route {
            let session = &mut self.sessions[to as usize];
            if session.out.capacity() == 0
                && let Some(buffer) = self.spare.pop()
            {
                session.out = buffer;
            }
            let start = session.out.len();
            session.out.extend_from_slice(frame);
            // Who was there already is not told that it is retained.
            session.out[start] &= 0xFE;
            if !session.is_dirty && !session.is_sending {
                session.is_dirty = true;
                self.dirty.push(to);
            }
        }
        if is_retained && payload.is_empty() {
            self.retained.remove(topic);
        } else if is_retained {
            self.retained.insert(topic.into(), frame.into());
        }
        Some(())
    }

    fn reply(&mut self, at: u32, bytes: &[u8]) {
        self.sessions[at as usize].out.extend_from_slice(bytes);
        self.mark(at);
    }

    /// Notes that the session has something to send.
    fn mark(&mut self, at: u32) {
        let session = &mut self.sessions[at as usize];
        if !session.is_dirty && !session.is_sending {
            session.is_dirty = true;
            self.dirty.push(at);
        }
    }

    /// Keeps a buffer for the next session that needs one; large ones go back to the allocator.
    fn recycle(&mut self, mut buffer: Vec<u8>) {
        const BUFFERS: usize = 1_024;
        const BYTES: usize = 64 * 1_024;
        if buffer.capacity() > 0 && buffer.capacity() <= BYTES && self.spare.len() < BUFFERS {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

enum Cut {
    /// A frame that ends at `end`; its variable header begins at `body`.
    Frame {
        body: usize,
        end: usize,
    },
    Incomplete,
    Nonsense,
}

/// Finds the first frame by the length in its fixed header.
fn cut(input: &[u8]) -> Cut {
    let mut len = 0;
    for at in 1..=4 {
        let Some(byte) = input.get(at) else { return Cut::Incomplete };
        len |= usize::from(byte & 0x7F) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            let (body, end) = (at + 1, at + 1 + len);
            return if end <= input.len() { Cut::Frame { body, end } } else { Cut::Incomplete };
        }
    }
    Cut::Nonsense
}

/// A string with its length before it, and what follows.
fn text(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

/// A length as the fixed header has it.
fn push_len(mut len: usize, out: &mut Vec<u8>) {
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
}
