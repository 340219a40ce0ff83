//! What time takes away, and what is settled between cores, before a broker goes on with its images.
//!
//! Both tell what they do as records: a log that goes on behind those it was read from needs them, or its later records
//! would be about another state.

use super::{GroupMessage, Image, Session};
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
        let is_due = |message: &GroupMessage| message.message.is_expired(now);
        self.groups.take_all(is_due, |group, number| tell(&Record::GroupTaken { group, number }));
        self.pending.retain(|pending| {
            // One that is to be retained has yet to take the place of an older one, and is gone from there at once.
            let expired = pending.message.is_expired(now) && !pending.message.as_ref().retain;
            if expired {
                tell(&Record::HandedOn { number: pending.number });
            }
            !expired
        });
    }

    /// Takes out of the shared groups what a session of another core has begun, which is that session's alone. `images` are
    /// those of all cores, in their order; `tell` gets the core whose record it is.
    ///
    /// What was begun stays known until the group's core has this on its disk. All else that was is over: no number is given
    /// to a second message.
    pub fn settle(images: &mut [Image], mut tell: impl FnMut(u16, &Record<'_>)) {
        let mut taken: Vec<Vec<u64>> = vec![Vec::new(); images.len()];
        for (owner, taken) in (0..).zip(&mut taken) {
            let begun = images.iter().flat_map(|image| image.begun(owner));
            let mut begun: Vec<u64> = begun.copied().collect();
            if begun.is_empty() {
                continue;
            }
            begun.sort_unstable();
            let is_begun = |message: &GroupMessage| begun.binary_search(&message.number).is_ok();
            images[usize::from(owner)].groups.take_all(is_begun, |group, number| {
                tell(owner, &Record::GroupTaken { group, number });
                taken.push(number);
            });
            taken.sort_unstable();
        }
        for image in images {
            image.begun.retain(|&owner, numbers| {
                let taken = taken.get(usize::from(owner)).map_or(&[][..], |taken| taken);
                numbers.retain(|number| taken.binary_search(number).is_ok());
                !numbers.is_empty()
            });
        }
    }
}

fn is_over(session: &Session, now: u64) -> bool {
    let expiry_millis = u64::from(session.expiry_seconds()) * 1000;
    let since = session.away_since().unwrap_or(now);
    session.expiry_seconds() != u32::MAX && since.saturating_add(expiry_millis) <= now
}
