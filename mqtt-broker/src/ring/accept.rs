//! Accepting: one multishot operation a listener, re-armed when it ends, paused when descriptors run out.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

use io_uring::{cqueue, opcode, types};
use tracing::warn;

use super::queue::Completion;
use super::slot::{Operation, Token};
use super::{Ring, Step, sys};

/// Milliseconds without accepting after the process ran out of descriptors or memory. The waiting peers stay in the
/// accept queue meanwhile.
const PAUSE: u64 = 100;

/// A listening socket of the ring.
pub(super) struct Listener {
    /// `None` once accepting has stopped.
    socket: Option<TcpListener>,
    /// Where it listens, if that is one address: the same for all sockets that it accepts.
    pub(super) address: Option<SocketAddr>,
    armed: bool,
    /// Accept again no earlier than this; `Some(0)`: the pause begins with the next look at the clock.
    paused: Option<u64>,
}

impl Ring {
    /// Accepts from `socket`, which is listening, from now on. Returns the listener's index.
    pub(crate) fn listen(&mut self, socket: TcpListener) -> usize {
        let index = self.listeners.len();
        let address = socket.local_addr().ok().filter(|address| !address.ip().is_unspecified());
        self.listeners.push(Listener { socket: Some(socket), address, armed: false, paused: None });
        self.arm_accept(index);
        index
    }

    /// Stops accepting. Peers that wait in the accept queues are still accepted, then the listeners close: closing
    /// first would reset them.
    pub(crate) fn stop_accepting(&mut self) {
        self.accepting = false;
        for index in 0..self.listeners.len() {
            if self.listeners[index].armed {
                self.cancel_accept(index);
            } else {
                self.drain(index);
            }
        }
    }

    /// Whether any listener is open.
    pub(crate) fn is_listening(&self) -> bool {
        self.listeners.iter().any(|listener| listener.socket.is_some())
    }

    fn arm_accept(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        let Some(socket) = &listener.socket else { return };
        let accept =
            opcode::AcceptMulti::new(types::Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        listener.armed = true;
        self.submit(0, accept, Token::new(Operation::Accept, 0, index as u32));
    }

    fn cancel_accept(&mut self, index: usize) {
        let accept = Token::new(Operation::Accept, 0, index as u32);
        let cancel = opcode::AsyncCancel::new(accept.encode()).build();
        self.submit(0, cancel, Token::new(Operation::CancelAccept, 0, index as u32));
    }

    pub(super) fn handle_cancel_accept(&mut self, index: usize, result: i32) {
        // It was not found because it was about to complete: try again until it is gone.
        if result < 0 && self.listeners[index].armed {
            self.cancel_accept(index);
        }
    }

    pub(super) fn handle_accept(&mut self, index: usize, completion: Completion) -> Option<Step> {
        let ended = !cqueue::more(completion.flags);
        if ended {
            self.listeners[index].armed = false;
        }
        let step = match completion.result {
            descriptor @ 0.. => {
                let socket = self.adopt(sys::own(descriptor));
                Some(Step::Accepted { listener: index, socket })
            }
            error => {
                self.note_accept_error(index, -error);
                None
            }
        };
        if ended {
            if !self.accepting {
                self.drain(index);
            } else if self.listeners[index].paused.is_none() {
                self.arm_accept(index);
            }
        }
        step
    }

    /// Descriptors and memory come back only when connections end, so trying at once again would spin. All other
    /// errors are those of one peer that has gone.
    fn note_accept_error(&mut self, index: usize, errno: i32) {
        if matches!(errno, libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS) && self.accepting {
            let error = io::Error::from_raw_os_error(errno);
            warn!(%error, "cannot accept connections: trying again in {PAUSE} ms; raise LimitNOFILE or lower connections_max");
            self.listeners[index].paused = Some(0);
        }
    }

    pub(super) fn accept_timeout(&self) -> Option<u64> {
        self.listeners.iter().filter_map(|listener| listener.paused).min()
    }

    pub(super) fn resume_accept(&mut self, now: u64) {
        for index in 0..self.listeners.len() {
            match self.listeners[index].paused {
                Some(0) => self.listeners[index].paused = Some(now + PAUSE),
                Some(at) if at <= now => {
                    self.listeners[index].paused = None;
                    if self.accepting && !self.listeners[index].armed {
                        self.arm_accept(index);
                    }
                }
                _ => {}
            }
        }
    }

    /// Accepts what is left in the queue of a listener on which nothing is armed any more, and closes it.
    fn drain(&mut self, index: usize) {
        self.listeners[index].paused = None;
        let Some(socket) = self.listeners[index].socket.take() else { return };
        if socket.set_nonblocking(true).is_err() {
            return;
        }
        loop {
            match socket.accept() {
                Ok((stream, _)) => {
                    let accepted = self.adopt(stream.into());
                    self.steps.push_back(Step::Accepted { listener: index, socket: accepted });
                }
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ECONNABORTED)) => {}
                Err(_) => return,
            }
        }
    }
}
