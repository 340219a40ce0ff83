//! The broker's side of a run: its cores, the lanes between them, their disks and time.

use mqtt_broker::config::CoreId;
use mqtt_broker::shard::{Action, Now, Shard};

use super::client::Client;
use super::disk::{Handle, Left};
use super::world::World;

impl World {
    pub(super) fn call<T>(&mut self, core: usize, use_it: impl FnOnce(&mut Shard, Now) -> T) -> T {
        let result = use_it(&mut self.shards[core], self.now);
        while let Some(action) = self.shards[core].poll_action() {
            self.act(core, action);
        }
        for to in 0..self.shards.len() {
            if let Some(batch) = self.shards[core].poll_envelopes(CoreId(to as u16)) {
                self.lanes[core * self.shards.len() + to].push_back(batch);
            }
        }
        self.disks[core].go_on();
        self.remove_chunks(core);
        result
    }

    fn act(&mut self, core: usize, action: Action) {
        let of = |id| {
            move |client: &Client| {
                client.link.as_ref().is_some_and(|link| (link.core, link.id) == (core, Some(id)))
            }
        };
        match action {
            Action::TransmitShared { id, pieces } => {
                self.act(core, Action::Transmit { id, buffer: pieces.into_vec() });
            }
            Action::Transmit { id, buffer } => {
                if let Some(link) =
                    self.clients.iter_mut().find(|client| of(id)(client)).and_then(Client::link_mut)
                {
                    link.from_broker.extend_from_slice(&buffer);
                }
                let now = self.now;
                self.shards[core].transmit_done(id, buffer, now);
            }
            Action::Close { id, last, .. } => {
                let Some(nth) = self.clients.iter().position(|client| of(id)(client)) else { return };
                if let Some(link) = self.clients[nth].link_mut() {
                    link.from_broker.extend_from_slice(&last);
                    link.id = None;
                    link.is_closed = true;
                }
                self.link_ended(nth);
            }
            Action::Handoff { id, to, handed } => {
                let Some(nth) = self.clients.iter().position(|client| of(id)(client)) else { return };
                if let Some(link) = self.clients[nth].link_mut() {
                    link.id = None;
                }
                self.moving.push((nth, to.index(), handed));
            }
            Action::Established { .. } | Action::PauseRead { .. } | Action::ResumeRead { .. } => {}
            other => panic!("an action that the simulation does not know: {other:?}"),
        }
    }

    /// Whether this core does nothing any more.
    pub(super) fn is_dead(&self, core: usize) -> bool {
        self.is_dying && self.held == Some(core)
    }

    /// A batch arrives; whether there was one.
    pub(super) fn deliver(&mut self, lane: usize) -> bool {
        let cores = self.shards.len();
        if self.is_dead(lane % cores) {
            return false;
        }
        let Some(batch) = self.lanes[lane].pop_front() else { return false };
        let from = CoreId((lane / cores) as u16);
        self.call(lane % cores, |shard, now| shard.handle_envelopes(from, batch, now));
        true
    }

    /// A write is done; whether there was one.
    pub(super) fn written(&mut self, core: usize) -> bool {
        if self.held == Some(core) {
            return false;
        }
        let Some(committed) = self.disks[core].written() else { return false };
        self.call(core, |shard, now| shard.store_committed(committed, now));
        if self.disks.iter().all(Handle::is_settled) {
            self.wills.on_disk();
            self.clients
                .iter_mut()
                .filter_map(|client| client.away.as_mut())
                .for_each(|away| away.is_on_disk = true);
        }
        true
    }

    /// Some of a snapshot is made. What it sets free the shard learns of.
    pub(super) fn snapshot(&mut self, core: usize) {
        if self.disks[core].snapshot(&mut self.shards[core], &mut self.random) {
            self.look_for_room(core);
        }
    }

    pub(super) fn give_room(&mut self, core: usize) {
        self.disks[core].leave(Left::Plenty);
        // There is none before the segments are made that are asked for.
        self.look_for_room(core);
        self.look_for_room(core);
    }

    fn look_for_room(&mut self, core: usize) {
        let committed = self.disks[core].committed();
        self.call(core, |shard, now| shard.store_committed(committed, now));
    }

    /// A connection arrives on the core of its session.
    pub(super) fn arrive(&mut self) {
        if self.moving.is_empty() {
            return;
        }
        let at = self.random.index(self.moving.len());
        let (nth, to, handed) = self.moving.swap_remove(at);
        let id = self.shards[to].connection_arrived(handed, self.now);
        let id = id.expect("there is room for all connections");
        match self.clients[nth].link_mut().filter(|link| link.id.is_none() && !link.is_closed) {
            Some(link) => {
                (link.core, link.id) = (to, Some(id));
                self.call(to, |_, _| ());
            }
            None => {
                // It may have ended a connection that its Client has opened meanwhile, and taken its Will away.
                if let Some(link) = self.clients[nth].link_mut() {
                    link.is_doubtful = true;
                }
                self.wills.doubt(nth);
                self.call(to, |shard, now| shard.connection_closed(id, now));
            }
        }
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.now.millis += millis;
        self.now.wall_millis += millis;
        self.latest += millis;
        for core in 0..self.shards.len() {
            if self.shards[core].poll_timeout().is_some_and(|at| at <= self.now.millis) {
                self.call(core, Shard::handle_timeout);
            }
        }
        self.publish_wills();
    }

    /// What was due has happened.
    pub(super) fn publish_wills(&mut self) {
        let cores = self.shards.len() as u16;
        let homes: Vec<usize> =
            self.clients.iter().map(|client| super::restart::home(cores, &client.name)).collect();
        let now = (self.now.millis, self.now.wall_millis);
        self.wills.pass(now, &self.clients, &self.judge, |from, to| homes[from] == homes[to]);
    }
}
