//! The ways a socket leaves the ring: closed so that the peer gets the last bytes, cut off, or handed on.
//!
//! Closing a socket with unread input sends a reset, which destroys what the peer has not read yet. So the last bytes
//! are sent, our end is shut, and input is read and discarded until the peer's end, for a bounded time.
//!
//! What is a system call for an open file is an operation for a socket of a table.

use std::net::Shutdown;
use std::time::Duration;

use io_uring::opcode;
use socket2::SockRef;

use super::slot::{Armed, Operation, Phase, Token, Wanted};
use super::{Ring, SocketId, Step};

/// What makes closing a socket destroy its unsent bytes.
static LINGER_NOT: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

impl Ring {
    /// Finishes what is being sent, sends `last`, and closes once the peer has ended its side too.
    pub(crate) fn close(&mut self, socket: SocketId, last: Vec<u8>, now: u64) {
        let Some(slot) = self.slot_mut(socket) else { return };
        if slot.phase != Phase::Open {
            return;
        }
        slot.wanted = Wanted::Nothing;
        slot.phase = Phase::Closing;
        if !last.is_empty() {
            self.outgoing(socket.index).last = last;
        }
        self.deadlines.push_back((now + self.patience, socket));
        self.proceed_close(socket.index);
    }

    /// Closes at once, whatever is unsent or unread.
    pub(crate) fn abort(&mut self, socket: SocketId) {
        let Some(slot) = self.slot_mut(socket) else { return };
        slot.wanted = Wanted::Nothing;
        let unsent = slot.sending;
        slot.phase = Phase::Aborting;
        if unsent {
            // Otherwise the kernel would keep the unsent bytes, and the socket, for minutes.
            self.linger_not(socket.index);
            self.cancel(socket.index, Operation::Send, Operation::CancelSend);
        }
        self.cancel_receive(socket.index);
        self.proceed_abort(socket.index);
    }

    fn linger_not(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if let Some(descriptor) = slot.descriptor() {
            let _ = SockRef::from(descriptor).set_linger(Some(Duration::ZERO));
            return;
        }
        let Some(target) = slot.target() else { return };
        let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
        let (value, len) = ((&raw const LINGER_NOT).cast(), size_of::<libc::linger>() as u32);
        let entry = opcode::SetSockOpt::new(target.fd, level, name, value, len).build();
        self.submit_for(index, Operation::Linger, entry);
    }

    /// Queues an operation on the socket that is neither a receive nor a send.
    fn submit_for(&mut self, index: u32, operation: Operation, entry: io_uring::squeue::Entry) {
        let slot = &mut self.slots[index as usize];
        let Some(target) = slot.target() else { return };
        slot.in_flight += 1;
        let token = Token::new(operation, slot.generation, index);
        self.submit(target.bay, entry.flags(target.flags), token);
    }

    /// Takes the socket out of the ring; [`super::Event::Released`] brings it. Bytes that arrive until then still
    /// come as events. It must not have been [settled](Ring::settle).
    pub(crate) fn release(&mut self, socket: SocketId, now: u64) {
        let Some(slot) = self.slot_mut(socket) else { return };
        if slot.phase != Phase::Open {
            return;
        }
        slot.wanted = Wanted::Nothing;
        slot.phase = Phase::Releasing;
        if slot.in_flight > 0 {
            self.deadlines.push_back((now + self.patience, socket));
            self.cancel_receive(socket.index);
        }
        self.proceed_release(socket.index);
    }

    pub(super) fn proceed_release(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.in_flight == 0 {
            let socket = SocketId { index, generation: slot.generation };
            let descriptor = self.free(index);
            self.steps.push_back(Step::Released { socket, descriptor });
        }
    }

    pub(super) fn proceed_close(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.sending {
            return;
        }
        if let Some(outgoing) = &mut slot.outgoing
            && !slot.broken
            && !outgoing.last.is_empty()
        {
            let last = std::mem::take(&mut outgoing.last);
            self.start_send(index, last);
            return;
        }
        // After the peer's end closing is enough.
        if slot.phase == Phase::Closing && !slot.ended {
            slot.phase = Phase::Shut;
            self.shut(index);
        }
        let slot = &mut self.slots[index as usize];
        if slot.ended || slot.broken {
            slot.phase = Phase::Aborting;
            self.cancel_receive(index);
            self.proceed_abort(index);
        } else if slot.armed == Armed::Nothing && !slot.starved {
            self.arm_receive(index, Armed::Once);
        }
    }

    /// Shuts our end. It fails only when the connection is gone, and then the next receive says so.
    fn shut(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if let Some(descriptor) = slot.descriptor() {
            let _ = SockRef::from(descriptor).shutdown(Shutdown::Write);
        } else if let Some(target) = slot.target() {
            let entry = opcode::Shutdown::new(target.fd, libc::SHUT_WR).build();
            self.submit_for(index, Operation::Shut, entry);
        }
    }

    pub(super) fn proceed_abort(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.in_flight == 0 {
            drop(self.free(index));
        }
    }

    /// A closing or leaving socket took too long.
    pub(super) fn give_up(&mut self, socket: SocketId) {
        match self.slot(socket).map(|slot| slot.phase) {
            Some(Phase::Closing | Phase::Shut) => self.abort(socket),
            Some(Phase::Releasing) => {
                self.steps.push_back(Step::Released { socket, descriptor: None });
                self.abort(socket);
            }
            Some(Phase::Free | Phase::Open | Phase::Aborting) | None => {}
        }
    }
}
