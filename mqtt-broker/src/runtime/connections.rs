//! Between the shard and its connections: which connection is which socket, through which layer, and in what state.
//!
//! Invariants: a connection that is not established has at most one single-shot receive armed, and that only while no
//! action of the shard is unread, so that a hand-off finds nothing armed or cancels it first; no byte is fed to the
//! shard for a connection that it has let go.

use std::io;
use std::sync::Arc;

use hashbrown::HashMap;
use tracing::{debug, warn};

use super::local::{Pipe, PipeEnd};
use super::shared::{LaneItem, Moved, MovedPeer};
use crate::chunks::Chunks;
use crate::config::CoreId;
use crate::ring::{Event, Ring, SocketId};
use crate::shard::{Action, ConnectionId, ConnectionInfo, Handed, Now, Shard};
use crate::store::log::Buffer;
use crate::transport::{LayerFactory, Layered, Next, Progress, Transport};

/// Refused connections are many at a time: one line a core in this time tells of all.
const WARN_INTERVAL_MILLIS: u64 = 10_000;

/// The far end of a connection.
enum Peer {
    /// Plain TCP.
    Plain(SocketId),
    Layered(Box<LayeredPeer>),
    Local(PipeEnd),
}

/// Boxed, so that plain connections, of which there may be a million, stay small.
struct LayeredPeer {
    socket: SocketId,
    layered: Box<Layered>,
}

impl Peer {
    fn new(socket: SocketId, transport: Transport) -> Peer {
        match transport {
            Transport::Plain => Peer::Plain(socket),
            Transport::Layered(layered) => Peer::Layered(Box::new(LayeredPeer { socket, layered })),
        }
    }

    fn socket(&self) -> Option<SocketId> {
        match self {
            Peer::Plain(socket) => Some(*socket),
            Peer::Layered(peer) => Some(peer.socket),
            Peer::Local(_) => None,
        }
    }
}

/// A connection of this core's shard.
struct Link {
    generation: u32,
    established: bool,
    paused: bool,
    peer: Peer,
}

/// No connection of the shard.
const GONE: ConnectionId = ConnectionId { index: u32::MAX, generation: 0 };

/// A connection that the shard has let go and whose socket is about to leave.
struct Leaving {
    to: CoreId,
    handed: Box<Handed>,
    transport: Transport,
}

/// The connections of one core.
pub(super) struct Connections {
    pub(super) shard: Shard,
    /// By the index of the connection.
    links: Chunks<Option<Link>>,
    /// By the index of the socket: the index of the connection that had it last.
    owners: Chunks<u32>,
    leaving: HashMap<SocketId, Leaving, ahash::RandomState>,
    /// Layers of the listeners, in the order of [`Ring::listen`].
    layers: Vec<Option<LayerFactory>>,
    /// Sockets' connections that have been fed and are to be read on, unless the shard wants something else.
    rearm: Vec<ConnectionId>,
    /// Local connections to look at.
    looks: Vec<ConnectionId>,
    /// Connections that leave for other cores.
    departures: Vec<(CoreId, LaneItem)>,
    locals: usize,
    /// A write to the log that is over, for the core to take.
    written: Option<(Buffer, io::Result<usize>)>,
    /// When a refused connection is worth a line in the log again, in monotonic milliseconds.
    warn_again_at: u64,
    /// Kept between calls for their memory alone.
    plain: Vec<u8>,
    reply: Vec<u8>,
}

/// What the ring has to do after an event, once the bytes that the event lent are back.
enum After {
    Nothing,
    Send(SocketId, Vec<u8>),
    Close(SocketId, Vec<u8>),
    Abort(SocketId),
}

impl Connections {
    pub(super) fn new(shard: Shard, seed: u64) -> Connections {
        Connections {
            shard,
            links: Chunks::default(),
            owners: Chunks::default(),
            leaving: HashMap::with_hasher(ahash::RandomState::with_seeds(seed, !seed, 0, 1)),
            layers: Vec::new(),
            rearm: Vec::new(),
            looks: Vec::new(),
            departures: Vec::new(),
            locals: 0,
            written: None,
            warn_again_at: 0,
            plain: Vec::new(),
            reply: Vec::new(),
        }
    }

