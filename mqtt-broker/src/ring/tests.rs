//! The ring against real sockets on the loopback interface.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::buffers::{BUFFER_BYTES, BUFFERS};
use super::slot::{Armed, Place};
use super::{Event, EventFd, Ring, Room, SocketId, Wait, monotonic_millis};
use crate::pieces::{Pieces, Shared};

mod parking;
mod tables;
mod write;

/// What the ring did, without the lent bytes.
#[derive(Debug, PartialEq)]
enum Seen {
    Accepted(SocketId),
    Received(SocketId, Vec<u8>),
    Ended(SocketId),
    Sent(SocketId, usize),
    Released(SocketId, bool),
    Written(usize, Result<usize, ErrorKind>),
}

struct Bench {
    ring: Ring,
    wake: Arc<EventFd>,
    seen: Vec<Seen>,
    released: Vec<std::os::fd::OwnedFd>,
    /// Whether the sockets of [`Bench::pair`] stay.
    settles: bool,
    /// Milliseconds that the ring's clock is ahead.
    ahead: u64,
    /// Sockets that only take places.
    fillers: usize,
}

/// Where sockets are kept, and whether they are parked: what must make no difference.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    PlainParked,
    Table,
    TableParked,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::PlainParked, Kind::Table, Kind::TableParked];

impl Bench {
    fn new(patience: u64) -> Bench {
        Bench::with_room(patience, Room::plain())
    }

    fn with_room(patience: u64, room: Room) -> Bench {
        let wake = Arc::new(EventFd::new().expect("an eventfd"));
        let mut ring = Ring::new(Arc::clone(&wake), patience, room).expect("a ring");
        ring.handle_timeout(monotonic_millis());
        let settles = room.plain == 0;
        Bench { ring, wake, seen: Vec::new(), released: Vec::new(), settles, ahead: 0, fillers: 0 }
    }

    /// A bench whose [`Bench::receiving`] makes sockets of this kind. Its tables have few places, so that most sockets
    /// are in a further bay.
    fn of(kind: Kind, patience: u64) -> Bench {
        let room = match kind {
            Kind::Plain | Kind::PlainParked => Room::plain(),
            Kind::Table | Kind::TableParked => tables_of(2, 200),
        };
        let mut bench = Bench::with_room(patience, room);
        if bench.settles {
            // The first table is full from now on.
            for _ in 0..2 {
                let (_, socket) = bench.pair();
                assert!(matches!(bench.ring.slots[socket.index as usize].place, Place::Table { bay: 0, .. }));
                bench.fillers += 1;
            }
        }
        bench
    }

    /// A connected pair of which the ring receives, in the way of `kind`.
    fn receiving(&mut self, kind: Kind) -> (TcpStream, SocketId) {
        let (client, socket) = self.pair();
        let slot = &mut self.ring.slots[socket.index as usize];
        let tabled = matches!(slot.place, Place::Table { bay: 1.., .. });
        assert_eq!(tabled, matches!(kind, Kind::Table | Kind::TableParked));
        let parked = matches!(kind, Kind::PlainParked | Kind::TableParked);
        if parked {
            slot.heat = 0;
        }
        self.ring.receive(socket);
        let armed = if parked { Armed::Poll } else { Armed::Multi };
        assert_eq!(self.armed(socket), armed);
        (client, socket)
    }

    /// Sockets of the test that are not closed.
    fn open(&self) -> usize {
        self.ring.sockets() - self.fillers
    }

    fn armed(&self, socket: SocketId) -> Armed {
        self.ring.slots[socket.index as usize].armed
    }

