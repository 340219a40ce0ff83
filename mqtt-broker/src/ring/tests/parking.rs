//! Silent sockets wait on a poll, busy ones on a receive that stays armed.

use super::*;

/// Milliseconds after which a silent socket is parked for sure.
const LONG: u64 = 10_000;

impl Bench {
    /// Makes the ring believe that nothing has come for long.
    fn grow_silent(&mut self) {
        self.ahead += LONG;
        self.turn(Wait::No);
        self.ahead += LONG;
        self.turn(Wait::No);
    }

    /// Sends `byte` and waits until it has come.
    fn exchange(&mut self, client: &mut TcpStream, socket: SocketId, byte: u8) {
        let before = self.received(socket).len();
        client.write_all(&[byte]).expect("write");
        self.until("the byte", |bench| bench.received(socket).len() > before);
        assert_eq!(self.received(socket)[before..], [byte]);
        // What is to be armed next is submitted.
        self.turn(Wait::No);
    }
}

#[test]
fn a_silent_socket_is_parked_and_a_busy_one_is_not() {
    let mut bench = Bench::new(1000);
    let (mut client, socket) = bench.receiving(Kind::Plain);
    assert!(bench.ring.poll_timeout().is_some(), "somebody has to look whether it is silent");
    for byte in 0..10 {
        bench.ahead += 1_500;
        bench.exchange(&mut client, socket, byte);
        assert_eq!(bench.armed(socket), Armed::Multi, "it is never silent for long");
    }
    bench.grow_silent();
    bench.until("the poll", |bench| bench.armed(socket) == Armed::Poll);
    bench.turn(Wait::No);
    assert_eq!(bench.ring.poll_timeout(), None, "a core that only has parked sockets sleeps for good");
    // Bytes come through the poll, one at a time, as long as they come rarely.
    for byte in 0..10 {
        bench.ahead += LONG;
        bench.turn(Wait::No);
        bench.exchange(&mut client, socket, byte);
        assert_eq!(bench.armed(socket), Armed::Poll);
    }
    bench.ahead += LONG;
    bench.turn(Wait::No);
    for byte in 0..3 {
        assert_eq!(bench.armed(socket), Armed::Poll);
        bench.exchange(&mut client, socket, byte);
    }
    bench.exchange(&mut client, socket, 3);
    assert_eq!(bench.armed(socket), Armed::Multi, "the fourth within a second");
    bench.exchange(&mut client, socket, 4);
    bench.grow_silent();
    bench.until("the poll again", |bench| bench.armed(socket) == Armed::Poll);
}

#[test]
fn a_new_socket_that_says_nothing_is_parked_within_seconds() {
    let mut bench = Bench::new(1000);
    let (_client, socket) = bench.receiving(Kind::Plain);
    let begin = monotonic_millis();
    bench.turn(Wait::No);
    while bench.ring.slots[socket.index as usize].heat > 0 {
        let due = bench.ring.poll_timeout().expect("a deadline") + 1;
        bench.ahead = due.saturating_sub(monotonic_millis()).max(bench.ahead);
        bench.turn(Wait::For(Duration::from_millis(1)));
        assert!(bench.ahead < 20_000, "parked by the deadlines that the ring tells");
    }
    assert!(monotonic_millis() + bench.ahead - begin >= 3_000, "not at once");
    bench.until("the poll", |bench| bench.armed(socket) == Armed::Poll);
}

#[test]
fn beside_very_many_others_a_new_socket_begins_parked() {
    let mut bench = Bench::new(1000);
    bench.ring.watch.new_busy_max = 2;
    let armed: Vec<_> = (0..3)
        .map(|_| {
            let (client, socket) = bench.pair();
            bench.ring.receive(socket);
            (client, bench.armed(socket))
        })
        .collect();
    let armed: Vec<_> = armed.iter().map(|(_, armed)| *armed).collect();
    assert_eq!(armed, [Armed::Multi, Armed::Multi, Armed::Poll]);
}

