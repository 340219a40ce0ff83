//! Reads the configuration file. Whatever is wrong with it is said in one sentence that begins with file and line.
//!
//! Keys are looked at before values: a mistyped name is answered with the name that was probably meant, whatever
//! else the file holds.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use mqtt_broker::Limits;
use serde::de::{Deserialize as _, DeserializeOwned, Deserializer, Visitor, value::Error as SilentError};
use toml::de::{DeTable, DeValue};

use crate::config_words;
use crate::number::Number;
use crate::settings::Settings;
use crate::store_settings::StoreSettings;

/// The tables of the limits and of the store.
const LIMITS: &str = "limits";
const STORE: &str = "store";

/// What is wrong with a configuration file.
#[derive(Debug)]
pub(crate) struct ConfigError {
    path: PathBuf,
    line: Option<usize>,
    message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path.display(), self.message),
            None => write!(f, "{}: {}", self.path.display(), self.message),
        }
    }
}

/// A configuration file that was read.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    /// Its settings, and the defaults for those that it leaves out.
    pub(crate) settings: Settings,
    /// The line of each setting that it has.
    lines: BTreeMap<String, usize>,
}

impl ConfigFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or holds an unknown key or a value of a wrong type or range.
    pub(crate) fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
        let error = |line, message| ConfigError { path: path.to_owned(), line, message };
        let bytes = std::fs::read(path).map_err(|cause| error(None, unreadable(&cause)))?;
        let text = str::from_utf8(&bytes).map_err(|cause| {
            let line = line_of(&bytes, cause.valid_up_to());
            error(
                Some(line),
                "this is not UTF-8, which TOML is written in; save the file as UTF-8".to_owned(),
            )
        })?;
        let line = |span: &Range<usize>| line_of(&bytes, span.start);
        let (settings, places) =
            parse(text).map_err(|(span, message)| error(span.as_ref().map(line), message))?;
        let lines = places.into_iter().map(|(name, span)| (name, line(&span))).collect();
        Ok(ConfigFile { path: path.to_owned(), settings, lines })
    }

    /// File and line of a setting, if it is in the file.
    pub(crate) fn place(&self, name: &str) -> Option<String> {
        self.lines.get(name).map(|line| format!("{}:{line}", self.path.display()))
    }
}

/// Why a file cannot be read, and what to do.
fn unreadable(cause: &io::Error) -> String {
    match cause.kind() {
        io::ErrorKind::NotFound => "there is no such file; `mqttd check` prints one to begin with".to_owned(),
        io::ErrorKind::IsADirectory => "this is a directory; give the file in it".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "this may not be read by the user that mqttd runs as; let that user read it".to_owned()
        }
        _ => format!("cannot be read: {cause}"),
    }
}

/// A message, and where in the file it belongs.
type Fault = (Option<Range<usize>>, String);

/// Where in the file each setting is.
type Places = Vec<(String, Range<usize>)>;

fn parse(text: &str) -> Result<(Settings, Places), Fault> {
    let mut table = DeTable::parse(text).map_err(|error| {
        let message = error.message();
        (
            error.span(),
            format!("{message}: settings are TOML, `name = value`; docs/configuration.md lists them all"),
        )
    })?;
    check_keys(table.get_ref())?;
    let (mut places, mut digits) = (Places::new(), BTreeMap::new());
    read_numbers(table.get_ref(), text, &mut places, &mut digits)?;
    write_digits(table.get_mut(), &digits);
    let settings = Settings::deserialize(toml::Deserializer::from(table)).map_err(|error| {
        let name = error.span().and_then(|at| places.iter().find(|(_, span)| span.contains(&at.start)));
        let message = error.message().trim_end();
        let value = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let message =
            name.map_or(message.to_owned(), |(name, _)| config_words::explain(name, value, message));
        (error.span(), message)
    })?;
    Ok((settings, places))
}

/// Notes where each setting is, and the digits of each number; refuses the first that no number of its range is meant by.
fn read_numbers(
    table: &DeTable<'_>,
    text: &str,
    places: &mut Places,
    digits: &mut BTreeMap<String, String>,
) -> Result<(), Fault> {
    for (key, value) in table.iter() {
        let (name, span) = (key.get_ref(), value.span());
        if let Some(number) = Number::named(name) {
            let read = match value.get_ref() {
                DeValue::Integer(digits) => u64::from_str_radix(digits.as_str(), digits.radix())
                    .ok()
                    .filter(|value| number.takes(*value)),
                DeValue::String(text) => number.read(text),
                _ => None,
            };
            let Some(read) = read else {
                let value = text.get(span.clone()).unwrap_or_default();
                return Err((Some(span), config_words::refuse(name, value, number.expected(true))));
            };
            digits.insert(name.to_string(), read.to_string());
        } else if let DeValue::Table(table) = value.get_ref() {
            read_numbers(table, text, places, digits)?;
            continue;
        }
        places.push((name.to_string(), span));
    }
    Ok(())
}

