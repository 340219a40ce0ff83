//! Sending: one buffer at a time, whole.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::{opcode, types};

use super::slot::{Operation, Phase, Receive, Token};
use super::{Ring, SocketId, Step, retry};

/// Bytes of one send operation; longer buffers take several.
const SEND_MAX: usize = 1 << 30;

impl Ring {
    /// Sends `buffer`, whole; [`super::Event::Sent`] gives it back. Nothing may be on its way on this socket.
    pub(crate) fn send(&mut self, socket: SocketId, buffer: Vec<u8>) {
        let open = self.slot(socket).is_some_and(|slot| matches!(slot.phase, Phase::Open) && !slot.broken);
        if !open || buffer.is_empty() {
            self.steps.push_back(Step::Sent { socket, buffer });
            return;
        }
        self.start_send(socket.index, buffer);
    }

    pub(super) fn start_send(&mut self, index: u32, buffer: Vec<u8>) {
        let slot = &mut self.slots[index as usize];
        assert!(!slot.sending, "one buffer at a time");
        slot.outgoing = buffer;
        slot.sent = 0;
        slot.sending = true;
        self.arm_send(index);
    }

    fn arm_send(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(socket) = &slot.socket else { return };
        let rest = &slot.outgoing[slot.sent..];
        // The bytes stay where they are: `outgoing` is not touched while `sending`, wherever the slot itself moves.
        let entry =
            opcode::Send::new(types::Fd(socket.as_raw_fd()), rest.as_ptr(), rest.len().min(SEND_MAX) as u32)
                .flags(libc::MSG_NOSIGNAL)
                .build();
        slot.in_flight += 1;
        let token = Token::new(Operation::Send, slot.generation, index);
        self.submit(entry, token);
    }

    pub(super) fn handle_send(&mut self, token: Token, result: i32) -> Option<Step> {
        let index = token.index;
        let slot = &mut self.slots[index as usize];
        debug_assert!(token.is_of(slot.generation) && slot.sending);
        slot.in_flight -= 1;
        let aborting = matches!(slot.phase, Phase::Aborting);
        if result >= 0 {
            slot.sent += result as usize;
        }
        if !aborting && (retry(result) || (result > 0 && slot.sent < slot.outgoing.len())) {
            self.arm_send(index);
            return None;
        }
        slot.sending = false;
        let socket = SocketId { index, generation: slot.generation };
        let buffer = std::mem::take(&mut slot.outgoing);
        if slot.sent < buffer.len() {
            slot.broken = true;
            // The receive sees the end too, after bytes that came before it. Without one armed nobody else would.
            if matches!(slot.phase, Phase::Open) && slot.wanted == Receive::None && !slot.ended {
                slot.ended = true;
                let error = (result < 0).then(|| io::Error::from_raw_os_error(-result).kind());
                self.steps.push_back(Step::Ended { socket, error });
            }
        }
        self.proceed(index);
        Some(Step::Sent { socket, buffer })
    }
}
