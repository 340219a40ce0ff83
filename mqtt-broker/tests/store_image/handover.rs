//! Messages between cores whose logs end anywhere: whoever was to get one has it once.

use std::collections::{BTreeMap, VecDeque};

use mqtt_broker::message::MessageRef;
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::{Identifiers, Record};
use mqtt_proto::packet::SubscriptionOptions;
use mqtt_proto::types::{PacketId, Qos};
use proptest::prelude::*;

use crate::history::{Raw, SEED, Turn, fold, id, message, raw, told};

const CORES: usize = 3;
/// At home on core 0.
const GROUP: &str = "$share/g/g/+";

/// What a core hands on, in order.
#[derive(Clone, Debug)]
enum Handed {
    Message { number: u64, payload: [u8; 2] },
    Bound { number: u64, payload: [u8; 2] },
}

#[derive(Default)]
struct Core {
    log: Vec<Turn>,
    /// Turns on disk.
    committed: usize,
    last_number: u64,
    /// What goes to the others once so many turns are on disk.
    behind_commit: Vec<(usize, Option<usize>, Handed)>,
    lanes: [VecDeque<Handed>; CORES],
    /// What the log's turn at this place answers to a core, once it is on disk.
    answers: Vec<(usize, usize, Handed)>,
    next_packet_id: u16,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Publish(usize),
    PublishToGroup,
    Bind(usize),
    Take(usize, usize),
    /// The member of a group is away; what is no group's is taken.
    Refuse(usize, usize),
    Commit(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let core = || 0..CORES;
    prop_oneof![
        2 => core().prop_map(Step::Publish),
        2 => Just(Step::PublishToGroup),
        2 => core().prop_map(Step::Bind),
        5 => (core(), core()).prop_map(|(from, to)| Step::Take(from, to)),
        1 => (core(), core()).prop_map(|(from, to)| Step::Refuse(from, to)),
        4 => core().prop_map(Step::Commit),
    ]
}

/// What was published in which turn, and what the owner of the group has not bound.
#[derive(Default)]
struct Run {
    cores: [Core; CORES],
    published: Vec<(usize, usize, [u8; 2])>,
    for_group: Vec<(usize, [u8; 2])>,
    unbound: VecDeque<(u64, [u8; 2])>,
    lacking: BTreeMap<(usize, u64), usize>,
}

fn exactly_once(topic: &'static str, payload: &[u8; 2]) -> Raw {
    told(MessageRef { retain: false, ..message(topic, payload, Qos::ExactlyOnce, None) })
}

fn enqueued(client_id: &str, packet_id: Option<PacketId>) -> Raw {
    let identifiers = Identifiers::EMPTY;
    raw(&Record::Enqueued { client_id, qos: Qos::ExactlyOnce, retain: false, identifiers, packet_id })
}

impl Run {
    fn new() -> Run {
        let mut run = Run::default();
        for (number, core) in run.cores.iter_mut().enumerate() {
            let mut turn = Vec::new();
            for (name, filter) in [("s", "m"), ("w", GROUP)] {
                let client_id = &*format!("{name}{number}");
                let options = SubscriptionOptions::new(Qos::ExactlyOnce);
                turn.push(raw(&Record::Opened { client_id, expiry_seconds: 60, next_packet_id: id(1) }));
                turn.push(raw(&Record::Subscribed { client_id, filter, options, identifier: 0 }));
            }
            core.log.push(turn);
            core.committed = 1;
        }
        run
    }

    fn number(&mut self, core: usize) -> u64 {
        self.cores[core].last_number += 1;
        self.cores[core].last_number
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Publish(core) => {
                let number = self.number(core);
                let payload = [core as u8, number as u8];
                let own = format!("s{core}");
                let log = &mut self.cores[core].log;
                let hand_on = raw(&Record::HandOn { number });
                log.push(vec![exactly_once("m", &payload), enqueued(&own, None), hand_on]);
                self.published.push((core, log.len(), payload));
                let handed = (log.len(), None, Handed::Message { number, payload });
                self.cores[core].behind_commit.push(handed);
            }
            Step::PublishToGroup => {
                let number = self.number(0);
                let payload = [9, number as u8];
                let queued = raw(&Record::GroupQueued { group: GROUP, number });
                self.cores[0].log.push(vec![exactly_once("g/x", &payload), queued]);
                self.for_group.push((self.cores[0].log.len(), payload));
                self.unbound.push_back((number, payload));
            }
            Step::Bind(member) => self.bind(member),
            Step::Take(from, to) => self.take(from, to, false),
            Step::Refuse(from, to) => self.take(from, to, true),
            Step::Commit(core) => self.commit(core),
        }
    }

