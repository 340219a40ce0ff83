//! What is wrong with a value of the configuration file, in the words of whoever wrote it.
//!
//! The reader of TOML says which Rust type it had expected; people know texts, numbers, lists and units.

/// What to say of the setting `name`, of which the file says `value`, when reading it failed with `message`.
pub(crate) fn explain(name: &str, value: &str, message: &str) -> String {
    let expected = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.rsplit_once(", expected "))
        .and_then(|(_, expected)| in_words(name, expected));
    match expected {
        Some(expected) => format!("{name} is {}; it must be {expected}", shortened(value)),
        None if message.starts_with(name) => message.to_owned(),
        None => format!("{name}: {message}"),
    }
}

/// A type as it is written in a file.
fn in_words(name: &str, expected: &str) -> Option<String> {
    let number = |most: u64| {
        let unit = match () {
            () if name.contains("_bytes") || name.ends_with("bytes") => " of bytes",
            () if name.ends_with("_seconds") => " of seconds",
            () => "",
        };
        match most {
            u64::MAX => format!("a whole number{unit}, 0 or more"),
            most => format!("a whole number{unit}, 0 to {most}"),
        }
    };
    Some(match expected {
        "path string" => "a path in quotes, such as \"/var/lib/mqttd\"".to_owned(),
        "a string" => "a text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list in brackets, such as [\"localhost:1883\"]".to_owned(),
        "u8" => number(u8::MAX.into()),
        "u16" => number(u16::MAX.into()),
        "u32" => number(u32::MAX.into()),
        "u64" => number(u64::MAX),
        _ if expected.starts_with("struct ") => format!("a table: a line [{name}] with its settings below"),
        _ => return None,
    })
}

/// A value as it stands in the file, or the beginning of a long one.
fn shortened(value: &str) -> String {
    const MOST: usize = 40;
    let line = value.lines().next().unwrap_or_default();
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None if line.len() < value.len() => format!("{line}..."),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_is_said_with_its_unit_and_range() {
        for (name, expected, words) in [
            ("packet_bytes_max", "u32", "a whole number of bytes, 0 to 4294967295"),
            ("segment_bytes", "u32", "a whole number of bytes, 0 to 4294967295"),
            ("log_bytes_max", "u64", "a whole number of bytes, 0 or more"),
            ("connect_timeout_seconds", "u16", "a whole number of seconds, 0 to 65535"),
            ("receive_maximum", "u16", "a whole number, 0 to 65535"),
        ] {
            assert_eq!(
                explain(name, "\"8M\"", &format!("invalid type: string \"8M\", expected {expected}")),
                format!("{name} is \"8M\"; it must be {words}")
            );
        }
        assert_eq!(
            explain("store", "5", "invalid type: integer `5`, expected struct StoreSettings"),
            "store is 5; it must be a table: a line [store] with its settings below"
        );
    }

    #[test]
    fn what_says_enough_stays_as_it_is() {
        assert_eq!(explain("maximum_qos", "3", "maximum_qos is 0, 1 or 2"), "maximum_qos is 0, 1 or 2");
        assert_eq!(explain("log", "\"x\"", "expected off"), "log: expected off");
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(shortened(&"\u{e4}".repeat(50)), format!("{}...", "\u{e4}".repeat(40)));
        assert_eq!(shortened("[\n1]"), "[...");
        assert_eq!(shortened("5"), "5");
    }
}
