//! The directory: made, locked, and META read and written.
//!
//! Invariant: whoever has a [`Directory`] is the only one; META changes whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use tracing::warn;

use super::StoreError;
use super::files::{self, CoreFiles, sync_folder};
use super::meta::Meta;
use crate::ring::random_words;
use crate::store::log::Identity;

const META: &str = "META";

const LAYOUT: &str = "layout-";

/// Held by whoever uses the directory.
pub(super) const LOCK: &str = "lock";

/// What is damaged in a layout.
const REPORT: &str = "damage.txt";

/// A data directory that is ours.
pub(in crate::runtime) struct Directory {
    path: PathBuf,
    pub(super) meta: Meta,
    /// Whether logs are written past the page cache.
    pub(super) direct: bool,
    /// Held as long as this lives.
    _lock: File,
}

impl Directory {
    /// Opens the directory, makes it for `cores` cores if there is none.
    ///
    /// # Errors
    /// It is in use, cannot be made or read, or META is not right.
    pub(super) fn open(path: &Path, cores: u16) -> Result<Directory, StoreError> {
        StoreError::not_a_directory(path)?;
        make(path).map_err(StoreError::system("make the data directory", path))?;
        let path = path.canonicalize().map_err(StoreError::system("find", path))?;
        let mut lock = lock(&path)?;
        // Only for those who are told that it is in use.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        let direct = files::can_write_direct(&path)
            .map_err(StoreError::system("write to the data directory", &path))?;
        let file = path.join(META);
        let meta = match fs::read(&file) {
            Ok(text) => decode(&file, &text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                not_lost(&path)?;
                begin(&path, cores)?
            }
            Err(error) => return Err(StoreError::System { doing: "read", path: file, error }),
        };
        let directory = Directory { path, meta, direct, _lock: lock };
        directory.tidy()?;
        Ok(directory)
    }

    /// Opens a directory that is there, and changes nothing in it. It is for reading: logs are not written through this.
    ///
    /// # Errors
    /// There is no store in it, it is in use or cannot be read, or META is not right.
    pub(super) fn existing(path: &Path) -> Result<Directory, StoreError> {
        StoreError::not_a_directory(path)?;
        let missing = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(path.to_owned()),
            _ => StoreError::System { doing: "read", path: path.to_owned(), error },
        };
        let path = path.canonicalize().map_err(missing)?;
        let file = path.join(META);
        if let Err(error) = file.metadata() {
            not_lost(&path)?;
            return Err(missing(error));
        }
        let lock = lock(&path)?;
        let text = fs::read(&file).map_err(StoreError::system("read", &file))?;
        let meta = decode(&file, &text)?;
        Ok(Directory { path, meta, direct: false, _lock: lock })
    }

    /// What decides which core something is at home on.
    pub(in crate::runtime) fn hash_key(&self) -> [u64; 2] {
        self.meta.hash_key
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the layout that counts.
    pub(super) fn layout(&self) -> PathBuf {
        layout(&self.path, self.meta.layout)
    }

    /// The files of a core in the layout that counts.
    pub(super) fn core(&self, core: u16) -> CoreFiles {
        core_files(&self.layout(), core)
    }

    /// Whose log it is.
    pub(super) fn identity(&self, core: u16) -> Identity {
        Identity { store: self.meta.store, core }
    }

    /// Another layout is to take the place of this one: what META will say of it. Its folders are made.
    pub(super) fn next_layout(&self, cores: u16) -> Result<Meta, StoreError> {
        let store = draw()?;
        let meta = Meta { store, layout: self.meta.layout + 1, cores, ..self.meta };
        make_layout(&self.path, &meta)?;
        Ok(meta)
    }

    /// The layout that was to take the place of this one does not: nothing is left of it, nor of the report of why there was
    /// to be one. What cannot be removed now is at the next start.
    pub(super) fn give_up_layout(&self) {
        let file = self.path.join(META);
        let counts = fs::read(&file).ok().and_then(|text| decode(&file, &text).ok());
        if counts != Some(self.meta) {
            // Nobody knows whether META has changed on the disk.
            return;
        }
        let _ = fs::remove_dir_all(layout(&self.path, self.meta.layout + 1));
        let _ = fs::remove_file(self.layout().join(REPORT));
    }

    /// From now on `meta` counts, whose layout is on the disk.
    pub(super) fn switch(&mut self, meta: Meta) -> Result<(), StoreError> {
        write_meta(&self.path, &meta)?;
        self.meta = meta;
        Ok(())
    }

    /// The files of a core in the layout of `meta`.
    pub(super) fn core_of(&self, meta: &Meta, core: u16) -> CoreFiles {
        core_files(&layout(&self.path, meta.layout), core)
    }

    /// Leaves the report of what is damaged in the layout that counts now: it is moved aside and not removed, once it does
    /// not count any more.
    pub(super) fn keep_damaged(&self, report: &str) -> Result<(), StoreError> {
        let path = self.layout().join(REPORT);
        files::finish(&path, false, |file| file.write_all(report.as_bytes()))
            .map_err(StoreError::system("write", &path))
    }

    /// Where a damaged layout goes.
    pub(super) fn aside(&self, number: u64) -> PathBuf {
        self.path.join(format!("damaged-{number}"))
    }

    /// Removes layouts that do not count: one that was left, or one that was never gone over to. A damaged one is moved.
    pub(super) fn tidy(&self) -> Result<(), StoreError> {
        let layouts = layouts(&self.path).map_err(StoreError::system("list", &self.path))?;
        for (number, path) in layouts {
            if number == self.meta.layout {
                continue;
            }
            if path.join(REPORT).exists() {
                let aside = self.aside(number);
                warn!(path = %aside.display(), "damaged files of the store are kept there");
                fs::rename(&path, &aside).map_err(StoreError::system("move aside", &path))?;
            } else {
                fs::remove_dir_all(&path).map_err(StoreError::system("remove", &path))?;
            }
        }
        for core in 0..self.meta.cores {
            let files = self.core(core);
            files.tidy().map_err(StoreError::system("tidy", &files.folder))?;
        }
        Ok(())
    }
}

