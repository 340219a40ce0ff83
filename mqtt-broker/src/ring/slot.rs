//! The names and the state of a socket in the ring.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{squeue, types};

use crate::pieces::Pieces;

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
    Poll = 8,
    Shut = 9,
    Linger = 10,
    Write = 11,
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
            8 => Operation::Poll,
            9 => Operation::Shut,
            10 => Operation::Linger,
            11 => Operation::Write,
            _ => return None,
        };
        Some(Token { operation, generation: (user_data >> 32) as u32 & GENERATIONS, index: user_data as u32 })
    }

    pub(super) fn is_of(self, generation: u32) -> bool {
        self.generation == generation & GENERATIONS
    }
}

/// What the user of a socket wants to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Wanted {
    #[default]
    Nothing,
    /// What comes next, once.
    Once,
    /// Whatever comes.
    All,
}

/// What is armed in the kernel to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Armed {
    #[default]
    Nothing,
    /// Completes once there is something to receive. It takes a third of the kernel memory of a receive.
    Poll,
    /// A receive that completes once.
    Once,
    /// A receive that completes each time that bytes arrive.
    Multi,
}

/// The life of a socket here:
///
/// ```text
/// Free -> Open -> Releasing -> Free      the descriptor leaves, nothing armed on it
///           \---> Closing -> Shut -> Aborting -> Free
///                     \-----------------------> Free
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// No socket.
    #[default]
    Free,
    /// In use.
    Open,
    /// About to leave for another ring as soon as nothing is armed.
    Releasing,
    /// Sending what is left.
    Closing,
    /// Our end is shut; what arrives is discarded until the peer's end.
    Shut,
    /// Everything armed is being cancelled; closed at the last completion.
    Aborting,
}

/// Where a socket is kept.
#[derive(Debug, Default)]
pub(super) enum Place {
    #[default]
    Nowhere,
    /// Among the open files of the process; its operations are the first bay's. If it stays on this core, it may move
    /// into a table.
    Plain { descriptor: OwnedFd, stays: bool },
    /// In the table of a bay.
    Table { bay: u8, file: u32 },
}

/// How an operation names a socket: a number, what makes it one of a table, and the bay.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) fd: types::Fd,
    pub(super) flags: squeue::Flags,
    pub(super) bay: u8,
}

/// What exists only while a socket sends, or is to send its last bytes.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    /// What is being sent. Must not be touched while `sending`.
    pub(super) buffer: Vec<u8>,
    /// What is being sent instead, if some of it is shared. Must not be touched while `sending`.
    pub(super) gather: Option<Box<Gather>>,
    /// Bytes of it that were sent.
    pub(super) sent: usize,
    /// What is to follow before the socket closes.
    pub(super) last: Vec<u8>,
}

/// Pieces, as the kernel wants to be told of them.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) pieces: Pieces,
    list: Vec<libc::iovec>,
    header: libc::msghdr,
}

impl Gather {
    pub(super) fn new(pieces: Pieces) -> Gather {
        // SAFETY: integers and pointers, for which all bits zero mean none.
        let header = unsafe { std::mem::zeroed() };
        Gather { pieces, list: Vec::new(), header }
    }

    /// Names what follows the first `sent` bytes. It stays where it is while this box lives and neither is changed.
    pub(super) fn header(&mut self, mut sent: usize) -> *const libc::msghdr {
        self.list.clear();
        for piece in self.pieces.iter() {
            let rest = &piece[sent.min(piece.len())..];
            sent -= piece.len() - rest.len();
            if !rest.is_empty() {
                self.list
                    .push(libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() });
            }
        }
        self.header.msg_iov = self.list.as_mut_ptr();
        self.header.msg_iovlen = self.list.len() as _;
        &raw const self.header
    }
}

impl Outgoing {
    /// Bytes of what is being sent.
    pub(super) fn len(&self) -> usize {
        self.gather.as_ref().map_or(self.buffer.len(), |gather| gather.pieces.len())
    }

    /// The buffer of what was sent.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        match self.gather.take() {
            Some(gather) => gather.pieces.into_buffer(),
            None => std::mem::take(&mut self.buffer),
        }
    }
}

/// One socket. There may be a million: its size is asserted below.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) outgoing: Option<Box<Outgoing>>,
    pub(super) generation: u32,
    /// Operations whose last completion has not been reaped.
    pub(super) in_flight: u8,
    pub(super) phase: Phase,
    pub(super) wanted: Wanted,
    pub(super) armed: Armed,
    /// A cancellation of what is armed is under way.
    pub(super) cancelling: bool,
    /// A poll has said that there is something to receive, and it has not been taken.
    pub(super) ready: bool,
    /// Waits in the queue of those that found no buffer.
    pub(super) starved: bool,
    /// The peer's end, or an error, was seen: nothing more arrives.
    pub(super) ended: bool,
    /// Sending has failed: nothing more leaves.
    pub(super) broken: bool,
    /// The buffer of `outgoing` is in the kernel's hands.
    pub(super) sending: bool,
    /// How busy it is, and when something came last: see `park.rs`.
    pub(super) heat: u8,
    pub(super) beat: u8,
}

impl Slot {
    /// Names the socket in an operation.
    pub(super) fn target(&self) -> Option<Target> {
        match &self.place {
            Place::Nowhere => None,
            Place::Plain { descriptor, .. } => {
                Some(Target { fd: types::Fd(descriptor.as_raw_fd()), flags: squeue::Flags::empty(), bay: 0 })
            }
            // The kernel takes the same field for both and goes by the flag.
            Place::Table { bay, file } => {
                Some(Target { fd: types::Fd(*file as i32), flags: squeue::Flags::FIXED_FILE, bay: *bay })
            }
        }
    }

    /// The bay that its operations are in.
    pub(super) fn bay(&self) -> u8 {
        if let Place::Table { bay, .. } = self.place { bay } else { 0 }
    }

    /// The socket, if it is an open file of the process.
    pub(super) fn descriptor(&self) -> Option<&OwnedFd> {
        if let Place::Plain { descriptor, .. } = &self.place { Some(descriptor) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_socket_is_small() {
        assert_eq!(size_of::<Slot>(), 32);
    }

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
                None => assert!(!(1..=11).contains(&code)),
            }
        }
    }
}