    fn listener(&mut self) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        self.ring.listen(listener);
        address
    }

    /// A connected pair: the client's end and the ring's.
    fn pair(&mut self) -> (TcpStream, SocketId) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let (server, _) = listener.accept().expect("accept");
        let socket = self.ring.adopt(server.into());
        if self.settles {
            self.ring.settle(socket);
        }
        (client, socket)
    }

    /// One turn; returns whether anything was seen.
    fn turn(&mut self, wait: Wait) -> bool {
        let before = self.seen.len();
        self.ring.enter(wait, Duration::ZERO).expect("the ring works");
        self.ring.handle_timeout(monotonic_millis() + self.ahead);
        while let Some(event) = self.ring.poll_event() {
            let seen = match event {
                Event::Accepted { socket, .. } => Seen::Accepted(socket),
                Event::Received { socket, bytes } => Seen::Received(socket, bytes.to_vec()),
                Event::Ended { socket, .. } => Seen::Ended(socket),
                Event::Sent { socket, buffer } => Seen::Sent(socket, buffer.len()),
                Event::Written { pages, result } => {
                    Seen::Written(pages.len(), result.map_err(|error| error.kind()))
                }
                Event::Released { socket, descriptor } => {
                    let arrived = descriptor.is_some();
                    self.released.extend(descriptor);
                    Seen::Released(socket, arrived)
                }
            };
            self.seen.push(seen);
        }
        self.seen.len() > before
    }

    /// Turns until `done`, at most ten seconds.
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Bench) -> bool) {
        let end = monotonic_millis() + 10_000;
        while !done(self) {
            assert!(monotonic_millis() < end, "waited too long for {what}; seen {:?}", self.seen.len());
            self.turn(Wait::For(Duration::from_millis(5)));
        }
    }

    /// Waits for `socket`, of which the release is asked for, and gives it to `target`.
    fn move_to(&mut self, target: &mut Bench, socket: SocketId) -> SocketId {
        self.until("the release", |bench| bench.saw(&Seen::Released(socket, true)));
        target.ring.adopt(self.released.pop().expect("released"))
    }

    fn received(&self, socket: SocketId) -> Vec<u8> {
        let bytes = self.seen.iter().filter_map(|seen| match seen {
            Seen::Received(from, bytes) if *from == socket => Some(bytes.clone()),
            _ => None,
        });
        bytes.flatten().collect()
    }

    fn saw(&self, seen: &Seen) -> bool {
        self.seen.contains(seen)
    }

    /// Turns that must not bring anything about: what is still under way gets its chance to show.
    fn quiet_turns(&mut self) {
        for _ in 0..8 {
            self.turn(Wait::For(Duration::from_millis(2)));
        }
    }
}

/// Room for no socket that stays outside tables of so many.
fn tables_of(table: u32, bays: usize) -> Room {
    Room { plain: 0, table, bays }
}

/// Cuts the connection off: what is under way is lost.
fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(client);
}

#[test]
fn everything_arrives_in_order() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.receiving(kind);
        // More than all buffers together, so that receives end for want of buffers and are armed again.
        let sent: Vec<u8> = (0..usize::from(BUFFERS) * BUFFER_BYTES * 3).map(|i| (i / 7) as u8).collect();
        let writer = std::thread::spawn({
            let sent = sent.clone();
            move || {
                client.write_all(&sent).expect("write");
                client
            }
        });
        let mut got = 0;
        let (mut from, total) = (0, sent.len());
        bench.until("all bytes", |bench| {
            for seen in &bench.seen[from..] {
                if let Seen::Received(_, bytes) = seen {
                    assert_eq!(bytes[..], sent[got..got + bytes.len()]);
                    got += bytes.len();
                }
            }
            from = bench.seen.len();
            got == total
        });
        drop(writer.join().expect("the writer"));
        bench.until("the end", |bench| bench.saw(&Seen::Ended(socket)));
    }
}

