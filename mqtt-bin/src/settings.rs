//! The settings of mqttd, each a type that holds only values that can work.
//!
//! The same [`Settings`] is what a configuration file is read into and what `mqttd check` prints.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use crate::store_settings::StoreSettings;
use mqtt_broker::{CoreId, Limits};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing_subscriber::filter::Targets;

/// Everything that the command line and the configuration file decide.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) listen: Vec<ListenAddress>,
    pub(crate) cores: Cores,
    pub(crate) allow_anonymous: bool,
    pub(crate) log: LogFilter,
    pub(crate) log_format: LogFormat,
    pub(crate) store: StoreSettings,
    pub(crate) limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            listen: vec![ListenAddress { host: "localhost".to_owned(), port: 1883 }],
            cores: Cores::All,
            allow_anonymous: false,
            log: LogFilter::default(),
            log_format: LogFormat::Text,
            store: StoreSettings::default(),
            limits: Limits::default(),
        }
    }
}

/// Why `listen` cannot be served.
#[derive(Debug)]
pub(crate) enum AddressError {
    /// `listen` is empty.
    None,
    /// The host's name leads nowhere.
    Unresolved(ListenAddress, io::Error),
    /// Other machines could connect, and nobody would ask them who they are.
    Open(SocketAddr),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::None => {
                f.write_str("`listen` names no address; name one, for example \"localhost:1883\"")
            }
            AddressError::Unresolved(address, error) => {
                write!(f, "cannot listen on {address}: {error}; give an IP address of this machine instead")
            }
            AddressError::Open(address) => write!(
                f,
                "refusing to listen on {address} without authentication: whoever reaches it could read and publish \
                 everything; give --allow-anonymous (or allow_anonymous = true) if that is meant, or listen on \
                 localhost:{} only",
                address.port()
            ),
        }
    }
}

impl Settings {
    /// Refuses to serve what is probably not meant.
    ///
    /// # Errors
    /// Nothing to listen on, or, unless `allow_anonymous` is set, an address that other machines can reach while nobody
    /// is authenticated.
    pub(crate) fn check(&self) -> Result<(), AddressError> {
        if self.listen.is_empty() {
            return Err(AddressError::None);
        }
        if self.allow_anonymous {
            return Ok(());
        }
        for listen in &self.listen {
            let mut addresses =
                listen.resolve().map_err(|error| AddressError::Unresolved(listen.clone(), error))?;
            if let Some(open) = addresses.find(|address| !address.ip().to_canonical().is_loopback()) {
                return Err(AddressError::Open(open));
            }
        }
        Ok(())
    }
}

/// Where to listen: `HOST:PORT`, `[IPV6]:PORT`, or a port alone, which is `localhost:PORT`; the broker listens on both
/// loopback addresses for that, as clients try either first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    host: String,
    port: u16,
}

impl ListenAddress {
    /// The socket addresses that the host stands for.
    fn resolve(&self) -> io::Result<impl Iterator<Item = SocketAddr>> {
        (self.host.as_str(), self.port).to_socket_addrs()
    }
}

/// A text that is not a [`ListenAddress`].
#[derive(Debug)]
pub(crate) struct NotAnAddress;

impl fmt::Display for NotAnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected HOST:PORT, [IPV6]:PORT or a port of 0 to 65535, for example 127.0.0.1:1883")
    }
}

impl std::error::Error for NotAnAddress {}

impl FromStr for ListenAddress {
    type Err = NotAnAddress;

    fn from_str(text: &str) -> Result<ListenAddress, NotAnAddress> {
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(NotAnAddress)?;
                inner.parse::<Ipv6Addr>().map_err(|_| NotAnAddress)?;
                inner
            }
            // Without brackets, the last group of an IPv6 address would be taken for the port.
            None if host.contains(':') || host.is_empty() => return Err(NotAnAddress),
            None => host,
        };
        Ok(ListenAddress { host: host.to_owned(), port: port.parse().map_err(|_| NotAnAddress)? })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ListenAddress { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// How many cores serve, and on which CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Cores {
    /// One a CPU that the process may run on.
    #[default]
    All,
    /// This many, on CPUs of the broker's choice.
    Count(u16),
    /// One on each of these CPUs, ascending.
    Cpus(Vec<usize>),
}

/// A text that is not [`Cores`].
#[derive(Debug)]
pub(crate) struct NotCores;

impl fmt::Display for NotCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected a number of 1 to {}, a list of CPUs such as 0,2-5, or all", CoreId::MAX)
    }
}

impl std::error::Error for NotCores {}

impl FromStr for Cores {
    type Err = NotCores;