/// Makes a folder and those above it. A name is durable once the folder that it is in was synced.
fn make(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().try_for_each(|folder| match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    })
}

/// META is missing: that is right only where nothing was kept.
fn not_lost(directory: &Path) -> Result<(), StoreError> {
    let lost = layouts(directory).map_err(StoreError::system("list", directory))?;
    if !lost.iter().any(|layout| has_data(&layout.1)) {
        return Ok(());
    }
    let what = "the file is missing, and without it nothing in this directory can be read. Put back a backup of it, or begin \
                with an empty directory"
        .to_owned();
    Err(StoreError::Meta { path: directory.join(META), what })
}

fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(StoreError::system("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            // A tool leaves the number of the last broker.
            let process = io::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
            let process = process.filter(|process| Path::new(&format!("/proc/{process}")).exists());
            Err(StoreError::InUse { directory: directory.to_owned(), process })
        }
        Err(TryLockError::Error(error)) => Err(StoreError::System { doing: "lock", path, error }),
    }
}

/// What META says. Bytes that are no text are as damaged as any others.
fn decode(file: &Path, text: &[u8]) -> Result<Meta, StoreError> {
    Meta::decode(&String::from_utf8_lossy(text))
        .map_err(|what| StoreError::Meta { path: file.to_owned(), what })
}

/// A store that begins.
fn begin(directory: &Path, cores: u16) -> Result<Meta, StoreError> {
    let [first, second] = random()?;
    let meta = Meta { store: draw()?, layout: 1, cores, hash_key: [first, second] };
    make_layout(directory, &meta)?;
    write_meta(directory, &meta)?;
    Ok(meta)
}

fn random() -> Result<[u64; 2], StoreError> {
    random_words().map_err(StoreError::system("get random numbers from", Path::new("the system")))
}

fn draw() -> Result<[u8; 16], StoreError> {
    let [first, second] = random()?;
    Ok((u128::from(first) << 64 | u128::from(second)).to_be_bytes())
}

fn layout(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{LAYOUT}{number}"))
}

fn core_files(layout: &Path, core: u16) -> CoreFiles {
    CoreFiles { folder: layout.join(format!("core-{core}")) }
}

/// All layouts there are, with their numbers.
fn layouts(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(LAYOUT)?.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    Ok(found)
}

/// Whether a layout holds anything: folders alone are what a first start that was cut short leaves.
fn has_data(layout: &Path) -> bool {
    let cores = fs::read_dir(layout).into_iter().flatten().flatten();
    cores.into_iter().any(|core| fs::read_dir(core.path()).into_iter().flatten().next().is_some())
}

/// Makes the folders of a layout. What has its name was left by a process that ended before META named it.
fn make_layout(directory: &Path, meta: &Meta) -> Result<(), StoreError> {
    let folder = layout(directory, meta.layout);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(StoreError::System { doing: "remove", path: folder, error });
        }
        _ => {}
    }
    let make = || {
        DirBuilder::new().mode(0o700).create(&folder)?;
        for core in 0..meta.cores {
            core_files(&folder, core).make()?;
        }
        sync_folder(&folder)?;
        sync_folder(directory)
    };
    make().map_err(StoreError::system("make", &folder))
}

fn write_meta(directory: &Path, meta: &Meta) -> Result<(), StoreError> {
    let path = directory.join(META);
    files::finish(&path, false, |file| file.write_all(meta.encode().as_bytes()))
        .map_err(StoreError::system("write", &path))
}
