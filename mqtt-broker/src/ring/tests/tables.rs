//! Sockets that are no open files: tables, and several bays behind one wait.

use super::*;

fn place(bench: &Bench, socket: SocketId) -> Option<(u8, u32)> {
    match bench.ring.slots[socket.index as usize].place {
        Place::Table { bay, file } => Some((bay, file)),
        Place::Nowhere | Place::Plain { .. } => None,
    }
}

#[test]
fn tables_are_made_as_they_are_needed_and_their_places_are_used_again() {
    let mut bench = Bench::with_room(1000, tables_of(3, 200));
    let mut clients: Vec<_> = (0..10).map(|_| bench.pair()).collect();
    let places: Vec<_> = clients.iter().map(|(_, socket)| place(&bench, *socket)).collect();
    let expected: Vec<_> = (0..10).map(|i| Some((i / 3, u32::from(i % 3)))).collect();
    assert_eq!(places, expected);
    assert_eq!((bench.ring.plain, bench.ring.bays.len()), (0, 4));
    // The first to go are in the middle.
    for (_, socket) in clients.drain(3..5) {
        bench.ring.abort(socket);
    }
    let again: Vec<_> = (0..2).map(|_| bench.pair()).collect();
    let mut places: Vec<_> = again.iter().map(|(_, socket)| place(&bench, *socket)).collect();
    places.sort_unstable();
    assert_eq!(places, [Some((1, 0)), Some((1, 1))]);
    clients.extend(again);
    for (number, (client, socket)) in clients.iter_mut().enumerate() {
        bench.ring.receive(*socket);
        bench.ring.send(*socket, vec![number as u8; 10]);
        client.write_all(&[number as u8; 20]).expect("write");
    }
    bench.until("all bytes", |bench| {
        clients.iter().enumerate().all(|(number, (_, socket))| {
            bench.received(*socket) == [number as u8; 20] && bench.saw(&Seen::Sent(*socket, 10))
        })
    });
    for (number, (client, _)) in clients.iter_mut().enumerate() {
        let mut got = [0; 10];
        client.read_exact(&mut got).expect("read");
        assert_eq!(got, [number as u8; 10]);
    }
}

#[test]
fn sockets_stay_open_files_while_there_are_enough_and_when_there_is_no_table() {
    // Too large for any table; no bay beside the first, whose table is full; few enough.
    for (room, tabled) in [
        (tables_of(u32::MAX, 200), 0),
        (tables_of(2, 1), 2),
        (Room { plain: 3, table: 100, bays: 200 }, 2),
        (Room::plain(), 0),
    ] {
        let mut bench = Bench::with_room(1000, room);
        bench.settles = true;
        let mut clients: Vec<_> = (0..5).map(|_| bench.pair()).collect();
        let found = clients.iter().filter(|(_, socket)| place(&bench, *socket).is_some()).count();
        assert_eq!((found, bench.ring.plain), (tabled, 5 - tabled), "{room:?}");
        assert_eq!(bench.ring.bays.len(), 1, "what was refused once is not tried again");
        for (client, socket) in &mut clients {
            bench.ring.receive(*socket);
            client.write_all(b"served").expect("write");
        }
        bench.until("all bytes", |bench| {
            clients.iter().all(|(_, socket)| bench.received(*socket) == b"served")
        });
    }
}

#[test]
fn a_socket_that_was_busy_moves_into_a_table_when_next_nothing_is_armed() {
    let mut bench = Bench::with_room(1000, tables_of(8, 1));
    bench.settles = false;
    let (mut client, socket) = bench.receiving(Kind::PlainParked);
    bench.turn(Wait::No);
    bench.ring.settle(socket);
    assert_eq!(place(&bench, socket), None, "a poll is armed");
    client.write_all(b"x").expect("write");
    bench.until("the byte", |bench| bench.received(socket) == b"x");
    assert_eq!(place(&bench, socket), Some((0, 0)));
    client.write_all(b"y").expect("write");
    bench.until("the next byte", |bench| bench.received(socket) == b"xy");
    // One that does not stay has to remain what can be handed over.
    let (mut client, passing) = bench.receiving(Kind::PlainParked);
    bench.turn(Wait::No);
    client.write_all(b"x").expect("write");
    bench.until("its byte", |bench| bench.received(passing) == b"x");
    assert_eq!(place(&bench, passing), None);
}

#[test]
fn work_in_a_further_bay_ends_the_wait() {
    for kind in [Kind::Table, Kind::TableParked] {
        let mut bench = Bench::of(kind, 1000);
        let (mut client, socket) = bench.receiving(kind);
        bench.turn(Wait::No);
        for round in 0..100usize {
            let writer = std::thread::spawn(move || {
                client.write_all(b"x").expect("write");
                client
            });
            let begin = monotonic_millis();
            while bench.received(socket).len() <= round {
                bench.turn(Wait::For(Duration::from_secs(20)));
            }
            assert!(monotonic_millis() - begin < 10_000, "the wait went on");
            client = writer.join().expect("the writer");
        }
    }
}

#[test]
fn a_socket_of_a_table_is_not_released() {
    let mut bench = Bench::with_room(1000, tables_of(8, 1));
    let (mut client, socket) = bench.pair();
    bench.ring.release(socket, monotonic_millis());
    bench.until("the refusal", |bench| bench.saw(&Seen::Released(socket, false)));
    assert_eq!(client.read(&mut [0; 1]).expect("the end"), 0);
}

#[test]
fn room_follows_from_the_limit_of_open_files() {
    let room = Room::with_tables(19_000, 20_000);
    assert_eq!((room.plain, room.table, room.bays), (9_500, 20_000, 255));
    assert_eq!(room.in_tables(), 255 * 20_000);
    // With few open files few of them are spent on bays.
    let room = Room::with_tables(80, 160);
    assert_eq!((room.plain, room.table, room.bays), (40, 160, 11));
    assert_eq!(Room::with_tables(1_000_000, 1_048_576).table, 65_536);
    assert_eq!(Room::plain().in_tables(), 0);
}
