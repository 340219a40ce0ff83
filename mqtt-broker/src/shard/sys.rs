//! The `$SYS` tree: every core tells core 0 its counters, core 0 publishes them, retained, a core and in total.

use mqtt_proto::types::{Qos, TopicName};

use super::Shard;
use super::deliver::Outgoing;
use super::envelope::{Envelope, Numbers};
use super::stats::Stats;
use crate::message::MessageRef;

impl Shard {
    /// Brings what the counters say of the store up to date, which nothing else does.
    pub fn note_store(&mut self) {
        let status = self.records.status();
        let stats = &mut self.stats;
        stats.store_log_bytes = status.log_bytes;
        stats.store_segments = status.segments;
        stats.store_records = status.records;
        stats.store_commits = status.commits;
        stats.store_full = u64::from(self.records.are_full());
        stats.store_snapshots = status.snapshots;
        let age = |at| self.now.millis.saturating_sub(at) / 1000;
        stats.store_snapshot_age = if status.snapshots == 0 { 0 } else { age(status.snapshot_at) };
        stats.store_snapshot_millis = status.snapshot_millis;
    }

    /// The interval between two publications is over.
    pub(super) fn sys_due(&mut self) {
        self.note_store();
        let interval = u64::from(self.limits.sys_interval_seconds) * 1000;
        if self.core.0 != 0 {
            let counters = self.stats.to_array();
            self.lanes.send(0, &Envelope::Stats { counters: Numbers::List(&counters) }, &mut None);
        } else {
            self.publish_sys();
        }
        self.sys_at = self.now.millis + interval;
    }

    fn publish_sys(&mut self) {
        let uptime = (self.now.millis - self.started.millis) / 1000;
        self.publish_one("version", concat!("mqttd ", env!("CARGO_PKG_VERSION")));
        self.publish_one("uptime", &uptime.to_string());
        self.publish_one("cores", &self.homes.cores().to_string());
        self.peer_stats[0] = self.stats.clone();
        let cores: Vec<Stats> = self.peer_stats.clone();
        let mut total = Stats::default();
        for (core, stats) in cores.iter().enumerate() {
            total += stats;
            for (name, value) in stats.iter() {
                self.publish_one(&format!("core/{core}/{name}"), &value.to_string());
            }
        }
        for (name, value) in total.iter() {
            self.publish_one(name, &value.to_string());
        }
    }

    /// Publishes `value`, unless that is what is retained already.
    fn publish_one(&mut self, name: &str, value: &str) {
        let topic = format!("$SYS/broker/{name}");
        let known = self.sys_values.get(&*topic).is_some_and(|known| &**known == value);
        if known {
            return;
        }
        self.sys_values.insert(topic.clone().into(), value.into());
        let message = MessageRef {
            topic: TopicName::new(&topic).expect("no wildcard in a counter's name"),
            properties: &[],
            payload: value.as_bytes(),
            qos: Qos::AtMostOnce,
            retain: self.limits.retain_available,
            expires_at: None,
        };
        // That nobody subscribes to the tree is no news.
        let unmatched = self.stats.messages_unmatched;
        self.route(&mut Outgoing::new(message), None, false);
        self.stats.messages_unmatched = unmatched;
    }
}
