//! Random operations on both halves of a [`Session`] and on plain lists of what is under way: the answers agree at
//! every step.

use mqtt_proto::session::{Arrival, Discarded, Phase, PubRec, Resend, Session};
use mqtt_proto::{PacketId, Qos, ReasonCode};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Flow {
    id: PacketId,
    phase: Phase,
    message: u32,
    /// Sent on this Network Connection.
    now: bool,
}

/// Everything under way, the oldest first; no index, no cursor, no tombstones.
#[derive(Default)]
struct Model {
    flows: Vec<Flow>,
    quota: usize,
    received: Vec<(PacketId, bool)>,
    unanswered: u16,
}

impl Model {
    fn spent(&self) -> usize {
        self.flows.iter().filter(|flow| flow.now).count()
    }

    fn can_start(&self) -> bool {
        self.flows.iter().all(|flow| flow.now) && self.spent() < self.quota
    }

    fn find(&self, id: PacketId, phase: Phase) -> Option<usize> {
        self.flows.iter().position(|flow| flow.id == id && flow.phase == phase)
    }

    fn end(&mut self, id: PacketId, phase: Phase) -> Option<u32> {
        self.find(id, phase).map(|at| self.flows.remove(at).message)
    }

    /// The next packet to send again, as (PUBREL, id, message).
    fn resend(&mut self) -> Option<(bool, PacketId, u32)> {
        let spent = self.spent();
        let flow = self.flows.iter_mut().find(|flow| !flow.now)?;
        let pubrel = flow.phase == Phase::AwaitPubComp;
        if !pubrel && spent >= self.quota {
            return None;
        }
        flow.now = true;
        Some((pubrel, flow.id, flow.message))
    }

    fn publish_received(&mut self, qos: Qos, id: PacketId, limit: u16) -> Option<Arrival> {
        let known = self.received.iter().position(|(known, _)| *known == id);
        let known = known.filter(|_| qos == Qos::ExactlyOnce);
        if known.is_none_or(|at| !self.received[at].1) {
            if self.unanswered >= limit {
                return None;
            }
            self.unanswered += 1;
        }
        match known {
            Some(at) => self.received[at].1 = true,
            None if qos == Qos::ExactlyOnce => self.received.push((id, true)),
            None => {}
        }
        Some(if known.is_some() { Arrival::Duplicate } else { Arrival::New })
    }

    fn forget(&mut self, id: PacketId) -> bool {
        let count = self.received.len();
        self.received.retain(|(known, _)| *known != id);
        let known = self.received.len() < count;
        if known {
            self.unanswered = self.unanswered.saturating_sub(1);
        }
        known
    }
}