#[test]
fn sockets_that_find_no_buffer_get_one_when_one_comes_back() {
    let mut bench = Bench::new(1000);
    let mut clients = Vec::new();
    for i in 0..u32::from(BUFFERS) + 100 {
        let (mut client, socket) = bench.pair();
        client.write_all(&i.to_be_bytes()).expect("write");
        bench.ring.receive(socket);
        clients.push((client, socket, i));
    }
    // All receives run before a single completion is reaped: the last ones find no buffer.
    let mut starved = 0;
    bench.until("every socket's bytes", |bench| {
        starved = starved.max(bench.ring.bays[0].starved.len());
        clients.iter().all(|(_, socket, i)| bench.received(*socket) == i.to_be_bytes())
    });
    assert!(starved >= 100, "this many sockets need more than all buffers at once");
    // They receive on.
    for (client, _, i) in &mut clients {
        client.write_all(&i.to_le_bytes()).expect("write");
    }
    bench.until("every socket's bytes again", |bench| {
        clients.iter().all(|(_, socket, _)| bench.received(*socket).len() == 8)
    });
    assert!(bench.ring.bays[0].starved.is_empty());
}

#[test]
fn a_single_receive_leaves_nothing_armed() {
    let mut bench = Bench::new(1000);
    let (mut client, socket) = bench.pair();
    bench.ring.receive_once(socket);
    client.write_all(b"first").expect("write");
    bench.until("the first bytes", |bench| bench.received(socket) == b"first");
    assert_eq!(bench.ring.slots[socket.index as usize].in_flight, 0);
    client.write_all(b"second").expect("write");
    bench.quiet_turns();
    assert_eq!(bench.received(socket), b"first");
    bench.ring.receive(socket);
    bench.until("the second bytes", |bench| bench.received(socket) == b"firstsecond");
}

#[test]
fn a_paused_socket_gets_no_bytes_until_it_resumes() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.receiving(kind);
        client.write_all(b"1").expect("write");
        bench.until("the first byte", |bench| bench.received(socket) == b"1");
        bench.ring.pause(socket);
        bench.until("the cancellation", |bench| bench.ring.slots[socket.index as usize].in_flight == 0);
        client.write_all(b"2").expect("write");
        bench.quiet_turns();
        assert_eq!(bench.received(socket), b"1");
        bench.ring.receive(socket);
        bench.until("the rest", |bench| bench.received(socket) == b"12");
    }
}

#[test]
fn a_receive_resumed_during_its_cancellation_goes_on() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.pair();
        for round in 0..100u32 {
            bench.ring.receive(socket);
            bench.turn(Wait::No);
            bench.ring.pause(socket);
            bench.ring.receive(socket);
            client.write_all(&round.to_be_bytes()).expect("write");
            let wanted = (round as usize + 1) * 4;
            bench.until("the bytes", |bench| bench.received(socket).len() == wanted);
        }
        let all: Vec<u8> = (0..100u32).flat_map(u32::to_be_bytes).collect();
        assert_eq!(bench.received(socket), all);
    }
}

#[test]
fn a_long_buffer_leaves_whole_and_comes_back() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.pair();
        // Larger than both socket buffers: it takes several sends.
        let sent: Vec<u8> = (0..32 << 20).map(|i: u32| (i / 3) as u8).collect();
        bench.ring.send(socket, sent.clone());
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; 32 << 20];
            client.read_exact(&mut all).expect("read");
            all
        });
        bench.until("the buffer", |bench| bench.saw(&Seen::Sent(socket, 32 << 20)));
        assert!(reader.join().expect("the reader") == sent);
    }
}

#[test]
fn pieces_leave_whole_and_in_order() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.pair();
        // Larger than both socket buffers, in hundreds of pieces: it takes several sends, which end anywhere.
        let shared: Arc<[u8]> = (0..200_000).map(|i: u32| (i / 7) as u8).collect();
        let mut list = Shared::default();
        let buffer: Vec<u8> = (0..=255).collect();
        for at in 1..255 {
            list.push(at, Arc::clone(&shared), at..150_000 + at);
        }
        let pieces = Pieces::new(buffer, list);
        let expected: Vec<u8> = pieces.iter().flatten().copied().collect();
        let len = expected.len();
        bench.ring.send_pieces(socket, pieces);
        let reader = std::thread::spawn(move || {
            let mut all = vec![0; len];
            client.read_exact(&mut all).expect("read");
            all
        });
        bench.until("the buffer", |bench| bench.saw(&Seen::Sent(socket, 256)));
        assert!(reader.join().expect("the reader") == expected);
        assert_eq!(Arc::strong_count(&shared), 1, "nothing keeps what was sent");
    }
}

