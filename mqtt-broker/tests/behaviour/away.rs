//! A Client that is away while messages come, and what was kept for it when it is back.

use mqtt_proto::types::{Qos, Version};

use crate::cluster::{ClientId, Cluster};

/// A Client of this name subscribes at QoS 1 and goes away; its session stays.
#[track_caller]
pub(crate) fn goes_away(cluster: &mut Cluster, name: &str, filter: &str) {
    let (client, _) = cluster.resume(0, Version::V5, name);
    cluster.subscribe(client, filter, Qos::AtLeastOnce);
    cluster.cut(client);
}

/// It is back, and these messages of the topic were kept for it, no others.
#[track_caller]
pub(crate) fn is_back<P: AsRef<[u8]>>(
    cluster: &mut Cluster,
    name: &str,
    topic: &str,
    kept: impl IntoIterator<Item = P>,
) {
    let (client, _) = cluster.resume(0, Version::V5, name);
    gets(cluster, client, topic, kept);
}

/// The Client gets these messages of the topic in this order, and no others.
#[track_caller]
pub(crate) fn gets<P: AsRef<[u8]>>(
    cluster: &mut Cluster,
    client: ClientId,
    topic: &str,
    payloads: impl IntoIterator<Item = P>,
) {
    for payload in payloads {
        cluster.expect_message(client, topic, payload.as_ref());
    }
    cluster.expect_nothing(client);
}
