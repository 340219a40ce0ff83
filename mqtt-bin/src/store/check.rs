//! `mqttd store check`: reads everything, says what is wrong.

use mqtt_broker::runtime::{OnDamage, StoredCore};

use super::{Output, Place, count, holds, log, read, written};
use crate::serve::Failure;

pub(super) fn run(place: &Place) -> Result<(), Failure> {
    let store = place.open()?;
    let cores = read(&store, OnDamage::Salvage)?;
    let mut output = Output::new();
    let told = (0u16..).zip(&cores).try_for_each(|(number, core)| {
        describe(number, core).into_iter().try_for_each(|line| output.line(line))
    });
    written(told.and_then(|()| output.end()))?;
    let damage: usize = cores.iter().map(|core| core.damage().len()).sum();
    if damage == 0 {
        return Ok(());
    }
    let places = count(damage, "place");
    Err(Failure::damage(format_args!(
        "the store is damaged in {places}: put back a backup, or let `mqttd store repair --salvage` keep what can be read"
    )))
}

/// A line on what a core has, and one on each thing that is wrong with it.
fn describe(number: u16, core: &StoredCore) -> Vec<String> {
    let (segments, _) = core.segments();
    let mut lines = vec![format!(
        "core {number}: {}, {}; snapshot of {}; {}",
        count(segments, "segment"),
        log(core.records(), core.is_clean()),
        count(core.snapshot_bytes(), "byte"),
        holds([core.image()]),
    )];
    if let Some(torn) = core.torn() {
        lines.push(format!(
            "core {number}: torn: {}/segment-{:08}, byte {}: what was being written when the last process ended ({}) was not \
             acknowledged; the next start drops it",
            core.folder().display(),
            torn.segment,
            torn.offset,
            count(torn.bytes, "byte"),
        ));
    }
    lines.extend(core.damage().iter().map(|what| format!("core {number}: damaged: {what}")));
    lines
}
