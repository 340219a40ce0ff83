//! Topic Names and Topic Filters of section 4.7, Shared Subscriptions' filters of section 4.8.
//!
//! All borrow their text. [`TopicFilter::matches`] is the plain, slow definition of matching: the oracle that
//! faster structures are tested against.

use ascii::AsAsciiStr;

/// A Topic Name: at least one character, no wildcard, no U+0000, at most 65,535 bytes of UTF-8.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(
    // Bytes, since that is what a topic is hashed, compared, sent and kept as: hardly anybody reads it as text.
    &'a [u8],
);

/// Why a text is no Topic Name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// It has no character [MQTT-4.7.3-1].
    #[error("a Topic Name has at least one character")]
    Empty,
    /// It holds `+` or `#` [MQTT-3.3.2-2].
    #[error("a Topic Name holds no wildcard character")]
    Wildcard,
    /// It holds U+0000 [MQTT-4.7.3-2].
    #[error("a Topic Name holds no null character")]
    Null,
    /// It is longer than 65,535 bytes [MQTT-4.7.3-3].
    #[error("a Topic Name has at most 65,535 bytes")]
    TooLong,
}

/// Why a text is no Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// It has no character [MQTT-4.7.3-1].
    #[error("a Topic Filter has at least one character")]
    Empty,
    /// `#` is not the last level or shares its level with other characters [MQTT-4.7.1-1].
    #[error("`#` stands alone in the last level of a Topic Filter")]
    MultiLevelWildcard,
    /// `+` shares its level with other characters [MQTT-4.7.1-2].
    #[error("`+` occupies a whole level of a Topic Filter")]
    SingleLevelWildcard,
    /// It holds U+0000 [MQTT-4.7.3-2].
    #[error("a Topic Filter holds no null character")]
    Null,
    /// It is longer than 65,535 bytes [MQTT-4.7.3-3].
    #[error("a Topic Filter has at most 65,535 bytes")]
    TooLong,
    /// `$share/` without a ShareName, a filter behind it, or with a wildcard in the ShareName [MQTT-4.8.2-1]
    /// [MQTT-4.8.2-2].
    #[error(
        "a shared Topic Filter is $share/{{ShareName}}/{{filter}}, its ShareName without `/`, `+` and `#`"
    )]
    ShareName,
}

impl<'a> TopicName<'a> {
    /// `text` as a Topic Name.
    ///
    /// # Errors
    /// What [`TopicError`] lists.
    pub fn new(text: &'a str) -> Result<TopicName<'a>, TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > 65_535 {
            return Err(TopicError::TooLong);
        }
        if let Some(name) = TopicName::plain(text.as_bytes()) {
            return Ok(name);
        }
        for byte in text.bytes() {
            match byte {
                b'+' | b'#' => return Err(TopicError::Wildcard),
                0 => return Err(TopicError::Null),
                _ => {}
            }
        }
        Ok(TopicName(text.as_bytes()))
    }

    /// `bytes`, at most 65,535, as a Topic Name if it is seen at a glance that they are one: eight at least, and ASCII. Most
    /// are; `None` says nothing about any other.
    #[inline(always)]
    pub(crate) fn plain(bytes: &'a [u8]) -> Option<TopicName<'a>> {
        is_plain(bytes).then_some(TopicName(bytes))
    }

    /// The bytes of a Topic Name, out of [`TopicName::as_bytes`]. They are trusted to be that.
    #[inline]
    pub const fn from_trusted(bytes: &'a [u8]) -> TopicName<'a> {
        TopicName(bytes)
    }

    /// Its bytes.
    #[inline]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its text. That these bytes are text is looked up each time: where bytes will do, take
    /// [`TopicName::as_bytes`].
    ///
    /// # Panics
    /// If it was made [from bytes](TopicName::from_trusted) that are not UTF-8.
    pub fn as_str(self) -> &'a str {
        match self.0.as_ascii_str() {
            Ok(text) => text.as_str(),
            Err(_) => core::str::from_utf8(self.0).expect("a Topic Name is UTF-8"),
        }
    }

    /// Its levels: `/a` has two, the first of them empty.
    pub fn levels(self) -> impl DoubleEndedIterator<Item = &'a str> + Clone {
        self.as_str().split('/')
    }

    /// Whether it begins with `$`, so that filters beginning with a wildcard leave it out [MQTT-4.7.2-1].
    #[inline]
    pub fn is_dollar(self) -> bool {
        self.0.first() == Some(&b'$')
    }
}