    fn bind(&mut self, member: usize) {
        let Some((number, payload)) = self.unbound.pop_front() else { return };
        if member == 0 {
            let taken = raw(&Record::GroupTaken { group: GROUP, number });
            let packet_id = self.packet_id(0);
            return self.cores[0].log.push(vec![
                exactly_once("g/x", &payload),
                enqueued("w0", Some(packet_id)),
                taken,
            ]);
        }
        let owner = &mut self.cores[0];
        let handed = Handed::Bound { number, payload };
        owner.behind_commit.push((owner.log.len(), Some(member), handed));
    }

    fn packet_id(&mut self, core: usize) -> PacketId {
        self.cores[core].next_packet_id += 1;
        id(self.cores[core].next_packet_id)
    }

    fn take(&mut self, from: usize, to: usize, refuse: bool) {
        let Some(handed) = self.cores[from].lanes[to].pop_front() else { return };
        if let (true, &Handed::Bound { number, payload }) = (refuse, &handed) {
            return self.unbound.push_front((number, payload));
        }
        let packet_id = self.packet_id(to);
        let handled = |number| raw(&Record::Handled { core: from as u16, number });
        let turn = match &handed {
            Handed::Message { number, payload } => {
                vec![exactly_once("m", payload), enqueued(&format!("s{to}"), None), handled(*number)]
            }
            &Handed::Bound { number, ref payload } => {
                let enqueued = enqueued(&format!("w{to}"), Some(packet_id));
                let begun = raw(&Record::GroupBegun { core: from as u16, number });
                vec![exactly_once("g/x", payload), enqueued, begun]
            }
        };
        self.cores[to].log.push(turn);
        let place = self.cores[to].log.len();
        self.cores[to].answers.push((place, from, handed));
    }

    fn commit(&mut self, core: usize) {
        let state = &mut self.cores[core];
        state.committed = state.log.len();
        for (_, to, handed) in std::mem::take(&mut state.behind_commit) {
            for other in (0..CORES).filter(|&other| other != core && to.is_none_or(|to| to == other)) {
                state.lanes[other].push_back(handed.clone());
            }
        }
        for (_, from, handed) in std::mem::take(&mut state.answers) {
            let done = match handed {
                Handed::Message { number, .. } => {
                    let lacking = self.lacking.entry((from, number)).or_insert(CORES - 1);
                    *lacking -= 1;
                    (*lacking == 0).then(|| raw(&Record::HandedOn { number }))
                }
                Handed::Bound { number, .. } => Some(raw(&Record::GroupTaken { group: GROUP, number })),
            };
            self.cores[from].log.extend(done.map(|done| vec![done]));
        }
    }
}

/// How often each session, and the group or its members, have each message.
fn found(images: &[Image]) -> BTreeMap<(String, Vec<u8>), usize> {
    let mut found = BTreeMap::new();
    let mut count = |name: &str, message: MessageRef<'_>| {
        let name = if name.starts_with('s') { name } else { GROUP };
        *found.entry((name.to_owned(), message.payload.to_vec())).or_default() += 1;
    };
    for image in images {
        for session in image.sessions() {
            let under_way = session.under_way().filter_map(|(_, _, delivery)| delivery);
            for delivery in session.waiting().chain(under_way) {
                count(session.client_id(), delivery.message.as_ref());
            }
        }
        for (name, group) in image.groups() {
            group.messages().for_each(|message| count(name, message.message.as_ref()));
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_message_between_cores_is_there_once_wherever_their_logs_end(
        steps in prop::collection::vec(step(), 0..80),
        cores in 1..4u16,
    ) {
        let mut run = Run::new();
        steps.iter().for_each(|step| run.step(*step));
        let on_disk = |core: &Core| fold(&core.log[..core.committed]);
        let images: Vec<Image> = run.cores.iter().map(on_disk).collect();
        let dealt = Image::deal(images, cores, SEED, |what, cores| match what {
            // All topics and groups are at home on the first core.
            mqtt_broker::store::image::Home::Session(client_id) => {
                u16::from(client_id.as_bytes()[1] - b'0') % cores
            }
            _ => 0,
        });
        let mut expected = BTreeMap::new();
        for (core, turns, payload) in &run.published {
            if run.cores[*core].committed >= *turns {
                expected.extend((0..CORES).map(|to| ((format!("s{to}"), payload.to_vec()), 1)));
            }
        }
        for (turns, payload) in &run.for_group {
            if run.cores[0].committed >= *turns {
                expected.insert((GROUP.to_owned(), payload.to_vec()), 1);
            }
        }
        prop_assert_eq!(found(&dealt), expected);
    }
}