#[test]
fn pieces_for_a_broken_socket_come_back() {
    let mut bench = Bench::of(KINDS[0], 1000);
    let (client, socket) = bench.receiving(KINDS[0]);
    reset(client);
    bench.until("the end", |bench| bench.saw(&Seen::Ended(socket)));
    for _ in 0..2 {
        let mut list = Shared::default();
        list.push(5, b"payload".as_slice().into(), 0..7);
        bench.seen.clear();
        bench.ring.send_pieces(socket, Pieces::new(vec![1; 100], list));
        bench.until("the buffer", |bench| bench.saw(&Seen::Sent(socket, 100)));
    }
}

#[test]
fn a_reset_ends_the_socket_once() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (client, socket) = bench.receiving(kind);
        reset(client);
        bench.until("the end", |bench| bench.saw(&Seen::Ended(socket)));
        bench.ring.send(socket, vec![1; 100]);
        bench.until("the buffer", |bench| bench.saw(&Seen::Sent(socket, 100)));
        bench.ring.close(socket, b"bye".to_vec(), monotonic_millis());
        bench.until("the slot", |bench| bench.open() == 0);
        assert_eq!(bench.seen.iter().filter(|seen| matches!(seen, Seen::Ended(_))).count(), 1);
    }
}

#[test]
fn a_broken_send_ends_a_socket_that_is_not_reading() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (client, socket) = bench.pair();
        reset(client);
        bench.ring.send(socket, vec![1; 100]);
        bench.until("the end", |bench| bench.saw(&Seen::Ended(socket)));
    }
}

#[test]
fn a_peer_that_is_still_sending_receives_the_last_bytes() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 5000);
        let (client, socket) = bench.receiving(kind);
        let mut writing = client.try_clone().expect("clone");
        let writer = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < 8 << 20 && writing.write_all(&[7; 65536]).is_ok() {
                sent += 65536;
            }
            writing.shutdown(Shutdown::Write).expect("our end");
            sent
        });
        bench.until("some bytes", |bench| !bench.received(socket).is_empty());
        bench.ring.send(socket, b"reply ".to_vec());
        bench.ring.close(socket, b"and reason".to_vec(), monotonic_millis());
        let mut reading = client;
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            reading.read_to_end(&mut all).map(|_| all)
        });
        bench.until("the close", |bench| bench.open() == 0);
        assert_eq!(writer.join().expect("the writer"), 8 << 20, "nothing was reset");
        assert_eq!(reader.join().expect("the reader").expect("no reset"), b"reply and reason");
        assert!(bench.saw(&Seen::Sent(socket, 6)) && bench.saw(&Seen::Sent(socket, 10)));
    }
}

#[test]
fn the_peer_sees_our_end_before_it_ends_its_own() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 60_000);
        let (mut client, socket) = bench.receiving(kind);
        bench.turn(Wait::No);
        bench.ring.close(socket, b"bye".to_vec(), monotonic_millis());
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            client.read_to_end(&mut got).map(|_| (client, got))
        });
        bench.until("our end to arrive", |_| reader.is_finished());
        let (client, got) = reader.join().expect("the reader").expect("an orderly end");
        assert_eq!((got.as_slice(), bench.open()), (b"bye".as_slice(), 1));
        drop(client);
        bench.until("the slot", |bench| bench.open() == 0);
    }
}

