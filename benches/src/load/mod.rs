//! mqtt-load: clients by the thousand on one thread, which check whatever the broker gives them.

pub(crate) mod churn;
pub(crate) mod clock;
pub(crate) mod crowd;
pub(crate) mod fleet;
pub(crate) mod flow;
pub(crate) mod frame;
pub(crate) mod idle;
pub(crate) mod net;
pub(crate) mod observe;
pub(crate) mod offline;
pub(crate) mod part;
pub(crate) mod payload;
pub(crate) mod plot;
pub(crate) mod progress;
pub(crate) mod report;
pub(crate) mod retained;
pub(crate) mod soak;
pub(crate) mod sparse;
pub(crate) mod stalled;
