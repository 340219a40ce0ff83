//! Much is published to Clients that are away: so many chunks of their queues that these lie in several files.

use super::world::World;
use crate::engine::cluster::{Check, Drive as _, Rest};

/// What Clients subscribe to before they leave.
const EVERYTHING: &str = "p/#";

/// Messages that pile up at most.
const MESSAGES_MAX: u64 = 90;

impl World {
    /// Some Clients leave, and messages pile up for them. Then one of them is back, and the others are not.
    pub(super) fn pile(&mut self) -> Check {
        let (away, others): (Vec<usize>, Vec<usize>) =
            (0..self.clients.len() - 1).partition(|_| self.cluster.random.percent(60));
        if away.is_empty() || others.is_empty() {
            return Ok(());
        }
        away.iter().for_each(|&nth| self.subscribe(nth, EVERYTHING));
        self.rest(Rest::AsIs)?;
        away.iter().for_each(|&nth| self.cut(nth));
        for _ in 0..self.cluster.random.below(MESSAGES_MAX) {
            let publisher = self.cluster.random.pick(&others);
            self.publish_something(publisher);
            self.rest(Rest::AsIs)?;
        }
        let back = self.cluster.random.pick(&away);
        self.come(back);
        Ok(())
    }
}
