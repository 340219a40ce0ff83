//! The parts that records are made of: numbers of variable length, and texts behind their length.

use mqtt_proto::types::PacketId;

/// A number of 64 bits takes this many bytes at most.
const NUMBER_BYTES_MAX: usize = 10;

/// Appends a number, seven bits a byte, the lowest first; all bytes but the last have their highest bit set.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends bytes behind their number.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The record ends before it does.
    Length,
    /// It is not what this names.
    Field(&'static str),
}

/// Takes a record's fields off its front.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        let (&first, rest) = self.rest.split_first().ok_or(Fault::Length)?;
        self.rest = rest;
        Ok(first)
    }

    /// A number, written in as few bytes as it takes.
    pub(super) fn number(&mut self) -> Result<u64, Fault> {
        let mut number = 0;
        for at in 0..NUMBER_BYTES_MAX {
            let byte = self.byte()?;
            let last = byte & 0x80 == 0;
            if last && byte == 0 && at > 0 || at == NUMBER_BYTES_MAX - 1 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7F) << (7 * at);
            if last {
                return Ok(number);
            }
        }
        Err(Fault::Field("number"))
    }

    /// A number of 32 bits; `field` names it.
    pub(super) fn number_u32(&mut self, field: &'static str) -> Result<u32, Fault> {
        u32::try_from(self.number()?).map_err(|_| Fault::Field(field))
    }

    /// A number of 16 bits; `field` names it.
    pub(super) fn number_u16(&mut self, field: &'static str) -> Result<u16, Fault> {
        u16::try_from(self.number()?).map_err(|_| Fault::Field(field))
    }

    pub(super) fn packet_id(&mut self) -> Result<PacketId, Fault> {
        const FIELD: &str = "Packet Identifier";
        PacketId::new(self.number_u16(FIELD)?).ok_or(Fault::Field(FIELD))
    }

    /// Bytes behind their number.
    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let len = usize::try_from(self.number()?).map_err(|_| Fault::Length)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Fault::Length)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A text of UTF-8 behind its number of bytes; `field` names it.
    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, Fault> {
        core::str::from_utf8(self.bytes()?).map_err(|_| Fault::Field(field))
    }

    /// All that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_have_one_form() {
        let powers = (0..64).map(|bit| 1u64 << bit);
        for number in powers.flat_map(|power| [power - 1, power, power + 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, number);
            let mut reader = Reader::new(&bytes);
            assert_eq!(reader.number(), Ok(number));
            assert!(reader.is_empty());
            // One byte less, and one more that adds nothing.
            assert_eq!(Reader::new(&bytes[..bytes.len() - 1]).number(), Err(Fault::Length));
            *bytes.last_mut().expect("a byte") |= 0x80;
            bytes.push(0);
            assert_eq!(Reader::new(&bytes).number(), Err(Fault::Field("number")), "{number}");
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_none() {
        let mut bytes = [0xFF; 11];
        assert_eq!(Reader::new(&bytes).number(), Err(Fault::Field("number")));
        bytes[9] = 2;
        assert_eq!(Reader::new(&bytes).number(), Err(Fault::Field("number")));
        bytes[9] = 1;
        assert_eq!(Reader::new(&bytes).number(), Ok(u64::MAX));
    }

    #[test]
    fn a_text_longer_than_what_is_left_is_cut() {
        let mut reader = Reader::new(&[3, b'a', b'b']);
        assert_eq!(reader.text("ClientID"), Err(Fault::Length));
        let mut huge = Vec::new();
        put_number(&mut huge, u64::MAX);
        assert_eq!(Reader::new(&huge).bytes(), Err(Fault::Length));
        assert_eq!(Reader::new(&[1, 0xFF]).text("ClientID"), Err(Fault::Field("ClientID")));
    }
}