/// Whether `bytes` are at least eight, ASCII all of them, and neither a wildcard nor U+0000 among them. Every PUBLISH is
/// asked, so eight of them are looked at together.
#[inline(always)]
fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    // `+` and `#` differ in one bit, which this leaves out.
    const WILDCARD_MASK: u64 = u64::from_ne_bytes([!(b'+' ^ b'#'); 8]);
    const WILDCARD: u64 = u64::from_ne_bytes([b'+' & b'#'; 8]);
    // A byte's high bit gets set if the byte is not ASCII, or one less than zero; by what a zero borrows perhaps also
    // the next one's, which then changes nothing.
    const fn suspicious(chunk: &[u8; 8]) -> u64 {
        let word = u64::from_ne_bytes(*chunk);
        word | word.wrapping_sub(ONES) | (word & WILDCARD_MASK ^ WILDCARD).wrapping_sub(ONES)
    }
    // The last eight bytes may overlap those before.
    let Some(last) = bytes.last_chunk::<8>() else { return false };
    let (chunks, _) = bytes.as_chunks::<8>();
    let found = chunks.iter().fold(suspicious(last), |found, chunk| found | suspicious(chunk));
    found & HIGH_BITS == 0
}

impl<'a> TryFrom<&'a str> for TopicName<'a> {
    type Error = TopicError;
    fn try_from(text: &'a str) -> Result<TopicName<'a>, TopicError> {
        TopicName::new(text)
    }
}

impl core::fmt::Display for TopicName<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.as_str().fmt(f)
    }
}

impl core::fmt::Debug for TopicName<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("TopicName").field(&self.as_str()).finish()
    }
}

/// A Topic Filter of a Non-shared Subscription, or the filter part of a shared one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