#[test]
fn a_peer_that_never_ends_is_given_up() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 50);
        let (mut idle, kept) = bench.receiving(kind);
        let (_never_reads, stuck) = bench.pair();
        bench.ring.send(stuck, vec![0; 64 << 20]);
        bench.turn(Wait::No);
        let now = monotonic_millis();
        bench.ring.close(kept, b"bye".to_vec(), now);
        bench.ring.close(stuck, b"bye".to_vec(), now);
        assert_eq!(bench.ring.deadlines.front().map(|&(at, _)| at), Some(now + 50));
        assert!(bench.ring.poll_timeout().is_some_and(|at| at <= now + 50));
        bench.until("both to be given up", |bench| bench.open() == 0);
        assert!(monotonic_millis() >= now + 50);
        let mut got = Vec::new();
        idle.read_to_end(&mut got).expect("an orderly end");
        assert_eq!(got, b"bye");
        bench.ring.poll_timeout();
        assert!(bench.ring.deadlines.is_empty());
    }
}

#[test]
fn an_aborted_socket_is_gone_at_once() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 60_000);
        let (mut client, socket) = bench.receiving(kind);
        bench.ring.send(socket, vec![0; 64 << 20]);
        bench.turn(Wait::No);
        bench.ring.abort(socket);
        bench.until("the slot", |bench| bench.open() == 0);
        assert!(bench.saw(&Seen::Sent(socket, 64 << 20)), "the buffer comes back");
        let mut rest = Vec::new();
        assert_eq!(client.read_to_end(&mut rest).expect_err("cut off").kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_name_is_never_used_twice() {
    let mut bench = Bench::new(1000);
    let (_first, old) = bench.pair();
    bench.ring.receive(old);
    bench.ring.abort(old);
    let (mut early, other) = bench.pair();
    assert_ne!(other.index, old.index, "the receive of the old one has not completed yet");
    bench.until("the slot", |bench| bench.ring.sockets() == 1);
    let (mut client, new) = bench.pair();
    assert_eq!((new.index, new.generation), (old.index, old.generation + 1));
    bench.ring.receive(old);
    bench.ring.send(old, b"to nobody".to_vec());
    bench.ring.close(old, Vec::new(), 0);
    bench.ring.abort(old);
    bench.ring.receive(new);
    bench.ring.receive(other);
    client.write_all(b"x").expect("write");
    early.write_all(b"y").expect("write");
    bench.until("the bytes", |bench| bench.received(new) == b"x" && bench.received(other) == b"y");
    assert!(bench.received(old).is_empty());
}

#[test]
fn a_released_socket_has_nothing_armed_and_loses_no_byte() {
    let mut source = Bench::new(1000);
    let mut target = Bench::new(1000);
    for round in 0..50u32 {
        let (mut client, socket) = source.pair();
        source.ring.receive_once(socket);
        client.write_all(b"hello ").expect("write");
        if round % 2 == 0 {
            source.until("the bytes", |bench| bench.received(socket) == b"hello ");
        } else {
            // The receive is still armed and completes before, or is cancelled by, the release.
            source.turn(Wait::No);
        }
        source.ring.release(socket, monotonic_millis());
        client.write_all(b"world").expect("write");
        let moved = source.move_to(&mut target, socket);
        target.ring.receive(moved);
        target.ring.send(moved, b"back".to_vec());
        let before = source.received(socket);
        target.until("the rest", |bench| before.len() + bench.received(moved).len() == 11);
        assert_eq!([before, target.received(moved)].concat(), b"hello world");
        let mut back = [0; 4];
        client.read_exact(&mut back).expect("an answer");
        // No operation of the source holds the socket: closing at the target ends it.
        target.ring.close(moved, Vec::new(), monotonic_millis());
        target.turn(Wait::No);
        assert_eq!(client.read(&mut back).expect("the end"), 0);
    }
    assert_eq!(source.ring.sockets(), 0);
}

#[test]
fn a_release_that_cannot_be_had_in_time_is_given_up() {
    let mut bench = Bench::new(30);
    let (_never_reads, socket) = bench.pair();
    bench.ring.send(socket, vec![0; 64 << 20]);
    bench.turn(Wait::No);
    bench.ring.release(socket, monotonic_millis());
    bench.until("the refusal", |bench| bench.saw(&Seen::Released(socket, false)));
    bench.until("the slot", |bench| bench.open() == 0);
}

#[test]
fn peers_in_the_accept_queue_are_accepted_before_the_listener_closes() {
    let mut bench = Bench::new(1000);
    let address = bench.listener();
    let first = TcpStream::connect(address).expect("connect");
    bench.until("the first", |bench| bench.seen.iter().any(|seen| matches!(seen, Seen::Accepted(_))));
    let rest: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).expect("connect")).collect();
    bench.ring.stop_accepting();
    bench.until("the listener's end", |bench| !bench.ring.is_listening());
    bench.turn(Wait::No);
    let accepted: Vec<SocketId> = bench
        .seen
        .iter()
        .filter_map(|seen| if let Seen::Accepted(socket) = seen { Some(*socket) } else { None })
        .collect();
    assert_eq!(accepted.len(), 51);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
    for socket in accepted {
        bench.ring.close(socket, b"bye".to_vec(), monotonic_millis());
    }
    bench.turn(Wait::No);
    for mut client in rest.into_iter().chain([first]) {
        let mut got = [0; 4];
        assert_eq!(client.read(&mut got).expect("no reset"), 3);
    }
}