/// Puts the digits of each number where it stands, whatever unit it is written with.
fn write_digits<'a>(table: &mut DeTable<'a>, digits: &'a BTreeMap<String, String>) {
    for (key, value) in table.iter_mut() {
        if let Some(digits) = digits.get(key.get_ref().as_ref()) {
            *value.get_mut() = DeValue::parse(digits).expect("digits are an integer").into_inner();
        } else if let DeValue::Table(table) = value.get_mut() {
            write_digits(table, digits);
        }
    }
}

/// Refuses the first key that no setting has.
fn check_keys(table: &DeTable<'_>) -> Result<(), Fault> {
    let top = names_of::<Settings>();
    let tables = [(LIMITS, names_of::<Limits>()), (STORE, names_of::<StoreSettings>())];
    let elsewhere = tables.map(|(name, known)| (known, format!("in the table [{name}]")));
    check_names(table, top, &elsewhere)?;
    for (place, (name, known)) in tables.into_iter().enumerate() {
        if let Some(DeValue::Table(table)) = table.get(name).map(|value| value.get_ref()) {
            let mut elsewhere = elsewhere.to_vec();
            elsewhere[place] = (top, format!("before the table [{name}]"));
            check_names(table, known, &elsewhere)?;
        }
    }
    Ok(())
}

