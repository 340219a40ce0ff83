//! The counters of one core, and why messages were dropped. Summed over all cores they are the `$SYS` tree.

/// Why a message for a session was not delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// The session's queue was full.
    QueueFull,
    /// QoS 0, and the Client does not read fast enough.
    SlowConsumer,
    /// QoS 0, and the Client is away.
    Offline,
    /// Its Message Expiry Interval was over.
    Expired,
    /// Larger than the Client's Maximum Packet Size.
    TooLarge,
    /// Its session ended.
    SessionEnded,
    /// The shared group's queue was full, or its last member left.
    GroupQueueFull,
    /// The Client refused it with a Reason Code.
    Refused,
    /// What held it outside memory cannot be read.
    Lost,
}

macro_rules! counters {
    (@add $to:expr, $from:expr) => { $to += $from };
    (@add $to:expr, $from:expr, greatest) => { $to = $to.max($from) };
    ($($(#[$doc:meta])* $name:ident => $topic:literal $($how:ident)?;)*) => {
        /// Counters of a core since its start, and gauges of what it holds now.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// Topic level under `$SYS/broker/` and value of each counter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($topic, self.$name)),*].into_iter()
            }

            pub(super) fn to_array(&self) -> Vec<u64> {
                vec![$(self.$name),*]
            }

            pub(super) fn from_numbers(mut numbers: impl Iterator<Item = u64>) -> Stats {
                Stats { $($name: numbers.next().unwrap_or(0)),* }
            }
        }

        impl core::ops::AddAssign<&Stats> for Stats {
            fn add_assign(&mut self, other: &Stats) {
                $(counters!(@add self.$name, other.$name $(, $how)?);)*
            }
        }
    };
}

counters! {
    /// Network Connections now.
    connections => "connections/count";
    /// Network Connections accepted.
    connections_opened => "connections/opened";
    /// Clients connected now.
    clients_connected => "clients/connected";
    /// Sessions now, connected or not.
    sessions => "sessions/count";
    /// Sessions now whose Client is refused, as what waits for it cannot be read.
    sessions_unreadable => "sessions/unreadable";
    /// CONNECT packets refused.
    connects_refused => "connects/refused";
    /// Connections taken over by the same ClientID.
    takeovers => "sessions/takeovers";
    /// Bytes received.
    bytes_received => "bytes/received";
    /// Bytes handed to be sent.
    bytes_sent => "bytes/sent";
    /// Control Packets received.
    packets_received => "packets/received";
    /// PUBLISH packets received.
    messages_received => "messages/received";
    /// Messages for sessions: matches, counted once a session.
    messages_matched => "messages/matched";
    /// PUBLISH packets sent, without those tried again.
    messages_sent => "messages/sent";
    /// Messages delivered: sent at QoS 0, acknowledged at QoS 1 and 2.
    messages_delivered => "messages/delivered";
    /// Messages queued or in flight now.
    messages_kept => "messages/stored/count";
    /// Bytes of messages queued in memory now.
    queue_bytes => "messages/stored/bytes";
    /// Messages queued outside memory now.
    messages_parked => "messages/stored/parked";
    /// Messages that no subscription matched.
    messages_unmatched => "messages/unmatched";
    /// PUBLISH packets refused by a permission or a limit.
    messages_refused => "messages/refused";
    /// Subscriptions now.
    subscriptions => "subscriptions/count";
    /// Shared subscriptions now.
    shared_subscriptions => "subscriptions/shared/count";
    /// Retained messages now.
    retained_messages => "retained messages/count";
    /// Bytes of retained messages now.
    retained_bytes => "retained messages/bytes";
    /// Dropped: the session's queue was full.
    dropped_queue_full => "messages/dropped/queue_full";
    /// Dropped: QoS 0 and a slow Client.
    dropped_slow_consumer => "messages/dropped/slow_consumer";
    /// Dropped: QoS 0 and the Client away.
    dropped_offline => "messages/dropped/offline";
    /// Dropped: expired.
    dropped_expired => "messages/dropped/expired";
    /// Dropped: larger than the Client accepts.
    dropped_too_large => "messages/dropped/too_large";
    /// Dropped: the session ended.
    dropped_session_ended => "messages/dropped/session_ended";
    /// Dropped: the shared group's queue was full, or the group ended.
    dropped_group_queue_full => "messages/dropped/group_queue_full";
    /// Dropped: refused by the Client.
    dropped_refused => "messages/dropped/refused";
    /// Dropped: what held it outside memory cannot be read.
    dropped_lost => "messages/dropped/lost";
    /// Not retained: the bound of retained messages was reached.
    dropped_retained_full => "messages/dropped/retained_full";
    /// Bytes of the files of the store's log, those included that are kept for what comes.
    store_log_bytes => "store/log/bytes";
    /// How many they are.
    store_segments => "store/log/segments";
    /// Records appended to it since the start.
    store_records => "store/log/records";
    /// Commits written since the start.
    store_commits => "store/log/commits";
    /// 1 while the store is full; in total, the cores whose store is.
    store_full => "store/full";
    /// Snapshots written since the start.
    store_snapshots => "store/snapshots/count";
    /// Seconds since the last of them; in total, of the core where that is longest ago.
    store_snapshot_age => "store/snapshots/age" greatest;
    /// Milliseconds that the last of them took; in total, of the core where it took longest.
    store_snapshot_millis => "store/snapshots/duration" greatest;
}

