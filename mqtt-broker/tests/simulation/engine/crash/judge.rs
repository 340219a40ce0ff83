//! What the broker owes: every message that it acknowledged to everybody who had subscribed before, in order, at QoS 2 once,
//! as the subscription asks for it; and nothing to those who have not subscribed.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_proto::types::{Qos, TopicFilter, TopicName};

use super::client::{Client, Options, Wanted};
use crate::engine::cluster::{Check, Message, violation};

/// A message that a Client has published.
#[derive(Clone, Debug)]
pub(super) struct Published {
    pub(super) by: usize,
    pub(super) topic: String,
    pub(super) qos: Qos,
    pub(super) kind: Kind,
    /// Message Expiry Interval in seconds.
    pub(super) expiry: Option<u32>,
    /// Wall time before which nobody can have got it.
    pub(super) sent_at: u64,
    /// The latest that the broker may have thought it was at the acknowledgement, by wall time.
    pub(super) acknowledged_at: Option<u64>,
    /// A 5.0 Client has sent it again on another connection: the first may have been refused without its knowing.
    pub(super) is_resent: bool,
    /// It was refused, and is not sent again.
    pub(super) is_refused: bool,
}

impl Published {
    /// A message that is published at `sent_at`. Nothing has come of it yet.
    pub(super) fn new(
        by: usize,
        topic: String,
        qos: Qos,
        kind: Kind,
        expiry: Option<u32>,
        sent_at: u64,
    ) -> Published {
        Published {
            by,
            topic,
            qos,
            kind,
            expiry,
            sent_at,
            acknowledged_at: None,
            is_resent: false,
            is_refused: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// Retained; if not, the retained message of its topic is removed.
    Retained(bool),
    Will,
}

/// A message as it comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    pub(super) message: usize,
    pub(super) qos: Qos,
    pub(super) retain: bool,
    pub(super) identifiers: &'a [u32],
}

#[derive(Default)]
pub(super) struct Judge {
    pub(super) messages: Vec<Published>,
    /// By Client and message: how often it was taken, but for what is sent for being retained.
    taken: BTreeMap<(usize, usize), u64>,
    /// By Client and message: what was taken at QoS 1, and may come once more whatever its QoS is then.
    taken_at_1: BTreeSet<(usize, usize)>,
    /// By Client and topic: the message that was taken last for the first time.
    last: BTreeMap<(usize, String), usize>,
    /// By Client and topic: what came for being retained, and how often the Client had changed what it wants.
    shown: BTreeMap<(usize, String), (usize, u32)>,
    /// Those of them that an earlier message came behind: they come once more.
    outrun: BTreeMap<(usize, String), (usize, u32)>,
    /// Messages before this one were all settled in a quiet moment: they may not come again.
    settled: usize,
    /// A store has ever refused something.
    pub(super) has_refused: bool,
}

impl Judge {
    /// All that moved has come to rest, and all that was taken is acknowledged and on the disk.
    pub(super) fn settle(&mut self) {
        self.settled = self.messages.len();
        self.shown.clear();
        self.outrun.clear();
    }

    pub(super) fn has_taken(&self, client: usize, message: usize) -> bool {
        self.taken.contains_key(&(client, message))
    }

    /// The Client with this number takes a message that is no Will. `latest`: how late the broker may think it
    /// is. `has_refused`: what was sent again may have been refused when it came in its order, and nobody have heard of it.
    pub(super) fn take(
        &mut self,
        nth: usize,
        client: &Client,
        taken: &Taken<'_>,
        (latest, has_refused): (u64, bool),
    ) -> Check {
        self.check_invited(nth, client, taken)?;
        self.check_options(nth, client, taken)?;
        let &Taken { message, qos, retain, .. } = taken;
        let published = &self.messages[message];
        if published.is_refused {
            return violation("refused", format!("{} gets {message}, {published:?}", client.name));
        }
        let of_topic = (nth, published.topic.clone());
        self.outrun.retain(|of, (shown, _)| *of != of_topic || *shown > message);
        let is_known = self.has_taken(nth, message);
        let before = self.taken.entry((nth, message)).or_default();
        *before += u64::from(!retain);
        if qos == Qos::AtLeastOnce {
            self.taken_at_1.insert((nth, message));
        }
        if message < self.settled && published.kind == Kind::Plain {
            return violation("again", format!("{} gets {message} again, which was over", client.name));
        }
        if is_known {
            let exact = *before > 1 && !self.taken_at_1.contains(&(nth, message)) && !client.is_guest();
            return match exact {
                true => violation("once", format!("{} gets {message} {before} times at QoS 2", client.name)),
                false => Ok(()),
            };
        }
        let is_shown = retain && !client.is_as_published(&published.topic);
        if is_shown {
            self.shown.insert(of_topic.clone(), (message, client.changes));
        } else if let Some(shown) = self.shown.get(&of_topic)
            && (message < shown.0 && client.changes == shown.1)
        {
            // The retained one was read while this was on its way from another core; it is on that way too then, so that
            // what comes last is what was published last.
            self.outrun.insert(of_topic.clone(), *shown);
        }
        let last = self.last.entry(of_topic).or_insert(if is_shown { 0 } else { message });
        // One that came before the subscription may be sent once more behind those that came later.
        let is_owed = |(filter, wanted): (&&str, &Wanted)| {
            wanted.owed_from.is_some_and(|from| from <= message)
                && matches(filter, &published.topic)
                && (published.by != nth || wanted.leads_home(message))
        };
        if message < *last
            && !(has_refused && published.is_resent)
            && !published.may_be_expired(latest)
            && client.wanted.iter().any(is_owed)
        {
            return violation("order", format!("{} gets {message} behind {last}", client.name));
        }
        if !is_shown {
            *last = message.max(*last);
        }
        Ok(())
    }

