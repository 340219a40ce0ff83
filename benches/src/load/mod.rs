//! mqtt-load: clients by the thousand on one thread, which check whatever the broker gives them.

pub(crate) mod churn;
pub(crate) mod clock;
pub(crate) mod fleet;
pub(crate) mod flow;
pub(crate) mod idle;
pub(crate) mod net;
pub(crate) mod observe;
pub(crate) mod payload;
pub(crate) mod report;
pub(crate) mod soak;