#[test]
fn many_silent_sockets_are_parked_a_few_at_a_time() {
    let mut bench = Bench::new(1000);
    let mut clients: Vec<_> = (0..100).map(|_| bench.receiving(Kind::Plain)).collect();
    bench.turn(Wait::No);
    bench.ahead += LONG;
    bench.turn(Wait::No);
    let parked = |bench: &Bench| {
        clients.iter().filter(|(_, socket)| bench.ring.slots[socket.index as usize].heat == 0).count()
    };
    assert!((1..100).contains(&parked(&bench)), "one turn does not look at all of them");
    assert!(
        bench.ring.poll_timeout().is_some_and(|at| at <= monotonic_millis() + bench.ahead),
        "go on at once"
    );
    bench.until("all of them", |bench| clients.iter().all(|(_, socket)| bench.armed(*socket) == Armed::Poll));
    for (client, _) in &mut clients {
        client.write_all(b"still here").expect("write");
    }
    bench.until("all bytes", |bench| {
        clients.iter().all(|(_, socket)| bench.received(*socket) == b"still here")
    });
}

#[test]
fn more_parked_sockets_than_buffers_are_all_served() {
    for kind in [Kind::PlainParked, Kind::TableParked] {
        let mut bench = Bench::of(kind, 1000);
        let mut clients: Vec<_> = (0..u32::from(BUFFERS) + 100).map(|i| (bench.receiving(kind), i)).collect();
        bench.turn(Wait::No);
        for round in 1..=2 {
            for ((client, _), i) in &mut clients {
                client.write_all(&i.to_be_bytes()).expect("write");
            }
            bench.until("every socket's bytes", |bench| {
                clients
                    .iter()
                    .all(|((_, socket), i)| bench.received(*socket) == i.to_be_bytes().repeat(round))
            });
        }
    }
}

#[test]
fn bytes_that_a_poll_has_told_of_wait_while_the_socket_is_paused() {
    for kind in [Kind::PlainParked, Kind::TableParked] {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.receiving(kind);
        bench.turn(Wait::No);
        client.write_all(b"x").expect("write");
        bench.until("the poll to fire", |bench| bench.armed(socket) != Armed::Poll);
        // The receive is queued and not submitted.
        assert_eq!((bench.armed(socket), bench.received(socket).len()), (Armed::Once, 0));
        bench.ring.pause(socket);
        bench.until("the cancellation", |bench| bench.armed(socket) == Armed::Nothing);
        bench.quiet_turns();
        let early = bench.received(socket);
        client.write_all(b"y").expect("write");
        bench.quiet_turns();
        assert_eq!(bench.received(socket), early, "what the kernel had already received, no more");
        bench.ring.receive(socket);
        bench.until("the rest", |bench| bench.received(socket) == b"xy");
    }
}

#[test]
fn a_parked_socket_is_released_with_nothing_armed() {
    let mut source = Bench::new(1000);
    let mut target = Bench::new(1000);
    let (mut client, socket) = source.receiving(Kind::PlainParked);
    source.turn(Wait::No);
    source.ring.release(socket, monotonic_millis());
    let moved = source.move_to(&mut target, socket);
    target.ring.close(moved, b"bye".to_vec(), monotonic_millis());
    target.turn(Wait::No);
    let mut got = Vec::new();
    client.read_to_end(&mut got).expect("the end: nothing at the source holds the socket");
    assert_eq!(got, b"bye");
}

#[test]
fn the_end_of_a_parked_peer_is_seen() {
    for kind in [Kind::PlainParked, Kind::TableParked] {
        let mut bench = Bench::of(kind, 1000);
        let (orderly, first) = bench.receiving(kind);
        let (cut, second) = bench.receiving(kind);
        bench.turn(Wait::No);
        drop(orderly);
        reset(cut);
        bench.until("both ends", |bench| bench.saw(&Seen::Ended(first)) && bench.saw(&Seen::Ended(second)));
        for socket in [first, second] {
            bench.ring.close(socket, Vec::new(), monotonic_millis());
        }
        bench.until("the slots", |bench| bench.open() == 0);
    }
}
