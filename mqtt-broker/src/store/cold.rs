//! Chunks: messages that wait for a Client that is away, in a file rather than in memory.
//!
//! A chunk holds some of the messages that wait for one session, in order, as the records that would make a session have
//! them. It stands by itself: the log says where it is and how many of its messages are over. Chunks are only ever read by
//! who knows where they are. `docs/store-format.md` has the bytes.
//!
//! Invariant: of a session's chunks none is empty, and of the first at least one message is still waiting.

use std::collections::VecDeque;

use crate::store::image::Delivery;
use crate::store::log::{Parsed, parse_record, put_record};
use crate::store::record::{Record, RecordError};

/// Bytes before the records of a chunk.
pub const CHUNK_HEAD: usize = 32;

const MAGIC: &[u8; 4] = b"mqCC";

/// Where a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chunk {
    /// The number of its file, of which there is one in a data directory.
    pub file: u64,
    /// Its first byte.
    pub offset: u64,
    /// How long it is, with its head.
    pub bytes: u32,
    /// How many messages are in it, at least one.
    pub messages: u32,
}

/// Where a chunk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The number of its file.
    pub file: u64,
    /// Its first byte there.
    pub offset: u64,
}

impl Chunk {
    /// Where it begins.
    pub fn place(self) -> Place {
        Place { file: self.file, offset: self.offset }
    }

    /// The same chunk in another place.
    #[must_use]
    pub fn at(self, place: Place) -> Chunk {
        Chunk { file: place.file, offset: place.offset, ..self }
    }
}

/// Why a chunk cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// It does not verify.
    #[error("what is there is not the chunk that was written")]
    Damaged,
    /// A record in it is none.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// It has other records than it should.
    #[error("it has other records than those of {messages} messages")]
    Content {
        /// How many there should be.
        messages: u32,
    },
}

/// What became of a chunk that was to be read.
#[derive(Debug)]
pub enum Loaded {
    /// Its messages, which expire by wall time.
    Messages(Vec<Delivery>),
    /// It cannot be read, and is not given up: where it is, why, and what to do.
    Unreadable(String),
    /// It cannot be read, and what waits in it is given up.
    Lost,
}

/// The chunks of one session, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Parked {
    chunks: VecDeque<Chunk>,
    /// Messages of the first chunk that are over.
    taken: u32,
}

impl Parked {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The chunks, oldest first.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Chunk> {
        self.chunks.iter().copied()
    }

    /// The chunk whose messages come next.
    pub fn first(&self) -> Option<Chunk> {
        self.chunks.front().copied()
    }

    /// How many messages of the first chunk are over.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// Messages that are waiting.
    pub fn messages(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.messages)).sum::<u64>() - u64::from(self.taken)
    }

    /// Bytes of the chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }

    /// One more, behind the others.
    pub fn push(&mut self, chunk: Chunk) {
        self.chunks.push_back(chunk);
    }

    /// The chunk that was in the one place is in the other from now on; that chunk, as it was, if it is one of these.
    pub fn relocate(&mut self, from: Place, to: Place) -> Option<Chunk> {
        let chunk = self.chunks.iter_mut().find(|chunk| chunk.place() == from)?;
        let was = *chunk;
        *chunk = was.at(to);
        Some(was)
    }

    /// Gives up the chunks for which `keeps` is false; it is asked about each with the number of messages that wait there.
    pub fn retain(&mut self, mut keeps: impl FnMut(Chunk, u32) -> bool) {
        let (mut over, mut left) = (core::mem::take(&mut self.taken), 0);
        self.chunks.retain(|&chunk| {
            let taken = core::mem::take(&mut over);
            let stays = keeps(chunk, chunk.messages - taken);
            left += if stays { taken } else { 0 };
            stays
        });
        self.taken = left;
    }

    /// So many messages are over, the oldest first; `done` is told the chunks of which that was the last.
    pub fn take(&mut self, count: u64, mut done: impl FnMut(Chunk)) {
        let mut over = u64::from(self.taken) + count;
        self.taken = 0;
        while let Some(first) = self.first() {
            if over < u64::from(first.messages) {
                self.taken = over as u32;
                return;
            }
            over -= u64::from(first.messages);
            done(first);
            self.chunks.pop_front();
        }
    }
}

/// Makes the records of a chunk.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    bytes: Vec<u8>,
    messages: u32,
}

