//! The two ends of Keep Alive: how long a Server waits, and when a Client sends PINGREQ.
//!
//! Times are milliseconds on any monotonic clock of the caller's. A Keep Alive of 0 turns both off.

/// The Server's end: closes when nothing came for one and a half times the Keep Alive [MQTT-3.1.2-22].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    keep_alive: u16,
    last_received: u64,
}

impl KeepAlive {
    /// Starts with CONNECT, received at `now`. `keep_alive` in seconds: the Server Keep Alive if one is sent
    /// [MQTT-3.2.2-21], else CONNECT's [MQTT-3.2.2-22].
    pub const fn new(keep_alive: u16, now: u64) -> KeepAlive {
        KeepAlive { keep_alive, last_received: now }
    }

    /// The time without a packet, in milliseconds, after which the connection is closed; `None` for no limit.
    pub const fn patience(keep_alive: u16) -> Option<u64> {
        match keep_alive {
            0 => None,
            seconds => Some(seconds as u64 * 1_500),
        }
    }

    /// A packet was received. Also to be called when reading goes on after the reader itself had paused.
    pub const fn packet_received(&mut self, now: u64) {
        self.last_received = now;
    }

    /// When the connection is to be closed if nothing comes.
    pub const fn poll_timeout(&self) -> Option<u64> {
        match KeepAlive::patience(self.keep_alive) {
            Some(patience) => Some(self.last_received.saturating_add(patience)),
            None => None,
        }
    }

    /// Whether the connection is to be closed now.
    pub fn is_expired(&self, now: u64) -> bool {
        self.poll_timeout().is_some_and(|deadline| deadline <= now)
    }
}

/// What a Client has to do for its Keep Alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingAction {
    /// Nothing is due.
    Wait,
    /// Send PINGREQ [MQTT-3.1.2-20].
    SendPingReq,
    /// PINGRESP did not come: close the Network Connection.
    Close,
}

/// The Client's end: PINGREQ when nothing else was sent for the Keep Alive, and a limit to wait for PINGRESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    keep_alive: u16,
    /// Milliseconds to wait for PINGRESP.
    patience: u64,
    last_sent: u64,
    /// When the oldest unanswered PINGREQ was sent.
    asked: Option<u64>,
}

impl Ping {
    /// Starts with CONNECT, sent at `now`. `keep_alive` in seconds, `patience` for PINGRESP in milliseconds.
    pub const fn new(keep_alive: u16, patience: u64, now: u64) -> Ping {
        Ping { keep_alive, patience, last_sent: now, asked: None }
    }

    /// CONNACK named a Server Keep Alive, which replaces the Client's own [MQTT-3.1.2-21].
    pub const fn set_keep_alive(&mut self, keep_alive: u16) {
        self.keep_alive = keep_alive;
    }

    /// A packet was sent.
    pub const fn packet_sent(&mut self, now: u64) {
        self.last_sent = now;
    }

    /// PINGRESP was received.
    pub const fn pingresp_received(&mut self) {
        self.asked = None;
    }

    /// When [`Ping::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<u64> {
        let due =
            (self.keep_alive != 0).then(|| self.last_sent.saturating_add(u64::from(self.keep_alive) * 1_000));
        let late = self.asked.map(|asked| asked.saturating_add(self.patience));
        match (due, late) {
            (Some(due), Some(late)) => Some(due.min(late)),
            (due, late) => due.or(late),
        }
    }

    /// What is due at `now`. PINGREQ counts as sent by this call.
    pub fn handle_timeout(&mut self, now: u64) -> PingAction {
        if self.asked.is_some_and(|asked| asked.saturating_add(self.patience) <= now) {
            return PingAction::Close;
        }
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return PingAction::Wait;
        }
        self.last_sent = now;
        self.asked.get_or_insert(now);
        PingAction::SendPingReq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_waits_one_and_a_half_times_the_keep_alive() {
        let mut keep_alive = KeepAlive::new(10, 1_000);
        assert_eq!(keep_alive.poll_timeout(), Some(16_000));
        assert!(!keep_alive.is_expired(15_999));
        assert!(keep_alive.is_expired(16_000));
        keep_alive.packet_received(15_999);
        assert_eq!(keep_alive.poll_timeout(), Some(30_999));
        assert_eq!(KeepAlive::new(0, 0).poll_timeout(), None);
        assert!(!KeepAlive::new(0, 0).is_expired(u64::MAX));
    }

    #[test]
    fn a_client_pings_when_it_sent_nothing_for_the_keep_alive() {
        let mut ping = Ping::new(10, 5_000, 0);
        assert_eq!(ping.handle_timeout(9_999), PingAction::Wait);
        ping.packet_sent(4_000);
        assert_eq!(ping.handle_timeout(10_000), PingAction::Wait);
        assert_eq!(ping.poll_timeout(), Some(14_000));
        assert_eq!(ping.handle_timeout(14_000), PingAction::SendPingReq);
        assert_eq!(ping.handle_timeout(14_000), PingAction::Wait);
        assert_eq!(ping.poll_timeout(), Some(19_000));
        ping.pingresp_received();
        assert_eq!(ping.poll_timeout(), Some(24_000));
    }

    #[test]
    fn a_client_closes_when_pingresp_does_not_come() {
        let mut ping = Ping::new(1, 5_000, 0);
        assert_eq!(ping.handle_timeout(1_000), PingAction::SendPingReq);
        // The Server must hear more in the meantime, the patience runs from the first.
        assert_eq!(ping.handle_timeout(2_000), PingAction::SendPingReq);
        ping.packet_sent(5_900);
        assert_eq!(ping.handle_timeout(6_000), PingAction::Close);
        assert_eq!(Ping::new(0, 5_000, 0).poll_timeout(), None);
    }
}
