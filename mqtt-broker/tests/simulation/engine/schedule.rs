//! What happens in a run, as data: steps that stand by themselves, so that any of them can be left out.

use mqtt_proto::packet::{RetainHandling, SubscriptionOptions};
use mqtt_proto::types::{Qos, Version};

use super::random::Random;
use super::scenario::Scenario;

/// One step: at which microsecond, whose, what. A step that does not apply when its time comes is passed over.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) at: u64,
    pub(crate) party: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// Opens a connection, beside the one that there may be.
    Connect(ConnectPlan),
    /// The Network Connection breaks.
    Cut,
    Disconnect {
        with_will: bool,
        expiry: Option<u32>,
    },
    Subscribe {
        filters: Vec<(String, SubscriptionOptions)>,
        identifier: Option<u32>,
    },
    Unsubscribe {
        filter: String,
    },
    Publish(PublishPlan),
    /// Takes what is sent to it, or stops to.
    Read(bool),
    /// Keeps its acknowledgements back, or sends them.
    Hold(bool),
    /// Sends nothing by itself any more, or does again.
    Silence(bool),
    Rude(Rudeness),
    StallLane {
        from: u16,
        to: u16,
        micros: u64,
    },
    StallCore {
        core: u16,
        micros: u64,
    },
    /// All clocks leap while everything else stands.
    Jump {
        millis: u64,
    },
    /// The wall clock alone is set.
    SetWallClock {
        forward: bool,
        millis: u64,
    },
    /// Later steps wait until nothing moves any more.
    Quiet,
}

#[derive(Clone, Debug)]
pub(crate) struct ConnectPlan {
    pub(crate) core: u16,
    pub(crate) clean_start: bool,
    /// Sends more right behind CONNECT.
    pub(crate) hurries: bool,
    pub(crate) expiry: u32,
    pub(crate) keep_alive: u16,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) maximum_packet_size: Option<u32>,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) will: Option<WillPlan>,
}

#[derive(Clone, Debug)]
pub(crate) struct WillPlan {
    pub(crate) topic: String,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    pub(crate) delay: u32,
    pub(crate) expiry: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct PublishPlan {
    pub(crate) topic: String,
    pub(crate) qos: Qos,
    pub(crate) retain: bool,
    /// An empty payload: with RETAIN the retained message is removed.
    pub(crate) empty: bool,
    pub(crate) bytes: usize,
    pub(crate) expiry: Option<u32>,
    pub(crate) properties: bool,
    pub(crate) count: usize,
    /// How often those who feed each other pass it on.
    pub(crate) hops: u32,
}

impl PublishPlan {
    /// A small message without anything special.
    pub(crate) fn of(topic: &str) -> PublishPlan {
        PublishPlan {
            topic: topic.to_owned(),
            qos: Qos::AtMostOnce,
            retain: false,
            empty: false,
            bytes: 10,
            expiry: None,
            properties: false,
            count: 1,
            hops: 0,
        }
    }
}

/// What a peer does that breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rudeness {
    SecondConnect,
    ReservedType,
    TooLarge,
    WildcardTopic,
    Qos3,
    AliasTooHigh,
    NoFilter,
    UnfinishedPacket,
}

const RUDENESS: [Rudeness; 8] = [
    Rudeness::SecondConnect,
    Rudeness::ReservedType,
    Rudeness::TooLarge,
    Rudeness::WildcardTopic,
    Rudeness::Qos3,
    Rudeness::AliasTooHigh,
    Rudeness::NoFilter,
    Rudeness::UnfinishedPacket,
];
const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
/// Groups and their filters.
pub(crate) const SHARED: [&str; 3] = ["$share/one/s/#", "$share/two/s/a", "$share/one/s/+"];

