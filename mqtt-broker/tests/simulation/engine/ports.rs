//! Ports that answer at once or late, and a store that commits later. The world collects what they put off.

use std::cell::RefCell;
use std::rc::Rc;

use mqtt_broker::config::CoreId;
use mqtt_broker::ports::{
    Answer, Authenticate, AuthenticateRequest, Authentication, Authorize, AuthorizeRequest, Commit, Decision,
    Identity, NoHooks, Permission, Ports, Reply, Store, Ticket,
};
use mqtt_broker::store::record::Record;
use mqtt_proto::types::ReasonCode;

use super::oracle::{MessageId, parse_payload};
use super::random::Random;
use super::scenario::Scenario;

/// What the ports have put off, and what the store was given.
#[derive(Default)]
pub(crate) struct Outside {
    /// Replies on their way, each with its delay in microseconds.
    pub(crate) replies: Vec<(u64, Reply)>,
    /// Messages that were queued for sessions: number, core and position of the record.
    pub(crate) records: Vec<(MessageId, usize, u64)>,
}

pub(crate) type Outstanding = Rc<RefCell<Outside>>;

/// Topics and filters that nobody may use begin with this.
pub(crate) const DENIED: &str = "deny/";

/// The ports of one core.
pub(crate) fn ports(scenario: &Scenario, core: CoreId, outstanding: &Outstanding) -> Ports {
    let late = |purpose, micros| Late {
        random: Random::new(scenario.seed, &[3, u64::from(core.0), purpose]),
        micros,
        outstanding: outstanding.clone(),
    };
    Ports {
        authenticate: Box::new(LateAuthenticate(late(0, scenario.ports.authenticate))),
        authorize: Box::new(LateAuthorize(late(1, scenario.ports.authorize))),
        store: Box::new(LateStore { late: late(2, scenario.ports.store), core, position: 0, message: None }),
        hooks: Box::new(NoHooks),
    }
}

struct Late {
    random: Random,
    /// 0: at once.
    micros: u64,
    outstanding: Outstanding,
}

impl Late {
    /// Whether the reply comes later, in which case it is on its way.
    fn puts_off(&mut self, reply: impl FnOnce() -> Reply) -> bool {
        if self.micros == 0 || self.random.once_in(3) {
            return false;
        }
        let delay = self.random.below(self.micros);
        self.outstanding.borrow_mut().replies.push((delay, reply()));
        true
    }
}

struct LateAuthenticate(Late);

impl Authenticate for LateAuthenticate {
    fn authenticate(&mut self, _: &AuthenticateRequest<'_>, ticket: Ticket) -> Decision<Authentication> {
        let accept = Authentication::Accept(Identity::default());
        let answer = accept.clone();
        match self.0.puts_off(|| Reply::Answer(ticket, Answer::Authentication(answer))) {
            true => Decision::Later,
            false => Decision::Now(accept),
        }
    }
}

struct LateAuthorize(Late);

impl Authorize for LateAuthorize {
    fn authorize(&mut self, request: &AuthorizeRequest<'_>, ticket: Ticket) -> Decision<Permission> {
        let what = match request {
            AuthorizeRequest::Publish { topic, .. } => topic.as_str(),
            AuthorizeRequest::Subscribe { filter, .. } => filter,
        };
        let permission = match what.starts_with(DENIED) {
            true => Permission::Deny(ReasonCode::NOT_AUTHORIZED),
            false => Permission::Allow,
        };
        match self.0.puts_off(|| Reply::Answer(ticket, Answer::Permission(permission))) {
            true => Decision::Later,
            false => Decision::Now(permission),
        }
    }
}

struct LateStore {
    late: Late,
    core: CoreId,
    position: u64,
    /// The number of the last message, which those behind it keep.
    message: Option<MessageId>,
}

impl Store for LateStore {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        if self.late.micros == 0 {
            return Commit::Now;
        }
        self.position += 1;
        let (core, position) = (self.core, self.position);
        // Also what can be had at once is said later, so that positions are committed in any order.
        let delay = self.late.random.below(self.late.micros);
        let mut outside = self.late.outstanding.borrow_mut();
        outside.replies.push((delay, Reply::Committed(core, position)));
        match record {
            Record::Message { message, .. } => {
                self.message = parse_payload(message.payload).map(|(id, _)| id);
            }
            Record::Enqueued { .. } => {
                outside.records.extend(self.message.map(|id| (id, core.index(), position)));
            }
            _ => {}
        }
        Commit::At(position)
    }
}
