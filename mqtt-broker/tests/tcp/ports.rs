//! Ports that answer later, from another thread.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use mqtt_broker::Broker;
use mqtt_broker::ports::{
    Answer, Authenticate, AuthenticateRequest, Authentication, Decision, Identity, Ports, Responder, Ticket,
};
use mqtt_proto::types::ReasonCode;

use crate::client::{CONNACK, Client, PUBLISH, SUBACK, connect, publish, subscribe};

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
