//! Receiving: what is wished for against what is armed.
//!
//! The two differ while a cancellation is under way and after a receive has ended by itself. Whenever one of them
//! changes, `rearm` brings them together again.

use std::io;

use io_uring::{cqueue, opcode, squeue};

use super::buffers::{BUFFER_BYTES, GROUP};
use super::queue::Completion;
use super::slot::{Armed, Operation, Phase, Token, Wanted};
use super::{Ring, SocketId, Step, retry};

impl Ring {
    /// Receives once: the event says what the peer sent, then nothing is armed.
    pub(crate) fn receive_once(&mut self, socket: SocketId) {
        self.want(socket, Wanted::Once);
    }

    /// Receives whatever comes, until [`Ring::pause`].
    pub(crate) fn receive(&mut self, socket: SocketId) {
        self.want(socket, Wanted::All);
    }

    /// Stops receiving. What the kernel has already received still comes, in order.
    pub(crate) fn pause(&mut self, socket: SocketId) {
        self.want(socket, Wanted::Nothing);
    }

    fn want(&mut self, socket: SocketId, wanted: Wanted) {
        let Some(slot) = self.slot_mut(socket) else { return };
        if slot.phase != Phase::Open {
            return;
        }
        slot.wanted = wanted;
        if wanted == Wanted::Nothing {
            self.cancel_receive(socket.index);
        } else {
            self.rearm(socket.index);
        }
    }

    /// Arms what the wish asks for unless something is armed, or being cancelled, or waits for a buffer.
    pub(super) fn rearm(&mut self, index: u32) {
        let slot = &self.slots[index as usize];
        if slot.armed != Armed::Nothing || slot.ended || slot.starved {
            return;
        }
        let armed = match slot.wanted {
            Wanted::Nothing => return,
            Wanted::Once => Armed::Once,
            Wanted::All => self.way_to_receive(index),
        };
        self.arm_receive(index, armed);
    }

    /// Arms sockets that found no buffer again, no more than there are buffers. Arming them while all are taken would
    /// spin; while completions wait to be reaped it is not known how many are taken.
    pub(super) fn serve_starved(&mut self) {
        for at in 0..self.bays.len() {
            let bay = &mut self.bays[at];
            if bay.starved.is_empty() || bay.queue.has_completions() {
                continue;
            }
            for _ in 0..bay.buffers.available() {
                let Some(socket) = self.bays[at].starved.pop_front() else { break };
                if let Some(slot) = self.slot_mut(socket) {
                    slot.starved = false;
                    self.proceed(socket.index);
                }
            }
        }
    }

    /// Arms a poll, or a receive with a buffer of the kernel's choice.
    pub(super) fn arm_receive(&mut self, index: u32, armed: Armed) {
        let slot = &mut self.slots[index as usize];
        debug_assert_eq!(slot.armed, Armed::Nothing, "one receive at a time, or bytes would change places");
        let Some(target) = slot.target() else { return };
        let entry = match armed {
            Armed::Nothing => return,
            Armed::Poll => opcode::PollAdd::new(target.fd, libc::POLLIN as u32).build(),
            Armed::Once => opcode::Recv::new(target.fd, std::ptr::null_mut(), BUFFER_BYTES as u32)
                .buf_group(GROUP)
                .build()
                .flags(squeue::Flags::BUFFER_SELECT),
            Armed::Multi => opcode::RecvMulti::new(target.fd, GROUP).build(),
        };
        slot.armed = armed;
        slot.in_flight += 1;
        let token = Token::new(Ring::armed_operation(armed), slot.generation, index);
        self.submit(target.bay, entry.flags(target.flags), token);
    }

    /// Cancels what is armed to receive, if anything is.
    pub(super) fn cancel_receive(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.armed == Armed::Nothing || slot.cancelling {
            return;
        }
        slot.cancelling = true;
        let operation = Ring::armed_operation(slot.armed);
        self.cancel(index, operation, Operation::CancelReceive);
    }

    /// Cancels by user data: the kernel finds the operation by its hash.
    pub(super) fn cancel(&mut self, index: u32, operation: Operation, cancellation: Operation) {
        let slot = &mut self.slots[index as usize];
        slot.in_flight += 1;
        let (generation, bay) = (slot.generation, slot.bay());
        let entry = opcode::AsyncCancel::new(Token::new(operation, generation, index).encode()).build();
        self.submit(bay, entry, Token::new(cancellation, generation, index));
    }

    /// A cancellation is done. One that missed an operation which is still there is tried again.
    pub(super) fn handle_cancel(&mut self, token: Token, result: i32) {
        let slot = &mut self.slots[token.index as usize];
        debug_assert!(token.is_of(slot.generation));
        slot.in_flight -= 1;
        let missed = result < 0;
        match token.operation {
            Operation::CancelReceive if missed && slot.armed != Armed::Nothing && slot.cancelling => {
                let operation = Ring::armed_operation(slot.armed);
                self.cancel(token.index, operation, Operation::CancelReceive);
            }
            Operation::CancelSend if missed && slot.sending => {
                self.cancel(token.index, Operation::Send, Operation::CancelSend);
            }
            _ => self.proceed(token.index),
        }
    }

    pub(super) fn handle_receive(&mut self, bay: u8, token: Token, completion: Completion) -> Option<Step> {
        let index = token.index;
        let slot = &mut self.slots[index as usize];
        debug_assert!(token.is_of(slot.generation), "a slot is reused only after its last completion");
        let socket = SocketId { index, generation: slot.generation };
        let listened = matches!(slot.phase, Phase::Open | Phase::Releasing);
        let last = !cqueue::more(completion.flags);
        if last {
            slot.armed = Armed::Nothing;
            slot.cancelling = false;
            slot.in_flight -= 1;
        }
        let mut buffer = cqueue::buffer_select(completion.flags);
        if buffer.is_some() {
            self.bays[usize::from(bay)].buffers.take();
        }
        let mut step = None;
        match completion.result {
            len @ 1.. => {
                self.note_receive(index);
                let slot = &mut self.slots[index as usize];
                if last {
                    slot.ready &= cqueue::sock_nonempty(completion.flags);
                    if slot.wanted == Wanted::Once {
                        slot.wanted = Wanted::Nothing;
                    }
                }
                if listened && let Some(buffer) = buffer.take() {
                    step = Some(Step::Received { socket, bay, buffer, len: len as usize });
                }
            }
            result if result == -libc::ENOBUFS => {
                self.slots[index as usize].starved = true;
                self.bays[usize::from(bay)].starved.push_back(socket);
            }
            result if result == -libc::ECANCELED || retry(result) => {}
            result => {
                let slot = &mut self.slots[index as usize];
                if slot.phase == Phase::Open && !slot.ended {
                    let error = (result < 0).then(|| io::Error::from_raw_os_error(-result).kind());
                    step = Some(Step::Ended { socket, error });
                }
                slot.ended = true;
            }
        }
        if let Some(buffer) = buffer {
            self.bays[usize::from(bay)].buffers.give_back(buffer);
        }
        if last {
            self.proceed(index);
        }
        step
    }
}