/// The schedule of a scenario.
pub(crate) fn schedule(scenario: &Scenario) -> Vec<Step> {
    let stream = |purpose| Random::new(scenario.seed, &[purpose]);
    let mut maker = Maker { random: stream(2), races: stream(7), scenario, steps: Vec::new(), at: 0 };
    for party in 0..scenario.parties.len() {
        maker.connect(party);
        maker.subscribe(party);
    }
    while maker.steps.len() < scenario.steps {
        maker.at += maker.random.below(2 * scenario.pace);
        maker.step();
        if scenario.cores > 2 && maker.races.once_in(20) {
            maker.race();
        }
        if scenario.cores > 1 && maker.races.once_in(60) {
            maker.flood();
        }
    }
    maker.steps.sort_by_key(|step| step.at);
    maker.steps
}

struct Maker<'a> {
    random: Random,
    /// For races, so that they do not shift all else.
    races: Random,
    scenario: &'a Scenario,
    steps: Vec<Step>,
    at: u64,
}

impl Maker<'_> {
    fn push(&mut self, party: usize, what: What) {
        self.steps.push(Step { at: self.at, party, what });
    }

    fn step(&mut self) {
        let scenario = self.scenario;
        let features = &scenario.features;
        let party = self.random.index(scenario.parties.len());
        let on = |wanted: bool, weight: u64| if wanted { weight } else { 0 };
        let weights = [
            40,
            10,
            on(features.unsubscribes, 5),
            on(features.cuts, 6),
            on(features.disconnects, 3),
            on(features.takeovers, 4),
            on(features.stops_reading, 5),
            on(features.holds_acknowledgements, 5),
            on(features.keep_alive, 3),
            on(features.rude, 2),
            on(features.stalled_lanes && scenario.cores > 1, 5),
            on(features.stalled_cores, 3),
            on(features.clock_jumps, 2),
            on(features.quiet_moments, 3),
            2,
        ];
        let mut drawn = self.random.below(weights.iter().sum());
        let mut kind = 0;
        while drawn >= weights[kind] {
            drawn -= weights[kind];
            kind += 1;
        }
        match kind {
            0 => self.publish(party),
            1 => self.subscribe(party),
            2 => {
                let filter = self.filter();
                self.push(party, What::Unsubscribe { filter });
            }
            3 => {
                self.push(party, What::Cut);
                self.come_back(party);
            }
            4 => {
                let expiry = features.session_expiry && self.random.once_in(2);
                let expiry = expiry.then(|| self.random.pick(&[0, 2, 3600]));
                let with_will = features.wills && self.random.once_in(3);
                self.push(party, What::Disconnect { with_will, expiry });
                self.come_back(party);
            }
            5 => {
                self.connect(party);
                if self.random.once_in(3) {
                    self.connect(party);
                }
            }
            6 => {
                let reads = self.random.once_in(2);
                self.push(party, What::Read(reads));
            }
            7 => {
                let holds = self.random.once_in(2);
                self.push(party, What::Hold(holds));
            }
            8 => {
                let silent = self.random.once_in(2);
                self.push(party, What::Silence(silent));
            }
            9 => {
                let rudeness = self.random.pick(&RUDENESS);
                self.push(party, What::Rude(rudeness));
                self.come_back(party);
            }
            10 => {
                let core = |random: &mut Random| random.below(scenario.cores.into()) as u16;
                let (from, to) = (core(&mut self.random), core(&mut self.random));
                let micros = self.random.below(60 * scenario.pace);
                self.push(party, What::StallLane { from, to, micros });
            }
            11 => {
                let core = self.random.below(scenario.cores.into()) as u16;
                let micros = self.random.below(30 * scenario.pace);
                self.push(party, What::StallCore { core, micros });
            }
            12 if self.random.once_in(4) => {
                let (forward, millis) = (self.random.once_in(2), self.random.below(86_400_000));
                self.push(party, What::SetWallClock { forward, millis });
            }
            12 => {
                let millis = self.random.pick(&[100, 1_500, 7_000, 40_000]);
                self.push(party, What::Jump { millis });
            }
            13 => self.push(party, What::Quiet),
            _ => self.connect(party),
        }
    }

    /// What chance brings about too rarely: while a message is on its way on a slow lane, a subscriber of it goes, to
    /// whom it is owed if it was acknowledged before; or one comes, to whom its last retained value is owed.
    fn race(&mut self) {
        let (scenario, random) = (self.scenario, &mut self.races);
        let parties = scenario.parties.len();
        let [publisher, stays, moves] = [(); 3].map(|()| random.index(parties));
        let [from, to] = [(); 2].map(|()| random.below(scenario.cores.into()) as u16);
        let micros = 400_000 + random.below(1_000_000);
        let goes = scenario.features.unsubscribes && random.once_in(2);
        let topic = if goes { "t/b".to_owned() } else { format!("r/{publisher}/0") };
        let subscribe = || {
            let options = SubscriptionOptions::new(Qos::ExactlyOnce);
            What::Subscribe { filters: vec![(topic.clone(), options)], identifier: None }
        };
        let publish = || {
            let qos = Qos::AtLeastOnce.min(scenario.limits.maximum_qos);
            What::Publish(PublishPlan { qos, retain: !goes, ..PublishPlan::of(&topic) })
        };
        if goes {
            self.push(stays, subscribe());
            self.push(moves, subscribe());
        } else {
            self.push(publisher, publish());
            self.push(moves, What::Unsubscribe { filter: topic.clone() });
        }
        self.push(publisher, What::Quiet);
        self.push(publisher, What::StallLane { from, to, micros });
        self.push(publisher, publish());
        if goes {
            self.at += micros * 3 / 4;
            self.push(moves, What::Unsubscribe { filter: topic.clone() });
        } else {
            self.push(moves, subscribe());
        }
    }

    /// More is published at once than a lane holds, so that the publisher has to wait for it.
    fn flood(&mut self) {
        let (scenario, random) = (self.scenario, &mut self.races);
        let [publisher, subscriber] = [(); 2].map(|()| random.index(scenario.parties.len()));
        let filter = "t/b".to_owned();
        let options = SubscriptionOptions::new(Qos::AtLeastOnce);
        self.push(subscriber, What::Subscribe { filters: vec![(filter.clone(), options)], identifier: None });
        self.push(publisher, What::Quiet);
        let many = PublishPlan { bytes: 12_000, count: 8, ..PublishPlan::of(&filter) };
        self.push(publisher, What::Publish(many));
        let qos = Qos::AtLeastOnce.min(scenario.limits.maximum_qos);
        self.push(publisher, What::Publish(PublishPlan { qos, ..PublishPlan::of(&filter) }));
    }

    /// Whoever leaves mostly comes back, at once or later.
    fn come_back(&mut self, party: usize) {
        if self.random.percent(85) {
            let now = self.at;
            self.at += self.random.below(6 * self.scenario.pace);
            self.connect(party);
            self.at = now;
        }
    }

    fn connect(&mut self, party: usize) {
        let scenario = self.scenario;
        let (features, random) = (&scenario.features, &mut self.random);
        let expiries: &[u32] =
            if features.session_expiry { &[0, 1, 5, 3600] } else { &[3600, 3600, 3600, 0] };
        let plan = ConnectPlan {
            core: random.below(scenario.cores.into()) as u16,
            clean_start: features.clean_starts && random.once_in(5),
            hurries: random.once_in(5),
            expiry: random.pick(expiries),
            keep_alive: if features.keep_alive { random.pick(&[0, 1, 10]) } else { 0 },
            receive_maximum: features.receive_maximum.then(|| random.pick(&[1, 2, 5])),
            maximum_packet_size: (features.packet_maximum && random.once_in(2)).then_some(400),
            topic_alias_maximum: if features.topic_aliases { random.pick(&[0, 1, 5]) } else { 0 },
            will: (features.wills && random.once_in(2)).then(|| WillPlan {
                topic: random.pick(&["w/a", "w/b"]).to_owned(),
                qos: random.pick(&QOS).min(scenario.limits.maximum_qos),
                retain: features.retained && random.once_in(3),
                delay: random.pick(&[0, 0, 1, 4]),
                expiry: (features.message_expiry && random.once_in(2)).then(|| random.pick(&[1, 100_000])),
            }),
        };
        self.push(party, What::Connect(plan));
    }

    fn filter(&mut self) -> String {
        let features = &self.scenario.features;
        let mut filters = vec!["t/a", "t/b"];
        if features.wildcards {
            filters.extend(["t/+", "t/#", "+/a/b", "t/+/b"]);
            if self.random.once_in(4) {
                filters.push("#");
            }
        }
        if features.retained {
            filters.extend(["q/#", "q/a"]);
        }
        if features.single_publisher {
            filters.extend(["r/#", "r/#"]);
        }
        if features.shared {
            filters.extend(SHARED);
            filters.extend(SHARED);
            // Ordinary subscriptions to what groups have, too.
            filters.extend(["s/#", "s/a", "s/+"]);
        }
        if features.wills {
            filters.extend(["w/#", "w/a"]);
        }
        if features.feeding {
            filters.extend(["f/#", "f/#"]);
        }
        if features.denied {
            filters.push("deny/#");
        }
        self.random.pick(&filters).to_owned()
    }

    fn subscribe(&mut self, party: usize) {
        let features = &self.scenario.features;
        let v5 = self.scenario.parties[party].version == Version::V5;
        let mut filters: Vec<(String, SubscriptionOptions)> = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            let filter = self.filter();
            let shared = filter.starts_with("$share/");
            // Members of a group mostly take what there is as it was published.
            let highest = self.random.percent(if shared { 80 } else { 50 });
            let qos = if highest { Qos::ExactlyOnce } else { self.random.pick(&QOS) };
            let mut options = SubscriptionOptions::new(qos);
            if v5 {
                options.no_local = !shared && features.no_local && self.random.once_in(2);
                options.retain_as_published = self.random.once_in(4);
                let handling = [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend];
                options.retain_handling =
                    if self.random.once_in(3) { self.random.pick(&handling) } else { RetainHandling::Send };
            }
            if !filters.iter().any(|(known, _)| *known == filter) {
                filters.push((filter, options));
            }
        }
        let identifier =
            (v5 && features.identifiers && self.random.once_in(2)).then(|| 1 + self.random.below(300) as u32);
        self.push(party, What::Subscribe { filters, identifier });
    }

    fn publish(&mut self, party: usize) {
        let features = &self.scenario.features;
        let random = &mut self.random;
        let single = format!("r/{party}/{}", random.below(3));
        let mut topics: Vec<(&str, bool)> = vec![("t/a", false), ("t/b", false), ("t/a/b", false)];
        if features.retained {
            topics.extend([("q/a", true), ("q/b", true), ("q/c", true), ("t/a", true)]);
        }
        if features.single_publisher {
            topics.extend([(&*single, true); 3]);
        }
        if features.shared {
            topics.extend([("s/a", false), ("s/b", false), ("s/a", false), ("s/b", false)]);
        }
        if features.feeding {
            topics.extend([("f/a", false), ("f/b", false)]);
        }
        if features.denied {
            topics.push(("deny/a", false));
        }
        let (topic, retain) = random.pick(&topics);
        let single = topic.starts_with("r/");
        let qos = if single { Qos::AtLeastOnce } else { random.pick(&QOS) };
        let plan = PublishPlan {
            qos: qos.min(self.scenario.limits.maximum_qos),
            retain: retain && (single || random.percent(80)),
            empty: retain && random.once_in(5),
            bytes: match random.below(12) {
                0 if features.large_messages && !single => 2_000 + random.index(9_000),
                1 if !single => random.index(600),
                _ => random.index(20),
            },
            expiry: (features.message_expiry && !single && random.once_in(2))
                .then(|| random.pick(&[1, 3, 100_000])),
            properties: features.properties && random.once_in(2),
            count: if random.once_in(6) { 2 + random.index(12) } else { 1 },
            hops: if topic.starts_with("f/") { random.below(12) as u32 } else { 0 },
            topic: topic.to_owned(),
        };
        self.push(party, What::Publish(plan));
    }
}
