//! Flags for the limits that are changed most; the other limits are set in the configuration file.

use clap::{Args, Command};
use mqtt_broker::Limits;

use crate::number::{self, Unit};

/// Declares one optional flag a limit, under the limit's own name.
macro_rules! limit_flags {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// The main limits; none given leaves the configuration file's or the default.
        #[derive(Debug, Default, Args)]
        #[command(next_help_heading = "Limits")]
        pub(crate) struct LimitFlags {
            $(
                $(#[$doc])*
                #[arg(
                    long,
                    value_name = Unit::of(stringify!($name)).placeholder(),
                    allow_negative_numbers = true,
                    value_parser = |text: &str| number::flag::<$type>(stringify!($name), text)
                )]
                $name: Option<$type>,
            )*
        }

        impl LimitFlags {
            /// Says in the help of each flag what holds without it.
            pub(crate) fn with_defaults(command: Command) -> Command {
                let limits = Limits::default();
                command$(.mut_arg(stringify!($name), |arg| {
                    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                    let default = Unit::of(stringify!($name)).write(limits.$name.into());
                    arg.help(format!("{help} [default: {default}]"))
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
    /// Longest Keep Alive that is granted; 0: any
    keep_alive_max_seconds: u16,
    /// Maximum Packet Size that clients may send
    packet_bytes_max: u32,
    /// QoS 1 and 2 messages that a client may have unacknowledged
    receive_maximum: u16,
    /// QoS 1 and 2 messages in flight to a client
    in_flight_max: u16,
    /// Sessions of the whole broker, connected or not
    sessions_max: u32,
    /// Longest Session Expiry Interval in seconds; 4294967295: for ever
    session_expiry_max_seconds: u32,
    /// Seconds from a start with a store that clients have to come back before their Wills are published
    restart_grace_seconds: u32,
    /// Messages that wait in a session's queue
    queue_messages_max: u32,
    /// Bytes that wait in a session's queue
    queue_bytes_max: u64,
    /// Bytes of queued messages that a core keeps in memory where there is a store; 0: no bound
    queue_memory_bytes_max: u64,
    /// Bytes of messages that the whole broker keeps in queues and retained; 0: no bound
    memory_bytes_max: u64,
    /// Retained messages of the whole broker
    retained_messages_max: u32,
    /// Bytes of retained messages of the whole broker
    retained_bytes_max: u64,
    /// Seconds that a shutdown may take; what is left then is cut
    shutdown_timeout_seconds: u32,
    /// Seconds between two publications of the $SYS tree; 0: none
    sys_interval_seconds: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_takes_its_default_as_the_help_writes_it() {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            limits: LimitFlags,
        }
        let command = LimitFlags::with_defaults(<Line as clap::CommandFactory>::command());
        let flags = command.get_arguments().filter_map(|argument| {
            let help = argument.get_help()?.to_string();
            let (_, default) = help.split_once("[default: ")?;
            Some(format!("--{}={}", argument.get_long()?, default.strip_suffix(']')?))
        });
        let words: Vec<String> = std::iter::once("mqttd".to_owned()).chain(flags).collect();
        assert!(words.contains(&"--packet-bytes-max=8MiB".to_owned()), "{words:?}");
        let line = <Line as clap::Parser>::try_parse_from(words).expect("defaults can be given");
        let mut limits = Limits::default();
        (limits.packet_bytes_max, limits.sessions_max) = (64, 1);
        line.limits.apply(&mut limits);
        assert_eq!(limits, Limits::default());
    }

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
