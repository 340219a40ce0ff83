//! The images of some cores dealt out to another number of cores.
//!
//! What was on its way between the old cores is resolved first: the new ones would not know what of it had arrived. A
//! pending message reaches exactly the sessions, groups and the retained message of the cores that had not taken it,
//! by the subscriptions that they have now; as those cores had handled nothing that came behind it either, it goes to
//! the end of their queues.

use mqtt_proto::types::{Qos, SharedFilter, TopicFilter, TopicName};

use super::{Delivery, GroupMessage, Image, Pending, Session};
use crate::message::Message;
use crate::router::{Matches, Subscriber, Subscriptions};
use crate::store::record::Identifiers;

/// Something that is at home on one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home<'a> {
    /// The session of this ClientID.
    Session(&'a str),
    /// The retained message of this topic.
    Retained(TopicName<'a>),
    /// The shared group with this whole filter.
    Group(&'a str),
}

impl Image {
    /// Deals the images of all old cores, in their order, to `cores` new ones. `home` says on which of how many cores
    /// something is at home. `seed` keys the hashes of the new images.
    ///
    /// # Panics
    /// If `home` names a core that there is not.
    pub fn deal(
        mut images: Vec<Image>,
        cores: u16,
        seed: [u64; 4],
        home: impl Fn(Home<'_>, u16) -> u16,
    ) -> Vec<Image> {
        Image::settle(&mut images, |_, _| {});
        resolve(&mut images, &home);
        let mut dealt: Vec<Image> = (0..cores).map(|_| Image::new(seed)).collect();
        let last_time = images.iter().map(Image::last_time).max().unwrap_or(0);
        let last_number = images.iter().map(Image::last_number).max().unwrap_or(0);
        let mut starts: Vec<u64> = images.iter().flat_map(Image::all_starts).collect();
        starts.sort_unstable();
        starts.dedup();
        for image in &mut dealt {
            (image.last_time, image.last_number) = (last_time, last_number);
            image.earlier_starts.clone_from(&starts);
        }
        for image in images {
            deal_one(image, &mut dealt, |what| usize::from(home(what, cores)));
        }
        dealt
    }
}

fn deal_one(mut image: Image, dealt: &mut [Image], home: impl Fn(Home<'_>) -> usize) {
    image.forget_starts();
    for message in image.retained.into_list() {
        let home = home(Home::Retained(message.as_ref().topic));
        dealt[home].retained.insert(message);
    }
    for (name, group) in image.groups.0 {
        let target = &mut dealt[home(Home::Group(&name))];
        let known = target.groups.0.entry(name).or_default();
        for message in group.messages {
            // Those of two old cores may have the same numbers, and none is to be there twice.
            target.last_number += 1;
            known.push(GroupMessage { number: target.last_number, ..message });
        }
    }
    for mut session in image.sessions.into_list() {
        session.as_of = 0;
        let target = &mut dealt[home(Home::Session(session.client_id()))];
        // A ClientID is at home on one core; should two have it, the first one's session goes on.
        if target.sessions.get(session.client_id()).is_none() {
            target.sessions.insert(session);
        }
    }
}

/// Gives what is pending to those that have not taken it.
fn resolve(images: &mut [Image], home: &impl Fn(Home<'_>, u16) -> u16) {
    if images.iter().all(|image| image.pending.is_empty()) {
        return;
    }
    let cores = images.len() as u16;
    let index = Index::new(images);
    let mut matches = Matches::default();
    for from in 0..cores {
        for pending in std::mem::take(&mut images[usize::from(from)].pending) {
            let has_taken: Vec<bool> =
                images.iter().map(|image| image.handled(from) >= pending.number).collect();
            let lacks = |core: u16| core != from && !has_taken[usize::from(core)];
            let Pending { message, .. } = pending;
            let topic = message.as_ref().topic;
            let keeper = home(Home::Retained(topic), cores);
            if message.as_ref().retain && lacks(keeper) {
                retain(&mut images[usize::from(keeper)], &message);
            }
            matches.clear();
            index.groups.matches(topic, &mut matches);
            for group in &matches.subscribers {
                let name = &*index.names[group.key as usize];
                let owner = home(Home::Group(name), cores);
                if lacks(owner) {
                    let image = &mut images[usize::from(owner)];
                    image.last_number += 1;
                    image.groups.queue(name, image.last_number, message.clone());
                }
            }
            matches.clear();
            index.subscriptions.matches(topic, &mut matches);
            matches.subscribers.sort_unstable_by_key(|subscriber| (subscriber.key, subscriber.identifier));
            for same in matches.subscribers.chunk_by(|a, b| a.key == b.key) {
                let (core, client_id) = &index.sessions[same[0].key as usize];
                if lacks(*core)
                    && let Some(delivery) = delivery(&message, same)
                    && let Some(session) = images[usize::from(*core)].sessions.get_mut(client_id)
                {
                    session.enqueue(delivery);
                }
            }
        }
    }
}

fn retain(image: &mut Image, message: &Message) {
    match message.as_ref().payload.is_empty() {
        true => image.retained.remove(message.as_ref().topic.as_str()),
        false => drop(image.retained.insert(message.with(message.qos(), true))),
    }
}

/// The one delivery to a session that all of `subscriptions` are of, if it is one that is kept (section 3.3.4).
fn delivery(message: &Message, subscriptions: &[Subscriber]) -> Option<Delivery> {
    let granted = subscriptions.iter().map(|subscriber| subscriber.options.qos).max()?;
    let qos = granted.min(message.qos());
    let as_published = subscriptions.iter().any(|subscriber| subscriber.options.retain_as_published);
    let retain = as_published && message.as_ref().retain;
    let identifiers = subscriptions.iter().map(|subscriber| subscriber.identifier);
    let identifiers: Vec<u32> = identifiers.filter(|&identifier| identifier != 0).collect();
    let delivery = || Delivery::new(message.clone(), qos, retain, Identifiers::new(&identifiers));
    (qos != Qos::AtMostOnce).then(delivery)
}

/// Who gets which message, over all cores.
struct Index {
    subscriptions: Subscriptions,
    /// The sessions that `subscriptions` names, with their cores.
    sessions: Vec<(u16, Box<str>)>,
    groups: Subscriptions,
    /// The groups that `groups` names.
    names: Vec<Box<str>>,
}

impl Index {
    fn new(images: &[Image]) -> Index {
        let seed = images.first().map_or([0; 4], |image| image.seed);
        let mut index = Index {
            subscriptions: Subscriptions::new(seed),
            sessions: Vec::new(),
            groups: Subscriptions::new(seed),
            names: Vec::new(),
        };
        let mut names = std::collections::BTreeSet::new();
        for (core, image) in (0..).zip(images) {
            // One that ends with its connection keeps no message.
            for session in image.sessions().filter(|session| session.expiry_seconds() > 0) {
                index.add(core, session, &mut names);
            }
        }
        index
    }

    fn add(&mut self, core: u16, session: &Session, names: &mut std::collections::BTreeSet<Box<str>>) {
        let key = self.sessions.len() as u32;
        for (text, subscription) in session.subscriptions().iter() {
            let Ok(SharedFilter { share_name, filter }) = SharedFilter::new(text) else { continue };
            let (options, identifier) = (subscription.options, subscription.identifier);
            if share_name.is_none() {
                self.subscriptions.insert(filter, Subscriber { key, options, identifier });
            } else if names.insert(text.into()) {
                self.add_group(text, filter);
            }
        }
        self.sessions.push((core, session.client_id().into()));
    }

    fn add_group(&mut self, text: &str, filter: TopicFilter<'_>) {
        let key = self.names.len() as u32;
        let options = mqtt_proto::packet::SubscriptionOptions::default();
        self.groups.insert(filter, Subscriber { key, options, identifier: 0 });
        self.names.push(text.into());
    }
}
