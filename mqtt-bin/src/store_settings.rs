//! The settings of the store, and where it is if nobody says.

use std::env;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use mqtt_broker::runtime::{OnDamage, StoreConfig, StoreConfigError};
use serde::{Deserialize, Serialize};

use crate::number;
use crate::origin::{Origin, fault};

/// The table `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct StoreSettings {
    /// Nothing outlives the process.
    pub(crate) ephemeral: bool,
    /// Where it is; empty for [`default_directory`].
    pub(crate) data_dir: PathBuf,
    pub(crate) on_damage: OnDamage,
    pub(crate) segment_bytes: u32,
    pub(crate) log_bytes_max: u64,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        let StoreConfig { directory, on_damage, segment_bytes, log_bytes_max, .. } = StoreConfig::new("");
        StoreSettings { ephemeral: false, data_dir: directory, on_damage, segment_bytes, log_bytes_max }
    }
}

impl StoreSettings {
    /// What the broker is told; `None` if nothing is to outlive it.
    pub(crate) fn config(&self) -> Option<StoreConfig> {
        if self.ephemeral {
            return None;
        }
        let is_given = !self.data_dir.as_os_str().is_empty();
        let directory =
            if is_given { self.data_dir.clone() } else { default_directory(|name| env::var(name).ok()) };
        Some(self.config_in(directory))
    }

    fn config_in(&self, directory: PathBuf) -> StoreConfig {
        let mut config = StoreConfig::new(directory);
        (config.on_damage, config.segment_bytes) = (self.on_damage, self.segment_bytes);
        config.log_bytes_max = self.log_bytes_max;
        config
    }

    /// Refuses settings that cannot work, alone or together; `origin` says where each was given.
    ///
    /// # Errors
    /// Which they are, where they are, and what to do.
    pub(crate) fn check(&self, origin: impl Fn(&str) -> Origin) -> Result<(), String> {
        if self.ephemeral && !self.data_dir.as_os_str().is_empty() {
            let settings =
                [("ephemeral", "true".to_owned()), ("data_dir", format!("{:?}", self.data_dir.display()))];
            let remedy = "an ephemeral broker keeps nothing, so it has no directory; take one of the two out";
            return Err(fault(&settings, remedy, origin));
        }
        // The sizes are asked for of an ephemeral broker too: nobody is to find out once it is not ephemeral any more.
        self.config_in(PathBuf::new()).check().map_err(|StoreConfigError { settings, remedy }| {
            let settings: Vec<_> =
                settings.into_iter().map(|(name, value)| (name, value.to_string())).collect();
            fault(&settings, remedy, origin)
        })
    }
}

/// Flags of the store; those given override the configuration file.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreFlags {
    /// Keeps sessions, their messages and retained messages in this directory [default: $STATE_DIRECTORY, else
    /// $XDG_STATE_HOME/mqttd, else ~/.local/state/mqttd, else ./mqttd-data]
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    data_dir: Option<PathBuf>,
    /// Keeps everything in memory: nothing outlives the process
    #[arg(long)]
    ephemeral: bool,
    /// If the store is damaged: does not start, or keeps what can be read and says what is gone [default: refuse]
    #[arg(long, value_name = "WHAT", value_parser = PossibleValuesParser::new(["refuse", "salvage"]).map(on_damage))]
    on_damage: Option<OnDamage>,
    /// Bytes of a segment of a log, a multiple of 64KiB; 0: by the size of the disk [default: 0]
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        value_parser = |text: &str| number::flag::<u32>("segment_bytes", text)
    )]
    segment_bytes: Option<u32>,
    /// Bytes that the log of a core may take, eight segments at least [default: 4GiB]
    #[arg(
        long,
        value_name = "SIZE",
        allow_negative_numbers = true,
        value_parser = |text: &str| number::flag::<u64>("log_bytes_max", text)
    )]
    log_bytes_max: Option<u64>,
}

impl StoreFlags {
    /// Whether there is a flag that says what this setting is.
    pub(crate) fn give(&self, name: &str) -> bool {
        match name {
            "ephemeral" => self.ephemeral,
            "data_dir" => self.data_dir.is_some(),
            "on_damage" => self.on_damage.is_some(),
            "segment_bytes" => self.segment_bytes.is_some(),
            "log_bytes_max" => self.log_bytes_max.is_some(),
            _ => false,
        }
    }

    /// Overrides the settings that were given; where to keep things and to keep nothing override each other.
    pub(crate) fn apply(&self, settings: &mut StoreSettings) {
        if self.ephemeral {
            settings.ephemeral = true;
            settings.data_dir = PathBuf::new();
        }
        if let Some(directory) = &self.data_dir {
            settings.data_dir.clone_from(directory);
            settings.ephemeral = false;
        }
        settings.on_damage = self.on_damage.unwrap_or(settings.on_damage);
        settings.segment_bytes = self.segment_bytes.unwrap_or(settings.segment_bytes);
        settings.log_bytes_max = self.log_bytes_max.unwrap_or(settings.log_bytes_max);
    }
}

