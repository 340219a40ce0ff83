//! What time takes away, and what is settled between cores, before a broker goes on with its images.
//!
//! Both tell what they do as records: a log that goes on behind those it was read from needs them, or its later records
//! would be about another state.

use super::{Bound, Image, Session};
use crate::store::record::Record;

impl Image {
    /// How late it is for all cores at a start at `now`: no earlier than any of them knows. If each went by what it knows
    /// itself, then after a clock went back one core's sessions would have been away for longer once they are dealt to another.
    pub fn start_at(images: &[Image], now: u64) -> u64 {
        images.iter().map(Image::last_time).fold(now, u64::max)
    }

    /// The broker starts at `now`, or at the latest time that the records tell if the clock went back: sessions whose
    /// time is over end, and messages that are due are dropped, but for those under way.
    ///
    /// The connections that the log knew are gone, and count as gone from now on: the log does not tell when they
    /// ended, and a session is rather kept too long than not long enough [MQTT-3.1.2-23]. A session that has a Will stays:
    /// its end publishes that.
    pub fn expire(&mut self, now: u64, mut tell: impl FnMut(&Record<'_>)) {
        let now = now.max(self.last_time);
        self.last_time = now;
        self.starts.push(now);
        tell(&Record::Started { at: now });
        self.forget_starts();
        self.sessions.retain(|session| {
            let over = session.will.is_none() && is_over(session, now);
            match over {
                true => tell(&Record::Ended { client_id: session.client_id() }),
                false => {
                    session.drop_expired(now, |client_id, place| tell(&Record::Dropped { client_id, place }))
                }
            }
            !over
        });
        self.retained.retain(|message| {
            let expired = message.is_expired(now);
            if expired {
                tell(&Record::RetainedRemoved { topic: message.as_ref().topic.as_str() });
            }
            !expired
        });
        self.groups.drop_expired(now, |group, number| tell(&Record::GroupTaken { group, number }));
        self.pending.retain(|pending| {
            // One that is to be retained has yet to take the place of an older one, and is gone from there at once.
            let expired = pending.message.is_expired(now) && !pending.message.as_ref().retain;
            if expired {
                tell(&Record::HandedOn { number: pending.number });
            }
            !expired
        });
    }

    /// Decides for each message that a shared group had handed to another core whose it is: the member's if that
    /// core has it, else it waits in its group again. `images` are those of all cores, in their order; `tell` gets the
    /// core whose record it is.
    pub fn settle(images: &mut [Image], mut tell: impl FnMut(u16, &Record<'_>)) {
        for owner in 0..images.len() {
            let mut bound: Vec<(Box<str>, u64, Bound)> = Vec::new();
            for (name, group) in images[owner].groups() {
                let messages = group.messages().filter_map(|message| Some((message.number, message.bound?)));
                bound.extend(messages.map(|(number, bound)| (name.into(), number, bound)));
            }
            for (group, number, Bound { core, handed_as }) in bound {
                let member = images.get(usize::from(core));
                let group = &*group;
                if member.is_some_and(|member| member.handled(owner as u16) >= handed_as) {
                    tell(owner as u16, &Record::GroupTaken { group, number });
                    images[owner].groups.take(group, number);
                } else {
                    tell(owner as u16, &Record::GroupReturned { group, number });
                    images[owner].groups.bind(group, number, None);
                }
            }
        }
    }
}

fn is_over(session: &Session, now: u64) -> bool {
    let expiry_millis = u64::from(session.expiry_seconds()) * 1000;
    let since = session.away_since().unwrap_or(now);
    session.expiry_seconds() != u32::MAX && since.saturating_add(expiry_millis) <= now
}
