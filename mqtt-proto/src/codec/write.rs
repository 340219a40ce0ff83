//! Wire primitives of section 1.5, written to a [`Sink`]: the same code measures a packet and writes it.

use alloc::vec::Vec;

use super::error::EncodeError;
use super::read::variable_byte_integer_len;
use crate::types::PacketId;

/// The largest Remaining Length: four bytes of a Variable Byte Integer.
pub(super) const REMAINING_LENGTH_MAX: usize = 268_435_455;

/// Where encoded bytes go.
pub(super) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Counts the bytes and forgets them.
#[derive(Default)]
pub(super) struct Length(pub(super) usize);

impl Sink for Length {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.0 = self.0.saturating_add(bytes.len());
    }
}

pub(super) fn put_packet_id(sink: &mut impl Sink, id: PacketId) {
    sink.put(&id.get().to_be_bytes());
}

/// Writes a Variable Byte Integer; `value` is at most 268,435,455 where the sink keeps it.
#[inline]
pub(super) fn put_variable_byte_integer(sink: &mut impl Sink, value: u32) {
    if value < 0x80 {
        sink.put(&[value as u8]);
    } else {
        let (bytes, len) = variable_byte_integer(value);
        sink.put(&bytes[..len]);
    }
}

/// `value` as a Variable Byte Integer: the first so many of the bytes.
#[inline]
pub(super) const fn variable_byte_integer(value: u32) -> ([u8; 4], usize) {
    let len = variable_byte_integer_len(value);
    // Seven bits a byte, then the continuation bit of each byte but the last.
    let groups = value & 0x7F | (value & 0x3F80) << 1 | (value & 0x1F_C000) << 2 | (value & 0x0FE0_0000) << 3;
    let continued = 0x0080_8080 & ((1 << (8 * (len - 1))) - 1);
    ((groups | continued).to_le_bytes(), len)
}

/// The length of a field that has two bytes for it.
#[inline]
pub(super) fn field_len(bytes: &[u8]) -> Result<u16, EncodeError> {
    u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong)
}

/// Writes Binary Data.
pub(super) fn put_binary(sink: &mut impl Sink, bytes: &[u8]) -> Result<(), EncodeError> {
    sink.put(&field_len(bytes)?.to_be_bytes());
    sink.put(bytes);
    Ok(())
}

/// Writes a UTF-8 Encoded String.
pub(super) fn put_string(sink: &mut impl Sink, text: &str) -> Result<(), EncodeError> {
    if text.as_bytes().contains(&0) {
        return Err(EncodeError::NullCharacter);
    }
    put_binary(sink, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_grow_at_the_standards_steps() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            let mut out = Vec::new();
            put_variable_byte_integer(&mut out, value);
            assert_eq!(out, bytes);
        }
    }
}
