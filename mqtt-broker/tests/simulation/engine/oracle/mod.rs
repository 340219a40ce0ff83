//! What has to hold, judged by the bytes that Clients sent and received and by when the broker let go of connections.
//!
//! The broker works in its own time, so the oracle thinks in windows: a subscription holds from somewhere between its
//! SUBSCRIBE and its SUBACK on, a message is routed somewhere between its first sending and its last acknowledgement.
//! What is certain whatever the moments inside these windows were is demanded; the rest is allowed.

mod account;
mod delivery;
mod message;
mod owed;
mod retained;
mod session;

pub(crate) use account::{Account, Asked, Goodbye};
pub(crate) use delivery::Arrival;
pub(crate) use message::{Message, MessageId, NewMessage, parse_payload, properties_of};
pub(crate) use session::{Copies, Session};

use super::scenario::Scenario;

pub(crate) type PartyId = usize;
pub(crate) type SessionId = usize;

/// Something that must not happen has happened.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// The rule, by which a shrunk schedule is told to fail in the same way.
    pub(crate) rule: &'static str,
    pub(crate) text: String,
}

impl core::fmt::Display for Violation {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

pub(crate) type Check<T = ()> = Result<T, Violation>;

/// Returns a [`Violation`] of the rule unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $rule:literal, $($text:tt)+) => {
        if !$condition {
            return Err($crate::engine::oracle::Violation { rule: $rule, text: format!($($text)+) });
        }
    };
}
pub(crate) use ensure;

/// All that is known of a run.
pub(crate) struct Oracle {
    pub(crate) messages: Vec<Message>,
    pub(crate) sessions: Vec<Session>,
    /// By party.
    pub(crate) accounts: Vec<Account>,
    /// Microseconds by which the broker may be late with what is due.
    pub(crate) slack: u64,
    /// When the clock leapt or a core stood still: what became due meanwhile is due at the end.
    pub(crate) gaps: Vec<(u64, u64)>,
    /// Whether bounds may cost messages.
    pub(crate) tight: bool,
    /// Members of shared groups that lost their connection or left may get what others have had.
    pub(crate) groups_disturbed: bool,
    /// What happened cannot be told from outside: the run is given up.
    pub(crate) inconclusive: bool,
    /// Messages whose deliveries were compared to all subscriptions exactly.
    pub(crate) exact: u64,
    limits: OracleLimits,
}

/// The bounds that an oracle has to know.
#[derive(Clone, Copy)]
struct OracleLimits {
    session_expiry_max: u32,
    session_expiry_v3: u32,
    will_delay_max: u32,
    message_expiry_max: u32,
}

impl Oracle {
    pub(crate) fn new(scenario: &Scenario) -> Oracle {
        let limits = &scenario.limits;
        let late = scenario.ports.authenticate + scenario.ports.authorize + scenario.ports.store;
        Oracle {
            messages: Vec::new(),
            sessions: Vec::new(),
            accounts: scenario.parties.iter().map(|_| Account::default()).collect(),
            slack: 50_000 + 4 * scenario.net.turn + late + 30 * scenario.net.lane,
            gaps: Vec::new(),
            tight: scenario.tight,
            groups_disturbed: false,
            inconclusive: false,
            exact: 0,
            limits: OracleLimits {
                session_expiry_max: limits.session_expiry_max_seconds,
                session_expiry_v3: limits.session_expiry_v3_seconds,
                will_delay_max: limits.will_delay_max_seconds,
                message_expiry_max: limits.message_expiry_max_seconds,
            },
        }
    }

    /// Whether something due at `due` has happened at `now`, if that is certain.
    pub(crate) fn is_over(&self, due: u64, now: u64) -> Option<bool> {
        let mut due_latest = due;
        for &(from, to) in &self.gaps {
            // They come in order, and each may end in the next.
            if (from..=to).contains(&due_latest) {
                due_latest = to;
            }
        }
        if now + self.slack < due {
            Some(false)
        } else if now > due_latest.saturating_add(self.slack) {
            Some(true)
        } else {
            None
        }
    }
}
