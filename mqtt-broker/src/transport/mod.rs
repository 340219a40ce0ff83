//! What lies between the socket and MQTT: nothing for plain TCP, else a [`Layer`].
//!
//! A layer is a machine without I/O, as everything below the runtime: bytes off the wire go in, plain bytes for the
//! shard come out, and the other way round. TLS, WebSocket and the PROXY protocol are such layers. It belongs to one
//! connection, lives on that connection's core and moves to another core with it.

use std::fmt;
use std::sync::Arc;

use crate::shard::ConnectionInfo;

/// What a layer says about its connection after input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Open,
    /// The peer has ended the layer in its orderly way, say with a close frame: the connection closes.
    Ended,
}

/// The peer broke the rules of a layer; its connection closes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct LayerError {
    /// What the peer did, for the log.
    pub reason: String,
}

/// Bytes between the wire and MQTT.
pub trait Layer: Send {
    /// Takes bytes off the wire. Appends what they mean to `plain`, and what the layer itself has to answer, a
    /// handshake say, to `reply`.
    ///
    /// # Errors
    /// The connection cannot go on. `reply` is still sent.
    fn handle_input(
        &mut self,
        wire: &[u8],
        plain: &mut Vec<u8>,
        reply: &mut Vec<u8>,
    ) -> Result<Progress, LayerError>;

    /// Appends to `wire` what sends `plain`.
    fn encode(&mut self, plain: &[u8], wire: &mut Vec<u8>);

    /// Appends to `wire` how this end says that it has sent everything.
    fn close(&mut self, wire: &mut Vec<u8>);
}

/// Makes the layer of a connection that a listener has accepted.
pub type LayerFactory = Arc<dyn Fn(&ConnectionInfo) -> Box<dyn Layer> + Send + Sync>;

/// Bytes a layer may have to say on its own account while the peer reads nothing; beyond, the connection is cut.
pub(crate) const REPLY_BYTES_MAX: usize = 64 * 1024;

/// The bytes of a connection on their way to and from the wire.
#[derive(Debug)]
pub(crate) enum Transport {
    /// Plain TCP: the shard's own buffers are sent, received bytes are lent to it.
    Plain,
    /// Through a layer.
    Layered(Box<Layered>),
}

/// A layer, and what waits around it.
pub(crate) struct Layered {
    pub(crate) layer: Box<dyn Layer>,
    /// Bytes for the wire that wait until the send under way is done.
    waiting: Vec<u8>,
    /// Of them, bytes that the layer says on its own account.
    replies: usize,
    /// A send is under way.
    sending: bool,
    /// The shard's buffer whose encoded form has not left whole.
    plain: Option<Vec<u8>>,
}

impl fmt::Debug for Layered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layered").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// What the runtime does next for a layered connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing.
    Wait,
    /// Send this; [`Layered::sent`] when it has left.
    Send(Vec<u8>),
    /// All that the shard gave has left: give it its buffer back.
    Done(Vec<u8>),
}

impl Layered {
    pub(crate) fn new(layer: Box<dyn Layer>) -> Layered {
        Layered { layer, waiting: Vec::new(), replies: 0, sending: false, plain: None }
    }

    /// Takes a buffer of the shard's to be sent.
    pub(crate) fn transmit(&mut self, buffer: Vec<u8>) -> Next {
        debug_assert!(self.plain.is_none(), "the shard has one buffer outstanding at most");
        self.layer.encode(&buffer, &mut self.waiting);
        self.plain = Some(buffer);
        self.proceed()
    }

    /// Takes what the layer itself has to say; `None` when that is too much for a peer that does not read.
    pub(crate) fn reply(&mut self, reply: &[u8]) -> Option<Next> {
        self.waiting.extend_from_slice(reply);
        self.replies += reply.len();
        (self.replies <= REPLY_BYTES_MAX).then(|| self.proceed())
    }

    /// As [`Layered::reply`] on the way to another core, where it is sent.
    pub(crate) fn hold(&mut self, reply: &[u8]) {
        self.waiting.extend_from_slice(reply);
    }

    /// What was sent has left; `wire` is used again.
    pub(crate) fn sent(&mut self, mut wire: Vec<u8>) -> Next {
        self.sending = false;
        if self.waiting.is_empty() {
            wire.clear();
            self.waiting = wire;
        }
        self.proceed()
    }

    fn proceed(&mut self) -> Next {
        if self.sending {
            Next::Wait
        } else if !self.waiting.is_empty() {
            self.sending = true;
            self.replies = 0;
            Next::Send(std::mem::take(&mut self.waiting))
        } else {
            // An idle connection keeps no buffer.
            self.waiting = Vec::new();
            self.plain.take().map_or(Next::Wait, Next::Done)
        }
    }

    /// The connection has arrived on another core: what was being sent there has left, what waits is sent here.
    pub(crate) fn arrive(&mut self) -> Next {
        self.sending = false;
        self.plain = None;
        self.proceed()
    }

    /// The last bytes for the wire: what waits, `last`, and the layer's own end.
    pub(crate) fn close(&mut self, last: &[u8]) -> Vec<u8> {
        let mut wire = std::mem::take(&mut self.waiting);
        if !last.is_empty() {
            self.layer.encode(last, &mut wire);
        }
        self.layer.close(&mut wire);
        wire
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says everything in lower case on the wire.
    struct Lower;

    impl Layer for Lower {
        fn handle_input(
            &mut self,
            wire: &[u8],
            plain: &mut Vec<u8>,
            _: &mut Vec<u8>,
        ) -> Result<Progress, LayerError> {
            plain.extend(wire.iter().map(u8::to_ascii_uppercase));
            Ok(Progress::Open)
        }

        fn encode(&mut self, plain: &[u8], wire: &mut Vec<u8>) {
            wire.extend(plain.iter().map(u8::to_ascii_lowercase));
        }

        fn close(&mut self, wire: &mut Vec<u8>) {
            wire.push(b'.');
        }
    }

    #[test]
    fn replies_wait_for_the_send_under_way_and_leave_before_the_buffer_comes_back() {
        let mut layered = Layered::new(Box::new(Lower));
        assert_eq!(layered.transmit(b"ABC".to_vec()), Next::Send(b"abc".to_vec()));
        assert_eq!(layered.reply(b"1"), Some(Next::Wait));
        assert_eq!(layered.reply(b"2"), Some(Next::Wait));
        assert_eq!(layered.sent(b"abc".to_vec()), Next::Send(b"12".to_vec()));
        assert_eq!(layered.sent(b"12".to_vec()), Next::Done(b"ABC".to_vec()));
        assert_eq!(layered.proceed(), Next::Wait);
        assert_eq!(layered.close(b"BYE"), b"bye.");
    }

    #[test]
    fn a_peer_that_makes_the_layer_talk_and_does_not_read_is_noticed() {
        let mut layered = Layered::new(Box::new(Lower));
        assert!(matches!(layered.reply(&[0; 1000]), Some(Next::Send(_))));
        let replies = (0..).take_while(|_| layered.reply(&[0; 1000]).is_some()).count();
        assert_eq!(replies, REPLY_BYTES_MAX / 1000);
    }
}