    /// The next listener of the ring has this layer.
    pub(super) fn add_listener(&mut self, layer: Option<LayerFactory>) {
        self.layers.push(layer);
    }

    /// Clients inside the process that are connected here.
    pub(super) fn locals(&self) -> usize {
        self.locals
    }

    /// The write to the log that is over.
    pub(super) fn take_written(&mut self) -> Option<(Buffer, io::Result<usize>)> {
        self.written.take()
    }

    /// Whether local connections wait to be looked at.
    pub(super) fn has_looks(&self) -> bool {
        !self.looks.is_empty()
    }

    /// Feeds everything that the ring has to the shard; how many pieces of input there were.
    pub(super) fn handle_events(&mut self, ring: &mut Ring, now: Now) -> usize {
        let mut received = 0;
        while let Some(event) = ring.poll_event() {
            let after = match event {
                Event::Accepted { listener, socket } => {
                    self.accepted(ring, listener, socket, now);
                    After::Nothing
                }
                Event::Received { socket, bytes } => {
                    received += 1;
                    self.received(socket, bytes, now)
                }
                Event::Ended { socket, error } => {
                    debug!(?error, "the peer has ended its connection");
                    self.lost(socket, now);
                    After::Close(socket, Vec::new())
                }
                Event::Sent { socket, buffer } => self.sent(socket, buffer, now),
                Event::Released { socket, descriptor } => {
                    if let Some(Leaving { to, handed, transport }) = self.leaving.remove(&socket)
                        && let Some(descriptor) = descriptor
                    {
                        self.depart(to, handed, MovedPeer::Socket(descriptor, transport));
                    }
                    After::Nothing
                }
                Event::Written { pages, result } => {
                    self.written = Some((pages, result));
                    After::Nothing
                }
            };
            match after {
                After::Nothing => {}
                After::Send(socket, wire) => ring.send(socket, wire),
                After::Close(socket, last) => ring.close(socket, last, now.millis),
                After::Abort(socket) => ring.abort(socket),
            }
        }
        received
    }

    fn accepted(&mut self, ring: &mut Ring, listener: usize, socket: SocketId, now: Now) {
        self.handle_actions(ring, now);
        let (peer, local) = ring.addresses(listener, socket);
        let info = ConnectionInfo { peer, local };
        let Some(id) = self.shard.connection_opened(info, now) else {
            if now.millis >= self.warn_again_at {
                self.warn_again_at = now.millis + WARN_INTERVAL_MILLIS;
                warn!("connections_max is reached: new connections are closed at once");
            }
            ring.abort(socket);
            return;
        };
        let transport = match &self.layers[listener] {
            None => Transport::Plain,
            Some(make) => Transport::Layered(Box::new(Layered::new(make(&info)))),
        };
        self.link(id, Peer::new(socket, transport));
    }

    fn received(&mut self, socket: SocketId, bytes: &[u8], now: Now) -> After {
        let Some(id) = self.owner(socket) else {
            if let Some(leaving) = self.leaving.get_mut(&socket) {
                push_input(leaving, bytes);
            }
            return After::Nothing;
        };
        let Some(link) = link_mut(&mut self.links, id) else { return After::Nothing };
        let (established, paused) = (link.established, link.paused);
        if !established && !paused {
            self.rearm.push(id);
        }
        match &mut link.peer {
            Peer::Plain(_) => {
                self.shard.handle_input(id, bytes, now);
                After::Nothing
            }
            Peer::Layered(peer) => {
                let layered = &mut peer.layered;
                let (plain, reply) = (&mut self.plain, &mut self.reply);
                plain.clear();
                reply.clear();
                let progress = layered.layer.handle_input(bytes, plain, reply);
                let next = layered.reply(reply);
                if !plain.is_empty() {
                    self.shard.handle_input(id, plain, now);
                }
                match (progress, next) {
                    (Ok(Progress::Open), Some(Next::Send(wire))) => After::Send(socket, wire),
                    (Ok(Progress::Open), Some(_)) => After::Nothing,
                    (Ok(Progress::Open), None) => {
                        debug!("closing: the peer makes its layer answer and does not read");
                        self.lost(socket, now);
                        After::Abort(socket)
                    }
                    (Ok(Progress::Ended), next) => self.end_layer(socket, next, now),
                    (Err(error), next) => {
                        debug!(%error, "closing: the peer broke the rules of its layer");
                        self.end_layer(socket, next, now)
                    }
                }
            }
            Peer::Local(_) => After::Nothing,
        }
    }