    fn from_str(text: &str) -> Result<Cores, NotCores> {
        /// More than any machine has: bounds what a list such as `0-4000000000` makes.
        const CPU_MAX: usize = 8191;
        if text == "all" {
            return Ok(Cores::All);
        }
        if let Ok(count) = text.parse::<u16>() {
            let possible = (1..=CoreId::MAX).contains(&usize::from(count));
            return if possible { Ok(Cores::Count(count)) } else { Err(NotCores) };
        }
        let mut cpus = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.parse().map_err(|_| NotCores)?;
            let last: usize = last.parse().map_err(|_| NotCores)?;
            if first > last || last > CPU_MAX {
                return Err(NotCores);
            }
            cpus.extend(first..=last);
        }
        cpus.sort_unstable();
        cpus.dedup();
        if cpus.len() > CoreId::MAX { Err(NotCores) } else { Ok(Cores::Cpus(cpus)) }
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cores::All => f.write_str("all"),
            Cores::Count(count) => count.fmt(f),
            // One CPU is written as a range: alone it would be read as a number of cores.
            Cores::Cpus(cpus) => match cpus.as_slice() {
                [only] => write!(f, "{only}-{only}"),
                cpus => f.write_str(&cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Cores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Cores, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a number of 1 to 128, a list of CPUs such as \"0,2-5\", or \"all\""
        )]
        enum Form {
            Count(u16),
            Text(String),
        }
        let text = match Form::deserialize(deserializer)? {
            Form::Count(count) => count.to_string(),
            Form::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// From which level on is logged: a level, or a list of `target=level`.
#[derive(Clone, Debug)]
pub(crate) struct LogFilter {
    text: String,
    targets: Targets,
}

impl LogFilter {
    /// The filter as the log understands it.
    pub(crate) fn targets(&self) -> Targets {
        self.targets.clone()
    }
}

impl Default for LogFilter {
    fn default() -> LogFilter {
        "info".parse().expect("a level is a filter")
    }
}

/// A text that is not a [`LogFilter`].
#[derive(Debug)]
pub(crate) struct NotAFilter;

impl fmt::Display for NotAFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("expected off, error, warn, info, debug, trace, or a list such as info,mqtt_broker=debug")
    }
}

impl std::error::Error for NotAFilter {}

impl FromStr for LogFilter {
    type Err = NotAFilter;

    fn from_str(text: &str) -> Result<LogFilter, NotAFilter> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        // A word alone would be taken for a target: a mistyped level must not silence the log.
        let plausible = text.split(',').all(|part| {
            let level = part.split_once('=').map_or(part, |(_, level)| level);
            LEVELS.contains(&level.to_ascii_lowercase().as_str())
        });
        if !plausible {
            return Err(NotAFilter);
        }
        let targets = text.parse().map_err(|_| NotAFilter)?;
        Ok(LogFilter { text: text.to_owned(), targets })
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// A line of text an event
    Text,
    /// A JSON object an event
    Json,
}

/// Reads and writes a setting in the form that the command line takes.
macro_rules! as_text {
    (deserialize $type:ty) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
    (serialize $type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}
as_text!(deserialize ListenAddress);
as_text!(deserialize LogFilter);
as_text!(serialize ListenAddress);
as_text!(serialize LogFilter);
as_text!(serialize Cores);

#[cfg(test)]
mod tests {
    use super::*;

    fn listening_on(text: &str) -> Settings {
        Settings { listen: vec![text.parse().expect("an address")], ..Settings::default() }
    }

    #[test]
    fn the_default_listens_on_loopback_only() {
        assert_eq!(Settings::default().listen, ["1883".parse().expect("a port alone is both loopbacks")]);
        assert!(Settings::default().check().is_ok());
    }

    #[test]
    fn an_address_that_others_reach_needs_allow_anonymous() {
        for open in ["0.0.0.0:1883", "[::]:1883", "[::ffff:192.0.2.1]:1883"] {
            let mut settings = listening_on(open);
            let error = settings.check().expect_err("everybody could connect").to_string();
            assert!(error.contains("--allow-anonymous") && error.contains(":1883"), "{error}");
            settings.allow_anonymous = true;
            assert!(settings.check().is_ok());
        }
    }

    #[test]
    fn every_loopback_address_is_accepted_without_authentication() {
        for loopback in
            ["127.0.0.1:1883", "127.8.9.1:1883", "[::1]:1883", "[::ffff:127.0.0.1]:1883", "localhost:1883"]
        {
            assert!(listening_on(loopback).check().is_ok(), "{loopback}");
        }
    }

    #[test]
    fn no_address_at_all_is_an_error() {
        let settings = Settings { listen: Vec::new(), ..Settings::default() };
        assert!(matches!(settings.check(), Err(AddressError::None)));
    }

    #[test]
    fn an_address_is_written_as_it_is_read() {
        for text in ["127.0.0.1:1883", "[::1]:1", "broker.example:8883", "[2001:db8::1]:1883"] {
            assert_eq!(text.parse::<ListenAddress>().expect(text).to_string(), text);
        }
        for text in ["", "::1:1883", "[::1]", "host", "host:", ":1883", "host:65536", "[host]:1"] {
            assert!(text.parse::<ListenAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn cores_are_a_number_or_a_list() {
        assert_eq!("4".parse::<Cores>().expect("a number"), Cores::Count(4));
        assert_eq!("0,4-6,5".parse::<Cores>().expect("a list"), Cores::Cpus(vec![0, 4, 5, 6]));
        for text in ["3-3", "1,3", "7", "all"] {
            assert_eq!(text.parse::<Cores>().expect(text).to_string(), text);
        }
        for text in ["", "0", "129", "3-1", "a", "1,", "0-128", "1-9999999999", "-1"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistyped_level_is_not_taken_for_a_target() {
        assert!("debgu".parse::<LogFilter>().is_err());
        assert!("info,mqtt_broker::shard=trace".parse::<LogFilter>().is_ok());
        assert!("WARN".parse::<LogFilter>().is_ok());
    }
}