impl ChunkWriter {
    /// Appends a message, which expires by wall time, and how it is to be delivered: the two records of one that waits.
    pub fn append(&mut self, message: &Record<'_>, enqueued: &Record<'_>) {
        for record in [message, enqueued] {
            put_record(&mut self.bytes, record.kind(), |out| record.encode(out));
        }
        self.messages += 1;
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no message yet.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// How many messages there are, and their records.
    pub fn finish(self) -> (u32, Vec<u8>) {
        (self.messages, self.bytes)
    }
}

/// Appends a chunk to what is to be written to `file` from `offset` on. `key` is the data directory's.
///
/// # Panics
/// If the records are 4 GiB or more.
pub fn put_chunk(
    out: &mut Vec<u8>,
    key: [u64; 2],
    (file, offset): (u64, u64),
    messages: u32,
    records: &[u8],
) -> Chunk {
    let bytes = u32::try_from(CHUNK_HEAD + records.len()).expect("a queue is cut into chunks");
    let chunk = Chunk { file, offset, bytes, messages };
    let head = head(chunk);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&checksum(key, &head, records).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(records);
    chunk
}

/// The messages of the chunk whose bytes these are; they expire by wall time.
///
/// # Errors
/// It is not the chunk that was written there.
pub fn read_chunk(bytes: &[u8], key: [u64; 2], chunk: Chunk) -> Result<Vec<Delivery>, ChunkError> {
    let records = chunk_records(bytes, key, chunk)?;
    let content = || ChunkError::Content { messages: chunk.messages };
    let (mut deliveries, mut rest) = (Vec::with_capacity(chunk.messages.min(1 << 16) as usize), records);
    while !rest.is_empty() {
        let mut next = || {
            let Parsed::Record(kind, body) = parse_record(rest) else { return Err(content()) };
            let (record, behind) = rest.split_at(body.end);
            rest = behind;
            Ok(Record::decode(kind, &record[body.start..])?)
        };
        let (
            Record::Message { message, .. },
            Record::Enqueued { qos, retain, identifiers, packet_id: None, .. },
        ) = (next()?, next()?)
        else {
            return Err(content());
        };
        deliveries.push(Delivery::new(message.to_message(), qos, retain, identifiers));
    }
    match deliveries.len() == chunk.messages as usize {
        true => Ok(deliveries),
        false => Err(content()),
    }
}

/// The records of the chunk whose bytes these are, for a chunk in another place.
///
/// # Errors
/// It is not the chunk that was written there.
pub fn chunk_records(bytes: &[u8], key: [u64; 2], chunk: Chunk) -> Result<&[u8], ChunkError> {
    let head = head(chunk);
    let (found, records) = bytes.split_at_checked(CHUNK_HEAD).ok_or(ChunkError::Damaged)?;
    let is_it = found[..4] == *MAGIC
        && found[4..8] == checksum(key, &head, records).to_le_bytes()
        && found[8..] == head
        && bytes.len() == chunk.bytes as usize;
    is_it.then_some(records).ok_or(ChunkError::Damaged)
}

/// What the head says behind its checksum.
fn head(chunk: Chunk) -> [u8; CHUNK_HEAD - 8] {
    let mut head = [0; CHUNK_HEAD - 8];
    head[..4].copy_from_slice(&(chunk.bytes - CHUNK_HEAD as u32).to_le_bytes());
    head[4..8].copy_from_slice(&chunk.messages.to_le_bytes());
    head[8..16].copy_from_slice(&chunk.file.to_le_bytes());
    head[16..].copy_from_slice(&chunk.offset.to_le_bytes());
    head
}

/// Begins with the key, so that no chunk of another directory verifies.
fn checksum(key: [u64; 2], head: &[u8], records: &[u8]) -> u32 {
    let seed = key.iter().fold(0, |sum, word| crc32c::crc32c_append(sum, &word.to_le_bytes()));
    crc32c::crc32c_append(crc32c::crc32c_append(seed, head), records)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::MessageRef;
    use crate::store::record::Identifiers;
    use mqtt_proto::types::{Qos, TopicName};

    const KEY: [u64; 2] = [3, 4];

    fn written(payloads: &[&[u8]]) -> (u32, Vec<u8>) {
        let mut writer = ChunkWriter::default();
        for &payload in payloads {
            let topic = TopicName::new("a/b").expect("a topic");
            let (qos, retain) = (Qos::ExactlyOnce, false);
            let message = MessageRef { topic, properties: &[], payload, qos, retain, expires_at: Some(9) };
            let identifiers = Identifiers::new(&[5, 6]);
            let qos = Qos::AtLeastOnce;
            writer.append(
                &Record::Message { message, publisher: 0, shared: false },
                &Record::Enqueued { client_id: "c", qos, retain: true, identifiers, packet_id: None },
            );
        }
        writer.finish()
    }

    #[test]
    fn the_messages_of_a_chunk_come_back_in_order() {
        let (messages, records) = written(&[b"one", &[7; 300], b""]);
        let mut file = vec![1, 2, 3];
        let chunk = put_chunk(&mut file, KEY, (8, 3), messages, &records);
        assert_eq!((chunk.offset, chunk.bytes as usize, chunk.messages), (3, file.len() - 3, 3));
        let deliveries = read_chunk(&file[3..], KEY, chunk).expect("just written");
        let payloads: Vec<&[u8]> =
            deliveries.iter().map(|delivery| delivery.message.as_ref().payload).collect();
        assert_eq!(payloads, [&b"one"[..], &[7; 300], b""]);
        for delivery in &deliveries {
            assert_eq!((delivery.qos, delivery.retain), (Qos::AtLeastOnce, true));
            assert_eq!((delivery.identifiers(), delivery.message.expires_at()), (&[5, 6][..], Some(9)));
        }
    }

    #[test]
    fn a_chunk_with_any_byte_changed_or_in_another_place_is_none() {
        let (messages, records) = written(&[b"one", b"two"]);
        let mut bytes = Vec::new();
        let chunk = put_chunk(&mut bytes, KEY, (8, 3), messages, &records);
        for place in 0..bytes.len() {
            bytes[place] ^= 1;
            assert!(read_chunk(&bytes, KEY, chunk).is_err(), "byte {place}");
            bytes[place] ^= 1;
            assert!(read_chunk(&bytes[..place], KEY, chunk).is_err(), "cut at {place}");
        }
        for other in [
            Chunk { file: 9, ..chunk },
            Chunk { offset: 4, ..chunk },
            Chunk { messages: 1, ..chunk },
            Chunk { bytes: chunk.bytes - 1, ..chunk },
        ] {
            assert!(read_chunk(&bytes, KEY, other).is_err(), "{other:?}");
        }
        assert!(read_chunk(&bytes, [3, 5], chunk).is_err(), "another directory's");
        assert!(read_chunk(&bytes, KEY, chunk).is_ok());
    }

    #[test]
    fn a_chunk_that_verifies_and_has_other_records_is_an_error() {
        let (messages, records) = written(&[b"one", b"two"]);
        for (messages, records) in [(messages + 1, &records[..]), (1, &records[..]), (1, &[9, 9]), (1, &[])] {
            let mut bytes = Vec::new();
            let chunk = put_chunk(&mut bytes, KEY, (1, 0), messages, records);
            assert!(matches!(read_chunk(&bytes, KEY, chunk), Err(ChunkError::Content { .. })));
        }
    }

    #[test]
    fn chunks_that_are_given_up_take_what_was_over_of_them_along() {
        for (lost, left, taken) in [(0, 3, 0), (1, 4, 2), (2, 3, 2), (9, 5, 2)] {
            let mut parked = Parked::default();
            for (number, messages) in (0..).zip([4, 1, 2]) {
                parked.push(Chunk { file: number, offset: 0, bytes: 50, messages });
            }
            parked.take(2, |_| panic!("none is over"));
            let mut asked = Vec::new();
            parked.retain(|chunk, messages| {
                asked.push(messages);
                chunk.file != lost
            });
            assert_eq!((asked, parked.messages(), parked.taken()), (vec![2, 1, 2], left, taken));
        }
    }

    #[test]
    fn messages_are_over_in_order_whatever_chunk_they_are_in() {
        let mut parked = Parked::default();
        let chunks =
            [3, 1, 2].map(|messages| Chunk { file: 1, offset: messages.into(), bytes: 50, messages });
        chunks.into_iter().for_each(|chunk| parked.push(chunk));
        let mut done = Vec::new();
        for (count, left, taken, over) in [(2, 4, 2, 0), (1, 3, 0, 1), (2, 1, 1, 2), (7, 0, 0, 3)] {
            parked.take(count, |chunk| done.push(chunk));
            assert_eq!((parked.messages(), parked.taken()), (left, taken));
            assert_eq!(done, chunks[..over]);
        }
        assert!(parked.is_empty() && parked.first().is_none());
    }
}
