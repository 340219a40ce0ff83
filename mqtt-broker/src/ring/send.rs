//! Sending: one buffer at a time, or pieces, whole.

use std::io;

use io_uring::opcode;

use super::slot::{Gather, Operation, Outgoing, Phase, Token, Wanted};
use super::{Ring, SPARES_MAX, SocketId, Step, retry};
use crate::pieces::Pieces;

/// Bytes of one send operation; longer buffers take several.
const SEND_MAX: usize = 1 << 30;

impl Ring {
    /// Sends `buffer`, whole; [`super::Event::Sent`] gives it back. Nothing may be on its way on this socket.
    pub(crate) fn send(&mut self, socket: SocketId, buffer: Vec<u8>) {
        let open = self.slot(socket).is_some_and(|slot| slot.phase == Phase::Open && !slot.broken);
        if !open || buffer.is_empty() {
            self.steps.push_back(Step::Sent { socket, buffer });
            return;
        }
        self.start_send(socket.index, buffer);
    }

    /// [`Ring::send`] of pieces: the kernel takes each from where it is.
    pub(crate) fn send_pieces(&mut self, socket: SocketId, pieces: Pieces) {
        let open = self.slot(socket).is_some_and(|slot| slot.phase == Phase::Open && !slot.broken);
        if !open || pieces.is_empty() {
            self.steps.push_back(Step::Sent { socket, buffer: pieces.into_buffer() });
            return;
        }
        self.outgoing(socket.index).gather = Some(Box::new(Gather::new(pieces)));
        self.start_send(socket.index, Vec::new());
    }

    pub(super) fn start_send(&mut self, index: u32, buffer: Vec<u8>) {
        let outgoing = self.outgoing(index);
        outgoing.buffer = buffer;
        outgoing.sent = 0;
        let slot = &mut self.slots[index as usize];
        assert!(!slot.sending, "one buffer at a time");
        slot.sending = true;
        self.arm_send(index);
    }

    /// What a socket sends, made if there is nothing yet.
    pub(super) fn outgoing(&mut self, index: u32) -> &mut Outgoing {
        let spares = &mut self.spares;
        self.slots[index as usize].outgoing.get_or_insert_with(|| spares.pop().unwrap_or_default())
    }

    fn arm_send(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let (Some(target), Some(outgoing)) = (slot.target(), &mut slot.outgoing) else { return };
        // The bytes stay where they are: nothing of `outgoing` is touched while `sending`, wherever the slot itself moves.
        let entry = match &mut outgoing.gather {
            Some(gather) => opcode::SendMsg::new(target.fd, gather.header(outgoing.sent))
                .flags(libc::MSG_NOSIGNAL as u32)
                .build(),
            None => {
                let rest = &outgoing.buffer[outgoing.sent..];
                opcode::Send::new(target.fd, rest.as_ptr(), rest.len().min(SEND_MAX) as u32)
                    .flags(libc::MSG_NOSIGNAL)
                    .build()
            }
        };
        let entry = entry.flags(target.flags);
        slot.in_flight += 1;
        let token = Token::new(Operation::Send, slot.generation, index);
        self.submit(target.bay, entry, token);
    }

    pub(super) fn handle_send(&mut self, token: Token, result: i32) -> Option<Step> {
        let index = token.index;
        let slot = &mut self.slots[index as usize];
        debug_assert!(token.is_of(slot.generation) && slot.sending);
        slot.in_flight -= 1;
        let aborting = slot.phase == Phase::Aborting;
        let outgoing = slot.outgoing.as_mut().expect("it is there while something is sent");
        if result >= 0 {
            outgoing.sent += result as usize;
        }
        if !aborting && (retry(result) || (result > 0 && outgoing.sent < outgoing.len())) {
            self.arm_send(index);
            return None;
        }
        slot.sending = false;
        let socket = SocketId { index, generation: slot.generation };
        let is_whole = outgoing.sent == outgoing.len();
        let buffer = outgoing.take_buffer();
        if outgoing.last.is_empty()
            && let Some(outgoing) = slot.outgoing.take()
            && self.spares.len() < SPARES_MAX
        {
            self.spares.push(outgoing);
        }
        if !is_whole {
            slot.broken = true;
            // The receive sees the end too, after bytes that came before it. Without one armed nobody else would.
            if slot.phase == Phase::Open && slot.wanted == Wanted::Nothing && !slot.ended {
                slot.ended = true;
                let error = (result < 0).then(|| io::Error::from_raw_os_error(-result).kind());
                self.steps.push_back(Step::Ended { socket, error });
            }
        }
        self.proceed(index);
        Some(Step::Sent { socket, buffer })
    }
}
