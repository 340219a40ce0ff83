//! The ClientID of a session, in place rather than behind a pointer while it is short: a session whose Client is away has
//! no other memory of its own.

use core::fmt;
use core::ops::Deref;

use ascii::{AsAsciiStr, AsciiChar, AsciiStr};

/// A ClientID: in place if it is ASCII of 23 bytes or fewer, as those are that every Server has to take [MQTT-3.1.3-5].
pub(super) struct ClientId(Place);

enum Place {
    Here { len: u8, text: [AsciiChar; HERE_MAX] },
    Heap(Box<str>),
}

const HERE_MAX: usize = 23;

impl From<&str> for ClientId {
    fn from(client_id: &str) -> ClientId {
        let ascii = client_id.as_ascii_str().ok().filter(|ascii| ascii.len() <= HERE_MAX);
        ClientId(match ascii {
            Some(ascii) => {
                let mut text = [AsciiChar::Null; HERE_MAX];
                text[..ascii.len()].copy_from_slice(ascii.as_slice());
                Place::Here { len: ascii.len() as u8, text }
            }
            None => Place::Heap(client_id.into()),
        })
    }
}

impl Deref for ClientId {
    type Target = str;

    #[inline]
    fn deref(&self) -> &str {
        match &self.0 {
            Place::Here { len, text } => <&AsciiStr>::from(&text[..usize::from(*len)]).as_str(),
            Place::Heap(text) => text,
        }
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_ones_are_kept_as_they_are() {
        for len in [0, 1, HERE_MAX - 1, HERE_MAX, HERE_MAX + 1, 65_535] {
            let text = "x".repeat(len);
            let kept = ClientId::from(&*text);
            assert_eq!(&*kept, text);
            assert_eq!(matches!(kept.0, Place::Here { .. }), len <= HERE_MAX);
        }
        assert_eq!(&*ClientId::from("Zähler/ü"), "Zähler/ü");
        assert_eq!(size_of::<ClientId>(), 24);
    }
}