    /// A Client takes a Will, which is judged elsewhere; whether it may come once only.
    pub(super) fn take_will(&mut self, nth: usize, client: &Client, taken: &Taken<'_>) -> Check<bool> {
        self.check_invited(nth, client, taken)?;
        let of = (nth, taken.message);
        *self.taken.entry(of).or_default() += 1;
        if taken.qos == Qos::AtLeastOnce {
            self.taken_at_1.insert(of);
        }
        Ok(!self.taken_at_1.contains(&of) && !client.is_guest())
    }

    /// The publisher hears that the broker does not take a message.
    pub(super) fn refused(&mut self, message: usize) -> Check {
        let published = &mut self.messages[message];
        published.is_refused = !published.is_resent;
        match self.taken.keys().find(|(_, taken)| published.is_refused && *taken == message) {
            Some((nth, _)) => violation("refused", format!("client {nth} got {message}, {published:?}")),
            None => Ok(()),
        }
    }

    /// It has, or had, a subscription that leads to the message.
    fn check_invited(&self, nth: usize, client: &Client, taken: &Taken<'_>) -> Check {
        let message = taken.message;
        let published = &self.messages[message];
        let wants = |(filter, wanted): (&&str, &Wanted)| {
            let left_out = published.by == nth
                && !taken.retain
                && wanted.granted.is_some_and(|(options, from)| options.of.no_local && from <= message);
            !left_out && matches(filter, &published.topic)
        };
        // When a Will is published is not known by its number.
        let wanted_it = |(filter, before): (&&str, &usize)| {
            (message < *before || published.kind == Kind::Will) && matches(filter, &published.topic)
        };
        match client.wanted.iter().any(wants) || client.past.iter().any(wanted_it) {
            true => Ok(()),
            false => violation("uninvited", format!("{} gets {message}, {published:?}", client.name)),
        }
    }

    /// QoS and Subscription Identifiers are those of the subscriptions, where it is certain which there were.
    fn check_options(&self, nth: usize, client: &Client, taken: &Taken<'_>) -> Check {
        let published = &self.messages[taken.message];
        let to_it = |filter: &&&str| matches(filter, &published.topic);
        let had_more = client.past.keys().filter(to_it).any(|filter| client.past[filter] > taken.message);
        let mut granted = Vec::new();
        // Whatever was retained has come.
        let mut is_live = taken.message >= self.settled;
        for filter in client.wanted.keys().filter(to_it) {
            match client.wanted[filter].granted.filter(|(_, from)| *from <= taken.message) {
                Some((options, from)) => {
                    granted.push(options);
                    is_live &= from < self.settled;
                }
                None => return Ok(()),
            }
        }
        granted.retain(|options| !(options.of.no_local && published.by == nth));
        let Some(most) = granted.iter().map(|options| options.of.qos).max().filter(|_| !had_more) else {
            return Ok(());
        };
        let mut asked: Vec<u32> =
            granted.iter().map(|options| options.identifier).filter(|&id| id != 0).collect();
        let mut came = taken.identifiers.to_vec();
        asked.sort_unstable();
        came.sort_unstable();
        let of_all = taken.qos == most.min(published.qos) && asked == came;
        // For being retained it comes for one subscription alone.
        let of_one = |options: &Options| {
            let identifier: &[u32] = if options.identifier == 0 { &[] } else { &[options.identifier] };
            taken.qos == options.of.qos.min(published.qos) && came == identifier
        };
        let as_published = granted.iter().any(|options| options.of.retain_as_published);
        let is_right = match (taken.retain, published.kind) {
            (true, Kind::Retained(_)) => {
                (of_all && (as_published || !is_live)) || (granted.iter().any(of_one) && !is_live)
            }
            (true, _) => false,
            (false, Kind::Retained(_)) => of_all && !as_published,
            (false, _) => of_all,
        };
        match is_right {
            true => Ok(()),
            false => {
                let text = format!("{} gets {taken:?} by {granted:?}, {published:?}", client.name);
                violation("options", text)
            }
        }
    }

