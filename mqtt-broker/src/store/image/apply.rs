//! Records into an image: what each of them changes.

use mqtt_proto::types::PacketId;

use super::session::Presence;
use super::{Delivery, Image, MissingMessage, Pending, Session, Subscription, Will};
use crate::message::Message;
use crate::store::record::Record;

/// Stands for the number of a snapshot's record: everything in it is to be taken.
const SNAPSHOT: u64 = u64::MAX;

impl Image {
    /// Takes the record `seq` of the log, behind all those before it. The first has number 1 or a higher one.
    ///
    /// # Errors
    /// [`MissingMessage`] if it keeps a message and none was told.
    pub fn apply(&mut self, seq: u64, record: &Record<'_>) -> Result<(), MissingMessage> {
        if !self.shared.is_empty() {
            self.shared = Vec::new();
        }
        if self.is_behind_gap {
            // It may be the end of the snapshot that is gone.
            self.doubt_told();
            // Whoever has all before this record in it already has lost nothing.
            self.sessions.iter_mut().filter(|session| session.as_of + 1 < seq).for_each(Session::doubt);
        }
        self.told.clear();
        self.take(seq, record)
    }

    /// Takes a record of a snapshot that holds as of `as_of`, before the log.
    ///
    /// # Errors
    /// [`MissingMessage`] if it keeps a message and none was told.
    pub fn apply_snapshot(&mut self, as_of: u64, record: &Record<'_>) -> Result<(), MissingMessage> {
        if self.is_behind_gap {
            self.doubt_told();
        }
        match *record {
            Record::Started { at } => {
                // What it meant for sessions is told with each of them.
                self.earlier_starts.push(at);
                Ok(())
            }
            Record::Message { message, publisher, shared: true } => {
                let message = message.to_message();
                if !self.has_gap {
                    self.shared.push(message.clone());
                }
                self.last = Some((message, publisher));
                Ok(())
            }
            Record::Again { number } => {
                self.last = self.shared.get(number as usize).map(|message| (message.clone(), 0));
                self.message(as_of).map(|_| ())
            }
            Record::Opened { client_id, .. } => {
                // One that ended and came again while the snapshot was written is in it twice: the last time counts.
                self.sessions.remove(client_id);
                self.take(SNAPSHOT, record)?;
                if let Some(session) = self.sessions.get_mut(client_id) {
                    (session.as_of, session.is_unsure) = (as_of, false);
                }
                self.is_headless = false;
                self.told.clear();
                self.told.push_str(client_id);
                Ok(())
            }
            _ => self.take(SNAPSHOT, record),
        }
        .map_err(|_| MissingMessage { seq: as_of })
    }

    /// Something is missing between the record that was taken last and the next one: what "the message" is, is not known until
    /// it is told, and in a snapshot which number the next shared one has. Of the sessions that it may have been about nothing
    /// that waits is taken away any more that is told by its place.
    pub fn skip(&mut self) {
        self.last = None;
        (self.has_gap, self.is_behind_gap) = (true, true);
    }

    /// The session that a snapshot was telling may not be whole; and what comes next of any may be the rest of what another
    /// slice tells.
    fn doubt_told(&mut self) {
        if let Some(session) = self.sessions.get_mut(&self.told) {
            session.is_unsure = true;
        }
        (self.is_behind_gap, self.is_headless) = (false, true);
    }

