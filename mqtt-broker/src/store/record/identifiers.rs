//! The Subscription Identifiers of a delivery, as they are listed or as they are written.

use core::fmt;

use super::wire::{Fault, Reader, put_number};

/// The largest Subscription Identifier (section 3.8.2.1.2).
const IDENTIFIER_MAX: u32 = 268_435_455;

const FIELD: &str = "Subscription Identifier";

/// Subscription Identifiers: a list, or the bytes of a record that were found to be one.
#[derive(Clone, Copy)]
pub struct Identifiers<'a>(Form<'a>);

#[derive(Clone, Copy)]
enum Form<'a> {
    List(&'a [u32]),
    /// Numbers, each of which was read once.
    Wire(&'a [u8]),
}

impl<'a> Identifiers<'a> {
    /// No identifiers.
    pub const EMPTY: Identifiers<'static> = Identifiers(Form::List(&[]));

    /// The identifiers in `list`.
    pub const fn new(list: &'a [u32]) -> Identifiers<'a> {
        Identifiers(Form::List(list))
    }

    /// Those that `bytes` are made of.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Identifiers<'a>, Fault> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            if Identifiers::decode_one(&mut reader)? == 0 {
                return Err(Fault::Field(FIELD));
            }
        }
        Ok(Identifiers(Form::Wire(bytes)))
    }

    /// A single one, or 0 for none.
    pub(super) fn decode_one(reader: &mut Reader<'_>) -> Result<u32, Fault> {
        let identifier = reader.number_u32(FIELD)?;
        if identifier <= IDENTIFIER_MAX { Ok(identifier) } else { Err(Fault::Field(FIELD)) }
    }

    /// Appends them as they are written.
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        match self.0 {
            Form::Wire(bytes) => out.extend_from_slice(bytes),
            Form::List(list) => list.iter().for_each(|&identifier| put_number(out, identifier.into())),
        }
    }

    /// One after the other.
    pub fn iter(self) -> impl Iterator<Item = u32> + use<'a> {
        let (list, bytes) = match self.0 {
            Form::List(list) => (list, &[][..]),
            Form::Wire(bytes) => (&[][..], bytes),
        };
        let mut reader = Reader::new(bytes);
        let written = core::iter::from_fn(move || reader.number_u32(FIELD).ok());
        list.iter().copied().chain(written)
    }
}

impl fmt::Debug for Identifiers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
