//! The ways a socket leaves the ring: closed so that the peer gets the last bytes, cut off, or handed on.
//!
//! Closing a socket with unread input sends a reset, which destroys what the peer has not read yet. So the last bytes
//! are sent, our end is shut, and input is read and discarded until the peer's end, for a bounded time.

use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;

use super::slot::{Operation, Phase, Receive};
use super::{Ring, SocketId, Step};

impl Ring {
    /// Finishes what is being sent, sends `last`, and closes once the peer has ended its side too.
    pub(crate) fn close(&mut self, socket: SocketId, last: Vec<u8>, now: u64) {
        let Some(slot) = self.slot_mut(socket) else { return };
        if !matches!(slot.phase, Phase::Open) {
            return;
        }
        slot.wanted = Receive::None;
        slot.phase = Phase::Closing { last, shut: false };
        self.deadlines.push_back((now + self.patience, socket));
        self.proceed_close(socket.index);
    }

    /// Closes at once, whatever is unsent or unread.
    pub(crate) fn abort(&mut self, socket: SocketId) {
        let Some(slot) = self.slot_mut(socket) else { return };
        slot.wanted = Receive::None;
        let unsent = slot.sending;
        slot.phase = Phase::Aborting;
        if unsent && let Some(descriptor) = &slot.socket {
            // Otherwise the kernel would keep the unsent bytes, and the socket, for minutes.
            let _ = SockRef::from(descriptor).set_linger(Some(Duration::ZERO));
            self.cancel(socket.index, Operation::Send, Operation::CancelSend);
        }
        self.cancel_receive(socket.index);
        self.proceed_abort(socket.index);
    }

    /// Takes the socket out of the ring; [`super::Event::Released`] brings it. Bytes that arrive until then still
    /// come as events.
    pub(crate) fn release(&mut self, socket: SocketId, now: u64) {
        let Some(slot) = self.slot_mut(socket) else { return };
        if !matches!(slot.phase, Phase::Open) {
            return;
        }
        slot.wanted = Receive::None;
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
        let Phase::Closing { last, shut } = &mut slot.phase else { return };
        if slot.sending {
            return;
        }
        if !last.is_empty() && !slot.broken {
            let last = std::mem::take(last);
            self.start_send(index, last);
            return;
        }
        // After the peer's end closing is enough.
        if !*shut && !slot.ended {
            *shut = true;
            if let Some(descriptor) = &slot.socket {
                // It fails only when the connection is gone, and then the receive below says so.
                let _ = SockRef::from(descriptor).shutdown(Shutdown::Write);
            }
        }
        if slot.ended || slot.broken {
            slot.phase = Phase::Aborting;
            self.cancel_receive(index);
            self.proceed_abort(index);
        } else if slot.armed == Receive::None && !slot.starved {
            self.arm_receive(index, Receive::Once);
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
        match self.slot(socket).map(|slot| &slot.phase) {
            Some(Phase::Closing { .. }) => self.abort(socket),
            Some(Phase::Releasing) => {
                self.steps.push_back(Step::Released { socket, descriptor: None });
                self.abort(socket);
            }
            Some(Phase::Free | Phase::Open | Phase::Aborting) | None => {}
        }
    }
}
