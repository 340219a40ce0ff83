//! What is gone of files of chunks, told a file at a time: with it goes what waits for many Clients, in many places.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use super::StoreError;
use super::cold_files::{file, folder};
use crate::store::cold::Chunk;
use crate::store::image::Image;

/// So many of the Clients concerned are named.
const NAMED: usize = 3;

/// What is gone, by the number of its file.
#[derive(Default)]
pub(super) struct Losses(BTreeMap<u64, Loss>);

/// What is gone of one file.
struct Loss {
    /// The file, and what is wrong with it where it is for the first time.
    what: String,
    places: u64,
    messages: u64,
    sessions: u64,
    /// The session that was told of last: its chunks come one after the other.
    last: Box<str>,
    /// The first ClientIDs in their order.
    named: BTreeSet<Box<str>>,
}

impl Losses {
    /// So many messages of this session that wait in `chunk` are gone, and `what` says why.
    pub(super) fn add(
        &mut self,
        client_id: &str,
        chunk: Chunk,
        messages: u32,
        what: impl FnOnce() -> String,
    ) {
        let loss = self.0.entry(chunk.file).or_insert_with(|| Loss {
            what: what(),
            places: 0,
            messages: 0,
            sessions: 0,
            last: Box::default(),
            named: BTreeSet::new(),
        });
        loss.places += 1;
        loss.messages += u64::from(messages);
        if loss.sessions == 0 || *loss.last != *client_id {
            loss.sessions += 1;
            loss.last = client_id.into();
            loss.named.insert(client_id.into());
            if loss.named.len() > NAMED {
                loss.named.pop_last();
            }
        }
    }

    /// A line on each file.
    pub(super) fn lines(self) -> impl Iterator<Item = String> {
        self.0.into_values().map(|loss| loss.line())
    }
}

impl Loss {
    fn line(self) -> String {
        let Loss { what, places, messages, sessions, named, .. } = self;
        let places = match places {
            1 => String::new(),
            _ => format!(" ({places} places)"),
        };
        let (messages, are) = match messages {
            1 => ("1 message".to_owned(), "is"),
            _ => (format!("{messages} messages"), "are"),
        };
        let mut names: Vec<String> = named.into_iter().map(|name| format!("{name:?}")).collect();
        let others = sessions - names.len() as u64;
        names.extend((others > 0).then(|| format!("{others} other Clients")));
        let last = names.pop().unwrap_or_default();
        let names = if names.is_empty() { last } else { format!("{} and {last}", names.join(", ")) };
        format!("{what}{places}: {messages} that waited for {names} {are} gone")
    }
}

/// Which files there are, as far as somebody asked, and what is gone with those that are not.
struct Survey<'a> {
    directory: &'a Path,
    /// Bytes of each file; `None`: there is no such file.
    files: BTreeMap<u64, Option<u64>>,
    losses: Losses,
}

impl Survey<'_> {
    fn new(directory: &Path) -> Survey<'_> {
        Survey { directory, files: BTreeMap::new(), losses: Losses::default() }
    }

    /// Whether a file has all bytes of the chunk. What they are is not looked at.
    fn has(&mut self, client_id: &str, chunk: Chunk, messages: u32) -> Result<bool, StoreError> {
        let path = || file(&folder(self.directory), chunk.file);
        let bytes = match self.files.get(&chunk.file) {
            Some(&bytes) => bytes,
            None => {
                let bytes = match fs::metadata(path()) {
                    Ok(found) => Some(found.len()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(StoreError::system("look at", &path())(error)),
                };
                self.files.insert(chunk.file, bytes);
                bytes
            }
        };
        if bytes.is_some_and(|bytes| bytes >= chunk.offset + u64::from(chunk.bytes)) {
            return Ok(true);
        }
        let what = || match bytes {
            Some(bytes) => format!("{}: no more than {bytes} bytes of it are left", path().display()),
            None => format!("{}: there is no such file any more", path().display()),
        };
        self.losses.add(client_id, chunk, messages, what);
        Ok(false)
    }
}

/// The length of each file that these images need.
///
/// # Errors
/// One is missing or too short, or the system refuses to tell.
pub(super) fn look_at_files(directory: &Path, images: &[Image]) -> Result<BTreeMap<u64, u64>, StoreError> {
    let mut survey = Survey::new(directory);
    for session in images.iter().flat_map(Image::sessions) {
        let Some(parked) = session.parked() else { continue };
        let mut over = parked.taken();
        for chunk in parked.chunks() {
            let left = chunk.messages - std::mem::take(&mut over);
            survey.has(session.client_id(), chunk, left)?;
        }
    }
    let lines: Vec<String> = survey.losses.lines().collect();
    if !lines.is_empty() {
        return Err(StoreError::Cold { what: lines.join("\n") });
    }
    Ok(survey.files.into_iter().filter_map(|(number, bytes)| Some((number, bytes?))).collect())
}

/// Takes from images what lies in files that are missing, or in the part that is missing of one; a line on each such file.
///
/// # Errors
/// The system refuses to tell.
pub(super) fn give_up_missing<'i>(
    directory: &Path,
    images: impl IntoIterator<Item = &'i mut Image>,
) -> Result<Vec<String>, StoreError> {
    let (mut survey, mut failed) = (Survey::new(directory), None);
    for image in images {
        image.retain_parked(|client_id, chunk, messages| {
            let has = survey.has(client_id, chunk, messages);
            has.unwrap_or_else(|error| {
                failed = Some(error);
                true
            })
        });
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(survey.losses.lines().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_told_in_one_line_however_many_clients_it_concerns() {
        let told = |count: u64| {
            let mut losses = Losses::default();
            for number in (0..count).rev() {
                for offset in [0, 50] {
                    let chunk = Chunk { file: 7, offset: number * 100 + offset, bytes: 50, messages: 4 };
                    losses.add(&format!("c{number}"), chunk, 3, || "x: broken".to_owned());
                }
            }
            let other = Chunk { file: 9, offset: 0, bytes: 50, messages: 1 };
            losses.add("d", other, 1, || "y: broken".to_owned());
            losses.lines().collect::<Vec<_>>()
        };
        let other = "y: broken: 1 message that waited for \"d\" is gone";
        for (count, line) in [
            (1, "x: broken (2 places): 6 messages that waited for \"c0\" are gone"),
            (2, "x: broken (4 places): 12 messages that waited for \"c0\" and \"c1\" are gone"),
            (3, "x: broken (6 places): 18 messages that waited for \"c0\", \"c1\" and \"c2\" are gone"),
            (
                75,
                "x: broken (150 places): 450 messages that waited for \"c0\", \"c1\", \"c10\" and 72 other Clients are gone",
            ),
        ] {
            assert_eq!(told(count), [line, other]);
        }
    }
}
