//! `mqttd store repair --salvage`: what a start with `on_damage = "salvage"` does, without starting.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use mqtt_broker::runtime::{OnDamage, StoredCore};

use super::{Output, Place, failure, read, written};
use crate::serve::Failure;

/// How to repair.
#[derive(Debug, Args)]
pub(crate) struct RepairFlags {
    #[command(flatten)]
    place: Place,
    /// Keeps every commit that verifies, and gives up what does not: the only repair there is
    #[arg(long, required = true)]
    salvage: bool,
    /// Does not ask
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(flags: &RepairFlags) -> Result<(), Failure> {
    debug_assert!(flags.salvage, "the command line demands it");
    let mut store = flags.place.open()?;
    let cores = read(&store, OnDamage::Salvage)?;
    let gone: Vec<String> = cores.iter().flat_map(StoredCore::damage).cloned().collect();
    let mut output = Output::new();
    if gone.is_empty() {
        return written(
            output.line("nothing is damaged, and nothing was changed").and_then(|()| output.end()),
        );
    }
    let kept = super::holds(cores.iter().map(StoredCore::image));
    let told = gone.iter().try_for_each(|what| output.line(format_args!("damaged: {what}")));
    written(
        told.and_then(|()| output.line(format_args!("can be kept: {kept}"))).and_then(|()| output.end()),
    )?;
    if !flags.yes && !agreed()? {
        return Err(Failure::start("nothing was changed"));
    }
    let aside = store.salvage(cores).map_err(failure)?;
    let told = output.line(format_args!(
        "kept: {kept}; the damaged files are in {}, with damage.txt that says the above",
        aside.display()
    ));
    written(told.and_then(|()| output.end()))
}

/// Asks whoever sits there.
fn agreed() -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::start("nobody can be asked whether to go on: give --yes if it is to be done"));
    }
    let mut answer = String::new();
    let mut stderr = io::stderr();
    let asked =
        write!(stderr, "Give up what is damaged and keep the rest? [y/N] ").and_then(|()| stderr.flush());
    asked.and_then(|()| io::stdin().read_line(&mut answer)).map_err(Failure::start)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
