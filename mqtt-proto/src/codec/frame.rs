//! Frames: where one packet ends and the next begins, in a byte stream that is split anywhere.
//!
//! Invariant: [`Framer`] owns memory only between the pieces of one packet, of at most twice the bytes (or eight)
//! that came and the 32 in which it keeps track of them, whatever length the peer announced.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::error::DecodeError;
use super::read::variable_byte_integer_len;
use crate::packet::PacketType;

/// The Fixed Header of section 2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The type of the packet.
    pub packet_type: PacketType,
    /// The lower four bits of the first byte.
    pub flags: u8,
    /// Bytes of the Fixed Header itself: 2 to 5.
    pub header_len: usize,
    /// Bytes behind the Fixed Header.
    pub remaining_len: usize,
}

impl FrameHeader {
    /// Bytes of the whole packet.
    pub const fn frame_len(&self) -> usize {
        self.header_len + self.remaining_len
    }

    /// Whether the Remaining Length is written in as few bytes as it needs. 5.0 demands it [MQTT-1.5.5-1], the
    /// versions before do not.
    pub(super) const fn is_minimal(&self) -> bool {
        self.header_len == 1 + variable_byte_integer_len(self.remaining_len as u32)
    }
}

/// The flags that a type may carry in some version: bit n of an entry allows the flags n.
const FLAGS: [u16; 16] = {
    let mut allowed = [1; 16];
    allowed[0] = 0;
    // DUP 8, QoS 2 and 4, RETAIN 1: not QoS 3, and DUP only above QoS 0.
    allowed[PacketType::Publish as usize] = 0b0011_1100_0011_1111;
    // 3.1 counts these as QoS 1 and lets them be sent again with DUP.
    allowed[PacketType::PubRel as usize] = 1 << 2 | 1 << 10;
    allowed[PacketType::Subscribe as usize] = 1 << 2 | 1 << 10;
    allowed[PacketType::Unsubscribe as usize] = 1 << 2 | 1 << 10;
    allowed
};

/// Reads the Fixed Header of the packet that starts `input`; `None` if more bytes are needed for it.
///
/// The type and its flags are judged from the first byte on, `maximum_packet_size` (the whole packet, in bytes)
/// as soon as the Remaining Length is known: before anything is buffered.
///
/// # Errors
/// A forbidden type, reserved flags, a Remaining Length of more than four bytes, a packet too large.
#[inline]
pub fn peek_frame(input: &[u8], maximum_packet_size: u32) -> Result<Option<FrameHeader>, DecodeError> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let flags = first & 0x0F;
    let packet_type = match PacketType::from_bits(first >> 4) {
        Some(packet_type) if FLAGS[usize::from(first >> 4)] >> flags & 1 != 0 => packet_type,
        packet_type => return Err(first_byte_error(packet_type, flags)),
    };
    let mut remaining_len = 0u32;
    for index in 0..4 {
        let Some(&byte) = rest.get(index) else { return Ok(None) };
        remaining_len |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let header_len = index + 2;
            let size = remaining_len + header_len as u32;
            if size > maximum_packet_size {
                return Err(DecodeError::PacketTooLarge { size, maximum: maximum_packet_size });
            }
            let remaining_len = remaining_len as usize;
            return Ok(Some(FrameHeader { packet_type, flags, header_len, remaining_len }));
        }
    }
    Err(DecodeError::VariableByteInteger)
}

/// Bytes of the packet that starts `input`, if its Fixed Header is valid and its Remaining Length has one byte: with most
/// packets that takes one look. `None` says nothing about any other.
#[inline(always)]
fn short_frame_len(input: &[u8]) -> Option<u32> {
    let &[first, remaining_len, ..] = input else { return None };
    let is_short = remaining_len < 0x80 && FLAGS[usize::from(first >> 4)] >> (first & 0x0F) & 1 != 0;
    is_short.then(|| 2 + u32::from(remaining_len))
}

#[cold]
fn first_byte_error(packet_type: Option<PacketType>, flags: u8) -> DecodeError {
    match packet_type {
        None => DecodeError::ForbiddenPacketType(0),
        Some(PacketType::Publish) if flags & 0b0110 == 0b0110 => DecodeError::Qos,
        Some(PacketType::Publish) => DecodeError::DupAtQos0,
        Some(packet_type) => DecodeError::ReservedFlags { packet_type, flags },
    }
}

/// Finds whole packets in a byte stream.
///
/// A packet that lies whole in the input is returned in place. Only the bytes of an incomplete packet are kept,
/// and the memory for them is given back once it is complete and `next_frame` is called again.
#[derive(Debug, Default)]
pub struct Framer(Option<Box<Partial>>);

