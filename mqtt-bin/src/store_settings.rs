//! The settings of the store, and where it is if nobody says.

use std::env;
use std::path::PathBuf;

use mqtt_broker::runtime::{OnDamage, StoreConfig};
use serde::{Deserialize, Serialize};

/// The table `[store]`.
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    fn an_ephemeral_broker_has_no_store() {
        let mut settings = StoreSettings { data_dir: PathBuf::from("/d"), ..StoreSettings::default() };
        assert_eq!(settings.config(), Some(StoreConfig::new("/d")));
        settings.ephemeral = true;
        assert_eq!(settings.config(), None);
    }
}
