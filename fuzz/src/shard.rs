//! A broker of two cores under three connections that do and send anything, breaking and returning.
//!
//! The shards check their invariants by themselves. What they send must be packets of the connection's version.

#[path = "../../mqtt-broker/tests/behaviour/cluster.rs"]
#[expect(dead_code, reason = "the tests of the broker use the rest")]
mod cluster;
#[path = "input.rs"]
mod input;

use cluster::{ClientId, Cluster, limits, publish};
use input::Input;
use mqtt_broker::config::Limits;
use mqtt_proto::packet::{
    Ack, Connect, Disconnect, Filters, Packet, Properties, Property, Publish, RetainHandling, Subscribe,
    Subscription, SubscriptionOptions, Subscriptions, Unsubscribe, Will,
};
use mqtt_proto::types::{PacketId, Qos, ReasonCode, TopicName, Version};

const VERSIONS: [Version; 3] = [Version::V5, Version::V3_1_1, Version::V3_1];
const QOS: [Qos; 3] = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce];
const CLIENT_IDS: [&str; 4] = ["a", "b", "c", ""];
const TOPICS: [&str; 5] = ["a", "a/b", "c", "d/e/f", "$x"];
const FILTERS: [&str; 8] = ["a", "a/b", "#", "a/#", "+/b", "$share/g/a", "$share/g/#", "$share/h/+/+"];
const REASONS: [ReasonCode; 2] = [ReasonCode::SUCCESS, ReasonCode::UNSPECIFIED_ERROR];
const SECONDS: [u32; 4] = [0, 1, 5, u32::MAX];

/// A connection, and the version in which it said CONNECT itself; `None` if its bytes were anything.
type Connection = (ClientId, Option<Version>);

/// Takes `data` as operations.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut cluster = Cluster::with_limits(2, limits(tighten));
    let mut connections: [Option<Connection>; 3] = [None; 3];
    while let Some(operation) = input.next() {
        let at = usize::from(operation >> 6) % 3;
        match (operation & 15, connections[at]) {
            (0, _) => cluster.advance(u64::from(input.byte()) * 100),
            (1, _) => cluster.lanes_stalled ^= true,
            (2, Some((client, _))) => {
                cluster.cut(client);
                connections[at] = None;
            }
            (3, Some((client, _))) => cluster.set_reading(client, operation & 16 != 0),
            (_, None) => connections[at] = Some(open(&mut cluster, operation, &mut input)),
            (4 | 5, Some((client, _))) => cluster.send_bytes(client, input.bytes()),
            (_, Some((client, Some(_)))) => send(&mut cluster, client, operation, &mut input),
            (_, Some((client, None))) => cluster.send_bytes(client, input.bytes()),
        }
        cluster.run();
        for connection in &mut connections {
            if let Some((client, version)) = *connection {
                while cluster.pending(client) > 0 {
                    match version {
                        Some(_) => cluster.expect(client, |_| ()),
                        None => drop(cluster.take_frame(client)),
                    }
                }
                if cluster.is_closed(client) {
                    *connection = None;
                }
            }
        }
    }
}

/// Bounds so low that a few operations reach them.
fn tighten(limits: &mut Limits) {
    limits.packet_bytes_max = 256;
    limits.receive_maximum = 2;
    limits.in_flight_max = 2;
    limits.subscriptions_per_session_max = 4;
    limits.queue_messages_max = 4;
    limits.queue_bytes_max = 1024;
    limits.output_bytes_max = 1024;
    limits.gather_live_topics_max = 1;
    limits.retained_messages_max = 3;
    limits.retained_slice_messages = 1;
    limits.group_queue_messages_max = 3;
    limits.sessions_max = 4;
    limits.topic_alias_maximum = 2;
    limits.outgoing_topic_aliases_max = 2;
}

fn open(cluster: &mut Cluster, operation: u8, input: &mut Input<'_>) -> Connection {
    let version = input.one_of(&VERSIONS);
    let client = cluster.open(usize::from(operation >> 4 & 1), version);
    if operation & 15 == 4 {
        cluster.send_bytes(client, input.bytes());
        return (client, None);
    }
    let said = [
        Property::SessionExpiryInterval(input.one_of(&SECONDS)),
        Property::TopicAliasMaximum(1),
        Property::ReceiveMaximum(1),
        Property::MaximumPacketSize(40),
    ];
    let delay = [Property::WillDelayInterval(input.one_of(&SECONDS))];
    let v5 = version == Version::V5;
    let told = |list, all| Properties::new(if v5 { list } else { all });
    let will = (operation & 32 != 0).then(|| Will {
        topic: TopicName::new(input.one_of(&TOPICS)).expect("a topic"),
        payload: input.bytes(),
        qos: input.one_of(&QOS),
        retain: operation & 16 != 0,
        properties: told(&delay, &[]),
    });
    let client_id = input.one_of(&CLIENT_IDS);
    let choice = input.byte();
    let connect = Connect {
        version,
        // 3.1 has no empty ClientID.
        clean_start: choice & 1 == 0,
        keep_alive: u16::from(choice >> 1 & 3),
        client_id: if version == Version::V3_1 && client_id.is_empty() { "a" } else { client_id },
        properties: told(&said[..usize::from(choice >> 3) % 5], &[]),
        will,
        user_name: None,
        password: None,
    };
    cluster.send(client, &Packet::Connect(connect));
    (client, Some(version))
}

/// Sends a packet that is well formed, in its time or not.
fn send(cluster: &mut Cluster, client: ClientId, operation: u8, input: &mut Input<'_>) {
    let packet_id = PacketId::new(u16::from(input.byte() % 4) + 1).expect("not 0");
    let ack =
        Ack::new(packet_id, if operation & 16 == 0 { ReasonCode::SUCCESS } else { input.one_of(&REASONS) });
    let properties = Properties::EMPTY;
    let packet = match operation & 15 {
        6 | 7 => {
            let (topic, qos, payload) = (input.one_of(&TOPICS), input.one_of(&QOS), input.bytes());
            let publish = publish(topic, payload, qos, packet_id.get());
            let dup = operation & 32 != 0 && qos != Qos::AtMostOnce;
            Packet::Publish(Publish { dup, retain: operation & 16 != 0, ..publish })
        }
        8 | 9 => {
            let choice = input.byte();
            let filter = input.one_of(&FILTERS);
            let handling = [RetainHandling::Send, RetainHandling::SendIfNew];
            let options = SubscriptionOptions {
                qos: QOS[usize::from(choice % 3)],
                no_local: choice & 16 != 0 && !filter.starts_with("$share"),
                retain_as_published: choice & 32 != 0,
                retain_handling: handling[usize::from(choice >> 6 & 1)],
            };
            let list = [Subscription { filter, options }];
            let subscriptions = Subscriptions::new(&list);
            return cluster
                .send(client, &Packet::Subscribe(Subscribe { packet_id, properties, subscriptions }));
        }
        10 => {
            let list = [input.one_of(&FILTERS)];
            let filters = Filters::new(&list);
            return cluster
                .send(client, &Packet::Unsubscribe(Unsubscribe { packet_id, properties, filters }));
        }
        11 => Packet::PubAck(ack),
        12 => Packet::PubRec(ack),
        13 => Packet::PubComp(Ack::new(packet_id, ReasonCode::SUCCESS)),
        14 => Packet::PubRel(Ack::new(packet_id, ReasonCode::SUCCESS)),
        _ if operation & 32 == 0 => Packet::PingReq,
        _ => Packet::Disconnect(Disconnect::new(ReasonCode::DISCONNECT_WITH_WILL_MESSAGE)),
    };
    cluster.send(client, &packet);
}
