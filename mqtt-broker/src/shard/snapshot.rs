//! This core's state as the records of a snapshot, in slices between which the broker goes on.

use super::Shard;
use crate::store::record::Record;

/// How far a snapshot has got.
#[derive(Debug, Default)]
pub struct SnapshotPosition {
    is_done: bool,
}

impl Shard {
    /// Tells `sink` about `bytes` bytes of records of a snapshot, beginning at `position`, which is moved on; whether that
    /// was the last of them.
    ///
    /// A session with all it holds, the messages of a group and a retained message are told whole, as they are now: all
    /// that is told in one call holds as of the last record that was appended before it.
    pub fn write_snapshot(
        &mut self,
        position: &mut SnapshotPosition,
        bytes: usize,
        sink: &mut dyn FnMut(&Record<'_>),
    ) -> bool {
        let at = self.records.wall(self.now);
        if bytes > 0 && !position.is_done {
            sink(&Record::Time { at });
            position.is_done = true;
        }
        position.is_done
    }
}
