//! What is encoded decodes to the same, for arbitrary packets of every version.

mod support;

use mqtt_proto::{
    Packet, Properties, Property, Publish, Version, decode, encode, encode_publish, encoded_len,
};
use proptest::prelude::*;
use support::ingredients;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decode_undoes_encode(ingredients in ingredients()) {
        let version = ingredients.version;
        ingredients.with_packet(|packet| {
            // Nothing that is there already may be touched.
            let mut out = vec![0x55; 3];
            encode(packet, version, &mut out).expect("a valid packet");
            prop_assert_eq!(&out[..3], &[0x55; 3]);
            let frame = &out[3..];
            prop_assert_eq!(encoded_len(packet, version), Ok(frame.len()));
            prop_assert_eq!(decode(version, frame), Ok(*packet));

            // A decoded packet borrows its lists as wire bytes; it must encode as the listed one did.
            let decoded = decode(version, frame).expect("decoded before");
            let mut again = Vec::new();
            encode(&decoded, version, &mut again).expect("decoded packets encode");
            prop_assert_eq!(again, frame);
            Ok(())
        }).unwrap_or(Ok(()))?;
    }

    #[test]
    fn every_prefix_and_every_extension_of_a_packet_is_an_error(ingredients in ingredients()) {
        let Some(mut frame) = ingredients.encoded() else { return Ok(()) };
        for len in (0..frame.len()).take(100) {
            prop_assert!(decode(ingredients.version, &frame[..len]).is_err());
        }
        frame.push(0);
        prop_assert!(decode(ingredients.version, &frame).is_err());
    }

    #[test]
    fn a_forwarded_publish_has_the_publishers_properties_and_then_its_own(
        ingredients in ingredients(), identifier in 1u32..0x1000_0000
    ) {
        ingredients.with_packet(|packet| {
            let Packet::Publish(publish) = packet else { return Ok(()) };
            let mut received = Vec::new();
            encode_publish(publish, Version::V5, &mut received).expect("valid");
            let Ok(Packet::Publish(received)) = decode(Version::V5, &received) else { panic!("a PUBLISH") };
            let own = [Property::SubscriptionIdentifier(identifier)];
            let forwarded = Publish { properties: received.properties.with_list(&own), ..received };
            let mut out = Vec::new();
            encode_publish(&forwarded, Version::V5, &mut out).expect("valid");
            prop_assert_eq!(encoded_len(&Packet::Publish(forwarded), Version::V5), Ok(out.len()));
            let Ok(Packet::Publish(delivered)) = decode(Version::V5, &out) else { panic!("a PUBLISH") };
            let expected: Vec<_> = received.properties.iter().chain(own).collect();
            prop_assert_eq!(delivered.properties, Properties::new(&expected));
            prop_assert_eq!(delivered, forwarded);

            // To a 3.1.1 subscriber the same message goes without properties.
            let Some(topic) = publish.topic else { return Ok(()) };
            let mut out = Vec::new();
            encode_publish(&forwarded, Version::V3_1_1, &mut out).expect("valid");
            let plain = Publish { properties: Properties::EMPTY, topic: Some(topic), ..*publish };
            prop_assert_eq!(decode(Version::V3_1_1, &out), Ok(Packet::Publish(plain)));
            Ok(())
        }).unwrap_or(Ok(()))?;
    }
}
