//! Packets annotated byte by byte under `golden/`: what they say, or what is wrong with them.
//!
//! A file begins with `# what it is` and header lines, up to an empty line:
//! `decodes:` the Debug text of the packet, `encodes:` its bytes when written again if they are not the same,
//! or `error:` and `reason:` the Debug text of the error and its Reason Code. Hexadecimal bytes follow, `#` starts
//! a comment. The folder tells the version.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use mqtt_proto::{Framer, Packet, Properties, Version, decode, encode, encoded_len};

struct Golden {
    path: PathBuf,
    version: Version,
    decodes: Option<String>,
    encodes: Option<Vec<u8>>,
    error: Option<String>,
    reason: Option<String>,
    bytes: Vec<u8>,
}

fn hex(text: &str) -> Vec<u8> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect()
}

impl Golden {
    fn read(path: PathBuf, version: Version) -> Golden {
        let text = fs::read_to_string(&path).expect("a readable file");
        let (header, body) = text.split_once("\n\n").expect("a header, an empty line, bytes");
        assert!(header.starts_with("# "), "{}: says what it is", path.display());
        let field = |name: &str| {
            header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(String::from)
        };
        Golden {
            version,
            decodes: field("decodes"),
            encodes: field("encodes").map(|text| hex(&text)),
            error: field("error"),
            reason: field("reason"),
            bytes: hex(body),
            path,
        }
    }

    fn all() -> Vec<Golden> {
        let mut all = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        for (folder, version) in [("v3_1", Version::V3_1), ("v3_1_1", Version::V3_1_1), ("v5", Version::V5)] {
            for folder in [root.join(folder), root.join(folder).join("malformed")] {
                let mut paths: Vec<_> = fs::read_dir(folder)
                    .expect("a folder of golden packets")
                    .map(|entry| entry.expect("an entry").path())
                    .filter(|path| path.is_file())
                    .collect();
                paths.sort();
                all.extend(paths.into_iter().map(|path| Golden::read(path, version)));
            }
        }
        all
    }

    /// What differs from the description.
    fn check(&self) -> Result<(), String> {
        let decoded = decode(self.version, &self.bytes);
        if let Some(error) = &self.error {
            let found = decoded.err().ok_or("it decodes")?;
            if format!("{found:?}") != *error {
                return Err(format!("error is {found:?}"));
            }
            let reason = format!("0x{:02X}", found.reason_code().0);
            return if self.reason.as_ref() == Some(&reason) {
                Ok(())
            } else {
                Err(format!("reason is {reason}"))
            };
        }
        let packet = decoded.map_err(|error| format!("does not decode: {error:?}"))?;
        if self.decodes.as_deref() != Some(format!("{packet:?}").as_str()) {
            return Err(format!("decodes to {packet:?}"));
        }
        let mut out = vec![0xAA];
        encode(&packet, self.version, &mut out).map_err(|error| format!("does not encode: {error:?}"))?;
        let expected = self.encodes.as_ref().unwrap_or(&self.bytes);
        if out[1..] != expected[..] || out[0] != 0xAA {
            return Err(format!("encodes to {out:02X?}"));
        }
        let len = encoded_len(&packet, self.version);
        if len != Ok(expected.len()) {
            return Err(format!("encoded_len is {len:?}"));
        }
        let mut framer = Framer::default();
        match framer.next_frame(&mut &self.bytes[..], u32::MAX) {
            Ok(Some(frame)) if frame == self.bytes => Ok(()),
            other => Err(format!("is framed as {other:02X?}")),
        }
    }
}

#[test]
fn every_golden_packet_is_read_and_written_as_described() {
    let all = Golden::all();
    let failures: Vec<_> = all
        .iter()
        .filter_map(|golden| golden.check().err().map(|why| format!("{}\t{why}", golden.path.display())))
        .collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    assert!(all.len() > 150);
}

#[test]
fn the_golden_packets_show_every_type_right_and_wrong_and_every_property() {
    let all = Golden::all();
    let (mut right, mut wrong, mut properties) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for golden in &all {
        let shown = (golden.version, golden.bytes[0] >> 4);
        let Ok(packet) = decode(golden.version, &golden.bytes) else {
            wrong.insert(shown);
            continue;
        };
        right.insert(shown);
        let (own, will) = properties_of(&packet);
        properties.extend(own.iter().chain(will.iter()).map(|property| property.id()));
    }
    for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
        for packet_type in 1..=15 {
            // AUTH exists in 5.0 only.
            let exists = packet_type != 15 || version == Version::V5;
            let shown = (version, packet_type);
            assert_eq!(right.contains(&shown), exists, "type {packet_type} of {version:?}, right");
            assert!(wrong.contains(&shown), "type {packet_type} of {version:?}, wrong");
        }
    }
    assert_eq!(properties.len(), 27);
}

fn properties_of<'a>(packet: &Packet<'a>) -> (Properties<'a>, Properties<'a>) {
    let own = match packet {
        Packet::Connect(connect) => {
            return (connect.properties, connect.will.map_or(Properties::EMPTY, |will| will.properties));
        }
        Packet::ConnAck(connack) => connack.properties,
        Packet::Publish(publish) => publish.properties,
        Packet::PubAck(ack) | Packet::PubRec(ack) | Packet::PubRel(ack) | Packet::PubComp(ack) => {
            ack.properties
        }
        Packet::Subscribe(subscribe) => subscribe.properties,
        Packet::SubAck(suback) => suback.properties,
        Packet::Unsubscribe(unsubscribe) => unsubscribe.properties,
        Packet::UnsubAck(unsuback) => unsuback.properties,
        Packet::PingReq | Packet::PingResp => Properties::EMPTY,
        Packet::Disconnect(disconnect) => disconnect.properties,
        Packet::Auth(auth) => auth.properties,
    };
    (own, Properties::EMPTY)
}
