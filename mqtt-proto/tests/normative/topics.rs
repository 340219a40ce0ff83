//! Topic Names, Topic Filters and how they match: sections 4.7 and 4.8.

use mqtt_proto::{
    DecodeError, FilterError, Properties, ShareName, SharedFilter, Subscription, SubscriptionOptions,
    Subscriptions, TopicError, TopicFilter, TopicName, Version, decode, encode,
};
use mqtt_proto::{EncodeError, Packet, PacketId, Subscribe};

use crate::{VERSIONS, publish_to};

fn matches(filter: &str, topic: &str) -> bool {
    TopicFilter::new(filter).expect("a filter").matches(TopicName::new(topic).expect("a topic"))
}

/// [MQTT-4.7.0-1] [MQTT-4.7.1-1 v3.1.1]
#[test]
fn a_topic_name_has_no_wildcard() {
    for version in VERSIONS {
        for topic in ["#", "+", "a/#", "a/+/b", "a+", "#a", "a long topic/name#"] {
            assert_eq!(TopicName::new(topic), Err(TopicError::Wildcard));
            let refused = Err(DecodeError::Topic(TopicError::Wildcard));
            assert_eq!(decode(version, &publish_to(version, topic.as_bytes())), refused, "{topic}");
        }
    }
}

/// [MQTT-4.7.1-1] [MQTT-4.7.1-2 v3.1.1]
#[test]
fn the_multi_level_wildcard_stands_alone_and_last() {
    for filter in ["#", "a/#", "/#", "+/#", "a//#"] {
        assert!(TopicFilter::new(filter).is_ok(), "{filter}");
    }
    for filter in ["a#", "#a", "a/b#", "#/a", "a/#/b", "##", "#/", "#/#"] {
        assert_eq!(TopicFilter::new(filter), Err(FilterError::MultiLevelWildcard), "{filter}");
    }
}

/// [MQTT-4.7.1-2] [MQTT-4.7.1-3 v3.1.1]
#[test]
fn the_single_level_wildcard_fills_its_level() {
    for filter in ["+", "+/a", "a/+", "a/+/b", "+/+", "/+", "+/"] {
        assert!(TopicFilter::new(filter).is_ok(), "{filter}");
    }
    for filter in ["a+", "+a", "a/b+", "++", "a/+b/c"] {
        assert_eq!(TopicFilter::new(filter), Err(FilterError::SingleLevelWildcard), "{filter}");
    }
}

/// [MQTT-4.7.3-1]
#[test]
fn names_and_filters_have_a_character() {
    assert_eq!(TopicName::new(""), Err(TopicError::Empty));
    assert_eq!(TopicFilter::new(""), Err(FilterError::Empty));
    for version in VERSIONS {
        // In 5.0 an empty name stands for a Topic Alias, but there is none.
        assert_eq!(decode(version, &publish_to(version, b"")), Err(DecodeError::MissingTopic));
    }
    assert!(TopicName::new("/").is_ok() && TopicFilter::new("/").is_ok());
    assert!(TopicName::new(" ").is_ok() && TopicFilter::new(" ").is_ok());
}

/// [MQTT-4.7.3-2]
#[test]
fn names_and_filters_have_no_null_character() {
    for text in ["\0", "a\0", "a/\0/b", "a rather long text\0 it is"] {
        assert_eq!(TopicName::new(text), Err(TopicError::Null));
        assert_eq!(TopicFilter::new(text), Err(FilterError::Null));
        for version in VERSIONS {
            let refused = Err(DecodeError::NullCharacter);
            assert_eq!(decode(version, &publish_to(version, text.as_bytes())), refused, "{text:?}");
        }
    }
    assert_eq!(ShareName::new("g\0"), Err(FilterError::Null));
}

/// [MQTT-4.7.3-3]
#[test]
fn names_and_filters_have_at_most_65_535_bytes() {
    let longest = "ä".repeat(32_767) + "x";
    let longer = "ä".repeat(32_768);
    assert!(TopicName::new(&longest).is_ok() && TopicFilter::new(&longest).is_ok());
    assert_eq!(TopicName::new(&longer), Err(TopicError::TooLong));
    assert_eq!(TopicFilter::new(&longer), Err(FilterError::TooLong));
    let written = |filter: &str| {
        let list = [Subscription { filter, options: SubscriptionOptions::default() }];
        let packet_id = PacketId::new(1).expect("not 0");
        let (properties, subscriptions) = (Properties::EMPTY, Subscriptions::new(&list));
        let packet = Packet::Subscribe(Subscribe { packet_id, properties, subscriptions });
        encode(&packet, Version::V5, &mut Vec::new())
    };
    assert_eq!(written(&longest), Ok(()));
    assert_eq!(written(&longer), Err(EncodeError::FieldTooLong));
}