impl<'a> TopicFilter<'a> {
    /// `text` as a Topic Filter. `$share/` has no meaning here: see [`SharedFilter`].
    ///
    /// # Errors
    /// What [`FilterError`] lists, without [`FilterError::ShareName`].
    pub fn new(text: &'a str) -> Result<TopicFilter<'a>, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > 65_535 {
            return Err(FilterError::TooLong);
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(FilterError::MultiLevelWildcard);
            }
            if level.contains('+') && level != "+" {
                return Err(FilterError::SingleLevelWildcard);
            }
            if level.contains('\0') {
                return Err(FilterError::Null);
            }
        }
        Ok(TopicFilter(text))
    }

    /// Its text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Its levels; `+` and `#` are levels of their own.
    pub fn levels(self) -> impl DoubleEndedIterator<Item = &'a str> + Clone {
        self.0.split('/')
    }

    /// Whether it holds a wildcard.
    pub fn has_wildcard(self) -> bool {
        self.0.bytes().any(|byte| byte == b'+' || byte == b'#')
    }

    /// Whether `topic` matches, by the letter of section 4.7.
    pub fn matches(self, topic: TopicName<'_>) -> bool {
        let starts_with_wildcard = matches!(self.0.as_bytes()[0], b'+' | b'#');
        if topic.is_dollar() && starts_with_wildcard {
            return false;
        }
        let mut levels = topic.levels();
        for level in self.levels() {
            match (level, levels.next()) {
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

impl<'a> TryFrom<&'a str> for TopicFilter<'a> {
    type Error = FilterError;
    fn try_from(text: &'a str) -> Result<TopicFilter<'a>, FilterError> {
        TopicFilter::new(text)
    }
}

impl core::fmt::Display for TopicFilter<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// The ShareName of a Shared Subscription: at least one character, without `/`, `+` and `#` [MQTT-4.8.2-2].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareName<'a>(&'a str);

impl<'a> ShareName<'a> {
    /// `text` as a ShareName.
    ///
    /// # Errors
    /// [`FilterError::ShareName`] if it is empty or holds `/`, `+` or `#`, [`FilterError::Null`] for U+0000.
    pub fn new(text: &'a str) -> Result<ShareName<'a>, FilterError> {
        if text.is_empty() || text.contains(['/', '+', '#']) {
            return Err(FilterError::ShareName);
        }
        if text.contains('\0') {
            return Err(FilterError::Null);
        }
        Ok(ShareName(text))
    }

    /// Its text.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// What a SUBSCRIBE asks for: a filter, and the group if it begins with `$share/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedFilter<'a> {
    /// The group, `None` for a Non-shared Subscription.
    pub share_name: Option<ShareName<'a>>,
    /// The filter that topics are matched against.
    pub filter: TopicFilter<'a>,
}

impl<'a> SharedFilter<'a> {
    /// Reads `$share/{ShareName}/{filter}` [MQTT-4.8.2-1] or a plain Topic Filter.
    ///
    /// # Errors
    /// What [`FilterError`] lists.
    pub fn new(text: &'a str) -> Result<SharedFilter<'a>, FilterError> {
        let rest = match text.strip_prefix("$share") {
            Some("") => return Err(FilterError::ShareName),
            Some(rest) => rest.strip_prefix('/'),
            None => None,
        };
        let Some(rest) = rest else {
            return Ok(SharedFilter { share_name: None, filter: TopicFilter::new(text)? });
        };
        let (name, filter) = rest.split_once('/').ok_or(FilterError::ShareName)?;
        if filter.is_empty() {
            return Err(FilterError::ShareName);
        }
        Ok(SharedFilter { share_name: Some(ShareName::new(name)?), filter: TopicFilter::new(filter)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::new(filter).expect("a filter").matches(TopicName::new(topic).expect("a topic"))
    }

    #[test]
    fn matching_follows_the_examples_of_the_standard() {
        for topic in
            ["sport/tennis/player1", "sport/tennis/player1/ranking", "sport/tennis/player1/score/wimbledon"]
        {
            assert!(matches("sport/tennis/player1/#", topic), "{topic}");
        }
        assert!(matches("sport/#", "sport"));
        assert!(matches("#", "a/b"));
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
    }

    #[test]
    fn a_leading_wildcard_leaves_out_dollar_topics() {
        assert!(!matches("#", "$SYS/uptime"));
        assert!(!matches("+/monitor/Clients", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/#", "$SYS/uptime"));
        assert!(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
    }

    #[test]
    fn filters_with_misplaced_wildcards_are_refused() {
        assert_eq!(TopicFilter::new("sport/tennis#"), Err(FilterError::MultiLevelWildcard));
        assert_eq!(TopicFilter::new("sport/#/ranking"), Err(FilterError::MultiLevelWildcard));
        assert_eq!(TopicFilter::new("sport+"), Err(FilterError::SingleLevelWildcard));
        assert_eq!(TopicFilter::new(""), Err(FilterError::Empty));
        assert_eq!(TopicFilter::new("a\0"), Err(FilterError::Null));
    }

    #[test]
    fn shared_filters_are_taken_apart() {
        let shared = SharedFilter::new("$share/group/a/+/#").expect("valid");
        assert_eq!(shared.share_name.map(ShareName::as_str), Some("group"));
        assert_eq!(shared.filter.as_str(), "a/+/#");
        assert_eq!(SharedFilter::new("$share/g//a").expect("valid").filter.as_str(), "/a");
        assert_eq!(SharedFilter::new("$shared/a").expect("no share").share_name, None);
        for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/g+/a", "$share/#/a"] {
            assert_eq!(SharedFilter::new(bad), Err(FilterError::ShareName), "{bad}");
        }
    }

    #[test]
    fn topics_with_wildcards_or_null_are_refused() {
        assert_eq!(TopicName::new("a/+"), Err(TopicError::Wildcard));
        assert_eq!(TopicName::new("a\0b"), Err(TopicError::Null));
        assert_eq!(TopicName::new(""), Err(TopicError::Empty));
    }

    /// Every byte at every place of every length, between bytes that differ from it in as little as one bit.
    #[test]
    fn every_forbidden_byte_is_found_at_every_place_and_no_other() {
        for len in 1..40 {
            for place in 0..len {
                for byte in 0..=255 {
                    for around in [b'x', 1, b'*', b'"', b'/', 0x7F] {
                        let mut bytes = alloc::vec![around; len];
                        bytes[place] = byte;
                        let name = core::str::from_utf8(&bytes).ok().map(TopicName::new);
                        match byte {
                            0 => assert_eq!(name, Some(Err(TopicError::Null))),
                            b'+' | b'#' => assert_eq!(name, Some(Err(TopicError::Wildcard))),
                            128.. => assert_eq!(name, None, "not UTF-8"),
                            _ => assert_eq!(name.map(|name| name.is_ok()), Some(true)),
                        }
                        let plain = TopicName::plain(&bytes).map(Ok);
                        assert_eq!(plain, name.filter(|name| name.is_ok() && len >= 8), "{bytes:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_name_that_is_not_ascii_keeps_its_text() {
        let name = TopicName::new("hé/llo/wörld").expect("a topic");
        assert_eq!(TopicName::plain(name.as_bytes()), None);
        let again = TopicName::from_trusted(name.as_bytes());
        assert_eq!((again, again.as_str()), (name, "hé/llo/wörld"));
        assert_eq!(alloc::format!("{again} {again:?}"), "hé/llo/wörld TopicName(\"hé/llo/wörld\")");
    }
}