    /// The layer has ended: the shard forgets the connection, the last bytes of the layer still leave.
    fn end_layer(&mut self, socket: SocketId, next: Option<Next>, now: Now) -> After {
        let last = match (next, self.lost(socket, now)) {
            (Some(Next::Send(mut wire)), Some(Transport::Layered(mut layered))) => {
                wire.extend(layered.close(&[]));
                wire
            }
            (Some(_), Some(Transport::Layered(mut layered))) => layered.close(&[]),
            _ => Vec::new(),
        };
        After::Close(socket, last)
    }

    fn sent(&mut self, socket: SocketId, buffer: Vec<u8>, now: Now) -> After {
        let id = self.owner(socket).unwrap_or(GONE);
        match link_mut(&mut self.links, id).map(|link| &mut link.peer) {
            Some(Peer::Layered(peer)) => match peer.layered.sent(buffer) {
                Next::Wait => return After::Nothing,
                Next::Send(wire) => return After::Send(socket, wire),
                Next::Done(plain) => self.shard.transmit_done(id, plain, now),
            },
            // Of a connection that is gone: the shard uses the buffer again.
            _ => self.shard.transmit_done(id, buffer, now),
        }
        After::Nothing
    }

    /// The socket of a connection is of no more use: the shard forgets the connection.
    fn lost(&mut self, socket: SocketId, now: Now) -> Option<Transport> {
        let id = self.owner(socket)?;
        self.shard.connection_closed(id, now);
        match self.unlink(id)?.peer {
            Peer::Plain(_) => Some(Transport::Plain),
            Peer::Layered(peer) => Some(Transport::Layered(peer.layered)),
            Peer::Local(_) => None,
        }
    }

    /// Does what the shard asks for. Also called before the shard takes a connection on, so that an index that it
    /// uses again is free here too.
    pub(super) fn handle_actions(&mut self, ring: &mut Ring, now: Now) {
        while let Some(action) = self.shard.poll_action() {
            match action {
                Action::Transmit { id, buffer } => self.transmit(ring, id, buffer, now),
                Action::TransmitShared { id, pieces } => match link_mut(&mut self.links, id) {
                    Some(Link { peer: Peer::Plain(socket), .. }) => ring.send_pieces(*socket, pieces),
                    _ => self.transmit(ring, id, pieces.into_vec(), now),
                },
                Action::Close { id, last, abort } => self.close(ring, id, last, abort, now),
                Action::Handoff { id, to, handed } => self.hand_off(ring, id, to, handed, now),
                Action::Established { id } => {
                    if let Some(link) = link_mut(&mut self.links, id) {
                        link.established = true;
                        if let Some(socket) = link.peer.socket() {
                            ring.settle(socket);
                        }
                        if !link.paused {
                            self.read_on(ring, id);
                        }
                    }
                }
                Action::PauseRead { id } => {
                    if let Some(link) = link_mut(&mut self.links, id) {
                        link.paused = true;
                        if let Some(socket) = link.peer.socket() {
                            ring.pause(socket);
                        }
                    }
                }
                Action::ResumeRead { id } => {
                    if let Some(link) = link_mut(&mut self.links, id) {
                        link.paused = false;
                        self.read_on(ring, id);
                    }
                }
            }
        }
        // Only now: an action may have been the hand-off of a connection that was fed.
        let mut rearm = std::mem::take(&mut self.rearm);
        for id in rearm.drain(..) {
            if link_mut(&mut self.links, id).is_some_and(|link| !link.paused && !link.established) {
                self.read_on(ring, id);
            }
        }
        self.rearm = rearm;
    }

