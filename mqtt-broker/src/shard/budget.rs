//! How full the whole broker is, as each core knows it: its own load exactly, that of the others as they told it last.
//!
//! A core tells the others when its load has changed by a share of the bound, so a bound is kept within 1/256 of
//! itself, exactly while it is small, and nobody shares a counter.

use super::Shard;
use super::envelope::{Envelope, Load};
use crate::config::{CoreId, Limits};
use crate::router::CoreSet;

#[derive(Debug)]
pub(super) struct Budget {
    pub(super) own: Load,
    told: Load,
    peers: Vec<Load>,
    storage_full_elsewhere: bool,
    /// Change of each part of the load that is worth telling.
    grain: Load,
}

impl Budget {
    pub(super) fn new(core: CoreId, cores: u16, limits: &Limits) -> Budget {
        // All cores together stay within 1/256 of the bound.
        let grain = |bound: u64| (bound / 256 / u64::from(cores)).max(1);
        let memory = if limits.memory_bytes_max == 0 { u64::MAX } else { limits.memory_bytes_max };
        let connections = if limits.connections_max == 0 { u32::MAX } else { limits.connections_max };
        debug_assert!(core.0 < cores);
        Budget {
            own: Load::default(),
            told: Load::default(),
            peers: vec![Load::default(); usize::from(cores)],
            storage_full_elsewhere: false,
            grain: Load {
                connections: grain(connections.into()),
                sessions: grain(limits.sessions_max.into()),
                retained_messages: grain(limits.retained_messages_max.into()),
                retained_bytes: grain(limits.retained_bytes_max.min(memory)),
                queued_bytes: grain(memory),
                storage_full: 1,
            },
        }
    }

    fn total(&self, part: impl Fn(&Load) -> u64) -> u64 {
        part(&self.own) + self.peers.iter().map(&part).sum::<u64>()
    }

    pub(super) fn connections(&self) -> u64 {
        self.total(|load| load.connections)
    }

    pub(super) fn sessions(&self) -> u64 {
        self.total(|load| load.sessions)
    }

    pub(super) fn retained_messages(&self) -> u64 {
        self.total(|load| load.retained_messages)
    }

    pub(super) fn retained_bytes(&self) -> u64 {
        self.total(|load| load.retained_bytes)
    }

    /// Bytes of messages kept by the other cores.
    fn kept_elsewhere(&self) -> u64 {
        self.peers.iter().map(|load| load.retained_bytes + load.queued_bytes).sum()
    }

    /// Whether another core's store is full.
    pub(super) fn is_full_elsewhere(&self) -> bool {
        self.storage_full_elsewhere
    }

    /// Whether the store of one of these other cores is full.
    pub(super) fn is_full_on(&self, cores: CoreSet) -> bool {
        cores.iter().any(|core| self.peers[usize::from(core)].storage_full > 0)
    }

    pub(super) fn set_peer(&mut self, core: CoreId, load: Load) {
        self.peers[core.index()] = load;
        self.storage_full_elsewhere = self.peers.iter().any(|load| load.storage_full > 0);
    }

    /// The own load, if it has changed by enough since it was told.
    fn news(&mut self) -> Option<Load> {
        let changed =
            |part: fn(&Load) -> u64| part(&self.own).abs_diff(part(&self.told)) >= part(&self.grain);
        let parts: [fn(&Load) -> u64; 6] = [
            |load| load.connections,
            |load| load.sessions,
            |load| load.retained_messages,
            |load| load.retained_bytes,
            |load| load.queued_bytes,
            |load| load.storage_full,
        ];
        if !parts.into_iter().any(changed) {
            return None;
        }
        self.told = self.own;
        Some(self.own)
    }
}

impl Shard {
    /// Tells the other cores how full this one is, if that is news.
    pub(super) fn share_load(&mut self) {
        self.budget.own.sessions = self.stats.sessions;
        self.budget.own.retained_messages = self.stats.retained_messages;
        self.budget.own.retained_bytes = self.stats.retained_bytes;
        self.budget.own.queued_bytes = self.stats.queue_bytes;
        self.budget.own.storage_full = u64::from(self.records.are_full());
        if let Some(load) = self.budget.news() {
            for core in self.lanes.peers() {
                self.lanes.send(core, &Envelope::Load { load }, &mut None);
            }
        }
    }

    /// Whether one more kept message of `bytes` would break the memory bound.
    pub(super) fn memory_is_full(&self, bytes: usize) -> bool {
        let max = self.limits.memory_bytes_max;
        if max == 0 {
            return false;
        }
        // This core's own part exactly: one call may keep many messages, or make room for one.
        let here = self.stats.queue_bytes + self.retained.bytes() as u64;
        self.budget.kept_elsewhere() + here + bytes as u64 > max
    }
}
