//! When Wills may be published, and when they have to be: once their Client has been away for as long as they wait, at the
//! earliest half a minute behind the first start since then, unless it is back before; in the life of one broker once at most.

use mqtt_proto::types::Qos;

use super::client::{Away, Client, Wanted, WillPlan};
use super::judge::{Judge, matches};
use crate::engine::cluster::{Check, violation};

/// Milliseconds behind the first start since its Client was there within which no Will is published.
pub(super) const GRACE: u64 = 30_000;

/// What is known of a Will. Times are milliseconds of the broker's present life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its Client is connected.
    Armed,
    /// Its Client is gone: it is published between these times, unless that comes back. `again`: it may have been already,
    /// in a life that ended before all of that was on the disk.
    Waits { from: u64, by: u64, again: bool },
    /// It was published; to whom it is owed is told beside. `is_told`: that is on the disk.
    Published { is_told: bool },
    /// Its Client took its leave.
    Dropped,
    /// It may be published, or not.
    Open,
    /// It is not published any more.
    Over,
}

/// What is known of a Will that is over, whoever got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Was {
    NotYet,
    Published,
    NotPublished,
    Unknown,
}

#[derive(Debug)]
struct Will {
    client: usize,
    plan: WillPlan,
    /// Seconds that it waits, which the end of its session cuts short.
    waits: u64,
    fate: Fate,
    was: Was,
    /// Subscribers that are to get it.
    owed_to: Vec<usize>,
    /// They were found in this life of the broker.
    is_counted: bool,
    /// How often it may have been published.
    most: u64,
    /// By Client: how often it came as for the first time.
    came: Vec<u64>,
    /// When it was published at the earliest, by wall time.
    published_at: u64,
}

#[derive(Default)]
pub(super) struct Wills(Vec<Will>);

impl Wills {
    /// A Client sends a CONNECT with this Will; what it had before may be published or not.
    pub(super) fn brought(&mut self, client: usize, plan: WillPlan, session_expiry: u32, clients: usize) {
        let waits = u64::from(plan.delay.min(session_expiry));
        let (fate, came) = (Fate::Open, vec![0; clients]);
        let (is_counted, owed_to) = (false, Vec::new());
        let (was, most, published_at) = (Was::NotYet, 1, 0);
        self.0.push(Will { client, plan, waits, fate, was, owed_to, is_counted, most, came, published_at });
    }

    /// A CONNECT of the Client may have arrived that takes its Will away, or publishes it by ending its session.
    pub(super) fn may_be_back(&mut self, client: usize) {
        for will in self.0.iter_mut().filter(|will| will.client == client) {
            if let Fate::Waits { .. } = will.fate {
                will.fate = Fate::Open;
            }
        }
    }

    /// An old CONNECT has arrived, and may have replaced the Will there is.
    pub(super) fn doubt(&mut self, client: usize) {
        for will in self.0.iter_mut().filter(|will| will.client == client) {
            if let Fate::Waits { .. } | Fate::Armed = will.fate {
                will.fate = Fate::Open;
            }
        }
    }

    /// Its CONNECT was accepted: the Will it has brought, if any, waits for its end. An earlier one that was still waiting
    /// is not published any more, unless its session had ended.
    pub(super) fn accepted(&mut self, client: usize, brought: Option<usize>, ended: bool, now: u64) {
        for will in self.0.iter_mut().filter(|will| will.client == client) {
            will.fate = match will.fate {
                Fate::Open if brought == Some(will.plan.message) => Fate::Armed,
                Fate::Waits { from, again: false, .. } if !ended && now < from => Fate::Over,
                Fate::Waits { .. } => Fate::Open,
                fate => fate,
            };
        }
    }

    /// The connection of a Client that was accepted has ended, with DISCONNECT or without.
    pub(super) fn ended(&mut self, client: usize, takes_leave: bool, now: u64) {
        for will in self.0.iter_mut().filter(|will| will.client == client && will.fate == Fate::Armed) {
            let at = now + will.waits * 1000;
            will.fate = match takes_leave {
                true => Fate::Dropped,
                false => Fate::Waits { from: at, by: at, again: false },
            };
        }
    }

    /// The broker has done what was due.
    pub(super) fn pass(&mut self, (now, wall): (u64, u64), clients: &[Client], judge: &Judge) {
        for will in &mut self.0 {
            let Fate::Waits { from, by, again } = will.fate else { continue };
            if from > now {
                continue;
            }
            let topic = &judge.messages[will.plan.message].topic;
            let is_owed = |nth: usize| {
                let wants = |(filter, wanted): (&&str, &Wanted)| {
                    wanted.owed_from.is_some()
                        && matches(filter, topic)
                        && (nth != will.client || wanted.leads_home(will.plan.message))
                };
                // Its own session may end with it.
                let lasts = nth != will.client || clients[nth].party.expiry == u32::MAX;
                !clients[nth].is_guest() && lasts && clients[nth].wanted.iter().any(wants)
            };
            if again || will.is_counted {
                // If it was published before, then to those who had subscribed at that time.
                will.owed_to.retain(|&nth| is_owed(nth));
            } else {
                will.owed_to = (0..clients.len()).filter(|&nth| is_owed(nth)).collect();
            }
            if !again && !will.is_counted {
                // From the earliest time on it may expire.
                will.published_at = wall;
            }
            will.is_counted = true;
            if by > now {
                continue;
            }
            let is_coming = clients[will.client].peer.link.as_ref().is_some_and(|link| !link.is_closed);
            // One that is just coming back may be in time.
            will.fate = if is_coming { Fate::Open } else { Fate::Published { is_told: false } };
        }
    }