/// The first part of a packet, never empty.
#[derive(Debug)]
struct Partial {
    bytes: Vec<u8>,
    /// The packet was complete and has been handed out.
    handed_out: bool,
}

impl Framer {
    /// The next whole packet, its bytes cut off `input`; `None` when `input` is used up.
    ///
    /// ```
    /// # use mqtt_proto::codec::Framer;
    /// let mut framer = Framer::default();
    /// let mut input: &[u8] = &[0xC0, 0x00, 0xD0];
    /// assert_eq!(framer.next_frame(&mut input, 1024)?, Some(&[0xC0, 0x00][..]));
    /// assert_eq!(framer.next_frame(&mut input, 1024)?, None);
    /// assert_eq!(framer.buffered_len(), 1);
    /// let mut input: &[u8] = &[0x00];
    /// assert_eq!(framer.next_frame(&mut input, 1024)?, Some(&[0xD0, 0x00][..]));
    /// # Ok::<(), mqtt_proto::codec::DecodeError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`peek_frame`]. The stream has no next packet then: close the Network Connection.
    #[inline(always)]
    pub fn next_frame<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
        maximum_packet_size: u32,
    ) -> Result<Option<&'a [u8]>, DecodeError> {
        // What has been handed out is still there.
        if self.0.is_none()
            && let Some(len) = short_frame_len(input)
            && len <= maximum_packet_size
            && let Some((frame, rest)) = input.split_at_checked(len as usize)
        {
            *input = rest;
            return Ok(Some(frame));
        }
        let (frame, used) = self.next_any(input, maximum_packet_size)?;
        *input = &input[used..];
        Ok(frame)
    }

    /// The next whole packet and how much of `input` is used up with it. `input` is passed by value so that it stays in
    /// registers where packets come whole.
    fn next_any<'a, 'input: 'a>(
        &'a mut self,
        input: &'input [u8],
        maximum_packet_size: u32,
    ) -> Result<(Option<&'a [u8]>, usize), DecodeError> {
        self.0.take_if(|partial| partial.handed_out);
        if self.0.is_some() {
            return self.next_of_pieces(input, maximum_packet_size);
        }
        if let Some(header) = peek_frame(input, maximum_packet_size)?
            && let Some(frame) = input.get(..header.frame_len())
        {
            return Ok((Some(frame), frame.len()));
        }
        if !input.is_empty() {
            self.0 = Some(Box::new(Partial { bytes: Vec::from(input), handed_out: false }));
        }
        Ok((None, input.len()))
    }

    /// [`Framer::next_any`] where a packet came in pieces.
    fn next_of_pieces(
        &mut self,
        input: &[u8],
        maximum_packet_size: u32,
    ) -> Result<(Option<&[u8]>, usize), DecodeError> {
        let Some(partial) = &mut self.0 else { return Ok((None, 0)) };
        let used = partial.complete(input, maximum_packet_size)?;
        Ok((partial.handed_out.then_some(&partial.bytes), used))
    }

    /// Whether the first part of a packet has come.
    #[inline]
    pub(crate) fn is_amid_packet(&self) -> bool {
        self.buffered_len() > 0
    }

    /// Bytes kept of an incomplete packet.
    pub fn buffered_len(&self) -> usize {
        self.0.as_ref().filter(|partial| !partial.handed_out).map_or(0, |partial| partial.bytes.len())
    }

    /// Takes the bytes of the incomplete packet out, for the one who reads the rest of the stream.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        self.0.take().filter(|partial| !partial.handed_out).map_or_else(Vec::new, |partial| partial.bytes)
    }
}

