//! How a socket waits for bytes, as busy as it is.
//!
//! A receive that stays armed is the cheapest way to get many messages, and takes three times the kernel memory of a
//! poll. So a socket that is silent for some seconds is parked on a poll. It is received from once when the poll
//! fires, and the poll is armed again only when all has been taken: earlier it would fire at once. Who receives often
//! gets a receive that stays armed again. A new socket begins with one, as long as there are not very many: parking it
//! takes a cancellation, which is the dearer the more operations are armed.

use std::collections::VecDeque;

use super::slot::{Armed, Operation, Phase, Token, Wanted};
use super::{Ring, SocketId};

/// Milliseconds of a beat, as a power of two: the unit of time here.
const BEAT_BITS: u32 = 10;

/// Receives within one beat from which on a parked socket is busy.
const HOT: u8 = 4;

/// A busy socket whose silence is watched.
const WATCHED: u8 = HOT + 1;

/// Beats of silence after which a socket is parked.
const QUIET: u8 = 4;

/// Busy sockets that are looked at in one turn.
const LOOKS_A_TURN: usize = 16;

/// Sockets of a ring beyond which a new one begins parked.
const NEW_BUSY_MAX: usize = 4096;

/// The busy sockets of a ring.
#[derive(Debug)]
pub(super) struct Watch {
    beat: u64,
    sockets: VecDeque<SocketId>,
    /// Of them, those not looked at in this beat.
    due: usize,
    /// [`NEW_BUSY_MAX`], but for tests.
    pub(super) new_busy_max: usize,
}

impl Watch {
    pub(super) fn new() -> Watch {
        Watch { beat: 0, sockets: VecDeque::new(), due: 0, new_busy_max: NEW_BUSY_MAX }
    }

    /// How busy a new socket is beside so many others.
    pub(super) fn heat_of_new(&self, others: usize) -> u8 {
        if others < self.new_busy_max { HOT } else { 0 }
    }

    /// When the next look is due.
    pub(super) fn timeout(&self) -> Option<u64> {
        let next = if self.due > 0 { self.beat } else { self.beat + 1 };
        (!self.sockets.is_empty()).then_some(next << BEAT_BITS)
    }
}

impl Ring {
    /// What is armed for a socket from which all is to be received.
    pub(super) fn way_to_receive(&mut self, index: u32) -> Armed {
        let slot = &mut self.slots[index as usize];
        if slot.ready {
            return Armed::Once;
        }
        if slot.heat < HOT {
            return Armed::Poll;
        }
        if slot.heat != WATCHED {
            slot.heat = WATCHED;
            slot.beat = self.watch.beat as u8;
            self.watch.sockets.push_back(SocketId { index, generation: slot.generation });
        }
        Armed::Multi
    }

    /// Bytes have arrived.
    pub(super) fn note_receive(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let beat = self.watch.beat as u8;
        if slot.heat < HOT {
            slot.heat = if slot.beat == beat { slot.heat + 1 } else { 1 };
        }
        slot.beat = beat;
    }

    /// The poll of a parked socket has fired, or was cancelled. Whatever it said, the receive says what there is.
    pub(super) fn handle_poll(&mut self, token: Token, result: i32) {
        let slot = &mut self.slots[token.index as usize];
        debug_assert!(token.is_of(slot.generation) && slot.armed == Armed::Poll);
        slot.armed = Armed::Nothing;
        slot.cancelling = false;
        slot.in_flight -= 1;
        slot.ready = result != -libc::ECANCELED;
        self.proceed_settle(token.index);
        self.proceed(token.index);
    }

    /// Parks busy sockets that have become silent, a bounded number at once.
    pub(super) fn park_silent(&mut self, now: u64) {
        let beat = now >> BEAT_BITS;
        if beat != self.watch.beat {
            self.watch.beat = beat;
            self.watch.due = self.watch.sockets.len();
            // Very many may have begun at once.
            self.watch.sockets.shrink_to(2 * self.watch.due);
        }
        for _ in 0..LOOKS_A_TURN.min(self.watch.due) {
            self.watch.due -= 1;
            let Some(socket) = self.watch.sockets.pop_front() else { return };
            let Some(slot) = self.slot_mut(socket) else { continue };
            if slot.phase != Phase::Open {
                continue;
            }
            if (beat as u8).wrapping_sub(slot.beat) < QUIET {
                self.watch.sockets.push_back(socket);
                continue;
            }
            slot.heat = 0;
            if slot.armed == Armed::Multi && slot.wanted == Wanted::All {
                self.cancel_receive(socket.index);
            }
        }
    }

    /// The operation that is armed to receive.
    pub(super) fn armed_operation(armed: Armed) -> Operation {
        if armed == Armed::Poll { Operation::Poll } else { Operation::Receive }
    }
}
