//! META: whose store a data directory holds, and which of its layouts counts.
//!
//! Invariant: what is decoded has been verified by its checksum.

use std::fmt::Write as _;

use crc32c::crc32c;

/// The version of the directory that this code makes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// What META says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    /// Goes into every checksum of the files of the layout; drawn anew for each, so that no file passes for one of
    /// another layout.
    pub(super) store: [u8; 16],
    /// Which layout counts.
    pub(super) layout: u64,
    /// For how many cores it was made.
    pub(super) cores: u16,
    /// What decides which core something is at home on.
    pub(super) hash_key: [u64; 2],
}

impl Meta {
    pub(super) fn encode(&self) -> String {
        let mut text = format!("mqttd store {VERSION}\nstore ");
        for byte in self.store {
            let _ = write!(text, "{byte:02x}");
        }
        let [first, second] = self.hash_key;
        let _ = write!(
            text,
            "\nlayout {}\ncores {}\nhash_key {first:016x}{second:016x}\n",
            self.layout, self.cores
        );
        let crc = crc32c(text.as_bytes());
        let _ = writeln!(text, "crc {crc:08x}");
        text
    }

    /// # Errors
    /// What is wrong, and the remedy.
    pub(super) fn decode(text: &str) -> Result<Meta, String> {
        let damaged = || {
            "the file is damaged, and without it nothing in this directory can be read. Put back a backup of it"
                .to_owned()
        };
        // The first line and the checksum stay as they are in all versions to come.
        let (body, crc) = text.rsplit_once("crc ").ok_or_else(damaged)?;
        if crc != format!("{:08x}\n", crc32c(body.as_bytes())) {
            return Err(damaged());
        }
        let mut lines = body.lines();
        let version = lines.next().and_then(|line| line.strip_prefix("mqttd store ")).ok_or_else(damaged)?;
        if version.parse() != Ok(VERSION) {
            return Err(format!(
                "the directory has version {version} and this program reads {VERSION}. Start the version that made it, or \
                 a newer one"
            ));
        }
        let mut field = |name: &str| lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let (store, layout, cores, key) =
            (field("store"), field("layout"), field("cores"), field("hash_key"));
        let parse = || {
            let key = u128::from_str_radix(key?, 16).ok()?;
            Some(Meta {
                store: u128::from_str_radix(store?, 16).ok()?.to_be_bytes(),
                layout: layout?.parse().ok()?,
                cores: cores?.parse().ok().filter(|&cores| cores > 0)?,
                hash_key: [(key >> 64) as u64, key as u64],
            })
        };
        parse().ok_or_else(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Meta = Meta { store: *b"0123456789abcdef", layout: 7, cores: 3, hash_key: [1, u64::MAX - 1] };

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Meta::decode(&META.encode()), Ok(META));
    }

    #[test]
    fn any_byte_that_is_changed_or_missing_is_noticed() {
        let text = META.encode();
        for place in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1;
            let changed = String::from_utf8(bytes).expect("still ASCII");
            assert!(Meta::decode(&changed).is_err(), "byte {place}");
            assert!(Meta::decode(&text[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let body = META.encode().replace("mqttd store 1", "mqttd store 2");
        let (body, _) = body.split_once("crc ").expect("it has one");
        let text = format!("{body}crc {:08x}\n", crc32c(body.as_bytes()));
        assert!(Meta::decode(&text).expect_err("a later version").contains("version 2"));
    }
}