    /// A Client has lost or changed its subscriptions: what it is owed is not certain any more.
    pub(super) fn forget(&mut self, client: usize) {
        self.0.iter_mut().for_each(|will| will.owed_to.retain(|&nth| nth != client));
    }

    /// All that was appended is on the disk.
    pub(super) fn on_disk(&mut self) {
        for will in &mut self.0 {
            match &mut will.fate {
                Fate::Dropped => will.fate = Fate::Over,
                Fate::Published { is_told } => *is_told = true,
                _ => {}
            }
        }
    }

    /// Power has failed at `before`, and the broker has started again at `now`. `wall`: what time it may be for it.
    pub(super) fn crashed(&mut self, before: u64, now: u64, wall: (u64, u64), clients: &[Client]) {
        for will in &mut self.0 {
            // Who had that time behind an earlier start has what is left of it.
            let least = if will.most > 1 { 0 } else { GRACE };
            let waits = will.waits * 1000;
            // At QoS 1 it may come once more.
            will.most += u64::from(will.fate != Fate::Over);
            will.is_counted &= matches!(will.fate, Fate::Published { is_told: true });
            // It waits from the end of the connection on, or from this start if nobody knows of that.
            let (from, by) = match clients[will.client].away.filter(|_| will.fate != Fate::Armed) {
                Some(Away { soonest, latest, is_on_disk, .. }) => {
                    let latest = if is_on_disk { latest } else { wall.1 };
                    let left = |since: u64, wall: u64| (since + waits).saturating_sub(wall).min(waits);
                    (left(soonest, wall.1), left(latest, wall.0))
                }
                None => (waits, waits),
            };
            let (from, by) = (now + from.max(least), now + by.max(GRACE));
            will.fate = match will.fate {
                Fate::Armed => Fate::Waits { from, by, again: false },
                Fate::Waits { from: was, again, .. } => {
                    Fate::Waits { from, by, again: again || was <= before }
                }
                Fate::Published { is_told: false } => Fate::Waits { from, by, again: true },
                Fate::Dropped | Fate::Open => Fate::Open,
                fate => fate,
            };
        }
    }

    /// All has come to rest, and every Client is there.
    pub(super) fn check(&mut self, clients: &[Client], judge: &Judge, latest: u64) -> Check {
        for will in &mut self.0 {
            if let Fate::Published { .. } = will.fate {
                let expiry = will.plan.expiry.map(|seconds| will.published_at + u64::from(seconds) * 1000);
                let may_be_expired = expiry.is_some_and(|at| latest >= at);
                let missing = will.owed_to.iter().find(|&&nth| !judge.has_taken(nth, will.plan.message));
                if let Some(&nth) = missing.filter(|_| !may_be_expired) {
                    return violation("will", format!("{} never got {will:?}", clients[nth].name));
                }
            }
            if will.was == Was::NotYet {
                will.was = match will.fate {
                    Fate::Armed => Was::NotYet,
                    Fate::Published { .. } => Was::Published,
                    Fate::Dropped | Fate::Over => Was::NotPublished,
                    Fate::Waits { .. } | Fate::Open => Was::Unknown,
                };
            }
            if will.fate != Fate::Armed {
                will.fate = Fate::Over;
            }
        }
        Ok(())
    }

    /// What is retained of a Client's Wills is the last that was published to be. All has come to rest.
    pub(super) fn check_retained(&self, client: usize, found: Option<usize>, latest: u64) -> Check {
        let mut may_be = vec![None];
        for will in self.0.iter().filter(|will| will.client == client && will.plan.retain) {
            let this = Some(will.plan.message);
            match will.was {
                Was::Published => may_be = vec![this],
                Was::Unknown => may_be.push(this),
                Was::NotYet | Was::NotPublished => continue,
            }
            let may_be_over = |seconds: u32| {
                will.was == Was::Unknown || latest >= will.published_at + u64::from(seconds) * 1000
            };
            if will.plan.expiry.is_some_and(may_be_over) {
                may_be.push(None);
            }
        }
        match may_be.contains(&found) {
            true => Ok(()),
            false => violation("will", format!("{found:?} of client {client} is retained, not {may_be:?}")),
        }
    }

    /// A Client takes a Will. `is_first`: as one that comes for the first time. `is_exact`: it comes at QoS 2 whenever it does,
    /// to a session that outlives crashes.
    pub(super) fn take(
        &mut self,
        nth: usize,
        message: usize,
        (qos, retain): (Qos, bool),
        (is_first, is_exact): (bool, bool),
        now: u64,
    ) -> Check {
        let Some(will) = self.0.iter_mut().find(|will| will.plan.message == message) else { return Ok(()) };
        let may_be_out = match will.fate {
            Fate::Armed => false,
            Fate::Waits { from, again, .. } => again || now >= from,
            Fate::Dropped | Fate::Over => matches!(will.was, Was::Published | Was::Unknown),
            Fate::Published { .. } | Fate::Open => true,
        };
        if retain && will.plan.retain && may_be_out {
            // A subscription may bring it long after it was published, again and again.
            return Ok(());
        }
        will.came[nth] += u64::from(is_first);
        let most = if is_exact { 1 } else { will.most };
        let what = match will.fate {
            _ if retain && !will.plan.retain => "as retained",
            Fate::Armed => "whose Client is connected",
            Fate::Waits { from, again: false, .. } if now < from => "before its time",
            Fate::Dropped => "whose Client took its leave",
            Fate::Over => "which was over",
            _ if will.came[nth] > most => "once too often",
            _ => return Ok(()),
        };
        violation("will", format!("client {nth} gets one {what}, at QoS {}: {will:?}", qos.bits()))
    }
}
