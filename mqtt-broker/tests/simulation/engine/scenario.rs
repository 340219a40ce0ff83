//! What kind of run a seed makes: cores, Clients, bounds, how rough the network is, which features and faults there
//! are at all. Each seed switches most of them off, so that many runs are narrow and deep instead of all alike.

use mqtt_broker::config::{Limits, Overflow};
use mqtt_broker::router::Strategy;
use mqtt_proto::types::{Qos, Version};

use super::random::Random;

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) cores: u16,
    pub(crate) hash_key: [u64; 2],
    pub(crate) parties: Vec<PartyPlan>,
    pub(crate) limits: Limits,
    /// Whether a bound may cost messages: then the account alone tells which are missing rightly.
    pub(crate) tight: bool,
    pub(crate) net: Net,
    pub(crate) ports: PortsPlan,
    pub(crate) features: Features,
    /// Mean microseconds between two steps.
    pub(crate) pace: u64,
    pub(crate) steps: usize,
}

/// A Client over all of its connections.
#[derive(Clone, Debug)]
pub(crate) struct PartyPlan {
    pub(crate) name: String,
    pub(crate) version: Version,
    /// Microseconds from a message to its acknowledgement.
    pub(crate) ack_delay: u64,
    /// One in so many messages is refused with an error (5.0); 0 for none.
    pub(crate) refuses: u64,
    /// Publishes again what it gets on a topic for feeding: one of the two directions.
    pub(crate) feeds: Option<u64>,
}

/// How bytes, batches and turns are delayed; microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Net {
    pub(crate) delay: u64,
    pub(crate) splits: bool,
    /// Bytes that the kernel takes before a send has to wait for the reader.
    pub(crate) pipe_bytes: usize,
    pub(crate) turn: u64,
    pub(crate) lane: u64,
    /// Whether some lanes are much slower than others.
    pub(crate) uneven_lanes: bool,
    pub(crate) handoff: u64,
    /// Whether a core may leave a lane for a later turn.
    pub(crate) skips_lanes: bool,
}

impl Net {
    /// Nothing is held up for long.
    pub(crate) fn calm(&self) -> Net {
        Net { delay: 100, turn: 20, lane: 50, handoff: 50, skips_lanes: false, ..self.clone() }
    }
}

/// Ports that answer late; microseconds, 0 for at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PortsPlan {
    pub(crate) authenticate: u64,
    pub(crate) authorize: u64,
    pub(crate) store: u64,
}

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident: $percent:literal;)*) => {
        /// What Clients do in a run.
        #[derive(Clone, Debug)]
        pub(crate) struct Features {
            $($(#[$doc])* pub(crate) $name: bool,)*
        }

        impl Features {
            fn draw(random: &mut Random) -> Features {
                Features { $($name: random.percent($percent)),* }
            }

            /// The names of those that are on.
            pub(crate) fn names(&self) -> Vec<&'static str> {
                [$((stringify!($name), self.$name)),*].into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
            }
        }
    };
}

features! {
    retained: 50;
    single_publisher: 45;
    shared: 35;
    wills: 35;
    feeding: 20;
    takeovers: 40;
    clean_starts: 40;
    unsubscribes: 60;
    wildcards: 70;
    identifiers: 50;
    no_local: 20;
    message_expiry: 25;
    session_expiry: 25;
    topic_aliases: 35;
    receive_maximum: 50;
    packet_maximum: 20;
    large_messages: 20;
    stops_reading: 35;
    holds_acknowledgements: 40;
    keep_alive: 20;
    cuts: 70;
    disconnects: 40;
    rude: 15;
    refusals: 15;
    stalled_lanes: 50;
    stalled_cores: 25;
    clock_jumps: 25;
    old_versions: 40;
    denied: 15;
    properties: 30;
    quiet_moments: 40;
}

