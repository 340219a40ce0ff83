//! The nouns of the standard, one a file: parsed at the edge, from then on the type is the proof.

mod id;
mod qos;
mod reason;
mod topic;
mod version;

pub use id::PacketId;
pub use qos::Qos;
pub use reason::ReasonCode;
pub use topic::{FilterError, ShareName, SharedFilter, TopicError, TopicFilter, TopicName};
pub use version::Version;