    fn read_on(&mut self, ring: &mut Ring, id: ConnectionId) {
        let Some(link) = link_mut(&mut self.links, id) else { return };
        match link.peer.socket() {
            Some(socket) if link.established => ring.receive(socket),
            Some(socket) => ring.receive_once(socket),
            None => self.looks.push(id),
        }
    }

    fn transmit(&mut self, ring: &mut Ring, id: ConnectionId, buffer: Vec<u8>, now: Now) {
        match link_mut(&mut self.links, id).map(|link| &mut link.peer) {
            Some(Peer::Plain(socket)) => ring.send(*socket, buffer),
            Some(Peer::Layered(peer)) => match peer.layered.transmit(buffer) {
                Next::Wait => {}
                Next::Send(wire) => ring.send(peer.socket, wire),
                Next::Done(plain) => self.shard.transmit_done(id, plain, now),
            },
            Some(Peer::Local(pipe)) => pipe.transmit(buffer),
            None => self.shard.transmit_done(id, buffer, now),
        }
    }

    fn close(&mut self, ring: &mut Ring, id: ConnectionId, last: Vec<u8>, abort: bool, now: Now) {
        match self.unlink(id).map(|link| link.peer) {
            Some(Peer::Plain(socket)) if !abort => ring.close(socket, last, now.millis),
            Some(Peer::Layered(mut peer)) if !abort => {
                ring.close(peer.socket, peer.layered.close(&last), now.millis);
            }
            Some(Peer::Local(pipe)) => pipe.close(last),
            Some(peer) => peer.socket().into_iter().for_each(|socket| ring.abort(socket)),
            None => {}
        }
    }

    fn hand_off(&mut self, ring: &mut Ring, id: ConnectionId, to: CoreId, handed: Box<Handed>, now: Now) {
        let (socket, transport) = match self.unlink(id).map(|link| link.peer) {
            Some(Peer::Plain(socket)) => (socket, Transport::Plain),
            Some(Peer::Layered(peer)) => (peer.socket, Transport::Layered(peer.layered)),
            Some(Peer::Local(pipe)) => {
                pipe.move_to(to);
                self.depart(to, handed, MovedPeer::Local(pipe));
                return;
            }
            None => return,
        };
        self.leaving.insert(socket, Leaving { to, handed, transport });
        ring.release(socket, now.millis);
    }

    fn depart(&mut self, to: CoreId, handed: Box<Handed>, peer: MovedPeer) {
        self.departures.push((to, LaneItem::Moved(Box::new(Moved { handed, peer }))));
    }

