//! The files of one core: segments and snapshots in a folder.
//!
//! Invariant: a file is made under a name that ends in `.new`, and gets its own once all of it is on the disk. What still
//! has such a name at a start was never finished.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::store::log::{Media, Segment, Source};

/// Of what is not finished.
const NEW: &str = "new";

const SEGMENT: &str = "segment-";
const SNAPSHOT: &str = "snapshot-";

/// Bytes that are written to a file before they are synced. A disk that is given much at once lets the commits of all logs
/// wait until it is done with that.
pub(super) const SYNC_BYTES: usize = 1 << 20;

/// Bytes of zeros that are written at once.
const ZEROS_BYTES: usize = 128 << 10;

/// Whole pages, as what goes past the page cache has to be.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_BYTES]);

static ZEROS: Zeros = Zeros([0; ZEROS_BYTES]);

/// A folder with the files of one core.
#[derive(Clone, Debug)]
pub(super) struct CoreFiles {
    pub(super) folder: PathBuf,
}

/// A file that is read.
pub(super) struct ReadFile(File);

impl Source for ReadFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }
}

impl Media for CoreFiles {
    type File = ReadFile;

    fn segments(&self) -> io::Result<Vec<u32>> {
        let numbers = self.numbers(SEGMENT)?.into_iter();
        Ok(numbers.filter_map(|number| number.try_into().ok()).collect())
    }

    fn open(&self, segment: u32) -> io::Result<ReadFile> {
        File::open(self.segment(segment)).map(ReadFile)
    }
}

impl CoreFiles {
    /// Makes the folder.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(&self.folder)
    }

    pub(super) fn segment(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{SEGMENT}{number:08}"))
    }

    pub(super) fn snapshot(&self, from: u64) -> PathBuf {
        self.folder.join(format!("{SNAPSHOT}{from:012}"))
    }

    /// The snapshots by their first record, the newest first.
    pub(super) fn snapshots(&self) -> io::Result<Vec<u64>> {
        let mut numbers = self.numbers(SNAPSHOT)?;
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        Ok(numbers)
    }

    pub(super) fn open_snapshot(&self, from: u64) -> io::Result<ReadFile> {
        File::open(self.snapshot(from)).map(ReadFile)
    }

    /// Opens a segment to be written to; each write is on the disk when it is over.
    pub(super) fn open_to_write(&self, segment: u32, direct: bool) -> io::Result<File> {
        open_synced(&self.segment(segment), direct)
    }

    /// Waits until nothing is on its way to a segment any more. A process that was killed may have had a write under way; what
    /// is read is what there is then, and nothing comes later over what is written next.
    pub(super) fn wait_for_writes(&self) -> io::Result<()> {
        for number in self.segments()? {
            let file = OpenOptions::new().write(true).open(self.segment(number))?;
            let bytes = file.metadata()?.len().try_into().map_err(io::Error::other)?;
            // Asking for room that the file has changes nothing; the file system does it once writes past the page cache
            // are over. One that cannot give room so is asked for nothing else.
            let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes);
        }
        Ok(())
    }

    /// Removes what a last process left unfinished.
    pub(super) fn tidy(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension() == Some(OsStr::new(NEW)) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Makes a segment: zeros, all on the disk before it has its name. `direct`: they go past the page cache.
    pub(super) fn make_segment(&self, segment: Segment, direct: bool) -> io::Result<()> {
        finish(&self.segment(segment.number), direct, |file| {
            let mut left = segment.bytes as usize;
            while left > 0 {
                let now = left.min(ZEROS_BYTES);
                file.write_all(&ZEROS.0[..now])?;
                left -= now;
                if left.is_multiple_of(SYNC_BYTES) {
                    file.sync_data()?;
                }
            }
            Ok(())
        })
    }

    /// Removes all snapshots but the one that begins with the record `from`.
    pub(super) fn remove_snapshots_but(&self, from: u64) -> io::Result<()> {
        for other in self.snapshots()?.into_iter().filter(|&other| other != from) {
            fs::remove_file(self.snapshot(other))?;
        }
        Ok(())
    }

    fn numbers(&self, prefix: &str) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number: Option<u64> = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse().ok());
            numbers.extend(number);
        }
        Ok(numbers)
    }
}

/// The name that a file has while it is made.
pub(super) fn unfinished(path: &Path) -> PathBuf {
    path.with_extension(NEW)
}

/// Makes a file whose bytes `fill` writes; it has its name once all of it is on the disk. Should that fail nothing is left.
/// `direct`: they go past the page cache, as whole pages.
pub(super) fn finish(
    path: &Path,
    direct: bool,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let new = unfinished(path);
    let made = create(&new, direct).and_then(|mut file| {
        fill(&mut file)?;
        name(&file, path)
    });
    if made.is_err() {
        let _ = fs::remove_file(&new);
    }
    made
}

/// A file under the name that it has while it is made. `direct`: what is written to it goes past the page cache, whose pages
/// would have to be found and filled while the cores of the broker wait for this processor.
pub(super) fn create(new: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).custom_flags(flags).open(new)
}

/// Gives a file that was made for it the name `path`, once it is on the disk.
pub(super) fn name(file: &File, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(unfinished(path), path)?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Opens a file whose writes are on the disk when they are over; `direct`: past the page cache.
fn open_synced(path: &Path, direct: bool) -> io::Result<File> {
    let flags = if direct { libc::O_DSYNC | libc::O_DIRECT } else { libc::O_DSYNC };
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

/// Whether files in this folder can be written past the page cache, page by page: found out by doing it. A disk without room
/// for that is taken at its word: what is there already can be written to, and has to be read.
pub(super) fn can_write_direct(folder: &Path) -> io::Result<bool> {
    const PAGE: usize = crate::store::log::PAGE;
    let path = folder.join("probe.new");
    let memory = vec![0u8; 2 * PAGE];
    let start = memory.as_ptr().align_offset(PAGE);
    let probe = || {
        create(&path, false)?;
        open_synced(&path, true)?.write_all_at(&memory[start..start + PAGE], 0)
    };
    let written = probe();
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Bytes of the disk that a folder is on, free or not.
pub(super) fn disk_bytes(folder: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    Ok(disk.blocks() * disk.fragment_size())
}

/// The file system of a folder, if it is one in memory.
pub(super) fn in_memory(folder: &Path) -> Option<&'static str> {
    let device = folder.metadata().ok()?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The device is the third field; the kind comes behind a hyphen.
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&device))?;
    let kind = mount.split_once(" - ")?.1.split(' ').next()?;
    ["tmpfs", "ramfs"].into_iter().find(|&known| known == kind)
}
