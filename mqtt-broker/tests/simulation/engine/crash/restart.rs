//! Power fails, and the broker starts again on what is left.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use mqtt_broker::config::CoreId;
use mqtt_broker::ports::Ports;
use mqtt_broker::shard::{Now, Shard, ShardConfig, home_of};
use mqtt_broker::store::cold::Chunk;
use mqtt_broker::store::image::{self, Home, Image};
use mqtt_broker::store::log::{Identity, Log};
use mqtt_broker::store::record::Record;

use super::client::{Away, Client};
use super::cold::OfCore;
use super::disk::{Files, Handle};
use super::judge::violation;
use super::world::{Check, World};

pub(super) const HASH_KEY: [u64; 2] = [11, 13];
pub(super) const SEED: [u64; 4] = [5, 6, 7, 8];

/// The core on which the session of this Client is at home.
pub(super) fn home(cores: u16, client: &str) -> usize {
    home_of(HASH_KEY, cores, Home::Session(client)).into()
}

impl World {
    fn identity(&self, core: usize) -> Identity {
        Identity { store: [self.stores; 16], core: core as u16 }
    }

    /// Power fails, and the broker starts on what is left, on as many cores or on others.
    pub(super) fn crash(&mut self) -> Check {
        self.crashes += 1;
        self.has_refused |= self.disks.iter().any(Handle::has_refused);
        let (disks, old) = (std::mem::take(&mut self.disks), self.shards.len());
        self.shards.clear();
        self.moving.clear();
        let files: Vec<Files> = disks.into_iter().map(|disk| disk.crash(&mut self.random)).collect();
        let Now { millis, wall_millis: before } = self.now;
        self.turn_clocks();
        let cores = if self.random.once_in(3) { self.random.pick(&[1, 2, 3]) } else { old as u16 };
        let turned = self.now.wall_millis as i64 - before as i64;
        self.say(|| format!("** crash {}, {old} cores, then {cores}, wall time {turned:+}", self.crashes));
        for (nth, client) in self.clients.iter_mut().enumerate() {
            if client.link.as_ref().is_some_and(|link| !link.is_accepted && link.to_broker.is_empty()) {
                client.may_be_back(self.latest);
                self.wills.may_be_back(nth);
            }
            client.crashed(before, self.latest);
        }
        self.wills.crashed(millis, self.now.millis);
        let (mut images, mut logs) = (Vec::new(), Vec::new());
        let mut odd = None;
        for (core, files) in files.iter().enumerate() {
            let mut each = |record: &Record<'_>| {
                odd = odd.take().or_else(|| Some(format!("{record:?}")).filter(|_| !may_be_kept(record)));
            };
            let (image, log) = files.read(self.identity(core), self.segments_max, SEED, &mut each);
            images.push(image);
            logs.push(log);
        }
        if let Some(record) = odd {
            return violation("kept", format!("of a session that ends with its connection: {record}"));
        }
        self.chunks.borrow_mut().start(&images)?;
        let pending: usize = images.iter().map(|image: &Image| image.pending().len()).sum();
        if std::mem::take(&mut self.is_calm) && pending > 0 {
            return violation(
                "pending",
                format!("{pending} messages are kept for cores that have taken them"),
            );
        }
        if usize::from(cores) != old {
            self.stores += 1;
            let home = |what: Home<'_>, cores| home_of(HASH_KEY, cores, what);
            let dealt = Image::deal(images, cores, SEED, home);
            self.start_on(cores, dealt);
            return Ok(());
        }
        self.go_on(files, images, logs);
        Ok(())
    }

    /// Starts on files that hold these images.
    fn go_on(&mut self, files: Vec<Files>, mut images: Vec<Image>, mut logs: Vec<Log>) {
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
        self.start(images);
    }

    /// Monotonic time begins anew; the wall clock goes on, or was set meanwhile, perhaps back.
    fn turn_clocks(&mut self) {
        let away = match self.random.below(10) {
            0 => 60_000,
            1 => 3_600_000,
            _ => self.random.below(5_000),
        };
        let back = if self.random.once_in(6) { self.random.pick(&[500, 10_000, 7_200_000]) } else { 0 };
        let wall_millis = self.now.wall_millis + away - back;
        self.now = Now { millis: 1_000, wall_millis };
        self.latest = self.latest.max(wall_millis);
    }

    /// Starts on new disks that hold these images.
    pub(super) fn start_on(&mut self, cores: u16, images: Vec<Image>) {
        let mut files = Vec::new();
        let (mut begun, mut logs) = (Vec::new(), Vec::new());
        for (core, image) in images.iter().enumerate().take(cores.into()) {
            let identity = self.identity(core);
            files.push(Files::begin(identity, image));
            let (image, log) = files[core].read(identity, self.segments_max, SEED, |_| ());
            begun.push(image);
            logs.push(log);
        }
        self.go_on(files, begun, logs);
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
    }

    fn start(&mut self, images: Vec<Image>) {
        let cores = images.len() as u16;
        self.lanes = (0..cores * cores).map(|_| VecDeque::new()).collect();
        let shard = |core: u16| {
            let ports =
                Ports { store: Box::new(self.disks[usize::from(core)].clone()), ..Ports::allow_all() };
            let (limits, seed) = (self.limits.clone(), u64::from(core));
            let config = ShardConfig { core: CoreId(core), cores, limits, hash_key: HASH_KEY, seed };
            Shard::new(config, ports, self.now)
        };
        self.shards = (0..cores).map(shard).collect();
        for (core, image) in images.into_iter().enumerate() {
            self.describe(core, &image);
            self.call(core, |shard, now| shard.restore(image, now));
        }
        while !self.shards.iter().all(Shard::is_restored) {
            (0..self.lanes.len()).for_each(|lane| _ = self.deliver(lane));
        }
    }
}

impl Client {
    /// Its connection, if it had one, is gone with the broker. `before`: the wall time of the crash.
    fn crashed(&mut self, before: u64, latest: u64) {
        let link = self.link.take();
        match (&mut self.away, link) {
            // Whether the end of its connection was kept, or its coming back, is not known: it may count from the start.
            (Some(away), link) if !away.is_on_disk || link.is_some() => {
                (away.latest, away.is_on_disk) = (latest, false);
            }
            (None, Some(_)) => self.away = Some(Away { soonest: before, latest, is_on_disk: false }),
            _ => {}
        }
    }
}

/// Of a session that ends with its connection the store may know the Will, and what that needs.
fn may_be_kept(record: &Record<'_>) -> bool {
    let (client_id, is_odd) = match record {
        Record::Subscribed { client_id, .. }
        | Record::Unsubscribed { client_id, .. }
        | Record::Enqueued { client_id, .. }
        | Record::Sent { client_id, .. }
        | Record::Dropped { client_id, .. }
        | Record::Acknowledged { client_id, .. }
        | Record::Released { client_id, .. }
        | Record::Received { client_id, .. }
        | Record::Completed { client_id, .. } => (client_id, true),
        Record::Opened { client_id, expiry_seconds, .. } => (client_id, *expiry_seconds != 0),
        _ => return true,
    };
    !(is_odd && client_id.starts_with("guest"))
}