#[test]
fn a_wake_from_another_thread_ends_the_wait() {
    let mut bench = Bench::new(1000);
    for _ in 0..100 {
        bench.turn(Wait::No);
        let wake = Arc::clone(&bench.wake);
        let other = std::thread::spawn(move || wake.signal());
        bench.ring.enter(Wait::Forever, Duration::ZERO).expect("woken");
        bench.turn(Wait::No);
        other.join().expect("the other thread");
    }
    let before = monotonic_millis();
    bench.ring.enter(Wait::For(Duration::from_millis(30)), Duration::ZERO).expect("the time is over");
    assert!(monotonic_millis() - before >= 29);
}

#[test]
fn more_ready_sockets_than_one_enter_runs_are_all_served() {
    let mut bench = Bench::new(1000);
    let mut clients: Vec<(TcpStream, SocketId)> = (0..200).map(|_| bench.pair()).collect();
    for (_, socket) in &clients {
        bench.ring.receive(*socket);
    }
    bench.turn(Wait::No);
    for (client, _) in &mut clients {
        client.write_all(b"now").expect("write");
    }
    bench.turn(Wait::No);
    let served = clients.iter().filter(|(_, socket)| bench.received(*socket) == b"now").count();
    assert_eq!(served, 200, "one turn serves all that is ready");
}

#[test]
fn dropping_a_busy_ring_closes_its_sockets() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut reading, one) = bench.receiving(kind);
        let (_never_reads, two) = bench.pair();
        bench.ring.send(two, vec![0; 64 << 20]);
        bench.listener();
        bench.turn(Wait::No);
        assert_ne!(bench.armed(one), Armed::Nothing);
        drop(bench);
        assert_eq!(reading.read(&mut [0; 8]).expect("the end"), 0);
    }
}

#[test]
fn what_was_only_queued_does_not_leave_a_dropped_ring() {
    for kind in KINDS {
        let mut bench = Bench::of(kind, 1000);
        let (mut reading, socket) = bench.receiving(kind);
        bench.turn(Wait::No);
        bench.ring.send(socket, b"acknowledged".to_vec());
        drop(bench);
        let mut got = Vec::new();
        reading.read_to_end(&mut got).expect("the end");
        assert!(got.is_empty());
    }
}