    /// Connections on their way to other cores since the last call.
    pub(super) fn take_departures(&mut self) -> impl Iterator<Item = (CoreId, LaneItem)> + '_ {
        self.departures.drain(..)
    }

    /// A connection whose session is at home here arrives from another core.
    pub(super) fn arrive(&mut self, ring: &mut Ring, moved: Moved, now: Now) {
        self.handle_actions(ring, now);
        let Moved { handed, peer } = moved;
        let id = self.shard.connection_arrived(handed, now);
        match (peer, id) {
            (MovedPeer::Socket(descriptor, mut transport), id) => {
                let socket = ring.adopt(descriptor);
                let Some(id) = id else {
                    ring.abort(socket);
                    return;
                };
                if let Transport::Layered(layered) = &mut transport
                    && let Next::Send(wire) = layered.arrive()
                {
                    ring.send(socket, wire);
                }
                self.link(id, Peer::new(socket, transport));
            }
            (MovedPeer::Local(pipe), Some(id)) => {
                pipe.attach(id);
                self.link(id, Peer::Local(pipe));
            }
            // Dropped, and so closed.
            (MovedPeer::Local(pipe), None) => drop(pipe),
        }
    }

    /// A client inside the process wants a connection.
    pub(super) fn open_local(&mut self, ring: &mut Ring, pipe: PipeEnd, now: Now) {
        self.handle_actions(ring, now);
        match self.shard.connection_opened(ConnectionInfo::default(), now) {
            Some(id) => {
                pipe.attach(id);
                self.link(id, Peer::Local(pipe));
            }
            // Dropped, and so closed.
            None => drop(pipe),
        }
    }

    /// A client inside the process has done something.
    pub(super) fn look(&mut self, pipe: &Pipe) {
        pipe.begin_look();
        self.looks.extend(pipe.connection());
    }

    /// Looks at the local connections with something new, each once a turn.
    pub(super) fn handle_looks(&mut self, now: Now) {
        let mut looks = std::mem::take(&mut self.looks);
        looks.sort_unstable();
        looks.dedup();
        for id in looks {
            self.look_at(id, now);
        }
    }

    fn look_at(&mut self, id: ConnectionId, now: Now) {
        let Some(link) = link_mut(&mut self.links, id) else { return };
        let (established, paused) = (link.established, link.paused);
        let Peer::Local(pipe) = &link.peer else { return };
        let pipe = Arc::clone(pipe);
        // Read before the input: what the client wrote before it left is there.
        let left = pipe.client_has_left();
        while let Some(buffer) = pipe.take_back() {
            self.shard.transmit_done(id, buffer, now);
        }
        if paused {
            return;
        }
        while let Some(piece) = pipe.take_input() {
            self.shard.handle_input(id, &piece, now);
            if !established {
                // The shard may have let go of it: what follows waits until its actions are done.
                self.looks.push(id);
                return;
            }
        }
        if left {
            self.shard.connection_closed(id, now);
            self.unlink(id);
        }
    }

    fn link(&mut self, id: ConnectionId, peer: Peer) {
        let index = id.index as usize;
        self.links.reach(index, || None);
        debug_assert!(self.links[index].is_none(), "the shard re-uses an index only after it let go of it");
        match peer.socket() {
            Some(socket) => {
                let place = socket.index as usize;
                self.owners.reach(place, || id.index);
                self.owners[place] = id.index;
            }
            None => self.locals += 1,
        }
        self.links[index] = Some(Link { generation: id.generation, established: false, paused: false, peer });
        self.rearm.push(id);
    }

    fn unlink(&mut self, id: ConnectionId) -> Option<Link> {
        let place = self.links.get_mut(id.index as usize)?;
        let link = place.take_if(|link| link.generation == id.generation)?;
        if matches!(link.peer, Peer::Local(_)) {
            self.locals -= 1;
        }
        Some(link)
    }

    /// The connection of a socket, as long as the shard has it.
    fn owner(&self, socket: SocketId) -> Option<ConnectionId> {
        let &index = self.owners.get(socket.index as usize)?;
        let link = self.links.get(index as usize)?.as_ref()?;
        (link.peer.socket() == Some(socket)).then_some(ConnectionId { index, generation: link.generation })
    }
}

fn link_mut(links: &mut Chunks<Option<Link>>, id: ConnectionId) -> Option<&mut Link> {
    links.get_mut(id.index as usize)?.as_mut().filter(|link| link.generation == id.generation)
}

/// Bytes that arrived after the shard has let go of a connection travel with it.
fn push_input(leaving: &mut Leaving, bytes: &[u8]) {
    match &mut leaving.transport {
        Transport::Plain => leaving.handed.push_input(bytes),
        Transport::Layered(layered) => {
            let (mut plain, mut reply) = (Vec::new(), Vec::new());
            // A layer that fails here fails again at the next input, on the core that has the connection then.
            let _ = layered.layer.handle_input(bytes, &mut plain, &mut reply);
            layered.hold(&reply);
            leaving.handed.push_input(&plain);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_connection_is_small() {
        // With the ring's slot, 60 bytes.
        assert_eq!((size_of::<Option<Link>>(), size_of::<u32>()), (24, 4));
    }
}
