//! The command line. Each flag has the name of the setting it overrides.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::limit_flags::LimitFlags;
use crate::settings::{Cores, ListenAddress, LogFilter, LogFormat};
use crate::store::StoreCommand;
use crate::store_settings::StoreFlags;

/// What stands for numbers with a unit in the help of each flag.
const UNITS: &str = "SIZE is a number of bytes, or one with a unit: 64k, 64MiB, 1G, in powers of 1024.\n\
    TIME is a number of seconds, or one with a unit: 90s, 5m, 12h, 7d.";

/// An MQTT 3.1, 3.1.1 and 5.0 broker that uses every core of the machine.
///
/// Without options it serves anonymous clients of this machine on port 1883. Every setting that has no flag can be
/// given in a configuration file: see docs/configuration.md.
#[derive(Debug, Parser)]
#[command(name = "mqttd", version, args_conflicts_with_subcommands = true, after_help = UNITS)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

impl Cli {
    /// The command line of this process; ends it with help or an error if that is what there is to be said.
    pub(crate) fn of_process() -> Cli {
        let matches = Cli::with_defaults().get_matches();
        Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    fn with_defaults() -> clap::Command {
        LimitFlags::with_defaults(Cli::command()).mut_subcommand("check", LimitFlags::with_defaults)
    }
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Checks the configuration and prints the settings that would be in effect, as a configuration file
    #[command(after_help = UNITS)]
    Check(Box<Flags>),
    /// Looks at the data directory of a broker that is stopped, takes it apart, puts it together: see docs/store-tools.md
    #[command(subcommand)]
    Store(StoreCommand),
}

/// The flags of the broker; those given override the configuration file.
#[derive(Debug, Default, Args)]
pub(crate) struct Flags {
    /// Listens on this address; may be given several times. A port alone, or `localhost:PORT`, is both loopback
    /// addresses; `[::]:PORT` is every address of the machine [default: localhost:1883]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<ListenAddress>,
    /// Serves with this many cores, or on the CPUs of a list such as 0,2-5 [default: every CPU it may run on]
    #[arg(long, value_name = "N|LIST")]
    pub(crate) cores: Option<Cores>,
    /// Lets clients connect without authentication on addresses that other machines can reach
    #[arg(long)]
    pub(crate) allow_anonymous: bool,
    /// Reads settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Logs from this level on: off, error, warn, info, debug or trace; a list such as
    /// `info,mqtt_broker::shard=debug` sets it for parts [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub(crate) log: Option<LogFilter>,
    /// Form of the log on stderr [default: text]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    #[command(flatten)]
    pub(crate) store: StoreFlags,
    #[command(flatten)]
    pub(crate) limits: LimitFlags,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent_and_says_what_holds_without_a_flag() {
        let mut command = Cli::with_defaults();
        command.clone().debug_assert();
        let help = command.render_help().to_string();
        assert!(help.contains("Maximum Packet Size that clients may send [default: 8MiB]"), "{help}");
    }

    #[test]
    fn check_takes_the_same_flags() {
        let cli = Cli::try_parse_from(["mqttd", "check", "--config", "a.toml", "--receive-maximum", "9"])
            .expect("flags of the broker belong to check too");
        let Some(Command::Check(flags)) = cli.command else { panic!("check was given") };
        assert_eq!(flags.config, Some(PathBuf::from("a.toml")));
    }

    #[test]
    fn flags_before_check_are_refused_rather_than_ignored() {
        assert!(Cli::try_parse_from(["mqttd", "--config", "a.toml", "check"]).is_err());
    }

    #[test]
    fn a_wrong_address_is_a_usage_error_that_says_what_is_expected() {
        let error = Cli::try_parse_from(["mqttd", "--listen", "nowhere"]).expect_err("it has no port");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }
}
