//! How a log lies in its files: pages, the header of a file, the header of a commit, records.
//!
//! Invariant: what is decoded here has been verified by its checksum, and what is not verified is not decoded. Numbers
//! are little-endian. `docs/store-format.md` says the same for people.

use crc32c::{crc32c, crc32c_append};

/// Bytes of a page: commits start at a multiple of it, and writes take whole ones.
pub const PAGE: usize = 4096;

/// Bytes of a commit at most, with its header and padding.
pub const COMMIT_BYTES_MAX: usize = 1 << 20;

/// A segment has a multiple of so many bytes.
pub const SEGMENT_STEP: u32 = 64 << 10;

/// The version of the format that this code writes, and the only one that it reads.
pub const VERSION: u32 = 1;

/// Bytes of records in a commit at most.
pub(super) const BODY_MAX: usize = COMMIT_BYTES_MAX - COMMIT_HEADER;

/// Bytes of records that a page takes at least, if each page were a commit of its own.
pub(super) const PAGE_BODY: usize = PAGE - COMMIT_HEADER;

/// No log counts this far; so nothing that is read can make a number overflow.
const NUMBER_MAX: u64 = 1 << 62;

pub(super) const FILE_HEADER: usize = 64;
pub(super) const COMMIT_HEADER: usize = 48;

/// Pages of a commit with so many bytes of records.
pub(super) const fn commit_bytes(body: usize) -> usize {
    (COMMIT_HEADER + body).next_multiple_of(PAGE)
}

/// Whose log it is. It goes into every checksum of a commit, so that nothing else passes for one of this log: no commit
/// of another store or core, and no payload that was made to look like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The store, by a random number of its own.
    pub store: [u8; 16],
    /// The core.
    pub core: u16,
}

impl Identity {
    /// What checksums of commits start from.
    pub(super) fn seed(&self) -> u32 {
        crc32c_append(crc32c(&self.store), &self.core.to_le_bytes())
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Segment,
    Snapshot,
}

impl Kind {
    fn file_magic(self) -> [u8; 8] {
        match self {
            Kind::Segment => *b"mqttdLOG",
            Kind::Snapshot => *b"mqttdSNP",
        }
    }

    fn commit_magic(self) -> [u8; 4] {
        match self {
            Kind::Segment => *b"mqLC",
            Kind::Snapshot => *b"mqSC",
        }
    }
}

/// The first bytes of page 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) identity: Identity,
    /// Bytes of the segment; 0 for a snapshot.
    pub(super) bytes: u32,
    /// Which use of a segment this is; 0 for a snapshot.
    pub(super) generation: u64,
    /// The first record of the first chain that starts in the segment, or behind it if none does. Of a snapshot: the
    /// first record of the log that it does not stand for.
    pub(super) first: u64,
}

/// Why there is no header to be had from a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// It does not verify.
    Unverified,
    /// It verifies, and belongs to another version of the format.
    Version(u32),
}

