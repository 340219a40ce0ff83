//! A PUBLISH that goes to many: encoded once, copied to each.

use mqtt_proto::codec;
use mqtt_proto::connection::{Sender, TooLarge};
use mqtt_proto::types::Qos;

use super::BUFFER_BYTES_MAX;
use super::deliver::Part;

/// The bytes that the last subscriber got, for the next one that is to get the same.
#[derive(Default)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    /// What they depend on beside the message: with properties or not, QoS, RETAIN.
    made_for: Option<(bool, Qos, bool)>,
    /// Where the Packet Identifier is, if there is one.
    packet_id_at: usize,
}

impl Frame {
    /// Appends `part`. Not for peers that get Topic Aliases, nor for parts with Subscription Identifiers.
    pub(super) fn append(
        &mut self,
        part: &Part<'_>,
        sender: &Sender,
        now: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLarge> {
        let version = sender.version();
        let wanted = (version.has_properties(), part.qos, part.retain);
        if self.made_for != Some(wanted) {
            self.made_for = None;
            self.bytes.clear();
            part.with_publish(version, now, |publish| {
                codec::encode_publish(publish, version, &mut self.bytes)
            })
            .map_err(|_| TooLarge)?;
            let length_bytes = self.bytes[1..].iter().take_while(|&&byte| byte & 0x80 != 0).count() + 1;
            self.packet_id_at = 1 + length_bytes + 2 + part.message.topic.as_bytes().len();
            self.made_for = Some(wanted);
        }
        if self.bytes.len() > sender.maximum_packet_size() as usize {
            return Err(TooLarge);
        }
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(packet_id) = part.packet_id {
            let at = start + self.packet_id_at;
            out[at..at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        }
        Ok(())
    }

    /// Ready for another message.
    pub(super) fn cleared(mut self) -> Frame {
        self.made_for = None;
        if self.bytes.capacity() > BUFFER_BYTES_MAX {
            self.bytes = Vec::new();
        }
        self
    }
}
