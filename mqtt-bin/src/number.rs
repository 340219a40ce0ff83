//! The settings that are numbers: sizes, times and counts, in the same words on the command line and in the file.
//!
//! What a number counts is in the name of its setting: bytes may be given as 64MiB, seconds as 90s.

use std::fmt;

use mqtt_broker::config::Range;
use mqtt_broker::{Limits, runtime::StoreConfig};
use parse_size::Config;

/// What the number of a setting counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Bytes,
    Seconds,
    /// Messages, connections and the like.
    Things,
}

impl Unit {
    /// The unit of the setting with this name.
    pub(crate) fn of(name: &str) -> Unit {
        match name {
            _ if name.contains("bytes") => Unit::Bytes,
            _ if name.ends_with("_seconds") => Unit::Seconds,
            _ => Unit::Things,
        }
    }

    /// What stands for such a number in the help.
    pub(crate) fn placeholder(self) -> &'static str {
        match self {
            Unit::Bytes => "SIZE",
            Unit::Seconds => "TIME",
            Unit::Things => "N",
        }
    }

    /// The number that is written as `text`, in bytes, seconds or things.
    fn read(self, text: &str) -> Option<u64> {
        match self {
            Unit::Bytes => Config::new().with_binary().parse_size(text).ok(),
            Unit::Seconds => text.parse().ok().or_else(|| {
                let time = humantime::parse_duration(text).ok()?;
                (time.subsec_nanos() == 0).then_some(time.as_secs())
            }),
            Unit::Things => text.parse().ok(),
        }
    }

    /// Ways to write one.
    fn examples(self) -> &'static [(u64, &'static str)] {
        match self {
            Unit::Bytes => &[(64 << 20, "64MiB"), (16 << 10, "16KiB")],
            Unit::Seconds => &[(300, "5m"), (30, "30s")],
            Unit::Things => &[],
        }
    }

    /// `number` as it can be given, in the largest unit that it is a whole number of.
    pub(crate) fn write(self, number: u64) -> String {
        const SIZES: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        let fits = |(bits, _): &(u32, &str)| number.trailing_zeros() >= *bits;
        match SIZES.into_iter().find(fits) {
            Some((bits, unit)) if self == Unit::Bytes && number > 0 => format!("{}{unit}", number >> bits),
            _ => number.to_string(),
        }
    }
}

/// A setting that is a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    unit: Unit,
    range: Range,
}

impl Number {
    /// The number that is set under this name, if it is one.
    pub(crate) fn named(name: &str) -> Option<Number> {
        let range = Limits::range(name).or_else(|| StoreConfig::range(name))?;
        Some(Number { unit: Unit::of(name), range })
    }

    /// Whether this setting may have the value.
    pub(crate) fn takes(&self, value: u64) -> bool {
        self.range.contains(value)
    }

    /// The value that is written as `text`, if it is one that this setting may have.
    pub(crate) fn read(&self, text: &str) -> Option<u64> {
        self.unit.read(text).filter(|value| self.takes(*value))
    }

    /// Which values there are, with an example of another way to write one, as the file has it if it is `quoted`.
    pub(crate) fn expected(&self, quoted: bool) -> Expected {
        Expected { number: *self, quoted }
    }
}

/// The values of a [`Number`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    number: Number,
    quoted: bool,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Number { unit, range } = self.number;
        range.fmt(f)?;
        match unit.examples().iter().find(|(value, _)| range.contains(*value)) {
            Some((value, text)) if self.quoted => write!(f, ", for example {value} or \"{text}\""),
            Some((value, text)) => write!(f, ", for example {value} or {text}"),
            None => Ok(()),
        }
    }
}

/// The value of the flag of the setting `name`.
///
/// # Errors
/// It is none that the setting may have.
pub(crate) fn flag<T: TryFrom<u64>>(name: &str, text: &str) -> Result<T, String> {
    let number = Number::named(name).expect("each flag that is a number has a range");
    let value = number.read(text).and_then(|value| T::try_from(value).ok());
    value.ok_or_else(|| format!("expected {}", number.expected(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_plain_or_in_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("5000", 5000),
            ("64k", 64 << 10),
            ("64K", 64 << 10),
            ("64KiB", 64 << 10),
            ("64kB", 64 << 10),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("64M", 64 << 20),
            ("1G", 1 << 30),
            ("1.5G", 3 << 29),
            ("2T", 2 << 40),
        ] {
            assert_eq!(Unit::Bytes.read(text), Some(bytes), "{text}");
        }
        for text in ["", "k", "lots", "-1k", "1X", "99999999999G", "8,388,608", "1h"] {
            assert_eq!(Unit::Bytes.read(text), None, "{text}");
        }
    }

    #[test]
    fn seconds_are_plain_or_a_time_of_whole_ones() {
        for (text, seconds) in [
            ("0", 0),
            ("30", 30),
            ("30s", 30),
            ("5m", 300),
            ("5 minutes", 300),
            ("1h 30m", 5400),
            ("7d", 604_800),
            ("1500ms 500ms", 2),
        ] {
            assert_eq!(Unit::Seconds.read(text), Some(seconds), "{text}");
        }
        for text in ["", "s", "soon", "-1", "-5m", "500ms", "1.5", "1G"] {
            assert_eq!(Unit::Seconds.read(text), None, "{text}");
        }
    }

    #[test]
    fn things_have_no_unit() {
        assert_eq!(Unit::Things.read("7"), Some(7));
        for text in ["", "7k", "-7", "7s", "1.5"] {
            assert_eq!(Unit::Things.read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        for (number, text) in
            [(0, "0"), (1000, "1000"), (1024, "1KiB"), (1536 << 20, "1536MiB"), (4 << 30, "4GiB")]
        {
            assert_eq!(Unit::Bytes.write(number), text);
            assert_eq!(Unit::Bytes.read(text), Some(number));
        }
        assert_eq!(Unit::Things.write(1024), "1024");
        assert_eq!(Unit::Seconds.write(4096), "4096");
    }

    #[test]
    fn a_refusal_says_the_range_and_an_example_that_is_in_it() {
        assert_eq!(flag("queue_messages_max", "7"), Ok(7_u32));
        for (name, text, said) in [
            ("queue_messages_max", "-3", "expected 1 to 4,294,967,295 messages"),
            ("queue_messages_max", "0", "expected 1 to 4,294,967,295 messages"),
            ("queue_bytes_max", "lots", "expected 1,024 bytes or more, for example 67108864 or 64MiB"),
            ("client_id_bytes_max", "1M", "expected 23 to 65,535 bytes, for example 16384 or 16KiB"),
            ("connect_timeout_seconds", "0s", "expected 1 to 3,600 seconds, for example 300 or 5m"),
            ("close_timeout_seconds", "2m", "expected 1 to 60 seconds, for example 30 or 30s"),
        ] {
            assert_eq!(flag::<u64>(name, text), Err(said.to_owned()), "{name} {text}");
        }
    }
}
