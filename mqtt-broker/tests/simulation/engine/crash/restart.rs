//! Power fails, the broker starts again on what is left, and Clients do not know how far it had come.

use mqtt_broker::shard::{Now, Shard};
use mqtt_broker::store::image::Image;
use mqtt_broker::store::record::Record;

use super::client::{Away, Client};
use super::world::World;
use crate::engine::cluster::{Check, Drive, Handle, Left, start, violation};

impl World {
    /// The broker ends of its own accord: it tells its Clients, writes what there is, and marks that. Then it starts again.
    pub(super) fn stop(&mut self, may_deal: bool) -> Check {
        self.cluster.say(|| "** stop".to_owned());
        self.is_stopping = true;
        let mut moved = true;
        while moved {
            moved = false;
            for core in 0..self.cluster.shards.len() {
                self.call(core, Shard::shutdown);
                moved |= self.written(core);
                while self.serve(core)? {
                    moved = true;
                }
            }
            for lane in 0..self.cluster.lanes.len() {
                moved |= self.deliver(lane);
            }
            moved |= self.arrive();
            for nth in 0..self.clients.len() {
                while self.read(nth, usize::MAX)? {
                    moved = true;
                }
            }
        }
        for core in 0..self.cluster.disks.len() {
            self.cluster.disks[core].end();
            while self.written(core) {}
            if !self.cluster.disks[core].is_ended() && !self.cluster.disks[core].is_stuck() {
                return violation("end", format!("core {core} does not come to an end"));
            }
        }
        self.crash(may_deal)?;
        self.is_stopping = false;
        Ok(())
    }

    /// Disks have no room, and the broker starts on them several times: it goes on with what it has.
    pub(super) fn starts(&mut self) -> Check {
        self.cluster.disks.iter().for_each(|disk| disk.leave(Left::Nothing));
        for _ in 0..3 + self.cluster.random.below(6) {
            for core in 0..self.cluster.disks.len() {
                // Some of what the start has told is on the disk.
                for _ in 0..self.cluster.random.below(4) {
                    self.written(core);
                }
            }
            match self.cluster.random.once_in(2) {
                true => self.stop(false)?,
                false => self.crash(false)?,
            }
        }
        Ok(())
    }

    /// Power fails, and the broker starts on what is left, on as many cores or, if it may, on others.
    pub(super) fn crash(&mut self, may_deal: bool) -> Check {
        self.has_refused |= self.cluster.disks.iter().any(Handle::has_refused);
        let is_ended = self.cluster.disks.iter().all(Handle::is_ended);
        let mut odd = None;
        let old = self.cluster.cores();
        let remains = self.cluster.kill(|record| {
            odd = odd.take().or_else(|| Some(format!("{record:?}")).filter(|_| !may_be_kept(record)));
        })?;
        if let Some(record) = odd {
            return violation("kept", format!("of a session that ends with its connection: {record}"));
        }
        if is_ended && !remains.are_clean {
            return violation("end", "a log that was ended has no mark of that".to_owned());
        }
        let pending: usize = remains.images.iter().map(|image: &Image| image.pending().len()).sum();
        if std::mem::take(&mut self.is_calm) && pending > 0 {
            return violation(
                "pending",
                format!("{pending} messages are kept for cores that have taken them"),
            );
        }
        let Now { millis, wall_millis: before } = self.cluster.now;
        self.turn_clocks();
        let random = &mut self.cluster.random;
        let cores = if may_deal && random.once_in(3) { random.pick(&[1, 2, 3]) } else { old };
        let turned = self.cluster.now.wall_millis as i64 - before as i64;
        self.cluster.say(|| format!("** crash, {old} cores, then {cores}, wall time {turned:+}"));
        for (nth, client) in self.clients.iter_mut().enumerate() {
            if client.peer.link.as_ref().is_some_and(|link| !link.is_accepted && link.to_broker.is_empty()) {
                client.may_be_back(self.latest);
                self.wills.may_be_back(nth);
            }
            client.crashed(before, self.latest);
        }
        let now = self.cluster.now;
        self.wills.crashed(millis, now.millis, (now.wall_millis, self.latest), &self.clients);
        start(self, cores, remains);
        // Nobody comes and goes in the same millisecond: what happens now is behind the start.
        self.pass(1);
        Ok(())
    }

    /// Monotonic time begins anew; the wall clock goes on, or was set meanwhile, perhaps back.
    fn turn_clocks(&mut self) {
        let random = &mut self.cluster.random;
        let away = match random.below(10) {
            0 => 60_000,
            1 => 3_600_000,
            _ => random.below(5_000),
        };
        let back = if random.once_in(6) { random.pick(&[500, 10_000, 7_200_000]) } else { 0 };
        let wall_millis = self.cluster.now.wall_millis + away - back;
        self.cluster.now = Now { millis: 1_000, wall_millis };
        self.latest = self.latest.max(wall_millis);
    }
}

impl Client {
    /// Its connection, if it had one, is gone with the broker. `before`: the wall time of the crash.
    fn crashed(&mut self, before: u64, latest: u64) {
        let link = self.peer.link.take();
        match (&mut self.away, link) {
            // Whether the end of its connection was kept, or its coming back, is not known: it may count from the start.
            (Some(away), link) if !away.is_on_disk || link.is_some() => {
                (away.latest, away.is_told, away.is_on_disk) = (latest, true, false);
            }
            (None, Some(_)) => {
                self.away = Some(Away { soonest: before, latest, is_told: true, is_on_disk: false })
            }
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
