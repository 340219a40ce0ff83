//! `mqttd store repair --salvage`: what a start with `on_damage = "salvage"` does, without starting.
//!
//! Invariant: whoever lost something learns it from the exit code.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use mqtt_broker::runtime::{OnDamage, StoredCore};

use super::{Output, Place, failure, holds, read, written};
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
    let mut store = flags.place.open().map_err(Failure::unchanged)?;
    let cores = read(&store, OnDamage::Salvage).map_err(Failure::unchanged)?;
    let mut output = Output::new();
    if cores.iter().all(|core| core.damage().is_empty()) {
        return written(
            output.line("nothing is damaged, and nothing was changed").and_then(|()| output.end()),
        );
    }
    let told = (0u16..).zip(&cores).try_for_each(|(number, core)| describe(number, core, &mut output));
    written(told.and_then(|()| output.end()))?;
    if !flags.yes && !agreed()? {
        return Err(Failure::start("nothing was changed"));
    }
    let kept = holds(cores.iter().map(StoredCore::image));
    let aside = store.salvage(cores).map_err(|error| failure(error).unchanged())?;
    let told = output.line(format_args!("kept: {kept}"));
    written(told.and_then(|()| output.end()))?;
    Err(Failure::damage(format_args!(
        "the store was repaired, and what is named above is gone; the damaged files are in {}, with damage.txt that says \
         the same",
        aside.display()
    )))
}

/// What is damaged of a core, and what can be kept of it.
fn describe(number: u16, core: &StoredCore, output: &mut Output) -> io::Result<()> {
    if core.damage().is_empty() {
        return output.line(format_args!("core {number}: nothing is damaged: {}", holds([core.image()])));
    }
    core.damage().iter().try_for_each(|what| output.line(format_args!("core {number}: damaged: {what}")))?;
    output.line(format_args!("core {number}: can be kept: {}", holds([core.image()])))
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