/// Refuses the first key of `table` that is not `known`. `elsewhere` are other names, with where they belong.
fn check_names(
    table: &DeTable<'_>,
    known: &[&'static str],
    elsewhere: &[(&[&'static str], String)],
) -> Result<(), Fault> {
    let unknown = table.keys().filter(|key| !known.contains(&key.get_ref().as_ref()));
    let Some(key) = unknown.min_by_key(|key| key.span().start) else { return Ok(()) };
    let name = key.get_ref().as_ref();
    let near_elsewhere = || elsewhere.iter().find_map(|(names, there)| Some((nearest(name, names)?, there)));
    let hint = if let Some((_, there)) = elsewhere.iter().find(|(names, _)| names.contains(&name)) {
        format!("it belongs {there}")
    } else if let Some(near) = nearest(name, known) {
        format!("did you mean `{near}`?")
    } else if let Some((near, there)) = near_elsewhere() {
        format!("did you mean `{near}`? It belongs {there}")
    } else {
        "docs/configuration.md lists them all".to_owned()
    };
    Err((Some(key.span()), format!("unknown setting `{name}`; {hint}")))
}

/// The known name that `name` is most probably a slip of.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    /// Below it the names have little but some letters in common.
    const LEAST_SIMILARITY: f64 = 0.8;
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|known| (strsim::jaro_winkler(&name, known), *known))
        .filter(|(similarity, _)| *similarity >= LEAST_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

fn line_of(text: &[u8], offset: usize) -> usize {
    1 + text[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count()
}

/// The fields of a struct as serde knows them, so that no second list can differ from the first.
pub(crate) fn names_of<T: DeserializeOwned>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Ends in an error always: it is asked for a struct and has none.
    let _ = T::deserialize(Names(&mut names));
    names
}

struct Names<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = SilentError;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, SilentError> {
        *self.0 = fields;
        Err(serde::de::Error::custom("only the names were wanted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, SilentError> {
        Err(serde::de::Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use mqtt_broker::runtime::OnDamage;

    use super::*;
    use crate::settings::{Cores, LogFormat};

    fn fault(text: &str) -> (usize, String) {
        let (span, message) = parse(text).expect_err(text);
        (line_of(text.as_bytes(), span.expect("it has a place").start), message)
    }

    #[test]
    fn every_setting_can_be_given() {
        let (settings, _) = parse(
            "listen = [\"127.0.0.1:1884\", \"1885\"]\ncores = 3\nallow_anonymous = true\nlog = \"debug\"\n\
             log_format = \"json\"\n[store]\ndata_dir = \"/d\"\non_damage = \"salvage\"\n[limits]\nmaximum_qos = 1\nqueue_overflow = \"drop_newest\"\n\
             shared_strategy = \"least_in_flight\"\nqueue_bytes_max = \"4k\"\nsession_expiry_max_seconds = \"7d\"\n",
        )
        .expect("all of it is right");
        assert_eq!(
            settings.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1:1884", "localhost:1885"]
        );
        assert_eq!((settings.cores, settings.log_format), (Cores::Count(3), LogFormat::Json));
        assert!(settings.allow_anonymous);
        let store = settings.store.config().expect("it is not ephemeral");
        assert_eq!((store.directory, store.on_damage), (PathBuf::from("/d"), OnDamage::Salvage));
        assert_eq!(settings.limits.queue_bytes_max, 4096);
        assert_eq!(settings.limits.session_expiry_max_seconds, 7 * 86_400);
        assert_eq!(settings.limits.queue_overflow, mqtt_broker::config::Overflow::DropNewest);
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        let (settings, _) = parse("").expect("nothing is needed");
        assert_eq!(settings.limits, Limits::default());
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_one_meant() {
        assert_eq!(
            fault("listen = [\"1883\"]\nallow_anonimous = true\n"),
            (2, "unknown setting `allow_anonimous`; did you mean `allow_anonymous`?".to_owned())
        );
        assert_eq!(
            fault("[limits]\n\nsession-max = 5\n"),
            (3, "unknown setting `session-max`; did you mean `sessions_max`?".to_owned())
        );
        assert_eq!(
            fault("recieve_maximum = 5\n").1,
            "unknown setting `recieve_maximum`; did you mean `receive_maximum`? It belongs in the table [limits]"
        );
        assert_eq!(
            fault("xyzzy = 1\n"),
            (1, "unknown setting `xyzzy`; docs/configuration.md lists them all".to_owned())
        );
    }

    #[test]
    fn a_key_in_the_wrong_table_is_told_the_right_one() {
        assert_eq!(
            fault("receive_maximum = 5\n").1,
            "unknown setting `receive_maximum`; it belongs in the table [limits]"
        );
        assert_eq!(
            fault("[limits]\ncores = 5\n").1,
            "unknown setting `cores`; it belongs before the table [limits]"
        );
    }

    #[test]
    fn the_names_of_all_tables_are_known() {
        assert_eq!(
            fault("data_dir = \"/d\"\n").1,
            "unknown setting `data_dir`; it belongs in the table [store]"
        );
        assert_eq!(
            fault("[store]\nsegment_byte = 5\n").1,
            "unknown setting `segment_byte`; did you mean `segment_bytes`?"
        );
        assert_eq!(
            fault("[store]\nreceive_maximum = 5\n").1,
            "unknown setting `receive_maximum`; it belongs in the table [limits]"
        );
        assert_eq!(
            fault("[store]\ncores = 5\n").1,
            "unknown setting `cores`; it belongs before the table [store]"
        );
    }

    #[test]
    fn a_wrong_type_names_line_and_setting() {
        let (line, message) = fault("[limits]\nreceive_maximum = 5\npacket_bytes_max = \"8X\"\n");
        assert_eq!(line, 3);
        assert_eq!(
            message,
            "packet_bytes_max is \"8X\"; it must be 64 to 268,435,460 bytes, for example 67108864 or \"64MiB\""
        );
        assert_eq!(
            fault("[store]\ndata_dir = 5\n").1,
            "data_dir is 5; it must be a path in quotes, such as \"/var/lib/mqttd\""
        );
        assert_eq!(
            fault("[store]\nlog_bytes_max = true\n").1,
            "log_bytes_max is true; it must be 524,288 bytes or more, for example 67108864 or \"64MiB\""
        );
        assert_eq!(fault("allow_anonymous = 1\n").1, "allow_anonymous is 1; it must be true or false");
        assert_eq!(
            fault("listen = \"1883\"\n").1,
            "listen is \"1883\"; it must be a list in brackets, such as [\"localhost:1883\"]"
        );
        assert!(fault("limits = 5\n").1.contains("it must be a table"), "{}", fault("limits = 5\n").1);
        let (line, message) = fault("\nlisten = [\"1883\", 5]\n");
        assert_eq!(line, 2);
        assert_eq!(message, "listen is 5; it must be a text in quotes");
        let (_, message) = fault("cores = [1]\n");
        assert!(message.starts_with("cores is [1]; it must be a number of 1 to 128"), "{message}");
    }

    #[test]
    fn a_value_out_of_range_names_line_and_setting() {
        let (line, message) = fault("[limits]\nqueue_messages_max = 7\nconnect_timeout_seconds = 0\n");
        assert_eq!(
            (line, message.as_str()),
            (3, "connect_timeout_seconds is 0; it must be 1 to 3,600 seconds, for example 300 or \"5m\"")
        );
        let (line, message) = fault("[limits]\nreceive_maximum = 70000\n");
        assert_eq!(line, 2);
        assert_eq!(message, "receive_maximum is 70000; it must be 1 to 65,535 messages");
        let (line, message) = fault("[limits]\nmaximum_qos = 3\n");
        assert_eq!((line, message.as_str()), (2, "maximum_qos is 3; it must be 0, 1 or 2"));
        assert_eq!(fault("log = \"loud\"\n").0, 1);
    }

    #[test]
    fn text_that_is_not_toml_names_the_line() {
        assert_eq!(fault("log = \"info\"\nlisten = [\n").0, 2);
        let (line, message) = fault("listener 1883\n");
        assert!(line == 1 && message.contains("settings are TOML"), "{message}");
    }

    #[test]
    fn what_check_prints_can_be_read_again() {
        let (settings, _) =
            parse("cores = \"1-1\"\n[limits]\nmaximum_qos = 1\n").expect("all of it is right");
        let (again, _) =
            parse(&toml::to_string(&settings).expect("settings are TOML")).expect("it was printed by us");
        assert_eq!((again.limits, again.cores), (settings.limits, settings.cores));
    }

    #[test]
    fn every_limit_is_a_known_name() {
        assert!(names_of::<Limits>().len() > 30);
        assert!(names_of::<Limits>().contains(&"packet_bytes_max"));
    }
}
