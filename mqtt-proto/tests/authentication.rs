//! Enhanced authentication (section 4.12): a [`Client`] and a [`Handshake`] of a Server exchange AUTH packets, before
//! CONNACK and after it, over links that cut the stream into pieces of any length.

use mqtt_proto::connection::{Client, ConnectOptions, Event, Message, ProtocolError, RequestError};
use mqtt_proto::{
    Auth, ConnAck, Connect, Connection, EncodeError, Handshake, Packet, PacketType, Properties, Property,
    ReasonCode, Version,
};

const METHOD: Property<'static> = Property::AuthenticationMethod("SCRAM-SHA-256");

fn connect<'a>(version: Version, properties: &'a [Property<'a>]) -> Connect<'a> {
    Connect { keep_alive: 10, properties: Properties::new(properties), ..Connect::new(version, "c") }
}

fn auth<'a>(reason: ReasonCode, properties: &'a [Property<'a>]) -> Auth<'a> {
    Auth { reason, properties: Properties::new(properties) }
}

fn connack<'a>(reason: ReasonCode, properties: &'a [Property<'a>]) -> ConnAck<'a> {
    ConnAck { session_present: false, reason, properties: Properties::new(properties) }
}

/// A Client that has sent this CONNECT, and a Server that has read it.
fn asked(version: Version, properties: &[Property<'_>]) -> (Client<Message>, Handshake) {
    let mut client = Client::default();
    client.connect(&ConnectOptions::new(connect(version, properties)), 0).expect("closed");
    let mut server = Handshake::server(1_000, 5_000);
    let wire = sent(&mut client);
    assert!(matches!(server.poll_packet(&mut &wire[..]), Ok(Some(Packet::Connect(_)))));
    (client, server)
}

/// The same, accepted by the Server.
fn opened(version: Version, properties: &[Property<'_>]) -> (Client<Message>, Connection) {
    let (mut client, server) = asked(version, properties);
    let mut wire = Vec::new();
    let server = server.accept(&connack(ReasonCode::SUCCESS, &[]), 0, 0, &mut wire).expect("small");
    assert!(matches!(client.poll_event(&mut &wire[..], 0), Ok(Some(Event::Connected { .. }))));
    (client, server)
}

fn sent(client: &mut Client<Message>) -> Vec<u8> {
    let mut wire = Vec::new();
    client.poll_transmit(&mut wire);
    wire
}

/// Takes `wire` in piece by piece; the Authentication Data of the one AUTH in it.
fn auth_in(client: &mut Client<Message>, wire: &[u8], piece: usize, reason: ReasonCode) -> Option<Vec<u8>> {
    let mut seen = Vec::new();
    for mut piece in wire.chunks(piece) {
        while let Some(event) = client.poll_event(&mut piece, 0).expect("a good Server") {
            let Event::Auth(auth) = event else { panic!("{event:?} is no AUTH") };
            assert_eq!(auth.reason, reason);
            seen.push(auth.properties.authentication_data().map(Vec::from));
        }
    }
    assert_eq!(seen.len(), 1);
    seen.remove(0)
}

#[test]
fn both_sides_authenticate_in_steps_and_later_again() {
    for piece in [1, 2, 7, 1_000] {
        let (mut client, mut server) =
            asked(Version::V5, &[METHOD, Property::AuthenticationData(b"first from client")]);
        assert!(!client.is_connected());

        // The Server asks for more, the Client answers [MQTT-4.12.0-2] [MQTT-4.12.0-3].
        let mut wire = Vec::new();
        let step = [METHOD, Property::AuthenticationData(b"challenge")];
        server.authenticate(&auth(ReasonCode::CONTINUE_AUTHENTICATION, &step), &mut wire).expect("valid");
        let data = auth_in(&mut client, &wire, piece, ReasonCode::CONTINUE_AUTHENTICATION);
        assert_eq!(data.as_deref(), Some(&b"challenge"[..]));
        let step = [METHOD, Property::AuthenticationData(b"proof")];
        assert_eq!(client.authenticate(&auth(ReasonCode::CONTINUE_AUTHENTICATION, &step), 0), Ok(()));
        let wire = sent(&mut client);
        let mut answer = None;
        for mut piece in wire.chunks(piece) {
            while let Some(packet) = server.poll_packet(&mut piece).expect("a good Client") {
                let Packet::Auth(auth) = packet else { panic!("{packet:?} is no AUTH") };
                assert_eq!(auth.reason, ReasonCode::CONTINUE_AUTHENTICATION);
                answer = auth.properties.authentication_data().map(Vec::from);
            }
        }
        assert_eq!(answer.as_deref(), Some(&b"proof"[..]));

        // CONNACK ends it and may carry the last data.
        let mut wire = Vec::new();
        let last = [METHOD, Property::AuthenticationData(b"signature")];
        let mut server = server.accept(&connack(ReasonCode::SUCCESS, &last), 0, 0, &mut wire).expect("small");
        let Ok(Some(Event::Connected { connack, .. })) = client.poll_event(&mut &wire[..], 0) else {
            panic!("no CONNACK")
        };
        assert_eq!(connack.properties.authentication_data(), Some(&b"signature"[..]));
        assert!(client.is_connected());

        // Authenticating again leaves the connection as it is.
        let again = [METHOD, Property::AuthenticationData(b"again")];
        assert_eq!(client.authenticate(&auth(ReasonCode::RE_AUTHENTICATE, &again), 4_000), Ok(()));
        assert_eq!(client.poll_timeout(), Some(14_000), "AUTH is a packet like others for Keep Alive");
        let wire = sent(&mut client);
        let Ok(Some(Packet::Auth(asked))) = server.poll_packet(&mut &wire[..], 4_000) else {
            panic!("no AUTH")
        };
        assert_eq!(asked, auth(ReasonCode::RE_AUTHENTICATE, &again));
        let mut wire = Vec::new();
        server.encode(&Packet::Auth(auth(ReasonCode::SUCCESS, &[METHOD])), 4_000, &mut wire).expect("small");
        assert_eq!(auth_in(&mut client, &wire, piece, ReasonCode::SUCCESS), None);
        assert!(client.is_connected());
    }
}

/// [MQTT-4.12.0-5]: in AUTH before CONNACK, in CONNACK, in AUTH after it.
#[test]
fn a_client_closes_when_the_server_names_another_method() {
    const OTHER: Property<'static> = Property::AuthenticationMethod("PLAIN");
    let refuses = |client: &mut Client<Message>, wire: &[u8]| {
        let error = client.poll_event(&mut &wire[..], 0).expect_err("another method");
        assert_eq!(error, ProtocolError::AuthenticationMethod);
        assert_eq!(error.reason_code(), ReasonCode::BAD_AUTHENTICATION_METHOD);
        assert!(client.is_closed());
    };

    let (mut client, server) = asked(Version::V5, &[METHOD]);
    let mut wire = Vec::new();
    server.authenticate(&auth(ReasonCode::CONTINUE_AUTHENTICATION, &[OTHER]), &mut wire).expect("valid");
    refuses(&mut client, &wire);

    let (mut client, server) = asked(Version::V5, &[METHOD]);
    let mut wire = Vec::new();
    server.accept(&connack(ReasonCode::SUCCESS, &[OTHER]), 0, 0, &mut wire).expect("small");
    refuses(&mut client, &wire);

    let (mut client, mut server) = opened(Version::V5, &[METHOD]);
    let mut wire = Vec::new();
    server.encode(&Packet::Auth(auth(ReasonCode::SUCCESS, &[OTHER])), 0, &mut wire).expect("small");
    refuses(&mut client, &wire);
}

#[test]
fn a_server_refuses_in_the_middle_of_authentication() {
    let (mut client, mut server) = asked(Version::V5, &[METHOD]);
    let mut wire = Vec::new();
    server.authenticate(&auth(ReasonCode::CONTINUE_AUTHENTICATION, &[METHOD]), &mut wire).expect("valid");
    auth_in(&mut client, &wire, 1, ReasonCode::CONTINUE_AUTHENTICATION);
    client.authenticate(&auth(ReasonCode::CONTINUE_AUTHENTICATION, &[METHOD]), 0).expect("asked for");
    assert!(matches!(server.poll_packet(&mut &sent(&mut client)[..]), Ok(Some(Packet::Auth(_)))));
    let mut wire = Vec::new();
    server.refuse(&connack(ReasonCode::NOT_AUTHORIZED, &[]), &mut wire);
    let refused = client.poll_event(&mut &wire[..], 0);
    assert!(matches!(refused, Ok(Some(Event::Refused(ConnAck { reason: ReasonCode::NOT_AUTHORIZED, .. })))));
    assert!(client.is_closed());
    let late = client.authenticate(&auth(ReasonCode::CONTINUE_AUTHENTICATION, &[METHOD]), 0);
    assert_eq!(late, Err(RequestError::NotConnected));
}

#[test]
fn a_client_may_leave_in_the_middle_of_authentication() {
    let (_, mut server) = asked(Version::V5, &[METHOD]);
    assert!(matches!(server.poll_packet(&mut &[0xE0, 0][..]), Ok(Some(Packet::Disconnect(_)))));
}

/// [MQTT-4.12.0-7]: a Client sends no AUTH unasked; [MQTT-4.12.0-6]: nor does a Server.
#[test]
fn there_is_no_auth_without_an_authentication_method() {
    let step = auth(ReasonCode::CONTINUE_AUTHENTICATION, std::slice::from_ref(&METHOD));
    let mut wire = Vec::new();
    mqtt_proto::encode(&Packet::Auth(step), Version::V5, &mut wire).expect("valid");

    let (mut client, mut server) = asked(Version::V5, &[]);
    assert_eq!(client.authenticate(&step, 0), Err(RequestError::NoAuthenticationMethod));
    assert!(sent(&mut client).is_empty());
    assert_eq!(client.poll_event(&mut &wire[..], 0), Err(ProtocolError::ConnAckExpected));
    assert!(client.is_closed());
    let unexpected = ProtocolError::UnexpectedPacket(PacketType::Auth);
    assert_eq!(server.poll_packet(&mut &wire[..]), Err(unexpected));

    let (mut client, mut server) = opened(Version::V5, &[]);
    assert_eq!(client.authenticate(&step, 0), Err(RequestError::NoAuthenticationMethod));
    assert_eq!(client.poll_event(&mut &wire[..], 0), Err(unexpected));
    assert_eq!(sent(&mut client), [0xE0, 1, 0x82], "Protocol Error");
    assert_eq!(server.poll_packet(&mut &wire[..], 0), Err(unexpected));
}

#[test]
fn there_is_no_auth_before_5() {
    // What an older CONNECT cannot say does not count.
    let (mut client, server) = asked(Version::V3_1_1, &[METHOD]);
    let step = auth(ReasonCode::CONTINUE_AUTHENTICATION, std::slice::from_ref(&METHOD));
    assert_eq!(client.authenticate(&step, 0), Err(RequestError::NoAuthenticationMethod));
    let mut wire = Vec::new();
    assert_eq!(server.authenticate(&step, &mut wire), Err(EncodeError::NotInVersion(PacketType::Auth)));
    assert!(wire.is_empty());
    assert_eq!(client.poll_event(&mut &[0xF0, 0][..], 0), Err(ProtocolError::ConnAckExpected));
}

#[test]
fn an_auth_that_breaks_the_format_is_not_sent() {
    let unnamed = auth(ReasonCode::CONTINUE_AUTHENTICATION, &[]);
    let (mut client, server) = asked(Version::V5, &[METHOD]);
    let missing = EncodeError::MissingAuthenticationMethod;
    assert_eq!(client.authenticate(&unnamed, 0), Err(missing.into()));
    assert!(sent(&mut client).is_empty());
    assert_eq!(server.authenticate(&unnamed, &mut Vec::new()), Err(missing));
    let (mut client, _) = opened(Version::V5, &[METHOD]);
    assert_eq!(client.authenticate(&unnamed, 0), Err(missing.into()));
    assert!(sent(&mut client).is_empty());
    let mut never_connected = Client::<Message>::default();
    assert_eq!(never_connected.authenticate(&unnamed, 0), Err(RequestError::NotConnected));
}

/// The limits of CONNECT hold from the Server's first packet on.
#[test]
fn a_servers_auth_stays_within_what_connect_allows() {
    let told = [METHOD, Property::ReasonString("why"), Property::UserProperty("k", "v")];
    let step = auth(ReasonCode::CONTINUE_AUTHENTICATION, &told);
    let received = |properties: &[Property<'_>]| {
        let (mut client, server) = asked(Version::V5, properties);
        let mut wire = Vec::new();
        server.authenticate(&step, &mut wire)?;
        let Ok(Some(Event::Auth(auth))) = client.poll_event(&mut &wire[..], 0) else {
            panic!("the Client refuses {wire:02X?}")
        };
        Ok((wire.len(), auth.properties.iter().count()))
    };
    // 4 bytes, 16 for the method, 6 for the Reason String, 7 for the User Property.
    assert_eq!(received(&[METHOD]), Ok((33, 3)));
    assert_eq!(received(&[METHOD, Property::MaximumPacketSize(33)]), Ok((33, 3)));
    // [MQTT-3.15.2-2] [MQTT-3.15.2-3]
    assert_eq!(received(&[METHOD, Property::MaximumPacketSize(32)]), Ok((26, 2)));
    assert_eq!(received(&[METHOD, Property::MaximumPacketSize(25)]), Ok((20, 1)));
    assert_eq!(received(&[METHOD, Property::MaximumPacketSize(19)]), Err(EncodeError::PacketTooLarge));
    // [MQTT-3.1.2-29]
    assert_eq!(received(&[METHOD, Property::RequestProblemInformation(0)]), Ok((20, 1)));
}
