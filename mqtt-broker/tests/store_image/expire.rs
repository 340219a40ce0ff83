//! What time takes away at a start, and what is settled between cores.

use mqtt_broker::message::MessageRef;
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::types::Qos;
use proptest::prelude::*;

use crate::history::{Raw, Turn, apply, decode, fold, history, id, message, raw, told};
use crate::model::lines;

fn opened(client_id: &str, expiry_seconds: u32) -> Raw {
    raw(&Record::Opened { client_id, expiry_seconds, next_packet_id: id(1) })
}

fn waits(client_id: &str) -> Raw {
    let identifiers = Identifiers::EMPTY;
    let qos = Qos::AtLeastOnce;
    raw(&Record::Enqueued { client_id, qos, retain: false, identifiers, packet_id: None })
}

/// Expires at `now`; what it told.
fn expire(image: &mut Image, now: u64) -> Vec<Raw> {
    let mut told = Vec::new();
    image.expire(now, |record| told.push(raw(record)));
    told
}

fn clients(image: &Image) -> Vec<&str> {
    let mut clients: Vec<&str> = image.sessions().map(|session| session.client_id()).collect();
    clients.sort_unstable();
    clients
}

#[test]
fn a_session_ends_when_its_time_is_over_and_not_before() {
    let turn = vec![
        opened("short", 10),
        opened("long", 11),
        opened("ever", u32::MAX),
        raw(&Record::Closed { client_id: "short", at: 1000 }),
        raw(&Record::Closed { client_id: "long", at: 1000 }),
        raw(&Record::Closed { client_id: "ever", at: 1000 }),
    ];
    let mut image = fold(&[turn]);
    let told = expire(&mut image, 11_000);
    assert_eq!(clients(&image), ["ever", "long"]);
    assert_eq!(told, [raw(&Record::Started { at: 11_000 }), raw(&Record::Ended { client_id: "short" })]);
    expire(&mut image, 11_999);
    assert_eq!(image.session_count(), 2);
    expire(&mut image, 12_000);
    assert_eq!(clients(&image), ["ever"]);
}

/// The log does not say when they ended: a session is kept its whole time from the start on.
#[test]
fn connections_of_before_have_ended_now() {
    let mut image = fold(&[vec![opened("on", 10), opened("passing", 0)]]);
    expire(&mut image, 50_000);
    assert_eq!(clients(&image), ["on"]);
    let since = image.find_session("on").and_then(|session| image.away_since(session));
    assert_eq!(since, Some(50_000));
    expire(&mut image, 59_999);
    assert_eq!(clients(&image), ["on"]);
    expire(&mut image, 60_000);
    assert_eq!(image.session_count(), 0);
}

#[test]
fn no_time_has_passed_when_the_clock_is_behind() {
    let turn = vec![
        opened("c", 10),
        raw(&Record::Closed { client_id: "c", at: 100_000 }),
        raw(&Record::Time { at: 105_000 }),
        told(message("a", b"x", Qos::AtLeastOnce, Some(105_001))),
        raw(&Record::Retained),
    ];
    let mut image = fold(&[turn]);
    expire(&mut image, 3);
    assert_eq!((image.session_count(), image.retained().len(), image.last_time()), (1, 1, 105_000));
    expire(&mut image, 110_000);
    assert_eq!((image.session_count(), image.retained().len()), (0, 0));
}

/// The shard publishes it when it ends the session.
#[test]
fn a_session_with_a_will_stays() {
    let will = Record::Will { client_id: "c", delay_seconds: 0, expiry_seconds: None };
    let turn = vec![opened("c", 0), told(message("will", b"", Qos::AtLeastOnce, Some(1))), raw(&will)];
    let mut image = fold(&[turn]);
    expire(&mut image, 100);
    assert!(image.find_session("c").is_some_and(|session| session.will().is_some()));
    let mut seq = 10;
    apply(&mut image, &mut seq, &[raw(&Record::WillRemoved { client_id: "c" })]);
    expire(&mut image, 100);
    assert_eq!(image.session_count(), 0);
}

