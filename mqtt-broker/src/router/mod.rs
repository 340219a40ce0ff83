//! Who gets a message: one core's subscriptions, the other cores' interest, shared groups, retained messages.
//!
//! Everything here is a plain data structure of one core: no I/O, no clock, no randomness. Hash keys are passed in
//! and the order of every iteration follows from them and from the operations alone, so a run can be replayed.

mod filters;
mod groups;
mod interest;
mod levels;
mod ordered;
mod retained;
mod shared;
mod slab;
mod subscriptions;
mod text;
mod trie;
mod words;

pub use filters::FilterId;
pub use groups::{GroupId, Groups};
pub use interest::{CoreSet, Interest};
pub(crate) use retained::order as topic_order;
pub use retained::{Retainable, Retained, Scan};
pub use shared::{Chosen, Group, MemberId, Strategy, UnknownStrategy};
pub use subscriptions::{Inserted, Matches, Removed, Subscriber, Subscriptions};
