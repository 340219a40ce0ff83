//! The payload of a message under test: who sent it, which one it is, when, and filler that must arrive unaltered.

/// Bytes of stream, sequence and time.
pub(crate) const HEADER_LEN: usize = 20;

/// What a payload says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The stream of messages it belongs to.
    pub(crate) stream: u32,
    /// Its place in the stream, from 0.
    pub(crate) sequence: u64,
    /// When it was sent, or should have been: nanoseconds on the tool's clock.
    pub(crate) sent_ns: u64,
}

/// Makes `out` the payload of `len` bytes, at least [`HEADER_LEN`].
pub(crate) fn write(header: Header, len: usize, out: &mut Vec<u8>) {
    out.clear();
    out.resize(len, 0);
    fill(header, out);
}

/// Makes all of `out`, at least [`HEADER_LEN`] bytes, the payload.
pub(crate) fn fill(header: Header, out: &mut [u8]) {
    let (head, rest) = out.split_at_mut(HEADER_LEN);
    head[..4].copy_from_slice(&header.stream.to_le_bytes());
    head[4..12].copy_from_slice(&header.sequence.to_le_bytes());
    head[12..].copy_from_slice(&header.sent_ns.to_le_bytes());
    let filler = filler(header).to_le_bytes();
    let mut chunks = rest.chunks_exact_mut(filler.len());
    chunks.by_ref().for_each(|chunk| chunk.copy_from_slice(&filler));
    let tail = chunks.into_remainder();
    tail.copy_from_slice(&filler[..tail.len()]);
}

/// Reads a payload; `None` if its length is not `len` or any byte of it is not what [`write()`] made.
pub(crate) fn read(payload: &[u8], len: usize) -> Option<Header> {
    if payload.len() != len {
        return None;
    }
    let (stream, rest) = payload.split_first_chunk()?;
    let (sequence, rest) = rest.split_first_chunk()?;
    let (sent_ns, rest) = rest.split_first_chunk()?;
    let header = Header {
        stream: u32::from_le_bytes(*stream),
        sequence: u64::from_le_bytes(*sequence),
        sent_ns: u64::from_le_bytes(*sent_ns),
    };
    let filler = filler(header).to_le_bytes();
    let chunks = rest.chunks_exact(filler.len());
    let tail = chunks.remainder();
    (chunks.fold(true, |same, chunk| same & (chunk == filler)) && tail == &filler[..tail.len()])
        .then_some(header)
}

/// Reads the payload of `len` bytes at the end of `frame`.
pub(crate) fn read_end(frame: &[u8], len: usize) -> Option<Header> {
    read(&frame[frame.len().checked_sub(len)?..], len)
}

/// Eight bytes that differ between messages.
const fn filler(header: Header) -> u64 {
    let mixed = header.sequence ^ (header.stream as u64) << 40 ^ header.sent_ns.rotate_left(20);
    mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_reads_back_and_any_changed_byte_is_noticed() {
        let header = Header { stream: 7, sequence: 1 << 40, sent_ns: 123_456_789 };
        for len in [HEADER_LEN, HEADER_LEN + 3, 64, 1_000] {
            let mut payload = Vec::new();
            write(header, len, &mut payload);
            assert_eq!(payload.len(), len);
            assert_eq!(read(&payload, len), Some(header));
            assert_eq!(read(&payload, len + 1), None);
            for at in 0..len {
                payload[at] ^= 0x10;
                assert_ne!(read(&payload, len), Some(header), "byte {at} of {len}");
                payload[at] ^= 0x10;
            }
        }
    }
}
