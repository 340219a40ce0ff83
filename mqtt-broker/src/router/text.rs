//! The text of a filter or a level, in place rather than behind a pointer while it is short.

/// An immutable text: up to 30 bytes in place.
pub(super) struct Text(Place);

enum Place {
    Here { len: u8, bytes: [u8; HERE_MAX] },
    Heap(Box<[u8]>),
}

const HERE_MAX: usize = 30;

impl Text {
    pub(super) fn new(text: &[u8]) -> Text {
        let mut bytes = [0; HERE_MAX];
        match bytes.get_mut(..text.len()) {
            Some(start) => {
                start.copy_from_slice(text);
                Text(Place::Here { len: text.len() as u8, bytes })
            }
            None => Text(Place::Heap(text.into())),
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here { len, bytes } => &bytes[..usize::from(*len)],
            Place::Heap(text) => text,
        }
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).expect("it was made from a str")
    }

    /// Heap bytes held.
    pub(super) fn memory(&self) -> usize {
        match &self.0 {
            Place::Here { .. } => 0,
            Place::Heap(text) => text.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_texts_are_kept_as_they_are() {
        for len in [0, 1, HERE_MAX - 1, HERE_MAX, HERE_MAX + 1, 65_535] {
            let text = "x".repeat(len);
            let kept = Text::new(text.as_bytes());
            assert_eq!((kept.as_str(), kept.as_bytes()), (&*text, text.as_bytes()));
            assert_eq!(kept.memory(), if len > HERE_MAX { len } else { 0 });
        }
        assert_eq!(Text::new("é/ü".as_bytes()).as_str(), "é/ü");
        assert_eq!(size_of::<Text>(), 32);
    }
}