impl Partial {
    /// Adds to the incomplete packet what it lacks; the answer is how much of `input` that was. `input` is passed by value
    /// so that it stays in registers where packets come whole.
    fn complete(&mut self, input: &[u8], maximum_packet_size: u32) -> Result<usize, DecodeError> {
        let mut used = 0;
        let header = loop {
            match peek_frame(&self.bytes, maximum_packet_size)? {
                Some(header) => break header,
                None => {
                    let Some(&byte) = input.get(used) else { return Ok(used) };
                    self.bytes.push(byte);
                    used += 1;
                }
            }
        };
        let frame_len = header.frame_len();
        let missing = frame_len - self.bytes.len();
        let rest = &input[used..];
        let bytes = &rest[..missing.min(rest.len())];
        let len = self.bytes.len() + bytes.len();
        if self.bytes.capacity() < len {
            let capacity = frame_len.min(len.max(2 * self.bytes.len()));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        self.handed_out = len == frame_len;
        Ok(used + bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framer_is_small_and_owns_nothing_between_packets() {
        assert_eq!(size_of::<Framer>(), size_of::<usize>());
        let mut framer = Framer::default();
        for byte in [0x30, 5, 0, 1, b'a', 1] {
            assert_eq!(framer.next_frame(&mut &[byte][..], 100), Ok(None));
        }
        assert_eq!(framer.buffered_len(), 6);
        let frame = framer.next_frame(&mut &[2][..], 100).expect("valid").expect("complete");
        assert_eq!(frame, [0x30, 5, 0, 1, b'a', 1, 2]);
        assert_eq!(framer.buffered_len(), 0);
        assert_eq!(framer.next_frame(&mut &[][..], 100), Ok(None));
        assert!(framer.0.is_none());
    }

    #[test]
    fn memory_follows_the_bytes_that_came_not_the_length_announced() {
        let mut framer = Framer::default();
        // 268,435,455 bytes are announced.
        let mut came = 0;
        for chunk in [&[0x30, 0xFF, 0xFF, 0xFF, 0x7F][..], &[0; 100], &[0; 10], &[0; 1000]] {
            came += chunk.len();
            assert_eq!(framer.next_frame(&mut &chunk[..], u32::MAX), Ok(None));
            assert_eq!(framer.buffered_len(), came);
            let capacity = framer.0.as_ref().map_or(0, |partial| partial.bytes.capacity());
            assert!(capacity <= 2 * came, "{capacity}");
        }
        assert_eq!(framer.take_buffered().len(), came);
        assert_eq!(framer.buffered_len(), 0);
    }

    #[test]
    fn packets_too_large_are_refused_before_they_are_buffered() {
        let mut framer = Framer::default();
        let error = DecodeError::PacketTooLarge { size: 103, maximum: 102 };
        assert_eq!(framer.next_frame(&mut &[0x30, 0x80 | 100, 0x00][..], 102), Err(error));
        assert_eq!(framer.buffered_len(), 0);
        assert_eq!(framer.next_frame(&mut &[0x30, 0x80 | 100, 0x00][..], 103), Ok(None));
    }

    #[test]
    fn garbage_fails_at_the_first_byte() {
        assert_eq!(peek_frame(&[0x00], 100), Err(DecodeError::ForbiddenPacketType(0)));
        assert_eq!(peek_frame(&[0x36], 100), Err(DecodeError::Qos));
        assert_eq!(peek_frame(&[0x3F], 100), Err(DecodeError::Qos));
        assert_eq!(peek_frame(&[0x38], 100), Err(DecodeError::DupAtQos0));
        assert_eq!(peek_frame(&[0x39], 100), Err(DecodeError::DupAtQos0));
        for first in 0u8..=255 {
            let valid = match first >> 4 {
                0 => false,
                3 => first & 6 != 6 && (first & 8 == 0 || first & 6 != 0),
                6 | 8 | 10 => first & 7 == 2,
                _ => first & 15 == 0,
            };
            assert_eq!(peek_frame(&[first], 100), if valid { Ok(None) } else { peek_frame(&[first], 0) });
            assert_eq!(peek_frame(&[first], 100).is_ok(), valid, "{first:#04x}");
        }
    }

    #[test]
    fn remaining_length_has_at_most_four_bytes() {
        for (bytes, len) in [
            (&[0xC0, 0x00][..], 0),
            (&[0xC0, 0x7F], 127),
            (&[0xC0, 0x80, 0x01], 128),
            (&[0xC0, 0xFF, 0x7F], 16_383),
            (&[0xC0, 0x80, 0x80, 0x01], 16_384),
            (&[0xC0, 0xFF, 0xFF, 0x7F], 2_097_151),
            (&[0xC0, 0x80, 0x80, 0x80, 0x01], 2_097_152),
            (&[0xC0, 0xFF, 0xFF, 0xFF, 0x7F], 268_435_455),
        ] {
            let header = peek_frame(bytes, u32::MAX).expect("valid").expect("complete");
            assert_eq!((header.header_len, header.remaining_len), (bytes.len(), len));
            assert!(header.is_minimal());
        }
        assert_eq!(peek_frame(&[0xC0, 0x80, 0x80, 0x80, 0x80], 9), Err(DecodeError::VariableByteInteger));
        assert!(!peek_frame(&[0xC0, 0x80, 0x00], 9).expect("valid").expect("complete").is_minimal());
    }
}
