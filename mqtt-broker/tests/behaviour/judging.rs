//! A Client that is being judged: not yet let in, it may send no more than one that has not said who it is.

use mqtt_broker::ports::{
    Authenticate, AuthenticateRequest, Authentication, Decision, Identity, Ports, Ticket,
};
use mqtt_proto::packet::{Auth, Connect, Packet, Properties, Property};
use mqtt_proto::types::{Qos, ReasonCode, Version};

use crate::cluster::{ClientId, Cluster, connect, limits, publish};

/// Asks on until it is sent an empty answer.
struct Curious;

impl Authenticate for Curious {
    fn authenticate(&mut self, request: &AuthenticateRequest<'_>, _: Ticket) -> Decision<Authentication> {
        Decision::Now(match request.data {
            Some(data) if !data.is_empty() => Authentication::Continue(b"go on".to_vec()),
            _ => Authentication::Accept(Identity::default()),
        })
    }
}

fn answer(cluster: &mut Cluster, client: ClientId, data: &[u8]) {
    let list = [Property::AuthenticationMethod("m"), Property::AuthenticationData(data)];
    let auth = Auth { reason: ReasonCode::CONTINUE_AUTHENTICATION, properties: Properties::new(&list) };
    cluster.send(client, &Packet::Auth(auth));
}

#[test]
fn who_is_being_judged_may_send_no_larger_packet_than_a_connect() {
    for cores in [1, 2, 8] {
        for (bytes, taken) in [(900, true), (1200, false)] {
            let bound = limits(|limits| limits.connect_bytes_max = 1024);
            let mut cluster = Cluster::with(cores, bound, |_| Ports {
                authenticate: Box::new(Curious),
                ..Ports::allow_all()
            });
            let client = cluster.open(0, Version::V5);
            let list = [Property::AuthenticationMethod("m"), Property::AuthenticationData(b"x")];
            let properties = Properties::new(&list);
            cluster.send(client, &Packet::Connect(Connect { properties, ..connect(Version::V5, "c") }));
            for _ in 0..3 {
                cluster.expect(client, |packet| assert!(matches!(packet, Packet::Auth(_)), "{packet:?}"));
                answer(&mut cluster, client, b"and so on");
            }
            cluster.expect(client, |packet| assert!(matches!(packet, Packet::Auth(_)), "{packet:?}"));
            answer(&mut cluster, client, &vec![7; bytes]);
            assert_eq!(cluster.is_closed(client), !taken, "{bytes} bytes");
            if taken {
                cluster.expect(client, |packet| assert!(matches!(packet, Packet::Auth(_)), "{packet:?}"));
                answer(&mut cluster, client, b"");
                cluster.expect(client, |packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}"));
                // Let in, it may send what every Client may.
                cluster.send(client, &Packet::Publish(publish("a", &[0; 5000], Qos::AtLeastOnce, 1)));
                cluster.expect(client, |packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}"));
            }
        }
    }
}
