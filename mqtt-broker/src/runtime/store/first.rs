//! The first segment of a log. The broker listens before it is there, and nothing can be kept until then: on a slow disk
//! somebody wonders why the first acknowledgement does not come.

use std::path::Path;

use tracing::info;

use crate::config::CoreId;

/// Milliseconds that nobody wonders.
const PATIENCE_MILLIS: u64 = 1_000;

/// How far it is. Times are monotonic milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum First {
    #[default]
    Unknown,
    /// It has been made since then.
    Making(u64),
    /// The same, and it was said that this takes long.
    Said(u64),
    There,
}

impl First {
    /// Whether there is nothing more to say.
    pub(super) fn is_there(self) -> bool {
        self == First::There
    }

    /// When it is to be looked at again.
    pub(super) fn poll_timeout(self) -> Option<u64> {
        match self {
            First::Making(since) => Some(since + PATIENCE_MILLIS),
            _ => None,
        }
    }

    /// What is known at `now`; says so if it takes long, and when it is over.
    pub(super) fn look(&mut self, is_there: bool, now: u64, core: CoreId, folder: &Path) {
        *self = match *self {
            First::Unknown if !is_there => First::Making(now),
            First::Making(since) if !is_there && now >= since + PATIENCE_MILLIS => {
                info!(
                    %core,
                    folder = %folder.display(),
                    "this disk takes long to make the first file of the log: what has to be kept waits for it"
                );
                First::Said(since)
            }
            First::Said(since) if is_there => {
                info!(%core, millis = now - since, "the first file of the log is there");
                First::There
            }
            _ if is_there => First::There,
            same => same,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_at_once_more_if_it_takes_long() {
        let mut first = First::default();
        let mut look = |is_there, now| {
            first.look(is_there, now, CoreId(0), Path::new("core-0"));
            (first, first.poll_timeout())
        };
        assert_eq!(look(false, 5_000), (First::Making(5_000), Some(6_000)));
        assert_eq!(look(false, 5_999), (First::Making(5_000), Some(6_000)));
        assert_eq!(look(false, 6_000), (First::Said(5_000), None));
        assert_eq!(look(false, 9_000), (First::Said(5_000), None));
        assert_eq!(look(true, 9_500), (First::There, None));
        let mut quick = First::default();
        quick.look(true, 1, CoreId(0), Path::new("core-0"));
        assert!(quick.is_there());
    }
}
