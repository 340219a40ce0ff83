//! Flags for the limits that are changed most; the other limits are set in the configuration file.

use clap::{Args, Command};
use mqtt_broker::Limits;

/// Declares one optional flag a limit, under the limit's own name.
macro_rules! limit_flags {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The main limits; none given leaves the configuration file's or the default.
        #[derive(Debug, Default, Args)]
        #[command(next_help_heading = "Limits")]
        pub(crate) struct LimitFlags {
            $($(#[$doc])* #[arg(long, value_name = "N")] $name: Option<$type>,)*
        }

        impl LimitFlags {
            /// Says in the help of each flag what holds without it.
            pub(crate) fn with_defaults(command: Command) -> Command {
                let limits = Limits::default();
                command$(.mut_arg(stringify!($name), |arg| {
                    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                    arg.help(format!("{help} [default: {}]", limits.$name))
                }))*
            }

            /// Overrides the limits that were given.
            pub(crate) fn apply(&self, limits: &mut Limits) {
                $(if let Some(value) = self.$name { limits.$name = value; })*
            }
        }
    };
}

limit_flags! {
    /// Connections of the whole broker; 0: as many as the process may open files
    connections_max: u32,
    /// Seconds from accepting a connection to its CONNECT
    connect_timeout_seconds: u32,
    /// Longest Keep Alive in seconds; 0: any
    keep_alive_max_seconds: u16,
    /// Maximum Packet Size in bytes that clients may send
    packet_bytes_max: u32,
    /// QoS 1 and 2 messages that a client may have unacknowledged
    receive_maximum: u16,
    /// QoS 1 and 2 messages in flight to a client
    in_flight_max: u16,
    /// Sessions of the whole broker, connected or not
    sessions_max: u32,
    /// Longest Session Expiry Interval in seconds
    session_expiry_max_seconds: u32,
    /// Seconds from a start with a store that clients have to come back before their Wills are published
    restart_grace_seconds: u32,
    /// Messages that wait in a session's queue
    queue_messages_max: u32,
    /// Bytes that wait in a session's queue
    queue_bytes_max: u64,
    /// Bytes of queued messages that a core keeps in memory where there is a store; 0: no bound
    queue_memory_bytes_max: u64,
    /// Bytes of messages kept by the whole broker; 0: no bound
    memory_bytes_max: u64,
    /// Retained messages of the whole broker
    retained_messages_max: u32,
    /// Bytes of retained messages of the whole broker
    retained_bytes_max: u64,
    /// Seconds a shutdown may take
    shutdown_timeout_seconds: u32,
    /// Seconds between two publications of the $SYS tree; 0: none
    sys_interval_seconds: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_given_changes() {
        let mut limits = Limits::default();
        let flags = LimitFlags { receive_maximum: Some(7), ..LimitFlags::default() };
        flags.apply(&mut limits);
        assert_eq!(limits.receive_maximum, 7);
        limits.receive_maximum = Limits::default().receive_maximum;
        assert_eq!(limits, Limits::default());
    }
}
