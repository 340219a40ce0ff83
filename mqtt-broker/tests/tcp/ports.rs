//! Ports that answer later, from another thread.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use mqtt_broker::Broker;
use mqtt_broker::config::CoreId;
use mqtt_broker::ports::{
    Answer, Authenticate, AuthenticateRequest, Authentication, Commit, Decision, Identity, Ports, Responder,
    Store, Ticket,
};
use mqtt_broker::store::record::Record;
use mqtt_proto::types::ReasonCode;

use crate::client::{CONNACK, Client, PINGRESP, PUBACK, PUBLISH, SUBACK, connect, publish, subscribe};

/// Passes every question on.
struct Asks(Responder, Sender<(Responder, Ticket, String)>);

impl Authenticate for Asks {
    fn authenticate(
        &mut self,
        request: &AuthenticateRequest<'_>,
        ticket: Ticket,
    ) -> Decision<Authentication> {
        let _ = self.1.send((self.0.clone(), ticket, request.client_id.to_owned()));
        Decision::Later
    }
}

/// While the question is open the receive is armed, so each hand-off has to cancel it, and bytes arrive meanwhile.
#[test]
fn a_late_answer_lets_the_client_in_on_its_home_core_with_all_it_sent() {
    let (ask, questions) = channel();
    let ask = Mutex::new(ask);
    let broker = Broker::builder()
        .listen("127.0.0.1:0")
        .cores(4)
        .ports(move |_, responder| {
            let ask = ask.lock().expect("not poisoned").clone();
            Ports { authenticate: Box::new(Asks(responder, ask)), ..Ports::allow_all() }
        })
        .start()
        .expect("the broker starts");
    let answering = std::thread::spawn(move || {
        for (responder, ticket, client_id) in questions {
            let answer = if client_id.starts_with("good") {
                Authentication::Accept(Identity::default())
            } else {
                Authentication::Refuse(ReasonCode::NOT_AUTHORIZED)
            };
            responder.answer(ticket, Answer::Authentication(answer.clone()));
            // Again: a second answer to the same question changes nothing.
            responder.answer(ticket, Answer::Authentication(answer));
        }
    });
    for i in 0..64 {
        let mut client = Client::open(broker.addresses()[0]);
        client.send(&connect(&format!("good {i}")));
        client.send(&subscribe(&format!("own/{i}")));
        // A trickle, so that at every moment of the hand-off something arrives.
        for number in 0..100 {
            client.send(&publish(&format!("own/{i}"), &[number]));
        }
        assert_eq!(client.expect(CONNACK).body[1], 0);
        let mut numbers: Vec<u8> = Vec::new();
        while numbers.len() < 100 {
            let packet = client.packet().expect("the connection stays");
            if packet.kind() == PUBLISH {
                numbers.extend(packet.body.last().copied());
            } else {
                assert_eq!(packet.kind(), SUBACK);
            }
        }
        assert!(numbers.into_iter().eq(0..100), "every message, in order");

        let mut refused = Client::open(broker.addresses()[0]);
        refused.send(&connect(&format!("bad {i}")));
        assert_eq!(refused.expect(CONNACK).body[1], 0x87);
        assert_eq!(refused.packet(), None);

        // Gone before the answer.
        Client::open(broker.addresses()[0]).send(&connect(&format!("good but gone {i}")));
    }
    broker.shutdown();
    assert_eq!(broker.wait(), Ok(()));
    answering.join().expect("the questions end with the broker");
}

#[test]
fn a_client_still_being_judged_is_refused_when_the_broker_ends() {
    let (ask, questions) = channel();
    let ask = Mutex::new(ask);
    let broker = Broker::builder()
        .listen("127.0.0.1:0")
        .cores(2)
        .ports(move |_, responder| {
            let ask = ask.lock().expect("not poisoned").clone();
            Ports { authenticate: Box::new(Asks(responder, ask)), ..Ports::allow_all() }
        })
        .start()
        .expect("the broker starts");
    let mut client = Client::open(broker.addresses()[0]);
    client.send(&connect("waiting"));
    let (responder, ticket, _) = questions.recv().expect("the question");
    broker.shutdown();
    // Server unavailable: a CONNACK has no code for a Server that shuts down.
    assert_eq!(client.expect(CONNACK).body[1], 0x88);
    assert_eq!(client.packet(), None);
    drop(client);
    assert_eq!(broker.wait(), Ok(()));
    // Too late for anybody.
    responder.answer(ticket, Answer::Authentication(Authentication::Accept(Identity::default())));
}

/// A store whose disk is another thread: it is told each position and says when that is committed.
struct SlowStore {
    position: u64,
    disk: Sender<(CoreId, u64, Responder)>,
    core: CoreId,
    responder: Responder,
}

impl Store for SlowStore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        if !matches!(record, Record::Retained) {
            return Commit::Now;
        }
        self.position += 1;
        let _ = self.disk.send((self.core, self.position, self.responder.clone()));
        Commit::At(self.position)
    }
}

#[test]
fn puback_leaves_when_the_store_has_committed() {
    let (disk, writes) = channel();
    let disk = Mutex::new(disk);
    let broker = Broker::builder()
        .listen("127.0.0.1:0")
        .cores(2)
        .ports(move |core, responder| {
            let disk = disk.lock().expect("not poisoned").clone();
            Ports { store: Box::new(SlowStore { position: 0, disk, core, responder }), ..Ports::allow_all() }
        })
        .start()
        .expect("the broker starts");
    let mut client = Client::open(broker.addresses()[0]);
    client.send(&connect("publisher"));
    client.expect(CONNACK);
    for id in 1..=32u8 {
        // QoS 1, RETAIN, topic "t" and the identifier: at home on either core.
        client.send(&[0x33, 8, 0, 2, b't', b'0' + id % 8, 0, id, 0, b'x']);
        let (core, position, responder) = writes.recv().expect("the broker writes");
        // What is not committed is not acknowledged: a PINGRESP overtakes.
        client.send(&[0xC0, 0]);
        client.expect(PINGRESP);
        responder.committed(core, position);
        client.expect(PUBACK);
    }
    broker.shutdown();
    broker.wait().expect("a graceful end");
}
