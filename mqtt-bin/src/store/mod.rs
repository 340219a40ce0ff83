//! `mqttd store`: looks at a data directory that no broker is using, takes it apart, puts it together.
//!
//! Invariant: nothing is changed but by `import`, which begins a store, and by `repair`, which asks first.

mod check;
mod dump;
mod export;
mod import;
mod line;
mod progress;
mod repair;
mod stat;

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use clap::{Args, Subcommand};
use mqtt_broker::runtime::{OfflineStore, OnDamage, StoreError, StoredCore};
use mqtt_broker::store::cold::Parked;
use mqtt_broker::store::image::Image;

use crate::config::ConfigFile;
use crate::origin::Origin;
use crate::serve::Failure;
use crate::store_settings::StoreSettings;

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Reads all of it and says what is damaged; the exit code is 0 if nothing is, 4 if something is
    Check(Place),
    /// Counts what is in it
    Stat(stat::StatFlags),
    /// Writes what is in it as JSON, one thing a line
    Export(export::ExportFlags),
    /// Begins a store with what `export` wrote
    Import(import::ImportFlags),
    /// Prints the records of the log, one a line
    DumpLog(dump::DumpFlags),
    /// Keeps what can be read of a damaged store, and moves the damaged files aside
    Repair(repair::RepairFlags),
}

/// Which data directory.
#[derive(Debug, Default, Args)]
pub(crate) struct Place {
    /// The data directory [default: the one that mqttd uses without this flag]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Takes the data directory from this configuration file of mqttd
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    config: Option<PathBuf>,
}

/// Does what was asked for.
///
/// # Errors
/// It cannot be done; or it was to be found out whether something is damaged, and it is.
pub(crate) fn run(command: &StoreCommand) -> Result<(), Failure> {
    match command {
        StoreCommand::Check(place) => check::run(place),
        StoreCommand::Stat(flags) => stat::run(flags),
        StoreCommand::Export(flags) => export::run(flags),
        StoreCommand::Import(flags) => import::run(flags),
        StoreCommand::DumpLog(flags) => dump::run(flags),
        StoreCommand::Repair(flags) => repair::run(flags),
    }
}

impl Place {
    fn directory(&self) -> Result<PathBuf, Failure> {
        let settings = match &self.config {
            Some(path) => {
                let file = ConfigFile::read(path).map_err(Failure::start)?;
                let origin = |name: &str| file.place(name).map_or(Origin::Default, Origin::File);
                file.settings.store.check(origin).map_err(Failure::start)?;
                file.settings.store
            }
            None => StoreSettings {
                data_dir: self.data_dir.clone().unwrap_or_default(),
                ..StoreSettings::default()
            },
        };
        let store = settings.config();
        let store = store.ok_or_else(|| {
            Failure::start(
                "the broker of this configuration keeps everything in memory: give --data-dir for a store of another",
            )
        })?;
        Ok(store.directory)
    }

    fn open(&self) -> Result<OfflineStore, Failure> {
        OfflineStore::open(&self.directory()?).map_err(failure)
    }
}

/// Why a store cannot be worked on, said to who runs a tool.
fn failure(error: StoreError) -> Failure {
    let say = |what: &dyn fmt::Display| {
        if error.is_damage() { Failure::damage(what) } else { Failure::start(what) }
    };
    match &error {
        StoreError::InUse { directory, process } => Failure::start(format_args!(
            "the data directory {} is in use by a running mqttd{}: stop that first",
            directory.display(),
            process.map_or_else(String::new, |process| format!(", process {process}"))
        )),
        StoreError::Read { path, error } => say(&format_args!(
            "{}: {error}. `mqttd store check` says all that is damaged, `mqttd store repair --salvage` keeps the rest",
            path.display()
        )),
        error => say(error),
    }
}

/// Reads all of a store, with a bar.
fn read(store: &OfflineStore, on_damage: OnDamage) -> Result<Vec<StoredCore>, Failure> {
    let records = Arc::new(AtomicU64::new(0));
    let bar = progress::counting("reading", "records", Arc::clone(&records));
    let cores = store.read(on_damage, &records);
    bar.finish_and_clear();
    cores.map_err(failure)
}

/// Where results go. It is no fault if nobody reads them.
struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    fn new() -> Output {
        Output(BufWriter::new(io::stdout().lock()))
    }

    fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.0, "{text}")
    }

    /// Whether a bar on the terminal is not in the way of what is written.
    fn leaves_room(&self) -> bool {
        !self.0.get_ref().is_terminal()
    }

    /// All was said, for now.
    fn end(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What became of writing to an [`Output`].
fn written(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::start(format_args!("cannot write the output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A number of things, in the singular or the plural.
fn count<N: fmt::Display + PartialEq + From<u8>>(number: N, thing: &str) -> String {
    let end = if number == N::from(1) { "" } else { "s" };
    format!("{number} {thing}{end}")
}

/// What there is in images.
fn holds<'a>(images: impl IntoIterator<Item = &'a Image>) -> String {
    let (mut sessions, mut queued, mut retained) = (0, 0, 0);
    for image in images {
        sessions += image.session_count();
        retained += image.retained().len();
        queued += image
            .sessions()
            .map(|session| {
                let parked = session.parked().map_or(0, Parked::messages) as usize;
                parked + session.waiting().len() + session.under_way().count()
            })
            .sum::<usize>();
    }
    [count(sessions, "session"), count(queued, "queued message"), count(retained, "retained message")]
        .join(", ")
}

/// Which records a log has, and how it ended.
fn log(records: Option<(u64, u64)>, is_clean: bool) -> String {
    match records {
        None => "no records".to_owned(),
        Some((first, last)) if is_clean => format!("records {first} to {last}"),
        Some((first, last)) => format!("records {first} to {last}, not ended by a stop"),
    }
}
