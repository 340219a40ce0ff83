//! Where a setting was given, so that whoever gave it can be told.

use std::fmt;

/// Who says what a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag of the command line.
    Flag,
    /// The configuration file, in the line that is named with it.
    File(String),
    /// Nobody.
    Default,
}

/// Settings that cannot be what they are, each with its value, and what to do about it.
///
/// What a flag says is named first, by the flag; what the file says with its line; what nobody said comes last. Otherwise they are
/// in the order given.
pub(crate) fn fault(
    settings: &[(&str, String)],
    remedy: impl fmt::Display,
    origin: impl Fn(&str) -> Origin,
) -> String {
    let mut settings: Vec<_> = settings.iter().map(|(name, value)| (origin(name), name, value)).collect();
    settings.sort_by_key(|(origin, ..)| match origin {
        Origin::Flag => 0,
        Origin::File(_) => 1,
        Origin::Default => 2,
    });
    let described = settings.iter().enumerate().map(|(place, (origin, name, value))| match origin {
        Origin::Flag => format!("--{} is {value}", name.replace('_', "-")),
        Origin::File(line) if place == 0 => format!("{line}: {name} is {value}"),
        Origin::File(line) => format!("{name} is {value} ({line})"),
        Origin::Default => format!("{name} is {value} if it is not set"),
    });
    format!("{}: {remedy}", described.collect::<Vec<_>>().join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_is_named_where_it_was_given() {
        let settings = [("a_max", "1".to_owned()), ("b_max", "2".to_owned())];
        let said = |a: Origin, b: Origin| {
            fault(&settings, "raise one", |name| if name == "a_max" { a.clone() } else { b.clone() })
        };
        let file = |line| Origin::File(format!("f.toml:{line}"));
        assert_eq!(said(file(9), file(10)), "f.toml:9: a_max is 1 and b_max is 2 (f.toml:10): raise one");
        assert_eq!(said(file(1), Origin::Flag), "--b-max is 2 and a_max is 1 (f.toml:1): raise one");
        assert_eq!(
            said(Origin::Default, file(2)),
            "f.toml:2: b_max is 2 and a_max is 1 if it is not set: raise one"
        );
    }
}
