//! Power fails, and the broker starts again on what is left.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use mqtt_broker::config::CoreId;
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Shard, ShardConfig, home_of};
use mqtt_broker::store::cold::Chunk;
use mqtt_broker::store::image::{self, Home, Image};
use mqtt_broker::store::log::{Identity, Log};
use mqtt_broker::store::record::Record;

use super::cold::OfCore;
use super::disk::{Files, Handle};
use super::{Check, Cluster, Drive};

pub(crate) const HASH_KEY: [u64; 2] = [11, 13];
const SEED: [u64; 4] = [5, 6, 7, 8];

/// The core on which the session of this Client is at home.
pub(crate) fn home(cores: u16, client: &str) -> usize {
    home_of(HASH_KEY, cores, Home::Session(client)).into()
}

/// What is left of a broker, and what it adds up to.
pub(crate) struct Remains {
    files: Vec<Files>,
    logs: Vec<Log>,
    pub(crate) images: Vec<Image>,
    /// Whether all logs have the mark of a clean end.
    pub(crate) are_clean: bool,
}

impl Remains {
    fn add(&mut self, files: Files, found: (Image, Log, bool)) {
        let (image, log, is_clean) = found;
        self.files.push(files);
        self.images.push(image);
        self.logs.push(log);
        self.are_clean &= is_clean;
    }
}

impl Cluster {
    /// Power fails: what is left. `each` sees every record.
    pub(crate) fn kill(&mut self, mut each: impl FnMut(&Record<'_>)) -> Check<Remains> {
        self.crashes += 1;
        self.shards.clear();
        self.moving.clear();
        let mut remains =
            Remains { files: Vec::new(), logs: Vec::new(), images: Vec::new(), are_clean: true };
        for (core, disk) in std::mem::take(&mut self.disks).into_iter().enumerate() {
            let mut files = disk.crash(&mut self.random);
            let found = files.read(self.identity(core), self.segments_max, SEED, &mut each);
            remains.add(files, found);
        }
        self.chunks.borrow_mut().start(&remains.images)?;
        Ok(remains)
    }

    fn identity(&self, core: usize) -> Identity {
        Identity { store: [self.stores; 16], core: core as u16 }
    }

    /// New disks that hold these images.
    fn deal(&self, images: &[Image]) -> Remains {
        let mut remains =
            Remains { files: Vec::new(), logs: Vec::new(), images: Vec::new(), are_clean: true };
        for (core, image) in images.iter().enumerate() {
            let identity = self.identity(core);
            let mut files = Files::begin(identity, image);
            let found = files.read(identity, self.segments_max, SEED, |_| ());
            remains.add(files, found);
        }
        remains
    }

    /// Time takes its share, and what was under way between cores is settled; the cores are made.
    fn take_up(&mut self, Remains { files, mut logs, mut images, .. }: Remains) -> Vec<Image> {
        let note = |log: &mut Log, record: &Record<'_>| {
            log.append(record.kind(), |out| record.encode(out));
        };
        let start = Image::start_at(&images, self.now.wall_millis);
        for (core, (image, log)) in images.iter_mut().zip(&mut logs).enumerate() {
            let mut over: BTreeSet<Chunk> = image.chunks().collect();
            image.expire(start, |record| note(log, record));
            image.chunks().for_each(|chunk| _ = over.remove(&chunk));
            self.chunks.borrow_mut().expired(core, over, log.next() - 1);
        }
        Image::settle(&mut images, |core, record| note(&mut logs[usize::from(core)], record));
        self.disks = files
            .into_iter()
            .zip(logs)
            .enumerate()
            .map(|(core, (files, log))| {
                let chunks = OfCore(core, Rc::clone(&self.chunks));
                Handle::new(self.identity(core), files, log, chunks)
            })
            .collect();
        let cores = images.len() as u16;
        self.lanes = (0..cores * cores).map(|_| VecDeque::new()).collect();
        let shard = |core: u16| {
            let store = Box::new(self.disks[usize::from(core)].clone());
            let (limits, seed) = (self.limits.clone(), u64::from(core));
            let config = ShardConfig { core: CoreId(core), cores, limits, hash_key: HASH_KEY, seed };
            Shard::new(config, Ports { store, ..Ports::allow_all() }, self.now)
        };
        self.shards = (0..cores).map(shard).collect();
        images
    }

    /// What a core starts with.
    fn describe(&self, core: usize, image: &Image) {
        let number = |payload: &[u8]| payload.try_into().map_or(0, usize::from_le_bytes);
        let of = |delivery: &image::Delivery| number(delivery.message.as_ref().payload);
        for session in image.sessions() {
            self.say(|| {
                let sent: Vec<_> =
                    session.under_way().map(|(id, _, sent)| (id.get(), sent.map(of))).collect();
                let waiting: Vec<_> = session.waiting().map(of).collect();
                let (name, received) = (session.client_id(), session.received());
                let parked: Vec<_> = session.parked().into_iter().flat_map(|parked| parked.chunks()).collect();
                let over = session.parked().map_or(0, |parked| parked.taken());
                let will = session.will().map(|will| number(will.message.as_ref().payload));
                format!(
                    "core {core} has {name}: sent {sent:?}, parked {parked:?} but {over}, waiting {waiting:?}, received {received:?}, Will {will:?}"
                )
            });
        }
        for (name, group) in image.groups() {
            let waiting: Vec<_> =
                group.messages().map(|waiting| number(waiting.message.as_ref().payload)).collect();
            self.say(|| format!("core {core} has {name}: {waiting:?}"));
        }
    }
}

/// Starts a broker of so many cores that has never run.
pub(crate) fn begin(run: &mut impl Drive, cores: u16) {
    let images: Vec<Image> = (0..cores).map(|_| Image::new(SEED)).collect();
    let empty = run.cluster().deal(&images);
    restore(run, empty);
}

/// Starts the broker on what is left, on as many cores or on others.
pub(crate) fn start(run: &mut impl Drive, cores: u16, remains: Remains) {
    if usize::from(cores) == remains.images.len() {
        return restore(run, remains);
    }
    let cluster = run.cluster();
    cluster.stores += 1;
    let dealt = Image::deal(remains.images, cores, SEED, |what, cores| home_of(HASH_KEY, cores, what));
    let dealt = cluster.deal(&dealt);
    restore(run, dealt);
}

fn restore(run: &mut impl Drive, remains: Remains) {
    let images = run.cluster().take_up(remains);
    for (core, image) in images.into_iter().enumerate() {
        run.cluster().describe(core, &image);
        run.call(core, |shard, now| shard.restore(image, now));
    }
    while !run.cluster().shards.iter().all(Shard::is_restored) {
        let lanes = 0..run.cluster().lanes.len();
        assert!(lanes.fold(false, |moved, lane| run.deliver(lane) | moved), "a start comes to an end");
    }
}