    fn take(&mut self, seq: u64, record: &Record<'_>) -> Result<(), MissingMessage> {
        match *record {
            Record::Started { at } => {
                self.starts.push(at);
                self.last_time = self.last_time.max(at);
            }
            Record::Time { at } => self.last_time = self.last_time.max(at),
            Record::Message { message, publisher, .. } => {
                self.last = Some((message.to_message(), publisher));
            }
            Record::Again { .. } => return Err(MissingMessage { seq }),
            Record::Opened { client_id, expiry_seconds, next_packet_id } => {
                self.open(seq, client_id, expiry_seconds, next_packet_id);
            }
            Record::Expiry { client_id, expiry_seconds } => {
                self.with(seq, client_id, |session| session.expiry_seconds = expiry_seconds);
            }
            Record::Closed { client_id, at } => {
                self.last_time = self.last_time.max(at);
                self.with(seq, client_id, |session| session.presence = Presence::Away(at));
            }
            Record::Ended { client_id } => {
                if self.session(seq, client_id).is_some() {
                    self.sessions.remove(client_id);
                }
            }
            Record::Subscribed { client_id, filter, options, identifier } => {
                let subscription = Subscription { options, identifier };
                self.with(seq, client_id, |session| session.subscriptions.insert(filter, subscription));
            }
            Record::Unsubscribed { client_id, filter } => {
                self.with(seq, client_id, |session| session.subscriptions.remove(filter));
            }
            Record::Enqueued { client_id, qos, retain, identifiers, packet_id } => {
                let message = self.message(seq).cloned();
                if message.is_err() {
                    self.with(seq, client_id, |session| session.is_unsure = true);
                }
                let message = message?;
                self.with(seq, client_id, |session| {
                    let delivery = Delivery::new(message, qos, retain, identifiers);
                    match packet_id {
                        Some(packet_id) => {
                            session.start(delivery, packet_id);
                            go_on_behind(seq, session, packet_id);
                        }
                        None => session.enqueue(delivery),
                    }
                });
            }
            Record::Sent { client_id, packet_id } => {
                self.with(seq, client_id, |session| {
                    session.start_first(packet_id);
                    go_on_behind(seq, session, packet_id);
                });
            }
            Record::Dropped { client_id, place } => {
                self.with(seq, client_id, |session| session.drop_waiting(place));
            }
            Record::Acknowledged { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.finish(packet_id));
            }
            Record::Released { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.release(packet_id));
            }
            Record::Received { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.receive(packet_id));
            }
            Record::Completed { client_id, packet_id } => {
                self.with(seq, client_id, |session| session.complete(packet_id));
            }
            Record::Will { client_id, delay_seconds, expiry_seconds } => {
                let message = self.message(seq)?.clone();
                self.with(seq, client_id, |session| {
                    session.will = Some(Box::new(Will { message, delay_seconds, expiry_seconds }));
                });
            }
            Record::WillRemoved { client_id } => self.with(seq, client_id, |session| session.will = None),
            Record::Retained => {
                let (message, _) = self.last.as_ref().ok_or(MissingMessage { seq })?;
                self.retained.insert(message.with(message.qos(), true));
            }
            Record::RetainedRemoved { topic } => self.retained.remove(topic),
            Record::HandOn { number } => self.hand_on(seq, number)?,
            Record::HandedOn { number } => {
                self.last_number = self.last_number.max(number);
                if let Ok(place) = self.pending.binary_search_by_key(&number, |pending| pending.number) {
                    self.pending.remove(place);
                }
            }
            Record::Handled { core, number } => {
                let handled = self.handled.entry(core).or_default();
                *handled = number.max(*handled);
            }
            Record::GroupQueued { group, number } => {
                let message = self.message(seq)?.clone();
                self.last_number = self.last_number.max(number);
                self.groups.queue(group, number, message);
            }
            Record::GroupBegun { core, number } => self.begun.entry(core).or_default().push(number),
            Record::GroupTaken { group, number } => self.groups.take(group, number),
            Record::Parked { client_id, chunk } => {
                self.with(seq, client_id, |session| session.park(chunk));
            }
            Record::Taken { client_id, count } => {
                self.with(seq, client_id, |session| session.take_parked(count));
            }
            Record::Moved { client_id, from, to } => {
                self.with(seq, client_id, |session| session.move_parked(from, to));
            }
        }
        Ok(())
    }

    fn message(&self, seq: u64) -> Result<&Message, MissingMessage> {
        self.last.as_ref().map(|(message, _)| message).ok_or(MissingMessage { seq })
    }

    /// The session of this ClientID, if record `seq` is not in it already.
    fn session(&mut self, seq: u64, client_id: &str) -> Option<&mut Session> {
        self.sessions.get_mut(client_id).filter(|session| session.as_of < seq)
    }

    /// Changes a session by what record `seq` says, unless it is in it already.
    fn with(&mut self, seq: u64, client_id: &str, change: impl FnOnce(&mut Session)) {
        let is_headless = self.is_headless && seq == SNAPSHOT;
        if let Some(session) = self.session(seq, client_id) {
            session.is_unsure |= is_headless;
            change(session);
        }
    }

    fn open(&mut self, seq: u64, client_id: &str, expiry_seconds: u32, next_packet_id: PacketId) {
        let presence = Presence::Connected(self.starts.len() as u32);
        let session = match self.sessions.get_mut(client_id) {
            Some(session) if session.as_of >= seq => return,
            Some(session) => session,
            None => {
                let session = self.sessions.insert(Session::new(client_id, expiry_seconds, presence));
                // It may have been there before, with messages that are gone.
                session.is_unsure = self.has_gap;
                session
            }
        };
        session.presence = presence;
        session.expiry_seconds = expiry_seconds;
        session.next_packet_id = next_packet_id;
    }

    fn hand_on(&mut self, seq: u64, number: u64) -> Result<(), MissingMessage> {
        let (message, publisher) = self.last.clone().ok_or(MissingMessage { seq })?;
        self.last_number = self.last_number.max(number);
        let pending = Pending { number, message, publisher };
        match self.pending.back() {
            Some(last) if last.number >= number => {
                match self.pending.binary_search_by_key(&number, |pending| pending.number) {
                    Ok(place) => self.pending[place] = pending,
                    Err(place) => self.pending.insert(place, pending),
                }
            }
            _ => self.pending.push_back(pending),
        }
        Ok(())
    }
}

/// The Packet Identifiers go on behind one that was used. A snapshot tells where they go on.
fn go_on_behind(seq: u64, session: &mut Session, packet_id: PacketId) {
    if seq != SNAPSHOT {
        session.next_packet_id = packet_id.next();
    }
}
