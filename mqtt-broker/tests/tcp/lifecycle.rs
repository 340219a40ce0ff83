//! How a broker starts and ends.

use std::net::TcpStream;

use mqtt_broker::ports::{Authorize, AuthorizeRequest, Decision, Permission, Ports, Ticket};
use mqtt_broker::runtime::ListenError;
use mqtt_broker::{Broker, BrokerError, Limits, StartError};

use crate::client::{Client, DISCONNECT, connect, publish};
use crate::{broker, limits};

#[test]
fn a_second_start_on_a_used_port_fails_and_steals_no_client() {
    let first = broker(2, Limits::default());
    let address = first.addresses()[0];
    for cores in [1, 2] {
        let second = Broker::builder().listen(address).cores(cores).start().expect_err("the port is taken");
        assert!(matches!(second, StartError::Listen(ListenError::InUse { .. })), "{second:?}");
        assert!(second.to_string().contains(&format!("{address} is in use")), "{second}");
    }
    for i in 0..40 {
        Client::connect(address, &format!("client {i}"));
    }
    first.shutdown();
    assert_eq!(first.wait(), Ok(()));
    let again = Broker::builder().listen(address).cores(2).start().expect("free again, at once");
    Client::connect(address, "client");
    assert_eq!(again.addresses(), [address]);
}

#[test]
fn a_graceful_end_tells_every_client_and_refuses_new_ones() {
    for cores in [1, 2, 8] {
        let broker = broker(cores, Limits::default());
        let address = broker.addresses()[0];
        let mut clients: Vec<Client> =
            (0..20).map(|i| Client::connect(address, &format!("client {i}"))).collect();
        let mut undecided = Client::open(address);
        undecided.send(&connect("half")[..4]);
        broker.shutdown();
        broker.shutdown();
        for client in &mut clients {
            assert_eq!(client.expect(DISCONNECT).body[0], 0x8b);
            assert_eq!(client.packet(), None);
        }
        assert_eq!(undecided.packet(), None);
        drop(clients);
        drop(undecided);
        assert_eq!(broker.wait(), Ok(()));
        assert!(TcpStream::connect(address).is_err(), "nobody listens");
    }
}

#[test]
fn a_client_that_does_not_go_cannot_hold_up_the_end() {
    let broker = broker(2, limits(|limits| limits.shutdown_timeout_seconds = 1));
    let mut deaf = Client::connect(broker.addresses()[0], "deaf");
    let _silent = Client::open(broker.addresses()[0]);
    // What it is sent stays in the way of its DISCONNECT.
    deaf.subscribe("a");
    let mut publisher = Client::connect(broker.addresses()[0], "publisher");
    for _ in 0..64 {
        publisher.send(&publish("a", &[0; 256 * 1024]));
    }
    publisher.subscribe("behind them");
    broker.shutdown();
    assert_eq!(broker.wait(), Ok(()));
}

/// Permits everything but one topic, at which it panics.
struct Trap;

impl Authorize for Trap {
    fn authorize(&mut self, request: &AuthorizeRequest<'_>, _: Ticket) -> Decision<Permission> {
        if let AuthorizeRequest::Publish { topic, .. } = request {
            assert!(!topic.as_str().starts_with("trap"), "a bug in a port");
        }
        Decision::Now(Permission::Allow)
    }
}

#[test]
fn a_panic_on_one_core_ends_the_whole_broker_with_an_error() {
    let broker = Broker::builder()
        .listen("127.0.0.1:0")
        .cores(4)
        .ports(|_, _| Ports { authorize: Box::new(Trap), ..Ports::allow_all() })
        .start()
        .expect("the broker starts");
    let address = broker.addresses()[0];
    let mut clients: Vec<Client> =
        (0..16).map(|i| Client::connect(address, &format!("client {i}"))).collect();
    clients[3].send(&publish("trap/door", b""));
    match broker.wait() {
        Err(BrokerError::Panicked { message, .. }) => assert_eq!(message, "a bug in a port"),
        other => panic!("{other:?}"),
    }
    for client in &mut clients {
        assert_eq!(client.packet(), None, "closed without a further word");
    }
    assert!(broker.stats().cores.is_empty());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_panic_while_starting_is_an_error_of_start() {
    let error = Broker::builder()
        .listen("127.0.0.1:0")
        .cores(3)
        .ports(|core, _| if core.0 == 1 { panic!("no ports here") } else { Ports::allow_all() })
        .start()
        .expect_err("core 1 cannot start");
    assert!(error.to_string().contains("core 1 panicked: no ports here"), "{error}");
}

#[test]
fn addresses_that_cannot_be_listened_on_are_named() {
    let error = Broker::builder().listen("no address").start().expect_err("not an address").to_string();
    assert!(error.contains("no address"), "{error}");
    let error = Broker::builder().listen("192.0.2.1:0").start().expect_err("not of this machine").to_string();
    assert!(error.contains("192.0.2.1:0 is not an address of this machine"), "{error}");
}
