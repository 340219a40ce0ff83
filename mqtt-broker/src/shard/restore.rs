//! The state that outlived the process, taken up again before the first connection.

use super::Shard;
use super::contract::Now;
use crate::store::image::Image;

impl Shard {
    /// Takes up what this core's part of the store holds. To be called once, before any connection, on every core; no
    /// connection may be opened before [`Shard::is_restored`] says so on all of them.
    pub fn restore(&mut self, image: Image, now: Now) {
        self.now = now;
        self.records.begin_at(image.last_time(), now);
        self.settle();
    }
}