    /// What is owed has come. `latest`: how late the broker may think it is.
    pub(super) fn check(&self, clients: &[Client], latest: u64) -> Check {
        for (nth, client) in clients.iter().enumerate().filter(|(_, client)| !client.is_guest()) {
            for (filter, wanted) in &client.wanted {
                let Some(from) = wanted.owed_from else { continue };
                for (at, message) in self.messages.iter().enumerate().skip(from) {
                    let is_own = message.by == nth;
                    let owed = message.acknowledged_at.is_some()
                        && matches!(message.kind, Kind::Plain | Kind::Retained(true))
                        && matches(filter, &message.topic)
                        && (!is_own || wanted.leads_home(at))
                        && !message.may_be_expired(latest);
                    if owed && !self.has_taken(nth, at) {
                        return violation("lost", format!("{} never got {at}, {message:?}", client.name));
                    }
                }
            }
        }
        for ((nth, topic), (shown, changes)) in &self.outrun {
            let (client, message) = (&clients[*nth], &self.messages[*shown]);
            if client.changes == *changes
                && message.acknowledged_at.is_some()
                && !message.may_be_expired(latest)
            {
                let text = format!(
                    "{} had {shown}, which {topic} retained, and is left with an earlier one",
                    client.name
                );
                return violation("order", text);
            }
        }
        Ok(())
    }

    /// The retained message of a topic is the last that was acknowledged, or one of those sent behind it. `now` and
    /// `latest`: how late it is at least, and at most, for the broker.
    pub(super) fn check_retained(
        &self,
        topic: &str,
        found: Option<usize>,
        (now, latest): (u64, u64),
    ) -> Check {
        let is_of_it = |message: &Published| message.topic == topic && !message.is_refused;
        let of_topic = self.messages.iter().enumerate().filter(|(_, message)| is_of_it(message));
        let sent: Vec<(usize, &Published)> = of_topic.collect();
        let last = sent.iter().rposition(|(_, message)| message.acknowledged_at.is_some());
        let may_be = &sent[last.unwrap_or(0)..];
        // As in `take`: what was sent again may have been taken behind those that were sent later.
        let late = sent.iter().filter(|(_, message)| self.has_refused && message.is_resent);
        let may_be: Vec<&(usize, &Published)> = may_be.iter().chain(late).collect();
        let can_be_none = last.is_none()
            || may_be
                .iter()
                .any(|(_, message)| message.kind == Kind::Retained(false) || message.may_be_expired(latest));
        let is_right = match found {
            None => can_be_none,
            Some(found) => may_be.iter().any(|(at, message)| *at == found && !message.is_expired(now)),
        };
        match is_right {
            true => Ok(()),
            false => {
                violation("retained", format!("{topic} has {found:?}, which may be {may_be:?}, at {now}"))
            }
        }
    }
}

impl Wanted {
    /// Whether it certainly matches a message of the Client's own.
    pub(super) fn leads_home(&self, message: usize) -> bool {
        self.granted.is_some_and(|(options, from)| !options.of.no_local && from <= message)
    }
}

impl Published {
    pub(super) fn to_send(&self) -> Message<'_> {
        Message {
            topic: &self.topic,
            qos: self.qos,
            retain: matches!(self.kind, Kind::Retained(_)),
            removes: self.kind == Kind::Retained(false),
            expiry: self.expiry,
        }
    }

    pub(super) fn may_be_expired(&self, latest: u64) -> bool {
        self.expiry.is_some_and(|seconds| latest >= self.sent_at + u64::from(seconds) * 1000)
    }

    /// The least and the most seconds that can be left of a message that was sent between these times.
    pub(super) fn may_be_left(&self, soonest: u64, latest: u64) -> Option<(u32, u32)> {
        let seconds = self.expiry?;
        let left = |since: u64, at: u64| {
            let left = (since + u64::from(seconds) * 1000).saturating_sub(at).div_ceil(1000);
            u32::try_from(left).map_or(seconds, |left| left.min(seconds))
        };
        // A Will has its time before it from when it is published on.
        let waits_at_most =
            if self.kind == Kind::Will { latest } else { self.acknowledged_at.unwrap_or(latest) };
        Some((left(self.sent_at, latest), left(waits_at_most, soonest.max(self.sent_at))))
    }

    fn is_expired(&self, now: u64) -> bool {
        let over = |at| self.expiry.is_some_and(|seconds| now > at + u64::from(seconds) * 1000);
        self.acknowledged_at.is_some_and(over)
    }
}

pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let filter = TopicFilter::new(filter).expect("a filter");
    filter.matches(TopicName::new(topic).expect("a topic"))
}