impl FileHeader {
    /// Writes the header to the start of a page of zeros.
    pub(super) fn encode(&self, kind: Kind, page: &mut [u8]) {
        let mut put = Put { out: page, at: 0 };
        put.bytes(&kind.file_magic());
        put.bytes(&[0; 4]);
        put.bytes(&VERSION.to_le_bytes());
        put.bytes(&self.identity.store);
        put.bytes(&self.identity.core.to_le_bytes());
        put.bytes(&[0; 2]);
        put.bytes(&self.bytes.to_le_bytes());
        put.bytes(&self.generation.to_le_bytes());
        put.bytes(&self.first.to_le_bytes());
        let crc = crc32c(&page[12..FILE_HEADER]);
        page[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header. The magic, the checksum and the version stay where they are in all versions to come.
    pub(super) fn decode(kind: Kind, page: &[u8]) -> Result<FileHeader, NoHeader> {
        let page = page.get(..FILE_HEADER).ok_or(NoHeader::Unverified)?;
        if page[..8] != kind.file_magic() || u32_at(page, 8) != crc32c(&page[12..]) {
            return Err(NoHeader::Unverified);
        }
        match u32_at(page, 12) {
            VERSION => {}
            other => return Err(NoHeader::Version(other)),
        }
        let identity = Identity { store: array_at(page, 16), core: u16::from_le_bytes(array_at(page, 32)) };
        let (bytes, generation, first) = (u32_at(page, 36), u64_at(page, 40), u64_at(page, 48));
        if generation > NUMBER_MAX || !(1..=NUMBER_MAX).contains(&first) {
            return Err(NoHeader::Unverified);
        }
        Ok(FileHeader { identity, bytes, generation, first })
    }
}

/// More commits of the chain follow.
pub(super) const MORE: u32 = 1;
/// The log was ended as it should be. In a snapshot: its total.
pub(super) const END: u32 = 2;

/// The header of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CommitHeader {
    /// Of the bytes of records.
    pub(super) body_crc: u32,
    /// Bytes of records.
    pub(super) length: u32,
    /// That of its segment. In a snapshot: its place among the commits, from 1.
    pub(super) generation: u64,
    /// The first record of its chain. In a snapshot: the record as of which the state is.
    pub(super) first: u64,
    /// The last record of its chain; the one before `first` if it has none.
    pub(super) last: u64,
    /// Its place in the chain, from 0.
    pub(super) part: u32,
    /// [`MORE`] and [`END`].
    pub(super) flags: u32,
}

impl CommitHeader {
    /// Writes the header to the start of `out`.
    pub(super) fn encode(&self, kind: Kind, seed: u32, out: &mut [u8]) {
        let mut put = Put { out, at: 0 };
        put.bytes(&kind.commit_magic());
        put.bytes(&[0; 4]);
        put.bytes(&self.body_crc.to_le_bytes());
        put.bytes(&self.length.to_le_bytes());
        put.bytes(&self.generation.to_le_bytes());
        put.bytes(&self.first.to_le_bytes());
        put.bytes(&self.last.to_le_bytes());
        put.bytes(&self.part.to_le_bytes());
        put.bytes(&self.flags.to_le_bytes());
        let crc = crc32c_append(seed, &out[8..COMMIT_HEADER]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header that verifies. The body is not looked at.
    pub(super) fn decode(kind: Kind, seed: u32, bytes: &[u8]) -> Option<CommitHeader> {
        let bytes = bytes.get(..COMMIT_HEADER)?;
        if bytes[..4] != kind.commit_magic() || u32_at(bytes, 4) != crc32c_append(seed, &bytes[8..]) {
            return None;
        }
        let header = CommitHeader {
            body_crc: u32_at(bytes, 8),
            length: u32_at(bytes, 12),
            generation: u64_at(bytes, 16),
            first: u64_at(bytes, 24),
            last: u64_at(bytes, 32),
            part: u32_at(bytes, 40),
            flags: u32_at(bytes, 44),
        };
        let counted = header.generation.max(header.first).max(header.last) <= NUMBER_MAX;
        (counted && header.length as usize <= BODY_MAX && header.flags & !(MORE | END) == 0).then_some(header)
    }

    /// Whether these are its records.
    pub(super) fn verifies(&self, seed: u32, body: &[u8]) -> bool {
        body.len() == self.length as usize && body_crc(seed, body) == self.body_crc
    }

    /// Bytes of all its pages.
    pub(super) fn bytes(&self) -> u64 {
        commit_bytes(self.length as usize) as u64
    }

    /// The first record of the first chain that starts here or behind.
    pub(super) fn chains_from(&self) -> u64 {
        if self.part == 0 { self.first } else { self.last + 1 }
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The checksum of the records of a commit.
pub(super) fn body_crc(seed: u32, body: &[u8]) -> u32 {
    crc32c_append(seed, body)
}

/// Appends a record, whose body is what `fill` appends.
///
/// # Panics
///
/// If `fill` takes away from what was there, or appends 4 GiB.
pub(crate) fn put_record(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    // Most lengths take two bytes; the others move the body.
    const ROOM: usize = 2;
    let at = out.len() + 1;
    out.extend_from_slice(&[kind, 0, 0]);
    fill(out);
    let body = at + ROOM;
    let length = out.len().checked_sub(body).and_then(|length| u32::try_from(length).ok());
    let (digits, used) = varint(length.expect("a body is appended, and below 4 GiB"));
    let end = out.len();
    if used > ROOM {
        out.resize(end + used - ROOM, 0);
    }
    if used != ROOM {
        out.copy_within(body..end, at + used);
        out.truncate(end + used - ROOM);
    }
    out[at..at + used].copy_from_slice(&digits[..used]);
}

/// A number in groups of seven bits, the lowest first; the top bit of each byte but the last is set.
fn varint(mut number: u32) -> ([u8; 5], usize) {
    let mut digits = [0; 5];
    let mut used = 0;
    loop {
        digits[used] = number as u8 & 0x7F;
        number >>= 7;
        used += 1;
        if number == 0 {
            return (digits, used);
        }
        digits[used - 1] |= 0x80;
    }
}

/// What stands at the start of some bytes of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A record with its kind and the place of its body, behind which the next one starts.
    Record(u8, std::ops::Range<usize>),
    /// The start of a record, or nothing.
    Partial,
    /// No record can start like this.
    Bad,
}

/// Reads one record from the start of `bytes`. A length has one way to be written.
pub(crate) fn parse_record(bytes: &[u8]) -> Parsed {
    let Some((&kind, behind)) = bytes.split_first() else { return Parsed::Partial };
    let mut length = 0u64;
    for (place, &digit) in behind.iter().take(5).enumerate() {
        length |= u64::from(digit & 0x7F) << (7 * place);
        if digit & 0x80 != 0 {
            continue;
        }
        if length > u64::from(u32::MAX) || (digit == 0 && place > 0) {
            return Parsed::Bad;
        }
        let start = place + 2;
        // A length that this machine could not address is one that is not there.
        return match usize::try_from(length).ok().and_then(|length| start.checked_add(length)) {
            Some(end) if end <= bytes.len() => Parsed::Record(kind, start..end),
            _ => Parsed::Partial,
        };
    }
    if behind.len() < 5 { Parsed::Partial } else { Parsed::Bad }
}

/// Writes one field behind the other.
struct Put<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Put<'_> {
    fn bytes(&mut self, bytes: &[u8]) {
        self.out[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has this length")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_is_read_back_from_any_prefix_of_more(
            kind: u8,
            length in prop_oneof![0usize..300, 16_000usize..17_000, Just(127), Just(128), Just(16_383), Just(16_384)],
            behind in prop::collection::vec(any::<u8>(), 0..10),
        ) {
            let body: Vec<u8> = (0..length).map(|place| place as u8 ^ kind).collect();
            let mut out = b"before".to_vec();
            put_record(&mut out, kind, |out| out.extend_from_slice(&body));
            let record = out.split_off(6);
            prop_assert_eq!(&out, b"before");
            // An empty one has no more than two bytes.
            for end in [0, 1, record.len() / 2, record.len() - 1] {
                prop_assert_eq!(parse_record(&record[..end]), Parsed::Partial);
            }
            let whole = [&record[..], &behind].concat();
            let Parsed::Record(found, range) = parse_record(&whole) else { panic!("there is one") };
            prop_assert_eq!((found, &whole[range.clone()], range.end), (kind, &body[..], record.len()));
        }
    }

    #[test]
    fn a_length_has_one_way_to_be_written() {
        assert_eq!(parse_record(&[1, 0x80, 0x00]), Parsed::Bad);
        assert_eq!(parse_record(&[1, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F]), Parsed::Bad);
        assert_eq!(parse_record(&[1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]), Parsed::Partial);
        assert_eq!(parse_record(&[1, 0x80, 0x80, 0x80, 0x80, 0x80]), Parsed::Bad);
        assert_eq!(varint(u32::MAX), ([0xFF, 0xFF, 0xFF, 0xFF, 0x0F], 5));
    }

    #[test]
    fn a_header_of_another_version_says_so_and_a_damaged_one_does_not() {
        let identity = Identity { store: [7; 16], core: 3 };
        let header = FileHeader { identity, bytes: SEGMENT_STEP, generation: 9, first: 77 };
        let mut page = [0; PAGE];
        header.encode(Kind::Segment, &mut page);
        assert_eq!(FileHeader::decode(Kind::Segment, &page), Ok(header));
        assert_eq!(FileHeader::decode(Kind::Snapshot, &page), Err(NoHeader::Unverified));
        let nowhere = FileHeader { first: 0, ..header };
        let mut other = [0; PAGE];
        nowhere.encode(Kind::Segment, &mut other);
        assert_eq!(FileHeader::decode(Kind::Segment, &other), Err(NoHeader::Unverified));
        page[12] = 2;
        assert_eq!(FileHeader::decode(Kind::Segment, &page), Err(NoHeader::Unverified));
        let crc = crc32c(&page[12..FILE_HEADER]);
        page[8..12].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHeader::decode(Kind::Segment, &page), Err(NoHeader::Version(2)));
    }

    #[test]
    fn a_commit_of_another_log_does_not_verify() {
        let seed = Identity { store: [7; 16], core: 3 }.seed();
        let body_crc = body_crc(seed, b"body");
        let header =
            CommitHeader { body_crc, length: 4, generation: 1, first: 5, last: 6, part: 0, flags: MORE };
        let mut out = [0; COMMIT_HEADER];
        header.encode(Kind::Segment, seed, &mut out);
        assert_eq!(CommitHeader::decode(Kind::Segment, seed, &out), Some(header));
        assert!(header.verifies(seed, b"body") && !header.verifies(seed, b"bodY"));
        let other = Identity { store: [7; 16], core: 4 }.seed();
        assert_eq!(CommitHeader::decode(Kind::Segment, other, &out), None);
        assert!(!header.verifies(other, b"body"));
        assert_eq!(CommitHeader::decode(Kind::Snapshot, seed, &out), None);
    }
}
