//! What other cores say, taken in the order in which they said it.

use super::Shard;
use super::connection::Why;
use super::deliver::{How, Outgoing};
use super::envelope::{Envelope, EnvelopeBatch};
use super::gather::WaitingGather;
use super::input::Step;
use super::lanes::Noted;
use super::stats::Stats;
use crate::config::CoreId;
use crate::message::Message;

/// The slice whose messages are being read.
struct Slice<'a> {
    token: u64,
    left: u32,
    position: &'a str,
    done: bool,
}

impl Shard {
    pub(super) fn take_batch(&mut self, from: CoreId, batch: EnvelopeBatch) {
        let freed = self.lanes.handle_head(from, &batch);
        while let Some(waiter) = self.lanes.poll_waiter(from) {
            self.pending_done(waiter.connection, waiter.serial);
        }
        while let Some(noted) = self.lanes.poll_taken(from) {
            match noted {
                Noted::HandedOn(number) => self.taken_elsewhere(from, number),
                Noted::Begun(number) => self.begun.forget(from, number),
            }
        }
        let mut slice: Option<Slice<'_>> = None;
        for (envelope, owned) in batch.envelopes() {
            let commit = self.take_envelope(from, envelope, owned, &mut slice);
            self.lanes.handled_one(from, commit);
        }
        debug_assert!(slice.is_none(), "a slice travels in one batch");
        self.lanes.handled(from, batch);
        self.drain_due();
        self.answer_waiting_gathers();
        if freed {
            self.go_on_in_lanes();
        }
    }

    /// Those whose next packet waits for room between cores go on.
    pub(super) fn go_on_in_lanes(&mut self) {
        for key in core::mem::take(&mut self.lane_blocked) {
            if self.waits_for(key, Why::Lane) {
                self.go_on(key, Step::Next);
            }
        }
    }

    /// Handles one envelope; the store's position that it is committed at, if it is not yet.
    fn take_envelope<'a>(
        &mut self,
        from: CoreId,
        envelope: Envelope<'a>,
        owned: Option<&'a Message>,
        slice: &mut Option<Slice<'a>>,
    ) -> Option<u64> {
        match envelope {
            Envelope::Publish { message, deliver, retain, publisher } => {
                let mut outgoing = Outgoing { publisher, ..Outgoing::with_owned(message, owned) };
                if deliver {
                    let route = self.find_route(outgoing.message.topic);
                    self.route_here(&mut outgoing, route, None, from);
                }
                if retain {
                    self.retain(&mut outgoing);
                }
                return outgoing.commit.filter(|&position| position > self.gates.committed());
            }
            Envelope::HandOn { number, message, deliver, retain, publisher } => {
                let mut outgoing = Outgoing { publisher, ..Outgoing::with_owned(message, owned) };
                self.take_handed_on(from, number, &mut outgoing, deliver, retain);
                return outgoing.commit.filter(|&position| position > self.gates.committed());
            }
            Envelope::Restored => {
                self.core_restored(from);
                return self.ahead(self.records.all());
            }
            Envelope::Run { batch, version, publisher } => {
                let commit = self.run_arrived(from, batch, version, publisher);
                return commit.filter(|&position| position > self.gates.committed());
            }
            Envelope::Interest { filter, add: true } => self.interest.add(from.0, filter),
            Envelope::Interest { filter, add: false } => self.interest.remove(from.0, filter),
            Envelope::Kept { filter } => self.interest.keep(from.0, filter),
            Envelope::Barrier { token } => self.barrier_asked(from, token),
            Envelope::BarrierDone { token, sent } => self.barrier_done(from, token, sent),
            Envelope::Gather { token, filter, after, until } => {
                let (filter, after, until) = (filter.as_str().into(), after.into(), until.iter().collect());
                self.gather_asked(WaitingGather { from: from.0, token, filter, after, until });
            }
            Envelope::Slice { token, count, position, done } => match count {
                0 => self.slice_arrived(token, position, done),
                left => *slice = Some(Slice { token, left, position, done }),
            },
            Envelope::Retained { message } => {
                if let Some(Slice { token, left, position, done }) = slice {
                    let (token, position, done) = (*token, *position, *done);
                    self.retained_arrived(token, Outgoing::with_owned(message, owned));
                    *left -= 1;
                    if *left == 0 {
                        *slice = None;
                        self.slice_arrived(token, position, done);
                    }
                }
            }
            Envelope::GroupJoin { .. } => self.take_member(&envelope),
            Envelope::GroupJoined { token, group } => self.joined(token, group),
            Envelope::GroupLeave { .. } | Envelope::GroupOnline { .. } | Envelope::GroupCredit { .. } => {
                self.group_told(&envelope);
            }
            Envelope::GroupDone { message, member } => {
                let commit = self.group_done(message, member);
                return self.ahead(commit);
            }
            Envelope::GroupDeliver { of, member, qos, retain, identifier, message } => {
                let mut outgoing = Outgoing::with_owned(message, owned);
                let identifiers: &[u32] = if identifier == 0 { &[] } else { &[identifier] };
                let how = How { qos, retain, identifiers, group: Some(of), paced: false };
                self.group_delivers(of, member, &mut outgoing, how);
                return outgoing.commit.filter(|&position| position > self.gates.committed());
            }
            Envelope::GroupReturn { of, message } => {
                self.taken_back(of, Outgoing::with_owned(message, owned));
            }
            Envelope::Load { load } => self.budget.set_peer(from, load),
            Envelope::Stats { counters } => {
                self.peer_stats[from.index()] = Stats::from_numbers(counters.iter());
            }
        }
        None
    }
}
