//! Where things are at home: which core keeps the session of a ClientID, the retained message of a topic, a shared
//! group. The hash key is secret, so that nobody can aim at one core.

use std::hash::Hasher;
use std::sync::Arc;

use mqtt_proto::types::{SharedFilter, TopicName};
use siphasher::sip::SipHasher13;

use crate::config::CoreId;
use crate::store::image::Home;

#[derive(Clone, Debug)]
pub(super) struct Homes {
    core: CoreId,
    cores: u16,
    key: [u64; 2],
    seed: u64,
    assigned: u64,
}

/// Which of `cores` cores something is at home on. `hash_key`: that of [`ShardConfig`](super::ShardConfig).
pub fn home_of(hash_key: [u64; 2], cores: u16, what: Home<'_>) -> u16 {
    let homes = Homes::new(CoreId(0), cores, hash_key, 0);
    match what {
        Home::Session(client_id) => homes.of_client(client_id),
        Home::Retained(topic) => homes.of_topic(topic),
        Home::Group(text) => match SharedFilter::new(text) {
            Ok(SharedFilter { share_name: Some(name), filter }) => {
                homes.of_group(name.as_str(), filter.as_str())
            }
            // No group has such a name: what is stored under it is in nobody's way anywhere.
            _ => 0,
        },
    }
}

impl Homes {
    pub(super) fn new(core: CoreId, cores: u16, key: [u64; 2], seed: u64) -> Homes {
        Homes { core, cores, key, seed, assigned: 0 }
    }

    pub(super) fn cores(&self) -> u16 {
        self.cores
    }

    fn hash(&self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        for part in parts {
            hasher.write(part);
            hasher.write_u8(0xFF);
        }
        hasher.finish()
    }

    fn home(&self, parts: &[&[u8]]) -> u16 {
        if self.cores == 1 {
            return 0;
        }
        ((u128::from(self.hash(parts)) * u128::from(self.cores)) >> 64) as u16
    }

    /// The home core of a session.
    pub(super) fn of_client(&self, client_id: &str) -> u16 {
        self.home(&[b"client", client_id.as_bytes()])
    }

    /// The home core of a topic's retained message.
    pub(super) fn of_topic(&self, topic: TopicName<'_>) -> u16 {
        self.home(&[b"topic", topic.as_bytes()])
    }

    /// The owner core of a shared group.
    pub(super) fn of_group(&self, share_name: &str, filter: &str) -> u16 {
        self.home(&[b"group", share_name.as_bytes(), filter.as_bytes()])
    }

    /// A hash of `text`, a ClientID or a topic, for choosing among a shared group's members and for remembering topics.
    pub(super) fn hash_of(&self, text: &[u8]) -> u64 {
        self.hash(&[b"text", text])
    }

    /// A new ClientID whose session is at home here [MQTT-3.1.3-6]; `taken` tells those in use.
    pub(super) fn assign_client_id(&mut self, taken: impl Fn(&str) -> bool) -> Arc<str> {
        loop {
            self.assigned += 1;
            let (core, count) = (self.core.0.to_le_bytes(), self.assigned.to_le_bytes());
            let hash = self.hash(&[b"assigned", &self.seed.to_le_bytes(), &core, &count]);
            let client_id = format!("auto-{:x}-{hash:016x}", self.core.0);
            if self.of_client(&client_id) == self.core.0 && !taken(&client_id) {
                return client_id.into();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigned_client_ids_are_at_home_where_they_are_assigned() {
        for core in 0..8 {
            let mut homes = Homes::new(CoreId(core), 8, [1, 2], 3);
            let first = homes.assign_client_id(|_| false);
            let second = homes.assign_client_id(|_| false);
            assert_ne!(first, second);
            assert_eq!((homes.of_client(&first), homes.of_client(&second)), (core, core));
        }
    }

    #[test]
    fn clients_spread_over_all_cores() {
        let homes = Homes::new(CoreId(0), 8, [7, 9], 0);
        let mut count = [0; 8];
        for client in 0..8000 {
            count[usize::from(homes.of_client(&format!("client-{client}")))] += 1;
        }
        assert!(count.iter().all(|&count| (800..1200).contains(&count)), "{count:?}");
    }
}
