//! A byte stream gives the same packets and the same fault, whole or in pieces of any size, on either side.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mqtt_proto::Version;
use mqtt_proto::connection::{Receiver, Role};

fn receiver(role: Role) -> Receiver {
    let mut receiver = Receiver::new(role, 4096);
    receiver.set_topic_alias_maximum(3);
    if matches!(role, Role::Client) {
        receiver.set_version(Version::V5);
    }
    receiver
}

fn packets<'a>(mut receiver: Receiver, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let mut seen = Vec::new();
    for mut piece in pieces {
        loop {
            match receiver.poll_packet(&mut piece) {
                Ok(Some(packet)) => seen.push(format!("{packet:?}")),
                Ok(None) => break,
                Err(error) => {
                    assert!(error.reason_code().is_error(), "{error}");
                    seen.push(format!("{error:?}"));
                    return seen;
                }
            }
        }
    }
    seen
}

fuzz_target!(|input: (u8, &[u8])| {
    let (size, stream) = input;
    for role in [Role::Server, Role::Client] {
        let whole = packets(receiver(role), std::iter::once(stream));
        let split = packets(receiver(role), stream.chunks(usize::from(size % 16) + 1));
        assert_eq!(whole, split);
    }
});