#[test]
fn messages_that_are_due_go_but_for_those_under_way() {
    let client_id = "c";
    let group = "$share/g/a";
    let mut turn = vec![opened(client_id, 60)];
    for expires_at in [Some(5), None, Some(5), Some(6)] {
        turn.push(told(message("a", b"", Qos::AtLeastOnce, expires_at)));
        turn.push(waits(client_id));
        turn.push(waits(client_id));
    }
    turn.push(told(message("t", b"", Qos::ExactlyOnce, Some(5))));
    turn.push(raw(&Record::Retained));
    turn.push(raw(&Record::HandOn { number: 1 }));
    turn.push(raw(&Record::GroupQueued { group, number: 2 }));
    turn.push(raw(&Record::Sent { client_id, packet_id: id(1) }));
    let mut image = fold(&[turn]);
    let told = expire(&mut image, 5);
    let session = image.find_session(client_id).expect("its time is not over");
    assert_eq!((session.under_way().count(), session.waiting().len()), (1, 4));
    assert_eq!((image.retained().len(), image.groups().len(), image.pending().len()), (0, 0, 0));
    let dropped = |place| raw(&Record::Dropped { client_id, place });
    assert_eq!(
        told,
        [
            raw(&Record::Started { at: 5 }),
            dropped(0),
            dropped(2),
            dropped(2),
            raw(&Record::RetainedRemoved { topic: "t" }),
            raw(&Record::GroupTaken { group, number: 2 }),
            raw(&Record::HandedOn { number: 1 }),
        ]
    );
}

#[test]
fn a_message_on_its_way_to_be_retained_stays_although_its_time_is_over() {
    let due = |retain| MessageRef { retain, ..message("t", b"new", Qos::ExactlyOnce, Some(5)) };
    let turn = vec![
        told(due(true)),
        raw(&Record::HandOn { number: 1 }),
        told(due(false)),
        raw(&Record::HandOn { number: 2 }),
    ];
    let mut image = fold(&[turn]);
    let told = expire(&mut image, 5);
    assert!(image.pending().map(|pending| pending.number).eq([1]));
    assert_eq!(told, [raw(&Record::Started { at: 5 }), raw(&Record::HandedOn { number: 2 })]);
}

#[test]
fn what_a_session_of_another_core_has_begun_waits_in_its_group_no_more() {
    let (one, other) = ("$share/g/a", "$share/g/b");
    let mut owner = vec![told(message("a", b"", Qos::ExactlyOnce, None))];
    for (group, number) in [(one, 1), (other, 2), (one, 3), (one, 5), (other, 6)] {
        owner.push(raw(&Record::GroupQueued { group, number }));
    }
    let begun = |core, numbers: &[u64]| {
        numbers.iter().map(|&number| raw(&Record::GroupBegun { core, number })).collect::<Turn>()
    };
    // One is begun that is over, and one of another core and of one that there is not.
    let member = [begun(0, &[6, 1, 4, 1]), begun(1, &[3]), begun(9, &[3])].concat();
    let mut images = [fold(&[owner]), fold(&[member]), fold(&[begun(0, &[5])])];
    let mut told = Vec::new();
    Image::settle(&mut images, |core, record| told.push((core, raw(record))));
    let taken = |group, number| (0, raw(&Record::GroupTaken { group, number }));
    assert_eq!(told, [taken(one, 1), taken(one, 5), taken(other, 6)]);
    let left = images[0].groups().flat_map(|(_, group)| group.messages().map(|message| message.number));
    assert!(left.eq([3, 2]));
    // What is over for good is forgotten.
    assert_eq!((images[1].begun(0), images[2].begun(0)), (&[6, 1, 1][..], &[5][..]));
    assert!(images[1].begun(1).is_empty() && images[1].begun(9).is_empty());
}

proptest! {
    /// A log that goes on with what was told is about the same state.
    #[test]
    fn what_is_told_makes_it_so(turns in history(0), now in 0..60_000u64) {
        let (mut image, mut replayed) = (fold(&turns), fold(&turns));
        let told = expire(&mut image, now);
        for record in &told {
            replayed.apply(1_000_000, &decode(record)).expect("it keeps no message");
        }
        prop_assert_eq!(lines(&replayed), lines(&image));
    }

    #[test]
    fn what_is_settled_is_told(owner in history(0), member in history(1)) {
        let images = || [fold(&owner), fold(&member)];
        let (mut settled, mut replayed) = (images(), images());
        Image::settle(&mut settled, |core, record| {
            replayed[usize::from(core)].apply(1_000_000, record).expect("it keeps no message");
        });
        let without_begun = |image: &Image| {
            let lines = lines(image).into_iter();
            lines.filter(|line| !line.ends_with("begun)")).collect::<Vec<_>>()
        };
        for (settled, replayed) in settled.iter().zip(&replayed) {
            prop_assert_eq!(without_begun(settled), without_begun(replayed));
        }
        for (owner, image) in (0..).zip(&settled) {
            let mut messages = image.groups().flat_map(|(_, group)| group.messages());
            let is_begun = |number| settled.iter().any(|image| image.begun(owner).contains(&number));
            prop_assert!(messages.all(|message| !is_begun(message.number)));
        }
        // Another start finds nothing left, whether or not it knows what was begun.
        Image::settle(&mut replayed, |_, _| panic!("all is settled"));
        Image::settle(&mut settled, |_, _| panic!("all is settled"));
    }
}
