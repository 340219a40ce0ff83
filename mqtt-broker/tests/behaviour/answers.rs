//! Answers that wait for other cores are bounded: who does not wait for them is not read from.

use mqtt_broker::config::Limits;
use mqtt_proto::packet::{Packet, Properties, Subscribe, Subscription, SubscriptionOptions, Subscriptions};
use mqtt_proto::types::{PacketId, Qos, Version};

use crate::cluster::{Cluster, limits};

#[test]
fn a_client_that_is_owed_many_answers_is_not_read_from() {
    const MAX: u32 = 8;
    let mut cluster = Cluster::with_limits(2, limits(|limits: &mut Limits| limits.pending_answers_max = MAX));
    let client = cluster.connect(0, Version::V5, "client");
    cluster.lanes_stalled = true;
    let mut flood = Vec::new();
    for id in 1..=50 {
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
