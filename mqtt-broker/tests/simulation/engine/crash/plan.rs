//! What a run is made of: who takes part, which bounds hold, and a row of steps, each with a number from which all chance
//! within it comes. So any step can be left out, and the rest still draws what it drew.

use mqtt_proto::types::Version;

use crate::engine::random::Random;

/// What holds for a whole run.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) cores: u16,
    /// The last one reads what is retained in quiet moments, and does nothing else.
    pub(crate) parties: Vec<Party>,
    pub(crate) in_flight_max: u16,
    /// Of the broker, which 5.0 Clients heed.
    pub(crate) receive_maximum: u16,
    pub(crate) output_bytes_max: u32,
    /// Segments that the log of a core may have.
    pub(crate) segments_max: u32,
    /// Bytes of queues from which on those of Clients that are away are parked; 0: none ever is.
    pub(crate) queue_memory_bytes_max: u64,
    /// A Client that is away and could come back does so once in so many times.
    pub(crate) back_once_in: u64,
    /// Bytes of a chunk of what is parked.
    pub(crate) chunk_bytes: usize,
    pub(crate) store_waiting_bytes_max: u32,
}

/// A Client, as it is each time it connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Party {
    pub(crate) version: Version,
    /// Session Expiry Interval in seconds. 0: a session that ends with its connection.
    pub(crate) expiry: u32,
    /// Whether it has a Will.
    pub(crate) has_will: bool,
    /// Receive Maximum of a 5.0 Client.
    pub(crate) receive_maximum: u16,
}

/// Something that happens. A step that does not apply when its turn comes is passed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) what: What,
    /// Seeds what is chosen within the step.
    pub(crate) draw: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// What one core had to tell another arrives.
    Deliver,
    /// A write is done.
    Written,
    /// Some of what a Client has sent arrives.
    Feed,
    /// A Client takes something of what it was sent.
    Read,
    /// A Client does something of its own accord.
    Act,
    /// A connection that was handed over arrives.
    Arrive,
    /// A chunk of a queue is written or read.
    Chunk,
    /// Some Clients leave and much is published to them; then one is back.
    Pile,
    /// Milliseconds pass.
    Pass,
    /// Seconds pass, a minute at most.
    PassLong,
    /// A slice of a snapshot is told, or a snapshot counts.
    Snapshot,
    /// A disk has no room any more, for segments or for anything.
    Fill,
    /// All disks have room again.
    Room,
    /// Nothing is given room, and what is refused is refused.
    Refuse,
    /// One disk is silent for seconds: nobody waits for it who need not.
    Slow,
    /// A write fails, and the broker ends.
    Fail,
    /// Power fails, and the broker starts again.
    Crash,
    /// The broker ends of its own accord, and starts again.
    Stop,
    /// Disks without any room, and several starts one behind the other.
    Starts,
    /// Everybody comes back and all comes to rest; what is owed has to be there.
    Calm,
}

const EXPIRIES: [u32; 3] = [5, 40, 100];
const QUEUE_BYTES: [u64; 6] = [0, 0, 0, 1, 300, 1_000];

/// What may wait for a disk before publishers do.
const WAITING_BYTES: [u32; 4] = [WAITING_MANY, WAITING_MANY, 1_000, 100];

/// More than a run has to write.
pub(crate) const WAITING_MANY: u32 = 1 << 30;

/// The run of a seed.
pub(crate) fn plan(seed: u64) -> (Setting, Vec<Step>) {
    let mut random = Random::new(seed, &[9]);
    let cores = random.pick(&[1, 2, 2, 3]);
    let mut parties: Vec<Party> = (0..2 + random.index(4)).map(|nth| party(nth, &mut random)).collect();
    parties.push(Party { expiry: 0, has_will: false, ..parties[0] });
    let mut parking = Random::new(seed, &[10]);
    let queue_memory_bytes_max = parking.pick(&QUEUE_BYTES);
    // Whoever is away for long has much to come.
    let back_once_in = match queue_memory_bytes_max {
        0 => Random::new(seed, &[15]).pick(&[1, 1, 4, 20]),
        _ => 5,
    };
    let setting = Setting {
        cores,
        parties,
        in_flight_max: random.pick(&[1, 2, 100]),
        receive_maximum: Random::new(seed, &[12]).pick(&[1, 2, 100]),
        output_bytes_max: random.pick(&[1024, 1 << 20]),
        segments_max: random.pick(&[6, 8, 10_000, 10_000]),
        queue_memory_bytes_max,
        back_once_in,
        chunk_bytes: parking.pick(&[64 << 10, 100, 100, 200]),
        store_waiting_bytes_max: Random::new(seed, &[11]).pick(&WAITING_BYTES),
    };
    // Rare things happen in some runs only, so that others have long stretches without.
    let (fills, fails, slows) = (random.once_in(2), random.once_in(2), random.once_in(3));
    let fills_often = fills && Random::new(seed, &[14]).once_in(2);
    let stops = Random::new(seed, &[13]).once_in(2);
    let parks = setting.queue_memory_bytes_max > 0;
    let mut steps = Vec::new();
    let mut add = |what, random: &mut Random| steps.push(Step { what, draw: random.next() });
    for _ in 0..2 + random.below(4) {
        for _ in 0..random.below(1_500) {
            let what = match random.below(1_400) {
                0 if stops => What::Stop,
                0..=2 => What::Crash,
                3 if fails => What::Fail,
                4 | 5 if fills => What::Fill,
                6 if fills => What::Room,
                7 if fills => What::Refuse,
                8 if slows => What::Slow,
                9..=14 if fills_often => What::Fill,
                9..=16 if parks => What::Pile,
                17 if fills => What::Starts,
                9..=20 => What::PassLong,
                21..=220 => What::Deliver,
                221..=320 => What::Written,
                321..=620 => What::Feed,
                621..=920 => What::Read,
                921..=1_120 => What::Act,
                1_121..=1_200 => What::Pass,
                1_201..=1_300 => What::Snapshot,
                1_301..=1_380 if parks => What::Chunk,
                _ => What::Arrive,
            };
            add(what, &mut random);
        }
        add(What::Calm, &mut random);
        if random.once_in(2) {
            add(What::Crash, &mut random);
        }
    }
    add(What::Calm, &mut random);
    (setting, steps)
}

fn party(nth: usize, random: &mut Random) -> Party {
    let version = random.pick(&[Version::V5, Version::V5, Version::V3_1_1]);
    // Two at least keep their sessions for ever: what they are owed is never uncertain.
    let expiry = match random.below(6) {
        _ if nth < 2 => u32::MAX,
        0 | 1 => 0,
        2 if version == Version::V5 => random.pick(&EXPIRIES),
        _ => u32::MAX,
    };
    Party { version, expiry, has_will: random.percent(60), receive_maximum: random.pick(&[1, 3, u16::MAX]) }
}
