//! The gate of the store: whatever happens to the files of a log, no acknowledged record is lost in silence.
//!
//! The log runs on files in memory, with segments of 64 KiB; a model knows what was appended, what belongs together and
//! what was acknowledged. What is read afterwards must be all that was acknowledged, in order, and of the rest whole
//! batches or nothing; or reading is refused with the damage. `--nocapture` prints a table of trials and outcomes.

mod bytes;
mod crashes;
mod damage;
mod disk;
mod failures;
mod golden;
mod model;
mod snapshots;

use std::sync::Mutex;

/// Kinds of trials below.
const ROWS: usize = 15;

static TABLE: Mutex<Vec<(&str, Row)>> = Mutex::new(Vec::new());

/// What came of the trials of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    trials: u64,
    /// All that was acknowledged was read.
    whole: u64,
    /// Reading was refused.
    refused: u64,
    /// What may be taken for torn was dropped: the last commit of a log that was not ended.
    dropped: u64,
}

impl Row {
    /// Puts the row into the table, which is printed once it has all.
    fn report(self, name: &'static str) {
        assert_eq!(
            self.trials,
            self.whole + self.refused + self.dropped,
            "{name}: each trial has an outcome"
        );
        assert!(self.trials > 0, "{name}: there were trials");
        let mut table = TABLE.lock().expect("no test failed while it printed");
        table.push((name, self));
        if table.len() < ROWS {
            return;
        }
        table.sort_unstable_by_key(|&(name, _)| name);
        println!("{:44} {:>9} {:>9} {:>9} {:>9}", "trials", "number", "all read", "refused", "last lost");
        for (name, row) in table.iter() {
            println!("{name:44} {:9} {:9} {:9} {:9}", row.trials, row.whole, row.refused, row.dropped);
        }
    }
}