/// `usize` picks a flow under way, or an identifier that may be unknown.
#[derive(Clone, Debug)]
enum Step {
    Restart(u16),
    Resend,
    DiscardResent,
    Start(Qos),
    PubAck(usize),
    PubRec(usize, bool),
    PubComp(usize),
    Discard(usize),
    TakeOut(u32),
    Received(Qos, u16),
    Answered(u16, bool),
    Released(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = || prop_oneof![Just(Qos::AtLeastOnce), Just(Qos::ExactlyOnce)];
    let id = 1..12u16;
    prop_oneof![
        1 => prop_oneof![1..6u16, Just(u16::MAX)].prop_map(Step::Restart),
        3 => Just(Step::Resend),
        1 => Just(Step::DiscardResent),
        8 => qos().prop_map(Step::Start),
        4 => (0..8usize).prop_map(Step::PubAck),
        4 => (0..8usize, prop::bool::weighted(0.2)).prop_map(|(at, error)| Step::PubRec(at, error)),
        4 => (0..8usize).prop_map(Step::PubComp),
        1 => (0..8usize).prop_map(Step::Discard),
        1 => (2..5u32).prop_map(Step::TakeOut),
        6 => (qos(), id.clone()).prop_map(|(qos, id)| Step::Received(qos, id)),
        3 => (id.clone(), any::<bool>()).prop_map(|(id, error)| Step::Answered(id, error)),
        4 => id.prop_map(Step::Released),
    ]
}

fn id(value: u16) -> PacketId {
    PacketId::new(value).expect("not zero")
}

fn reason(error: bool) -> ReasonCode {
    if error { ReasonCode::QUOTA_EXCEEDED } else { ReasonCode::SUCCESS }
}

const LIMIT: u16 = 4;

fn apply(session: &mut Session<u32>, model: &mut Model, step: &Step, message: u32) {
    let pick = |model: &Model, at: usize| model.flows.get(at).map_or(id(60_000), |flow| flow.id);
    let outbound = &mut session.outbound;
    match *step {
        Step::Restart(quota) => {
            session.restart(quota);
            model.quota = quota.into();
            model.flows.iter_mut().for_each(|flow| flow.now = false);
            // PUBCOMPs that may be lost are the subject of a test of their own: a flow counts from here on.
            model.received.iter_mut().for_each(|(_, now)| *now = false);
            model.unanswered = 0;
        }
        Step::Resend | Step::DiscardResent => {
            let resent = outbound.poll_resend().map(|resend| match resend {
                Resend::Publish { packet_id, dup, message, .. } => {
                    assert!(dup, "it was sent before");
                    (false, packet_id, *message)
                }
                Resend::PubRel { packet_id } => (true, packet_id, 0),
            });
            let expected = model.resend();
            assert_eq!(resent.map(|it| (it.0, it.1)), expected.map(|it| (it.0, it.1)));
            let (Step::DiscardResent, Some((false, id, message))) = (step, expected) else { return };
            let at = model.flows.iter().position(|flow| flow.id == id).expect("just resent");
            if model.flows[at].phase == Phase::AwaitPubRec {
                assert_eq!(outbound.discard(id, true), Ok(Discarded::Release(message)));
                model.flows[at].phase = Phase::AwaitPubComp;
            } else {
                assert_eq!(outbound.discard(id, true), Ok(Discarded::Done(message)));
                model.flows.remove(at);
            }
        }
        Step::Start(qos) => {
            assert_eq!(outbound.can_start(), model.can_start());
            match outbound.start(qos, message) {
                Ok(id) => {
                    assert!(model.can_start());
                    assert!(model.flows.iter().all(|flow| flow.id != id), "{id} is in use");
                    let phase = if qos == Qos::AtLeastOnce { Phase::AwaitPubAck } else { Phase::AwaitPubRec };
                    model.flows.push(Flow { id, phase, message, now: true });
                }
                Err(back) => assert!(!model.can_start() && back == message),
            }
        }
        Step::PubAck(at) => {
            let id = pick(model, at);
            let done = outbound.handle_puback(id, ReasonCode::SUCCESS).ok();
            assert_eq!(done, model.end(id, Phase::AwaitPubAck));
        }
        Step::PubRec(at, error) => {
            let id = pick(model, at);
            let answer = outbound.handle_pubrec(id, reason(error)).ok();
            if model.find(id, Phase::AwaitPubComp).is_some() {
                assert_eq!(answer, Some(PubRec::Release(None)));
            } else if error {
                assert_eq!(answer, model.end(id, Phase::AwaitPubRec).map(PubRec::Refused));
            } else {
                let flow = model.find(id, Phase::AwaitPubRec).map(|at| &mut model.flows[at]);
                let expected = flow.map(|flow| {
                    flow.phase = Phase::AwaitPubComp;
                    PubRec::Release(Some(flow.message))
                });
                assert_eq!(answer, expected);
            }
        }
        Step::PubComp(at) => {
            let id = pick(model, at);
            let done = outbound.handle_pubcomp(id).is_ok();
            assert_eq!(done, model.end(id, Phase::AwaitPubComp).is_some());
        }
        Step::Discard(at) => {
            let id = pick(model, at);
            let done = outbound.discard(id, false).ok();
            let expected = model.end(id, Phase::AwaitPubAck).or_else(|| model.end(id, Phase::AwaitPubRec));
            assert_eq!(done, expected.map(Discarded::Done));
        }
        Step::TakeOut(divisor) => {
            let taken = outbound.remove_unacknowledged(|message, _, _| message.is_multiple_of(divisor));
            let (out, kept) = model.flows.iter().partition::<Vec<Flow>, _>(|it| {
                it.phase == Phase::AwaitPubAck && it.message.is_multiple_of(divisor)
            });
            model.flows = kept;
            assert_eq!(taken, out.iter().map(|flow| flow.message).collect::<Vec<_>>());
        }
        Step::Received(qos, value) => {
            let arrival = session.inbound.publish_received(qos, id(value), LIMIT).ok();
            assert_eq!(arrival, model.publish_received(qos, id(value), LIMIT));
            if qos == Qos::AtLeastOnce && arrival.is_some() && message.is_multiple_of(2) {
                session.inbound.puback_sent();
                model.unanswered = model.unanswered.saturating_sub(1);
            }
        }
        Step::Answered(value, error) => {
            session.inbound.pubrec_sent(id(value), reason(error));
            if error {
                model.forget(id(value));
            }
        }
        Step::Released(value) => {
            let known = model.received.iter().any(|(known, _)| *known == id(value));
            if known {
                assert!(session.inbound.pubrel_received(id(value)));
                model.forget(id(value));
            }
        }
    }
}

fn run(steps: &[Step], mut session: Session<u32>) {
    let mut model = Model::default();
    for (message, step) in (1..).zip(steps) {
        apply(&mut session, &mut model, step, message);
        session.outbound.check_invariants();
        session.inbound.check_invariants();
        let flows: Vec<_> =
            session.outbound.iter().map(|(id, phase, message)| (id, phase, message.copied())).collect();
        let expected: Vec<_> = model
            .flows
            .iter()
            .map(|flow| (flow.id, flow.phase, (flow.phase != Phase::AwaitPubComp).then_some(flow.message)))
            .collect();
        assert_eq!(flows, expected, "in the order of sending");
        assert_eq!(session.outbound.in_flight(), expected.len());
        model.received.sort();
        let received: Vec<_> = model.received.iter().map(|(id, _)| *id).collect();
        assert_eq!(session.inbound.awaiting_pubrel().collect::<Vec<_>>(), received);
        assert_eq!(session.inbound.unacknowledged(), model.unanswered);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_session_agrees_with_plain_lists(steps in prop::collection::vec(step(), 1..200)) {
        run(&steps, Session::new());
    }

    /// The same where identifiers wrap from 65,535 to 1.
    #[test]
    fn the_session_agrees_where_identifiers_wrap(steps in prop::collection::vec(step(), 1..200)) {
        let mut session = Session::new();
        assert!(session.outbound.restore(id(65_525), Phase::AwaitPubAck, Some(0), true));
        session.restart(1);
        assert!(session.outbound.poll_resend().is_some());
        assert_eq!(session.outbound.handle_puback(id(65_525), ReasonCode::SUCCESS), Ok(0));
        session.restart(0);
        run(&steps, session);
    }
}

/// A peer that acknowledges all but a few messages, for several rounds of all identifiers: they become
/// unordered, none is used twice, and the order of sending stays.
#[test]
fn stragglers_over_several_rounds_keep_their_identifiers() {
    let mut session: Session<u32> = Session::new();
    session.restart(u16::MAX);
    let mut stragglers = Vec::new();
    for message in 0..200_000 {
        let id = session.outbound.start(Qos::AtLeastOnce, message).expect("quota");
        if message % 9_000 == 0 {
            assert!(stragglers.iter().all(|(known, _)| *known != id));
            stragglers.push((id, message));
        } else {
            assert_eq!(session.outbound.handle_puback(id, ReasonCode::SUCCESS), Ok(message));
        }
    }
    let waiting: Vec<_> =
        session.outbound.iter().map(|(id, _, message)| (id, *message.expect("kept"))).collect();
    assert_eq!(waiting, stragglers);
    for (id, message) in stragglers {
        assert_eq!(session.outbound.handle_puback(id, ReasonCode::SUCCESS), Ok(message));
    }
    assert!(session.is_idle());
}
