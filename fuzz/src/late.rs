//! Ports that answer at once or later, as they are told; what was put off is answered when somebody says so.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use mqtt_broker::config::CoreId;
use mqtt_broker::ports::{
    Answer, Authenticate, AuthenticateRequest, Authentication, Authorize, AuthorizeRequest, Commit, Decision,
    Identity, Permission, Ports, Store, Ticket,
};
use mqtt_broker::store::record::Record;
use mqtt_proto::types::ReasonCode;

/// What was asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Question {
    Authentication,
    Permission,
}

/// The ports of all cores.
#[derive(Clone, Debug, Default)]
pub(crate) struct Late(Rc<RefCell<State>>);

#[derive(Debug, Default)]
struct State {
    /// Which ports answer later: who may connect, who may publish and subscribe, what is safe.
    late: [bool; 3],
    questions: VecDeque<(Ticket, Question)>,
    /// The question answered last.
    last: Option<(Ticket, Question)>,
    /// Records appended by each core, and those that its shard knows to be safe.
    appended: [u64; 2],
    committed: [u64; 2],
}

impl Late {
    /// The ports of one core.
    pub(crate) fn ports(&self, core: CoreId) -> Ports {
        Ports {
            authenticate: Box::new(self.clone()),
            authorize: Box::new(self.clone()),
            store: Box::new(Disk(self.clone(), core)),
            ..Ports::allow_all()
        }
    }

    /// One of the ports answers later from now on, or at once again.
    pub(crate) fn toggle(&self, port: usize) {
        self.0.borrow_mut().late[port] ^= true;
    }

    /// All ports answer at once from now on.
    pub(crate) fn hurry(&self) {
        self.0.borrow_mut().late = [false; 3];
    }

    /// The question to be answered next, chosen out of those that wait.
    pub(crate) fn take(&self, chosen: usize) -> Option<(Ticket, Question)> {
        let mut state = self.0.borrow_mut();
        let at = chosen.checked_rem(state.questions.len())?;
        state.last = state.questions.remove(at);
        state.last
    }

    /// The question that was answered last: it is answered twice, as a port may do by mistake.
    pub(crate) fn last(&self) -> Option<(Ticket, Question)> {
        self.0.borrow().last
    }

    /// So many more records of a core are safe: up to which.
    pub(crate) fn commit(&self, core: usize, records: u64) -> u64 {
        let mut state = self.0.borrow_mut();
        state.committed[core] = state.appended[core].min(state.committed[core].saturating_add(records));
        state.committed[core]
    }

    /// Whether anything that was appended is not safe yet.
    pub(crate) fn is_behind(&self) -> bool {
        let state = self.0.borrow();
        state.committed != state.appended
    }

    fn ask<T>(&self, ticket: Ticket, question: Question, now: T) -> Decision<T> {
        let mut state = self.0.borrow_mut();
        if !state.late[question as usize] {
            return Decision::Now(now);
        }
        state.questions.push_back((ticket, question));
        Decision::Later
    }
}

/// One of the answers to `question`, now and then to another one.
pub(crate) fn answer(question: Question, choice: u8) -> Answer {
    let named = || Identity { client_id: Some("b".into()), name: None };
    match (question, choice % 8) {
        (Question::Authentication, 0..=2) | (Question::Permission, 7) => {
            Answer::Authentication(Authentication::Accept(Identity::default()))
        }
        (Question::Authentication, 3) => Answer::Authentication(Authentication::Accept(named())),
        (Question::Authentication, 4) => {
            Answer::Authentication(Authentication::AcceptWith(Identity::default(), vec![choice]))
        }
        (Question::Authentication, 5) => Answer::Authentication(Authentication::Continue(vec![choice])),
        (Question::Authentication, 6) => {
            Answer::Authentication(Authentication::Refuse(ReasonCode::NOT_AUTHORIZED))
        }
        (Question::Permission, 6) => Answer::Permission(Permission::Deny(ReasonCode::NOT_AUTHORIZED)),
        _ => Answer::Permission(Permission::Allow),
    }
}

impl Authenticate for Late {
    /// Enhanced authentication takes two steps.
    fn authenticate(
        &mut self,
        request: &AuthenticateRequest<'_>,
        ticket: Ticket,
    ) -> Decision<Authentication> {
        let now = match (request.method, request.step) {
            (Some(_), 0) => Authentication::Continue(Vec::new()),
            _ => Authentication::Accept(Identity::default()),
        };
        self.ask(ticket, Question::Authentication, now)
    }
}

impl Authorize for Late {
    fn authorize(&mut self, _: &AuthorizeRequest<'_>, ticket: Ticket) -> Decision<Permission> {
        self.ask(ticket, Question::Permission, Permission::Allow)
    }
}

/// The store of one core.
struct Disk(Late, CoreId);

impl Store for Disk {
    fn append(&mut self, _: &Record<'_>) -> Commit {
        let state = &mut *self.0.0.borrow_mut();
        let core = self.1.index();
        state.appended[core] += 1;
        if state.late[2] {
            return Commit::At(state.appended[core]);
        }
        Commit::Now
    }
}