/// One of the two words that the command line takes.
fn on_damage(word: String) -> OnDamage {
    if word == "salvage" { OnDamage::Salvage } else { OnDamage::Refuse }
}

/// The directory of the service, as systemd tells it; else that of the user; else one in the folder that mqttd was started
/// in.
fn default_directory(variable: impl Fn(&str) -> Option<String>) -> PathBuf {
    let path = |name| variable(name).filter(|text| !text.is_empty());
    if let Some(services) = path("STATE_DIRECTORY") {
        // Several are separated by colons.
        return PathBuf::from(services.split(':').next().unwrap_or_default());
    }
    // One that is not absolute is to be ignored, says the specification of these variables.
    let absolute = |name| path(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(state) = absolute("XDG_STATE_HOME") {
        return state.join("mqttd");
    }
    match absolute("HOME") {
        Some(home) => home.join(".local/state/mqttd"),
        None => PathBuf::from("mqttd-data"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_directory_is_the_one_of_the_service_then_of_the_user_then_here() {
        let directory = |set: &[(&str, &str)]| {
            default_directory(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let (service, state, home) =
            (("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("XDG_STATE_HOME", "/s"), ("HOME", "/h"));
        assert_eq!(directory(&[home, state, service]), PathBuf::from("/var/lib/a"));
        assert_eq!(directory(&[home, state]), PathBuf::from("/s/mqttd"));
        assert_eq!(directory(&[home, ("XDG_STATE_HOME", "s")]), PathBuf::from("/h/.local/state/mqttd"));
        assert_eq!(directory(&[("HOME", "")]), PathBuf::from("mqttd-data"));
    }

    #[test]
    fn every_setting_of_the_store_has_a_flag() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            store: StoreFlags,
        }
        let parse = |words: &[&str]| {
            let line = Line::try_parse_from([&["mqttd"], words].concat()).expect("all of it is right");
            let mut settings = StoreSettings { ephemeral: true, ..StoreSettings::default() };
            line.store.apply(&mut settings);
            settings
        };
        let words = ["--data-dir=/d", "--on-damage=salvage", "--segment-bytes=64KiB", "--log-bytes-max=1M"];
        let expected = StoreSettings {
            ephemeral: false,
            data_dir: PathBuf::from("/d"),
            on_damage: OnDamage::Salvage,
            segment_bytes: 65_536,
            log_bytes_max: 1_048_576,
        };
        assert_eq!(parse(&words), expected);
        assert_eq!(parse(&[]), StoreSettings { ephemeral: true, ..StoreSettings::default() });
        assert!(Line::try_parse_from(["mqttd", "--on-damage=ignore"]).is_err());
        assert!(Line::try_parse_from(["mqttd", "--ephemeral", "--data-dir=/d"]).is_err());
        let names = crate::config::names_of::<StoreSettings>();
        let help = <Line as clap::CommandFactory>::command().render_help().to_string();
        assert!(names.iter().all(|name| help.contains(&format!("--{}", name.replace('_', "-")))), "{help}");
        let all = Line::try_parse_from([&["mqttd", "--ephemeral"], &words[1..]].concat()).expect("right");
        assert!(names.iter().all(|name| all.store.give(name) == (*name != "data_dir")));
        assert!(!Line::try_parse_from(["mqttd"]).expect("nothing is needed").store.give("segment_bytes"));
    }

    #[test]
    fn either_of_ephemeral_and_data_dir_overrides_the_other_in_the_file() {
        let in_file = StoreSettings { data_dir: PathBuf::from("/d"), ..StoreSettings::default() };
        let mut settings = in_file.clone();
        StoreFlags { ephemeral: true, ..StoreFlags::default() }.apply(&mut settings);
        assert_eq!((settings.config(), settings.check(|_| Origin::Flag)), (None, Ok(())));
        let mut settings = StoreSettings { ephemeral: true, ..in_file };
        let said = settings.check(|name| Origin::File(format!("f:{name}"))).expect_err("both cannot be");
        assert!(
            said.starts_with("f:ephemeral: ephemeral is true and data_dir is \"/d\" (f:data_dir):"),
            "{said}"
        );
        StoreFlags { data_dir: Some(PathBuf::from("/e")), ..StoreFlags::default() }.apply(&mut settings);
        assert_eq!(
            (settings.config(), settings.check(|_| Origin::Flag)),
            (Some(StoreConfig::new("/e")), Ok(()))
        );
    }

    #[test]
    fn an_ephemeral_broker_has_no_store() {
        let mut settings = StoreSettings { data_dir: PathBuf::from("/d"), ..StoreSettings::default() };
        assert_eq!(settings.config(), Some(StoreConfig::new("/d")));
        settings.ephemeral = true;
        assert_eq!(settings.config(), None);
    }
}
