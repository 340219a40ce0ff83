//! What is wrong with a value of the configuration file, in the words of whoever wrote it.
//!
//! The reader of TOML says which Rust type it had expected; people know texts, numbers, lists and units.

use std::fmt::Display;

/// What to say of the setting `name`, of which the file says `value`, when reading it failed with `message`.
pub(crate) fn explain(name: &str, value: &str, message: &str) -> String {
    if value.starts_with("[[") {
        return format!("{value} is a list of tables; it must be one table: write [{name}]");
    }
    let expected = ["invalid type: ", "invalid value: ", "unknown variant "]
        .iter()
        .find_map(|start| message.strip_prefix(start)?.rsplit_once(", expected "))
        .map(|(_, expected)| expected)
        .or_else(|| message.strip_prefix("wanted "))
        .and_then(|expected| in_words(name, expected))
        .or_else(|| message.strip_prefix("expected ").map(str::to_owned));
    match expected {
        Some(expected) => refuse(name, value, expected),
        None => format!("{name}: {message}"),
    }
}

/// That the setting `name`, of which the file says `value`, must be something else.
pub(crate) fn refuse(name: &str, value: &str, expected: impl Display) -> String {
    format!("{name} is {}; it must be {expected}", shortened(value))
}

/// A type as it is written in a file.
fn in_words(name: &str, expected: &str) -> Option<String> {
    Some(match expected {
        "path string" => "a path in quotes, such as \"/var/lib/mqttd\"".to_owned(),
        "a string" | "string or table" => "a text in quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list in brackets, such as [\"localhost:1883\"]".to_owned(),
        // The other numbers are read before, by their ranges.
        "u8" => "0, 1 or 2".to_owned(),
        _ if expected.contains('`') => expected.to_owned(),
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
    fn what_is_expected_is_said_as_it_is_written() {
        assert_eq!(
            explain("maximum_qos", "\"1\"", "invalid type: string \"1\", expected u8"),
            "maximum_qos is \"1\"; it must be 0, 1 or 2"
        );
        assert_eq!(
            explain("store", "5", "invalid type: integer `5`, expected struct StoreSettings"),
            "store is 5; it must be a table: a line [store] with its settings below"
        );
    }

    #[test]
    fn what_says_enough_stays_as_it_is() {
        assert_eq!(explain("log", "\"x\"", "is too long"), "log: is too long");
        assert_eq!(
            explain("on_damage", "\"no\"", "unknown variant `no`, expected `refuse` or `salvage`"),
            "on_damage is \"no\"; it must be `refuse` or `salvage`"
        );
        assert_eq!(
            explain("on_damage", "5", "wanted string or table"),
            "on_damage is 5; it must be a text in quotes"
        );
        assert_eq!(
            explain("store", "[[store]]", "invalid type: map, expected a boolean"),
            "[[store]] is a list of tables; it must be one table: write [store]"
        );
        assert_eq!(explain("log", "\"x\"", "expected off"), "log is \"x\"; it must be off");
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(shortened(&"\u{e4}".repeat(50)), format!("{}...", "\u{e4}".repeat(40)));
        assert_eq!(shortened("[\n1]"), "[...");
        assert_eq!(shortened("5"), "5");
    }
}
