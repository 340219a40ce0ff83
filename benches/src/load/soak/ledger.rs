//! Who sent what, who must have received it, and what the standard allows in between.
//!
//! Every stream numbers its messages from 0. A subscriber's [`View`] of a stream holds the next number it expects:
//! a lower one is a duplicate, a higher one leaves a gap, and `exempt_to` says up to where gaps are nobody's fault
//! because the subscriber was away. That is all of QoS 0, 1, 2 and of the order of section 4.6.

use std::collections::{BTreeMap, BTreeSet};

use mqtt_proto::Qos;

use crate::load::report::Report;

/// All messages of one publisher on one topic.
#[derive(Debug)]
pub(super) struct Stream {
    /// QoS of all its messages.
    pub(super) qos: Qos,
    /// Messages handed to the publisher's connection.
    pub(super) sent: u64,
    /// Messages up to the highest one that the broker acknowledged.
    pub(super) acknowledged: u64,
    /// QoS 1 messages that were sent more than once: subscribers may get them twice without DUP.
    resent: BTreeSet<u64>,
    /// Messages that the broker refused by a Reason Code.
    refused: BTreeSet<u64>,
    /// How often each message came to the shared group; empty for a stream without one.
    shared: Vec<u8>,
}

impl Stream {
    /// A stream without messages.
    pub(super) const fn new(qos: Qos) -> Stream {
        Stream {
            qos,
            sent: 0,
            acknowledged: 0,
            resent: BTreeSet::new(),
            refused: BTreeSet::new(),
            shared: Vec::new(),
        }
    }

    /// The connection ended before `sequence` was acknowledged.
    pub(super) fn will_be_resent(&mut self, sequence: u64) {
        self.resent.insert(sequence);
    }

    /// Whether `sequence` was sent more than once.
    pub(super) fn was_resent(&self, sequence: u64) -> bool {
        self.resent.contains(&sequence)
    }

    /// The broker answered for `sequence`.
    pub(super) fn answered(&mut self, sequence: u64, is_refused: bool) {
        if is_refused {
            self.refused.insert(sequence);
        } else {
            self.acknowledged = self.acknowledged.max(sequence + 1);
        }
    }

    /// A member of the shared group received `sequence`.
    ///
    /// # Errors
    /// What the broker did wrong.
    pub(super) fn shared_delivery(&mut self, sequence: u64) -> Result<(), String> {
        if sequence >= self.sent {
            return Err(format!("{sequence} was never sent"));
        }
        self.shared.resize(self.sent as usize, 0);
        let times = &mut self.shared[sequence as usize];
        *times = times.saturating_add(1);
        if *times > 1 && self.qos != Qos::AtLeastOnce {
            return Err(format!("{sequence} came {times} times to a shared group"));
        }
        Ok(())
    }

    /// QoS 1 and 2 messages that no member of the shared group received; all members are persistent.
    pub(super) fn shared_missing(&self) -> Vec<u64> {
        if self.qos == Qos::AtMostOnce {
            return Vec::new();
        }
        let came = |sequence: u64| self.shared.get(sequence as usize).is_some_and(|&times| times > 0);
        (0..self.sent).filter(|sequence| !came(*sequence) && !self.refused.contains(sequence)).collect()
    }
}

/// What one subscriber has received of one stream.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    next: u64,
    exempt_to: u64,
    /// Begin and end of gaps that need an excuse.
    gaps: BTreeMap<u64, u64>,
}

/// How a delivery compares to what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delivery {
    /// Not seen before.
    New,
    /// Seen before, as QoS 1 allows.
    Duplicate,
}

impl View {
    /// The subscriber is back: what was sent until now may or may not come.
    pub(super) fn exempt(&mut self, stream: &Stream) {
        self.exempt_to = stream.sent;
    }

    /// Judges a delivery.
    ///
    /// # Errors
    /// What the broker did wrong.
    pub(super) fn deliver(
        &mut self,
        stream: &Stream,
        sequence: u64,
        qos: Qos,
        dup: bool,
    ) -> Result<Delivery, String> {
        if qos != stream.qos {
            return Err(format!("{sequence} came at {qos:?}, was sent at {:?}", stream.qos));
        }
        if sequence >= stream.sent {
            return Err(format!("{sequence} was never sent"));
        }
        if sequence >= self.next {
            let gap = self.next.max(self.exempt_to);
            if gap < sequence {
                self.gaps.insert(gap, sequence);
            }
            self.next = sequence + 1;
            return Ok(Delivery::New);
        }
        let before = self.next - 1;
        if self.gaps.range(..=sequence).next_back().is_some_and(|(_, &end)| sequence < end) {
            return Err(format!("{sequence} came after {before}"));
        }
        match qos {
            Qos::AtLeastOnce if dup || stream.resent.contains(&sequence) => Ok(Delivery::Duplicate),
            Qos::AtLeastOnce => Err(format!("{sequence} came again after {before} without DUP")),
            Qos::AtMostOnce | Qos::ExactlyOnce => Err(format!("{sequence} came again after {before}")),
        }
    }

    /// Whether everything has come that must come.
    pub(super) fn is_complete(&self, stream: &Stream) -> bool {
        self.next.max(self.exempt_to) >= stream.sent
    }

