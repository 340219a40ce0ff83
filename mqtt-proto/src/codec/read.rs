//! Wire primitives of section 1.5, read from the front of a slice.

use ascii::AsAsciiStr;

use super::error::DecodeError;
use crate::types::PacketId;

/// Bytes of `value` as a Variable Byte Integer.
#[inline]
pub(super) const fn variable_byte_integer_len(value: u32) -> usize {
    match value {
        0..128 => 1,
        128..16_384 => 2,
        16_384..2_097_152 => 3,
        _ => 4,
    }
}

/// What is left of a packet, or of its properties.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that is left.
    #[inline]
    pub(super) const fn rest(self) -> &'a [u8] {
        self.rest
    }

    /// Ends the packet: every byte has its meaning.
    #[inline]
    pub(super) const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes(self.rest.len() as u32)) }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*bytes)
    }

    #[inline]
    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_be_bytes)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::PacketIdZero)
    }

    /// A Variable Byte Integer, in as few bytes as it needs [MQTT-1.5.5-1].
    #[inline]
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let first = self.u8()?;
        if first < 0x80 {
            return Ok(u32::from(first));
        }
        let (value, rest) = self.long_variable_byte_integer(first)?;
        *self = rest;
        Ok(value)
    }

    /// The value and what is left behind it: by value, so that a reader stays in registers.
    fn long_variable_byte_integer(mut self, first: u8) -> Result<(u32, Reader<'a>), DecodeError> {
        let mut value = u32::from(first & 0x7F);
        for shift in [7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            match byte {
                0 => break,
                1..0x80 => return Ok((value, self)),
                _ => {}
            }
        }
        Err(DecodeError::VariableByteInteger)
    }

    /// Binary Data.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }

    /// A UTF-8 Encoded String [MQTT-1.5.4-1] [MQTT-1.5.4-2].
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        let text = text(self.binary()?)?;
        if text.as_bytes().contains(&0) { Err(DecodeError::NullCharacter) } else { Ok(text) }
    }
}

/// `bytes` as text, which is nearly always ASCII: that is seen many bytes at a time, wherever they lie.
#[inline]
pub(super) fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    match bytes.as_ascii_str() {
        Ok(text) => Ok(text.as_str()),
        Err(_) => core::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_byte_integers_are_minimal() {
        for (bytes, value) in
            [(&[0x00][..], 0), (&[0x7F], 127), (&[0x80, 0x01], 128), (&[0xFF, 0xFF, 0xFF, 0x7F], 268_435_455)]
        {
            assert_eq!(Reader::new(bytes).variable_byte_integer(), Ok(value));
            assert_eq!(variable_byte_integer_len(value), bytes.len());
        }
        for bytes in [&[0x80, 0x00][..], &[0xFF, 0x80, 0x00], &[0x80, 0x80, 0x80, 0x80, 0x01]] {
            assert_eq!(Reader::new(bytes).variable_byte_integer(), Err(DecodeError::VariableByteInteger));
        }
        assert_eq!(Reader::new(&[0x80]).variable_byte_integer(), Err(DecodeError::Truncated));
    }

    #[test]
    fn strings_are_well_formed_and_without_null() {
        let string = |bytes: &'static [u8]| Reader::new(bytes).string();
        assert_eq!(string(b"\x00\x02\xC3\xA9"), Ok("é"));
        // A byte order mark is a character like others [MQTT-1.5.4-3].
        assert_eq!(string(b"\x00\x03\xEF\xBB\xBF"), Ok("\u{FEFF}"));
        // The surrogate U+D800.
        assert_eq!(string(b"\x00\x03\xED\xA0\x80"), Err(DecodeError::Utf8));
        assert_eq!(string(b"\x00\x02\xC0\x80"), Err(DecodeError::Utf8));
        assert_eq!(string(b"\x00\x03a\x00b"), Err(DecodeError::NullCharacter));
        assert_eq!(string(b"\x00\x03ab"), Err(DecodeError::Truncated));
    }
}