impl Scenario {
    /// The scenario of `seed`; `cores` instead of those it would have.
    pub(crate) fn new(seed: u64, cores: Option<u16>) -> Scenario {
        let mut random = Random::new(seed, &[1]);
        let drawn = random.pick(&[1, 2, 2, 3, 3, 8]);
        let features = Features::draw(&mut random);
        let limits = limits(&mut random, &features);
        let tight = limits.1;
        let parties = (0..2 + random.below(5)).map(|n| party(&mut random, &features, n)).collect();
        let net = net(&mut random);
        let late = |random: &mut Random| random.pick(&[0, 0, 0, 0, 500, 20_000, 400_000]);
        let ports = PortsPlan {
            authenticate: late(&mut random),
            authorize: late(&mut random),
            store: late(&mut random),
        };
        Scenario {
            seed,
            cores: cores.unwrap_or(drawn),
            hash_key: [random.next(), random.next()],
            parties,
            limits: limits.0,
            tight,
            net,
            ports,
            features,
            pace: random.pick(&[300, 2_000, 20_000, 20_000, 300_000]),
            steps: 30 + random.index(130),
        }
    }
}

fn party(random: &mut Random, features: &Features, n: u64) -> PartyPlan {
    let old = [Version::V5, Version::V3_1_1, Version::V3_1_1, Version::V3_1];
    let version = if features.old_versions { random.pick(&old) } else { Version::V5 };
    PartyPlan {
        name: format!("client-{n}"),
        version,
        ack_delay: random.pick(&[0, 0, 300, 30_000]),
        refuses: if features.refusals && random.once_in(2) { 10 } else { 0 },
        feeds: (features.feeding && n < 2).then_some(n),
    }
}

fn net(random: &mut Random) -> Net {
    Net {
        delay: random.pick(&[0, 200, 5_000, 60_000]),
        splits: random.once_in(2),
        pipe_bytes: random.pick(&[64, 1000, 8_000, 1_000_000]),
        turn: random.pick(&[0, 50, 2_000]),
        lane: random.pick(&[0, 100, 5_000, 80_000]),
        uneven_lanes: random.once_in(2),
        handoff: random.pick(&[0, 100, 20_000]),
        skips_lanes: random.once_in(2),
    }
}

/// The bounds, and whether they may cost messages.
fn limits(random: &mut Random, features: &Features) -> (Limits, bool) {
    let mut limits = Limits::default();
    limits.sys_interval_seconds = if random.once_in(20) { 5 } else { 0 };
    limits.shared_strategy = random.pick(&Strategy::ALL);
    limits.in_flight_max = random.pick(&[1, 2, 4, 1024]);
    limits.receive_maximum = random.pick(&[1, 3, 10, 1024]);
    limits.pending_answers_max = random.pick(&[1, 3, 4096]);
    limits.retained_slice_messages = random.pick(&[1, 2, 64]);
    limits.retained_slice_bytes = random.pick(&[1024, 65_536]);
    limits.gather_live_topics_max = random.pick(&[1, 2, 4096]);
    limits.topic_alias_maximum = random.pick(&[0, 2, 64]);
    limits.outgoing_topic_aliases_max = random.pick(&[0, 1, 16]);
    limits.lane_bytes_max = random.pick(&[65_536, 4 << 20]);
    limits.output_bytes_max = random.pick(&[1024, 4096, 1 << 20]);
    limits.queue_qos0_offline = random.once_in(4);
    limits.message_expiry_max_seconds = if features.message_expiry && random.once_in(4) { 30 } else { 0 };
    if features.session_expiry {
        limits.session_expiry_max_seconds = random.pick(&[20, 3600]);
        limits.session_expiry_v3_seconds = random.pick(&[5, 3600]);
    }
    if features.keep_alive {
        limits.keep_alive_max_seconds = random.pick(&[0, 20]);
    }
    limits.packet_bytes_max = random.pick(&[16_384, 1 << 20]);
    if random.once_in(12) {
        limits.maximum_qos = random.pick(&[Qos::AtMostOnce, Qos::AtLeastOnce]);
    }
    let tight = random.once_in(6);
    if tight {
        limits.queue_messages_max = random.pick(&[1, 3, 10, 100_000]);
        limits.queue_bytes_max = random.pick(&[1024, 4096, 1 << 20]);
        limits.queue_overflow = random.pick(&[Overflow::DropOldest, Overflow::DropNewest]);
        limits.group_queue_messages_max = random.pick(&[1, 3, 100_000]);
        limits.memory_bytes_max = random.pick(&[0, 0, 2_000, 20_000]);
        limits.retained_messages_max = random.pick(&[1, 5, 1000]);
        limits.sessions_max = random.pick(&[2, 1000, 1000]);
    }
    limits.check().expect("a scenario has limits in their ranges");
    (limits, tight)
}
