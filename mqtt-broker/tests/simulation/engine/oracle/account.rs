//! One ClientID over all its connections: which session they have, when it ends, what becomes of their Wills.

use mqtt_proto::types::Version;

use super::message::{Fate, MessageId};
use super::{Check, Oracle, PartyId, Session, SessionId, ensure};

/// What a Client said in DISCONNECT.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goodbye {
    pub(crate) with_will: bool,
    pub(crate) expiry: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) session: Option<SessionId>,
    /// The connection that the broker has accepted and not let go.
    pub(crate) live: Option<usize>,
    /// Session Expiry Interval in force; `None`: it cannot be told.
    expiry: Option<u32>,
    /// When the last connection ended.
    away_since: u64,
    /// What was said in DISCONNECT before the last connection ended.
    goodbye: Option<Goodbye>,
    /// The Will of the last connection and its delay in seconds.
    will: Option<(MessageId, u32)>,
}

impl Account {
    /// Nobody can tell any more whether the session lives.
    pub(crate) fn lose_track(&mut self) {
        self.expiry = None;
    }
}

/// What a connection asks of its session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) version: Version,
    pub(crate) clean_start: bool,
    pub(crate) expiry: u32,
    pub(crate) will: Option<(MessageId, u32)>,
}

impl Oracle {
    /// The broker has accepted a connection. Whether it must have resumed a session; `None`: it cannot be told.
    pub(crate) fn established(
        &mut self,
        party: PartyId,
        connection: usize,
        asked: Asked,
        now: u64,
    ) -> Check<Option<bool>> {
        let limits = self.limits;
        let account = &self.accounts[party];
        if let Some(old) = account.live {
            ensure!(
                false,
                "takeover",
                "connection {connection} is accepted beside {old} of the same ClientID"
            );
        }
        let recent = now <= account.away_since + self.slack;
        // DISCONNECT and a takeover in the same moment: nobody can tell which came first.
        let unclear = recent && account.goodbye.is_some_and(|goodbye| goodbye.expiry.is_some());
        let unclear_will = recent && account.goodbye.is_some_and(|goodbye| !goodbye.with_will);
        let expected = match (account.session, account.expiry) {
            (None, _) => Some(false),
            (Some(_), _) if unclear => None,
            (Some(_), Some(0)) => Some(false),
            (Some(_), Some(u32::MAX)) => Some(true),
            (Some(_), Some(seconds)) => {
                self.is_over(account.away_since + u64::from(seconds) * 1_000_000, now).map(|over| !over)
            }
            (Some(_), None) => None,
        };
        let old_will = account.will;
        if let Some((will, _)) = old_will
            && let Fate::Pending(due) = self.messages[will].fate
        {
            let over = self.is_over(due, now);
            let ends = if asked.clean_start { Some(true) } else { expected.map(|present| !present) };
            let message = &mut self.messages[will];
            message.fate = match (over, ends) {
                _ if unclear_will => Fate::Maybe,
                (Some(true), _) | (_, Some(true)) => Fate::Published,
                (Some(false), Some(false)) => Fate::Cancelled,
                _ => Fate::Maybe,
            };
            if message.fate == Fate::Published && over != Some(true) {
                // Its session has ended, at the latest now.
                message.sent_at = now;
            }
        } else if let Some((will, _)) = old_will
            && unclear_will
        {
            self.messages[will].fate = Fate::Maybe;
        }
        let account = &mut self.accounts[party];
        account.live = Some(connection);
        account.goodbye = None;
        account.will = asked.will;
        let expiry = match (asked.version, asked.clean_start) {
            (Version::V5, _) => asked.expiry,
            (_, true) => 0,
            (_, false) => limits.session_expiry_v3,
        };
        account.expiry = Some(expiry.min(limits.session_expiry_max));
        Ok(if asked.clean_start { Some(false) } else { expected })
    }

    /// The Session Present flag is known: the session of the connection.
    pub(crate) fn has_session(&mut self, party: PartyId, present: bool) -> SessionId {
        match self.accounts[party].session.filter(|_| present) {
            Some(session) => session,
            None => {
                self.sessions.push(Session { party, ..Session::default() });
                self.accounts[party].session = Some(self.sessions.len() - 1);
                self.sessions.len() - 1
            }
        }
    }

    /// The broker has let go of an accepted connection. `certain`: it has read what the Client said last.
    pub(crate) fn ended(
        &mut self,
        party: PartyId,
        connection: usize,
        goodbye: Option<Goodbye>,
        certain: bool,
        now: u64,
    ) {
        let limits = self.limits;
        let account = &mut self.accounts[party];
        if account.live != Some(connection) {
            return;
        }
        account.live = None;
        account.away_since = now;
        account.goodbye = goodbye;
        if let Some(expiry) = goodbye.and_then(|goodbye| goodbye.expiry) {
            account.expiry = certain.then_some(expiry.min(limits.session_expiry_max));
        }
        let expiry = account.expiry;
        let Some((will, delay)) = account.will else { return };
        let message = &mut self.messages[will];
        if message.fate != Fate::Armed {
            return;
        }
        let delay = delay.min(limits.will_delay_max);
        message.fate = match (goodbye, certain) {
            (Some(Goodbye { with_will: false, .. }), true) => Fate::Cancelled,
            (Some(Goodbye { with_will: false, .. }), false) => Fate::Maybe,
            _ => match expiry {
                None => Fate::Maybe,
                Some(expiry) => {
                    let due = now + u64::from(delay.min(expiry)) * 1_000_000;
                    message.sent_at = due;
                    if due == now { Fate::Published } else { Fate::Pending(due) }
                }
            },
        };
        if message.fate == Fate::Maybe {
            message.sent_at = now;
        }
    }

    /// The run ends: what is certainly due has been published by now.
    pub(crate) fn wills_due(&mut self, now: u64) {
        for at in 0..self.messages.len() {
            if let Fate::Pending(due) = self.messages[at].fate {
                let over = self.is_over(due, now);
                let message = &mut self.messages[at];
                match over {
                    Some(true) => message.fate = Fate::Published,
                    Some(false) => {}
                    None => message.fate = Fate::Maybe,
                }
            }
        }
    }

    /// Whether the account's session certainly lives; `None`: it cannot be told.
    pub(crate) fn lives(&self, party: PartyId, now: u64) -> Option<bool> {
        let account = &self.accounts[party];
        match (account.session, account.live, account.expiry) {
            (None, ..) => Some(false),
            (Some(_), Some(_), _) => Some(true),
            (.., Some(0)) => Some(false),
            (.., Some(u32::MAX)) => Some(true),
            (.., Some(seconds)) => {
                self.is_over(account.away_since + u64::from(seconds) * 1_000_000, now).map(|over| !over)
            }
            (.., None) => None,
        }
    }
}