impl Stats {
    /// Counts `count` messages dropped for `reason`.
    pub(super) fn dropped(&mut self, reason: DropReason, count: u64) {
        let counter = match reason {
            DropReason::QueueFull => &mut self.dropped_queue_full,
            DropReason::SlowConsumer => &mut self.dropped_slow_consumer,
            DropReason::Offline => &mut self.dropped_offline,
            DropReason::Expired => &mut self.dropped_expired,
            DropReason::TooLarge => &mut self.dropped_too_large,
            DropReason::SessionEnded => &mut self.dropped_session_ended,
            DropReason::GroupQueueFull => &mut self.dropped_group_queue_full,
            DropReason::Refused => &mut self.dropped_refused,
            DropReason::Lost => &mut self.dropped_lost,
        };
        *counter += count;
    }

    /// All messages dropped on their way to a session.
    pub fn dropped_total(&self) -> u64 {
        self.dropped_queue_full
            + self.dropped_slow_consumer
            + self.dropped_offline
            + self.dropped_expired
            + self.dropped_too_large
            + self.dropped_session_ended
            + self.dropped_group_queue_full
            + self.dropped_refused
            + self.dropped_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_survive_the_way_between_cores() {
        let mut stats = Stats { connections: 3, dropped_retained_full: 9, ..Stats::default() };
        stats.dropped(DropReason::Refused, 2);
        let back = Stats::from_numbers(stats.to_array().into_iter());
        assert_eq!(back, stats);
        assert_eq!(stats.dropped_total(), 2);
    }

    #[test]
    fn every_reason_has_its_counter_and_counts_once_in_the_total() {
        let reasons = [
            DropReason::QueueFull,
            DropReason::SlowConsumer,
            DropReason::Offline,
            DropReason::Expired,
            DropReason::TooLarge,
            DropReason::SessionEnded,
            DropReason::GroupQueueFull,
            DropReason::Refused,
            DropReason::Lost,
        ];
        let mut all = Stats::default();
        for (power, reason) in reasons.into_iter().enumerate() {
            let mut stats = Stats::default();
            stats.dropped(reason, 10);
            assert_eq!(stats.iter().filter(|&(_, value)| value != 0).count(), 1, "{reason:?}");
            all.dropped(reason, 1 << power);
        }
        assert_eq!(all.dropped_total(), (1 << reasons.len()) - 1);
    }
}
