//! The names and the state of a socket in the ring.

use std::os::fd::OwnedFd;

/// Names a socket of a ring. A name is never given out twice: the generation counts the uses of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SocketId {
    /// Dense: an index for a table.
    pub(crate) index: u32,
    /// Counts the sockets that had this index.
    pub(crate) generation: u32,
}

/// What an operation was, as its completion says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Operation {
    Wake = 1,
    Accept = 2,
    CancelAccept = 3,
    Receive = 4,
    CancelReceive = 5,
    Send = 6,
    CancelSend = 7,
}

/// The user data of an operation: 8 bits operation, 24 bits generation, 32 bits index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) operation: Operation,
    pub(super) generation: u32,
    pub(super) index: u32,
}

/// The generations that a token can tell apart. A slot is reused only after its last completion, so they serve as a
/// check of that rule.
const GENERATIONS: u32 = (1 << 24) - 1;

impl Token {
    pub(super) fn new(operation: Operation, generation: u32, index: u32) -> Token {
        Token { operation, generation: generation & GENERATIONS, index }
    }

    pub(super) fn encode(self) -> u64 {
        (self.operation as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.index)
    }

    pub(super) fn decode(user_data: u64) -> Option<Token> {
        let operation = match (user_data >> 56) as u8 {
            1 => Operation::Wake,
            2 => Operation::Accept,
            3 => Operation::CancelAccept,
            4 => Operation::Receive,
            5 => Operation::CancelReceive,
            6 => Operation::Send,
            7 => Operation::CancelSend,
            _ => return None,
        };
        Some(Token { operation, generation: (user_data >> 32) as u32 & GENERATIONS, index: user_data as u32 })
    }

    pub(super) fn is_of(self, generation: u32) -> bool {
        self.generation == generation & GENERATIONS
    }
}

/// A receive, as wished for or as armed in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Receive {
    #[default]
    None,
    /// Completes once.
    Once,
    /// Completes each time that bytes arrive.
    Multi,
}

/// The life of a socket here:
///
/// ```text
/// Free -> Open -> Releasing -> Free      the descriptor leaves, nothing armed on it
///           \---> Closing -> Aborting -> Free
///                     \----------------> Free
/// ```
#[derive(Debug, Default)]
pub(super) enum Phase {
    /// No socket.
    #[default]
    Free,
    /// In use.
    Open,
    /// About to leave for another ring as soon as nothing is armed.
    Releasing,
    /// Sending what is left, then `last`; then our end is shut and what arrives is discarded until the peer's end.
    Closing { last: Vec<u8>, shut: bool },
    /// Everything armed is being cancelled; closed at the last completion.
    Aborting,
}

/// One socket.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) socket: Option<OwnedFd>,
    pub(super) generation: u32,
    /// Operations whose last completion has not been reaped.
    pub(super) in_flight: u8,
    /// The receive that should be armed.
    pub(super) wanted: Receive,
    /// The receive that is armed.
    pub(super) armed: Receive,
    /// A cancellation of the armed receive is under way.
    pub(super) cancelling: bool,
    /// Waits in the queue of those that found no buffer.
    pub(super) starved: bool,
    /// The peer's end, or an error, was seen: nothing more arrives.
    pub(super) ended: bool,
    /// Sending has failed: nothing more leaves.
    pub(super) broken: bool,
    /// `outgoing` is in the kernel's hands.
    pub(super) sending: bool,
    /// Bytes of `outgoing` that were sent.
    pub(super) sent: usize,
    /// What is being sent. Must not be touched while `sending`.
    pub(super) outgoing: Vec<u8>,
    pub(super) phase: Phase,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_kernel() {
        for code in 0..=u8::MAX {
            let user_data = u64::from(code) << 56 | 0x00ab_cdef << 32 | 77;
            match Token::decode(user_data) {
                Some(token) => {
                    assert_eq!(token.operation as u8, code);
                    assert_eq!(token.encode(), user_data);
                    assert!(token.is_of(0x12ab_cdef) && !token.is_of(1));
                }
                None => assert!(!(1..=7).contains(&code)),
            }
        }
    }
}