    /// Messages that had to come and did not.
    pub(super) fn missing(&self, stream: &Stream) -> Vec<u64> {
        let tail = self.next.max(self.exempt_to)..stream.sent;
        let gaps = self.gaps.iter().flat_map(|(&begin, &end)| begin..end);
        gaps.chain(tail).filter(|sequence| !stream.refused.contains(sequence)).collect()
    }
}

/// The Will Messages of all connections, by client and the number of its connection.
#[derive(Debug, Default)]
pub(super) struct Wills(BTreeMap<(u32, u64), Will>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Will {
    /// The connection ended without DISCONNECT by our doing.
    Due,
    /// It ended without our doing: who knows.
    Possible,
    Published,
}

impl Wills {
    /// The client ends its connection without DISCONNECT.
    pub(super) fn due(&mut self, client: u32, life: u64) {
        self.0.insert((client, life), Will::Due);
    }

    /// The connection broke.
    pub(super) fn possible(&mut self, client: u32, life: u64) {
        self.0.insert((client, life), Will::Possible);
    }

    /// The Will Message came.
    ///
    /// # Errors
    /// It must not have come [MQTT-3.14.4-3], or not twice.
    pub(super) fn published(&mut self, client: u32, life: u64, dup: bool) -> Result<(), String> {
        match self.0.get_mut(&(client, life)) {
            None => Err(format!("connection {life} of client {client} ended with DISCONNECT, its will came")),
            Some(Will::Published) if !dup => Err(format!("will {life} of client {client} came twice")),
            Some(will) => {
                *will = Will::Published;
                Ok(())
            }
        }
    }

    /// Wills that came.
    pub(super) fn published_count(&self) -> usize {
        self.0.values().filter(|will| **will == Will::Published).count()
    }

    /// Whether one is still to come.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.values().any(|will| *will == Will::Due)
    }

    /// Reports those that had to come and did not [MQTT-3.1.2-8].
    pub(super) fn report_missing(&self, report: &mut Report) {
        for ((client, life), _) in self.0.iter().filter(|(_, will)| **will == Will::Due) {
            report.violation(format!("will {life} of client {client} never came"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(qos: Qos, sent: u64) -> Stream {
        Stream { sent, ..Stream::new(qos) }
    }

    #[test]
    fn messages_in_order_are_new_and_nothing_is_missing() {
        let stream = stream(Qos::AtMostOnce, 3);
        let mut view = View::default();
        for sequence in 0..3 {
            assert_eq!(view.deliver(&stream, sequence, Qos::AtMostOnce, false), Ok(Delivery::New));
        }
        assert!(view.is_complete(&stream));
        assert!(view.missing(&stream).is_empty());
        assert!(view.deliver(&stream, 3, Qos::AtMostOnce, false).is_err(), "never sent");
    }

    #[test]
    fn a_gap_is_excused_only_while_away() {
        let mut stream = stream(Qos::AtMostOnce, 5);
        let mut view = View::default();
        view.exempt(&stream);
        stream.sent = 10;
        assert_eq!(view.deliver(&stream, 8, Qos::AtMostOnce, false), Ok(Delivery::New));
        assert_eq!(view.missing(&stream), [5, 6, 7, 9]);
        assert!(view.deliver(&stream, 6, Qos::AtMostOnce, false).is_err(), "out of order");
    }

    #[test]
    fn qos_1_may_repeat_only_with_dup_or_after_the_publisher_repeated() {
        let mut stream = stream(Qos::AtLeastOnce, 3);
        stream.will_be_resent(1);
        let mut view = View::default();
        for sequence in 0..3 {
            assert_eq!(view.deliver(&stream, sequence, Qos::AtLeastOnce, false), Ok(Delivery::New));
        }
        assert!(view.deliver(&stream, 0, Qos::AtLeastOnce, false).is_err());
        assert_eq!(view.deliver(&stream, 0, Qos::AtLeastOnce, true), Ok(Delivery::Duplicate));
        assert_eq!(view.deliver(&stream, 1, Qos::AtLeastOnce, false), Ok(Delivery::Duplicate));
    }

    #[test]
    fn qos_2_never_repeats() {
        let stream = stream(Qos::ExactlyOnce, 1);
        let mut view = View::default();
        assert_eq!(view.deliver(&stream, 0, Qos::ExactlyOnce, false), Ok(Delivery::New));
        assert!(view.deliver(&stream, 0, Qos::ExactlyOnce, true).is_err());
    }

    #[test]
    fn a_refused_message_is_not_missing() {
        let mut stream = stream(Qos::AtLeastOnce, 2);
        stream.answered(0, true);
        assert_eq!(View::default().missing(&stream), [1]);
        assert_eq!(stream.shared_missing(), [1]);
    }

    #[test]
    fn a_shared_group_has_each_qos_2_message_once() {
        let mut stream = stream(Qos::ExactlyOnce, 2);
        assert_eq!(stream.shared_delivery(1), Ok(()));
        assert!(stream.shared_delivery(1).is_err());
        assert_eq!(stream.shared_missing(), [0]);
    }

    #[test]
    fn a_will_comes_once_and_only_without_disconnect() {
        let mut wills = Wills::default();
        assert!(wills.published(1, 1, false).is_err());
        wills.due(1, 2);
        assert!(wills.is_waiting());
        assert_eq!(wills.published(1, 2, false), Ok(()));
        assert!(wills.published(1, 2, false).is_err());
        assert_eq!(wills.published(1, 2, true), Ok(()));
        assert!(!wills.is_waiting());
    }
}
