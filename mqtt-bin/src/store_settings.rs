//! The settings of the store, and where it is if nobody says.

use std::env;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use mqtt_broker::runtime::{OnDamage, StoreConfig};
use serde::{Deserialize, Serialize};

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
        let mut config = StoreConfig::new(directory);
        (config.on_damage, config.segment_bytes) = (self.on_damage, self.segment_bytes);
        config.log_bytes_max = self.log_bytes_max;
        Some(config)
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
    /// Bytes of a segment of a log, a multiple of 65536; 0: by the size of the disk [default: 0]
    #[arg(long, value_name = "N")]
    segment_bytes: Option<u32>,
    /// Bytes that the log of a core may take [default: 4294967296]
    #[arg(long, value_name = "N")]
    log_bytes_max: Option<u64>,
}

impl StoreFlags {
    /// Overrides the settings that were given.
    pub(crate) fn apply(&self, settings: &mut StoreSettings) {
        settings.ephemeral |= self.ephemeral;
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
        let words =
            ["--data-dir=/d", "--on-damage=salvage", "--segment-bytes=65536", "--log-bytes-max=1048576"];
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
        let names = crate::config::names_of::<StoreSettings>();
        let help = <Line as clap::CommandFactory>::command().render_help().to_string();
        assert!(names.iter().all(|name| help.contains(&format!("--{}", name.replace('_', "-")))), "{help}");
    }

    #[test]
    fn an_ephemeral_broker_has_no_store() {
        let mut settings = StoreSettings { data_dir: PathBuf::from("/d"), ..StoreSettings::default() };
        assert_eq!(settings.config(), Some(StoreConfig::new("/d")));
        settings.ephemeral = true;
        assert_eq!(settings.config(), None);
    }
}
