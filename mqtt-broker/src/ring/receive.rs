//! Receiving: what is wished for against what is armed.
//!
//! The two differ while a cancellation is under way and after a receive has ended by itself. Whenever one of them
//! changes, `rearm` brings them together again.

use std::io;

use io_uring::{cqueue, opcode, squeue, types};
use std::os::fd::AsRawFd;

use super::buffers::{BUFFER_BYTES, GROUP};
use super::queue::Completion;
use super::slot::{Operation, Phase, Receive, Token};
use super::{Ring, SocketId, Step, retry};

impl Ring {
    /// Receives once: the event says what the peer sent, then nothing is armed.
    pub(crate) fn receive_once(&mut self, socket: SocketId) {
        self.want(socket, Receive::Once);
    }

    /// Receives whatever comes, until [`Ring::pause`].
    pub(crate) fn receive(&mut self, socket: SocketId) {
        self.want(socket, Receive::Multi);
    }

    /// Stops receiving. What the kernel has already received still comes, in order.
    pub(crate) fn pause(&mut self, socket: SocketId) {
        self.want(socket, Receive::None);
    }

    fn want(&mut self, socket: SocketId, wanted: Receive) {
        let Some(slot) = self.slot_mut(socket) else { return };
        if !matches!(slot.phase, Phase::Open) {
            return;
        }
        slot.wanted = wanted;
        if wanted == Receive::None {
            self.cancel_receive(socket.index);
        } else {
            self.rearm(socket.index);
        }
    }

    /// Arms the wished receive unless one is armed, or being cancelled, or waits for a buffer.
    pub(super) fn rearm(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.armed == Receive::None && slot.wanted != Receive::None && !slot.ended && !slot.starved {
            self.arm_receive(index, slot.wanted);
        }
    }

    /// Arms sockets that found no buffer again, no more than there are buffers. Arming them while all are taken would
    /// spin; while completions wait to be reaped it is not known how many are taken.
    pub(super) fn serve_starved(&mut self) {
        if self.starved.is_empty() || self.queue.has_completions() {
            return;
        }
        for _ in 0..self.buffers.available() {
            let Some(socket) = self.starved.pop_front() else { return };
            if let Some(slot) = self.slot_mut(socket) {
                slot.starved = false;
                self.proceed(socket.index);
            }
        }
    }

    /// Arms a receive with a buffer of the kernel's choice.
    pub(super) fn arm_receive(&mut self, index: u32, receive: Receive) {
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(slot.armed, Receive::None, "one receive at a time, or bytes would change places");
        let Some(socket) = &slot.socket else { return };
        let descriptor = types::Fd(socket.as_raw_fd());
        let entry = match receive {
            Receive::None => return,
            Receive::Once => opcode::Recv::new(descriptor, std::ptr::null_mut(), BUFFER_BYTES as u32)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            Receive::Multi => opcode::RecvMulti::new(descriptor, GROUP).build(),
        };
        slot.armed = receive;
        slot.in_flight += 1;
        let token = Token::new(Operation::Receive, slot.generation, index);
        self.submit(entry, token);
    }

    /// Cancels the armed receive, if there is one.
    pub(super) fn cancel_receive(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.armed == Receive::None || slot.cancelling {
            return;
        }
        slot.cancelling = true;
        self.cancel(index, Operation::Receive, Operation::CancelReceive);
    }

    /// Cancels by user data: the kernel finds the operation by its hash.
    pub(super) fn cancel(&mut self, index: u32, operation: Operation, cancellation: Operation) {
        let slot = &mut self.slots[index as usize];
        slot.in_flight += 1;
        let generation = slot.generation;
        let entry = opcode::AsyncCancel::new(Token::new(operation, generation, index).encode()).build();
        self.submit(entry, Token::new(cancellation, generation, index));
    }

    /// A cancellation is done. One that missed an operation which is still there is tried again.
    pub(super) fn handle_cancel(&mut self, token: Token, result: i32) {
        let slot = &mut self.slots[token.index as usize];
        debug_assert!(token.is_of(slot.generation));
        slot.in_flight -= 1;
        let missed = result < 0;
        match token.operation {
            Operation::CancelReceive if missed && slot.armed != Receive::None && slot.cancelling => {
                self.cancel(token.index, Operation::Receive, Operation::CancelReceive);
            }
            Operation::CancelSend if missed && slot.sending => {
                self.cancel(token.index, Operation::Send, Operation::CancelSend);
            }
            _ => self.proceed(token.index),
        }
    }

    pub(super) fn handle_receive(&mut self, token: Token, completion: Completion) -> Option<Step> {
        let index = token.index;
        let slot = &mut self.slots[index as usize];
        debug_assert!(token.is_of(slot.generation), "a slot is reused only after its last completion");
        let socket = SocketId { index, generation: slot.generation };
        let listened = matches!(slot.phase, Phase::Open | Phase::Releasing);
        let last = !cqueue::more(completion.flags);
        if last {
            slot.armed = Receive::None;
            slot.cancelling = false;
            slot.in_flight -= 1;
        }
        let mut buffer = cqueue::buffer_select(completion.flags);
        if buffer.is_some() {
            self.buffers.take();
        }
        let slot = &mut self.slots[index as usize];
        let mut step = None;
        match completion.result {
            len @ 1.. => {
                if last && slot.wanted == Receive::Once {
                    slot.wanted = Receive::None;
                }
                if listened && let Some(buffer) = buffer.take() {
                    step = Some(Step::Received { socket, buffer, len: len as usize });
                }
            }
            result if result == -libc::ENOBUFS => {
                slot.starved = true;
                self.starved.push_back(socket);
            }
            result if result == -libc::ECANCELED || retry(result) => {}
            result => {
                let open = matches!(slot.phase, Phase::Open);
                if open && !slot.ended {
                    let error = (result < 0).then(|| io::Error::from_raw_os_error(-result).kind());
                    step = Some(Step::Ended { socket, error });
                }
                slot.ended = true;
            }
        }
        if let Some(buffer) = buffer {
            self.buffers.give_back(buffer);
        }
        if last {
            self.proceed(index);
        }
        step
    }
}