/// [MQTT-4.7.3-4]
#[test]
fn matching_compares_what_is_written() {
    assert!(!matches("a", "A"));
    assert!(!matches("a/b", "a//b"));
    assert!(!matches("a", "a/"));
    assert!(!matches("a", " a"));
    // U+00E4 and a with U+0308 look alike.
    assert!(!matches("\u{E4}", "a\u{308}"));
    assert!(matches("\u{FEFF}a", "\u{FEFF}a") && !matches("\u{FEFF}a", "a"));
}

/// [MQTT-4.7.2-1]
#[test]
fn a_leading_wildcard_does_not_match_a_leading_dollar() {
    for filter in ["#", "+", "+/x", "+/#"] {
        assert!(!matches(filter, "$SYS/x") && !matches(filter, "$"), "{filter}");
    }
    assert!(matches("$SYS/#", "$SYS/x") && matches("$SYS/+", "$SYS/x") && matches("$SYS/x", "$SYS/x"));
    assert!(matches("a/#", "a/$b") && matches("a/+", "a/$b"), "only at the beginning it is special");
}

/// Section 4.7.1.2: the level itself, and any number below it.
#[test]
fn the_multi_level_wildcard_matches_its_parent_and_all_below() {
    for topic in ["sport", "sport/", "sport/tennis", "sport/tennis/player1/ranking"] {
        assert!(matches("sport/#", topic), "{topic}");
    }
    assert!(!matches("sport/#", "sports") && !matches("sport/#", "spor"));
    assert!(matches("#", "/") && matches("#", "a/b/c"));
}

/// Section 4.7.1.3: one level, which may be empty.
#[test]
fn the_single_level_wildcard_matches_one_level() {
    assert!(matches("a/+/c", "a/b/c") && matches("a/+/c", "a//c"));
    assert!(!matches("a/+/c", "a/c") && !matches("a/+/c", "a/b/b/c"));
    assert!(matches("+", "a") && !matches("+", "a/b") && !matches("+", "/a"));
    assert!(matches("a/+", "a/") && !matches("a/+", "a"));
}

/// Section 4.7.3: a separator makes two levels, even of nothing.
#[test]
fn empty_levels_count() {
    assert!(matches("/", "/") && matches("+/+", "/") && !matches("+", "/"));
    assert!(matches("/+", "/finance") && matches("+/+", "/finance"));
    assert_eq!(TopicName::new("a//b/").expect("a topic").levels().count(), 4);
}

/// [MQTT-4.8.2-1]
#[test]
fn a_shared_filter_begins_with_share_and_a_name() {
    let shared = SharedFilter::new("$share/g/a/+").expect("shared");
    assert_eq!((shared.share_name.map(ShareName::as_str), shared.filter.as_str()), (Some("g"), "a/+"));
    for plain in ["$SHARE/g/a", "$shared/g/a", "a/$share/g", "share/g/a", "/$share/g/a"] {
        assert_eq!(SharedFilter::new(plain).map(|shared| shared.share_name), Ok(None), "{plain}");
    }
    for nameless in ["$share//a", "$share/", "$share"] {
        assert_eq!(SharedFilter::new(nameless), Err(FilterError::ShareName), "{nameless}");
    }
}

/// [MQTT-4.8.2-2]
#[test]
fn a_share_name_has_no_wildcard_and_a_filter_behind_it() {
    for bad in ["$share/g+/a", "$share/+/a", "$share/#/a", "$share/g#/a", "$share/g", "$share/g/"] {
        assert_eq!(SharedFilter::new(bad), Err(FilterError::ShareName), "{bad}");
    }
    assert_eq!(SharedFilter::new("$share/g/a#"), Err(FilterError::MultiLevelWildcard));
    assert_eq!(ShareName::new("g/h"), Err(FilterError::ShareName));
    assert!(SharedFilter::new("$share/g//").is_ok_and(|shared| shared.filter.as_str() == "/"));
}
