//! Serving: settings to a running broker, and its end to an exit code.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use mqtt_broker::{Broker, Handle, StartError};

use crate::cli::Flags;
use crate::config::ConfigFile;
use crate::logging;
use crate::origin::Origin;
use crate::settings::{Cores, Settings};
use crate::signals::Signals;

/// Why mqttd ends with an error: one sentence, with the remedy where there is one.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    exit_code: u8,
}

impl Failure {
    /// mqttd could not start.
    pub(crate) fn start(cause: impl fmt::Display) -> Failure {
        Failure { message: cause.to_string(), exit_code: 1 }
    }

    /// Something in the store is damaged, or was given up.
    pub(crate) fn damage(cause: impl fmt::Display) -> Failure {
        Failure { message: cause.to_string(), exit_code: 4 }
    }

    /// The same of a command that was to change something, and has changed nothing.
    pub(crate) fn unchanged(self) -> Failure {
        Failure::start(self.message)
    }

    /// The broker died while it served.
    fn died(cause: impl fmt::Display) -> Failure {
        Failure { message: cause.to_string(), exit_code: 3 }
    }

    /// The exit code of the process.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit_code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// The settings in effect: those of the configuration file, overridden by the flags.
///
/// # Errors
/// The file is wrong, or what it and the flags say together is refused.
pub(crate) fn settings(flags: &Flags) -> Result<Settings, Failure> {
    let file = flags.config.as_deref().map(ConfigFile::read).transpose().map_err(Failure::start)?;
    let place = |name: &str| file.as_ref().and_then(|file| file.place(name));
    let mut settings = file.as_ref().map_or_else(Settings::default, |file| file.settings.clone());
    if !flags.listen.is_empty() {
        settings.listen.clone_from(&flags.listen);
    }
    if let Some(cores) = &flags.cores {
        settings.cores.clone_from(cores);
    }
    if let Some(log) = &flags.log {
        settings.log.clone_from(log);
    }
    settings.log_format = flags.log_format.unwrap_or(settings.log_format);
    settings.allow_anonymous |= flags.allow_anonymous;
    flags.store.apply(&mut settings.store);
    flags.limits.apply(&mut settings.limits);
    let origin = |name: &str| match place(name) {
        _ if flags.store.give(name) => Origin::Flag,
        place => place.map_or(Origin::Default, Origin::File),
    };
    settings.store.check(origin).map_err(Failure::start)?;
    settings.check().map_err(|error| match place("listen") {
        Some(line) if flags.listen.is_empty() => Failure::start(format_args!("{line}: {error}")),
        _ => Failure::start(error),
    })?;
    Ok(settings)
}

/// Serves until a signal or a fault ends the broker.
///
/// # Errors
/// It could not start, or it died.
pub(crate) fn serve(flags: &Flags) -> Result<(), Failure> {
    let settings = settings(flags)?;
    let signals = Signals::block().map_err(Failure::start)?;
    let _log = logging::start(&settings.log, settings.log_format);

    let mut builder = Broker::builder().limits(settings.limits.clone());
    for address in &settings.listen {
        builder = builder.listen(address);
    }
    builder = match &settings.cores {
        Cores::All => builder,
        Cores::Count(count) => builder.cores((*count).into()),
        Cores::Cpus(cpus) => builder.cpus(cpus.iter().copied()),
    };
    let store = settings.store.config();
    if let Some(store) = &store {
        builder = builder.store(store.clone());
    }
    let handle = builder.start().map_err(not_started)?;
    say_ready(&handle, store.map(|store| store.directory));
    let stopper = handle.clone();
    signals.watch(move || stopper.shutdown()).map_err(Failure::start)?;
    handle.wait().map_err(Failure::died)?;
    tracing::info!("stopped");
    Ok(())
}

/// Why the broker did not start.
fn not_started(error: StartError) -> Failure {
    match &error {
        StartError::Store(store) if store.is_damage() => Failure::damage(error),
        _ => Failure::start(error),
    }
}

/// The line that says what is served where.
fn say_ready(handle: &Handle, data_dir: Option<PathBuf>) {
    let listen: Vec<String> = handle.addresses().iter().map(ToString::to_string).collect();
    let limits = handle.limits();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = listen.join(","),
        cores = handle.cores(),
        data_dir =
            data_dir.map_or_else(|| "none, in memory only".to_owned(), |path| path.display().to_string()),
        connections_max = limits.connections_max,
        tables_beyond = handle.connections_before_tables(),
        sessions_max = limits.sessions_max,
        packet_bytes_max = limits.packet_bytes_max,
        receive_maximum = limits.receive_maximum,
        queue_messages_max = limits.queue_messages_max,
        memory_bytes_max = limits.memory_bytes_max,
        "mqttd is ready"
    );
}
