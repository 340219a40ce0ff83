//! Answers that wait for other cores are bounded: who does not wait for them is not read from.

use mqtt_proto::packet::{Packet, Properties, Subscribe, Subscription, SubscriptionOptions, Subscriptions};
use mqtt_proto::types::{PacketId, Qos, Version};

use crate::cluster::{ClientId, Cluster, limits};

/// Sends SUBSCRIBEs with these Packet Identifiers, each to a filter of its own, all at once.
pub(crate) fn subscribe_to_many(cluster: &mut Cluster, client: ClientId, ids: std::ops::RangeInclusive<u16>) {
    let mut flood = Vec::new();
    for id in ids {
        let filter = format!("a/{id}");
        let list = [Subscription { filter: &filter, options: SubscriptionOptions::new(Qos::AtMostOnce) }];
        let subscribe = Subscribe {
            packet_id: PacketId::new(id).expect("not 0"),
            properties: Properties::EMPTY,
            subscriptions: Subscriptions::new(&list),
        };
        flood.extend(cluster.encoded(client, &Packet::Subscribe(subscribe)));
    }
    cluster.send_bytes(client, &flood);
}

#[test]
fn a_client_that_is_owed_many_answers_is_not_read_from() {
    const MAX: u32 = 8;
    let mut cluster = Cluster::with_limits(2, limits(|limits| limits.pending_answers_max = MAX));
    let client = cluster.connect(0, Version::V5, "client");
    cluster.lanes_stalled = true;
    subscribe_to_many(&mut cluster, client, 1..=50);
    assert!(cluster.is_paused(client));
    assert_eq!(cluster.total(|stats| stats.subscriptions), u64::from(MAX));
    cluster.lanes_stalled = false;
    cluster.run();
    assert!(!cluster.is_paused(client));
    for id in 1..=50 {
        cluster.expect(client, |packet| {
            let Packet::SubAck(suback) = packet else { panic!("{packet:?}") };
            assert_eq!(suback.packet_id.get(), id);
        });
    }
}
