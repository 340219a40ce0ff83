//! mqttd, the MQTT broker: command line, configuration file, log and signals around [`mqtt_broker`].
//!
//! Exit codes: 0 all went well, 1 it could not start or not do what it was asked for, 2 the command line is wrong, 3 the broker
//! died, 4 the store is damaged, found so by a start or by `mqttd store`; a second SIGTERM or SIGINT during the shutdown ends at
//! once with 128 + the signal's number.
#![forbid(unsafe_code)]

mod cli;
mod config;
mod config_words;
mod limit_flags;
mod logging;
mod number;
mod origin;
mod serve;
mod settings;
mod signals;
mod store;
mod store_settings;

use std::io::Write as _;
use std::process::ExitCode;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::of_process();
    spare_memory();
    let outcome = match &cli.command {
        Some(Command::Check(flags)) => check(flags),
        Some(Command::Store(command)) => store::run(command),
        None => serve::serve(&cli.flags),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Written without a panic when nobody reads it any more.
            let _ = writeln!(std::io::stderr(), "mqttd: {failure}");
            failure.exit_code()
        }
    }
}

/// Memory comes in small pages: a huge page that is touched once is resident whole, which costs an idle broker 10 MiB
/// and an idle connection more than it is. A kernel that refuses has none to give.
fn spare_memory() {
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// `mqttd check`: prints the settings that would be in effect, as a configuration file.
fn check(flags: &cli::Flags) -> Result<(), serve::Failure> {
    let settings = serve::settings(flags)?;
    let text = toml::to_string(&settings).map_err(serve::Failure::start)?;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(serve::Failure::start(error)),
        _ => Ok(()),
    }
}
