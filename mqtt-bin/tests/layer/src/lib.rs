//! A disk of a test's own between mqttd and its files: preloaded, it notes what was synced, and what the disk therefore
//! has when power fails. Each file is known by its inode number, which a link keeps from being given again.
//!
//! | in the folder of notes | |
//! |---|---|
//! | `live/INODE` | a link to the file as programs see it |
//! | `content/INODE` | what it held when it was synced last |
//! | `through/INODE` | it was opened to be written through (O_DSYNC): all of `live` is on the disk |
//! | `names/FOLDER` | the names in a folder when that was synced last, each with its inode number, `/` for a folder |
//! | `full`, `broken` | made by the test: from now on there is no room; from the next sync on nothing is synced or written |
//! | `slow` | made by the test: as long as it is there no segment is made |
//!
//! So neither writes nor renames have to be looked at, nor the ring through which most of them go. What the disk has is
//! laid out again by `../mqttd/power.rs`.
//!
//! This stands in for functions of the C library, hence unsafe code; nothing of it is part of the product.

use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use std::{env, fs, process, thread};

const O_WRONLY: c_int = 0o1;
const O_RDWR: c_int = 0o2;
const O_DSYNC: c_int = 0o10_000;
#[cfg(target_arch = "x86_64")]
const O_DIRECT: c_int = 0o40_000;
#[cfg(target_arch = "aarch64")]
const O_DIRECT: c_int = 0o200_000;

const EIO: c_int = 5;
const EACCES: c_int = 13;
const EINVAL: c_int = 22;
const ENOSPC: c_int = 28;
const EROFS: c_int = 30;

/// The next one in the order of libraries, which is that of the C library.
const RTLD_NEXT: *mut c_void = -1_isize as *mut c_void;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn dup2(old: c_int, new: c_int) -> c_int;
}

/// What the test wants of the disk.
struct Layer {
    /// Files below it are the disk's.
    folder: PathBuf,
    notes: PathBuf,
    /// `no-dsync`, `no-fsync`: it does not do what it was asked. `no-direct`: it refuses O_DIRECT. `read-only`, `forbidden`:
    /// it refuses to open anything to be written.
    mode: String,
    /// One note is written at a time.
    noting: Mutex<()>,
}

/// Nothing, if the process has none of this to do with.
fn layer() -> Option<&'static Layer> {
    static LAYER: OnceLock<Option<Layer>> = OnceLock::new();
    let from_environment = || {
        let folder = env::var_os("MQTTD_LAYER_FOLDER")?.into();
        let notes = env::var_os("MQTTD_LAYER_NOTES")?.into();
        let mode = env::var("MQTTD_LAYER_MODE").unwrap_or_default();
        Some(Layer { folder, notes, mode, noting: Mutex::new(()) })
    };
    LAYER.get_or_init(from_environment).as_ref()
}

impl Layer {
    /// The file behind a descriptor, if it is the disk's.
    fn path_of(&self, fd: c_int) -> Option<PathBuf> {
        let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
        path.starts_with(&self.folder).then_some(path)
    }

    fn is(&self, mode: &str) -> bool {
        self.mode == mode
    }

    fn has(&self, fault: &str) -> bool {
        self.notes.join(fault).exists()
    }

    /// A note is there whole or not at all, whenever the process ends.
    fn note(&self, kind: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.notes.join(kind);
        let new = folder.join(format!("{name}.new"));
        fs::write(&new, bytes)?;
        fs::rename(new, folder.join(name))
    }

    /// No other file gets the inode number of this one.
    fn link(&self, path: &Path, inode: u64) -> io::Result<()> {
        match fs::hard_link(path, self.notes.join(format!("live/{inode}"))) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// All of a file, or of the names in a folder, is on the disk.
    fn synced(&self, path: &Path) -> io::Result<()> {
        let _noting = self.noting.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = fs::metadata(path)?;
        if !metadata.is_dir() {
            self.link(path, metadata.ino())?;
            return self.note("content", &metadata.ino().to_string(), &fs::read(path)?);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // What was removed meanwhile is not there.
            let Ok(metadata) = entry.metadata() else { continue };
            names.extend_from_slice(entry.file_name().as_bytes());
            if metadata.is_dir() {
                names.extend_from_slice(b" /\n");
            } else {
                self.link(&entry.path(), metadata.ino())?;
                names.extend_from_slice(format!(" {}\n", metadata.ino()).as_bytes());
            }
        }
        let below = path.strip_prefix(&self.folder).expect("it is the disk's");
        let key = format!("@{}", below.to_string_lossy().replace('/', "@"));
        self.note("names", &key, &names)
    }

    /// A file was opened to be written through. What was written to it before has to be on the disk by itself.
    fn opened_through(&self, path: &Path) -> io::Result<()> {
        let inode = fs::metadata(path)?.ino();
        self.link(path, inode)?;
        let synced = fs::read(self.notes.join(format!("content/{inode}"))).unwrap_or_default();
        if synced != fs::read(path)? && !self.notes.join(format!("through/{inode}")).exists() {
            return Ok(());
        }
        self.note("through", &inode.to_string(), b"")
    }
}

impl Layer {
    /// From now on each write to a segment that is open fails with EIO, through a ring as well: it goes to where there is no
    /// memory.
    fn break_segments(&self) -> io::Result<()> {
        let nowhere = fs::File::options().write(true).open("/proc/self/mem")?;
        for entry in fs::read_dir("/proc/self/fd")? {
            let name = entry?.file_name();
            let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            let Some(path) = self.path_of(fd) else { continue };
            if path.to_string_lossy().contains("/segment-") && path.extension().is_none() {
                // SAFETY: any two numbers may be given; whoever has the second one goes on owning it.
                unsafe { dup2(nowhere.as_raw_fd(), fd) };
            }
        }
        Ok(())
    }
}

/// What cannot be noted would be taken for a fault of the broker.
fn done(noted: io::Result<()>) {
    if let Err(error) = noted {
        eprintln!("the test's disk cannot note what was synced: {error}");
        process::abort();
    }
}

fn fail(error: c_int) -> c_int {
    // SAFETY: the C library answers the place of this thread's own `errno`.
    unsafe { *__errno_location() = error };
    -1
}

/// The C library's own function of this name.
fn next(name: &CStr) -> *mut c_void {
    // SAFETY: the name ends with a zero, and the handle is one that is defined.
    let found = unsafe { dlsym(RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "the C library has {name:?}");
    found
}

macro_rules! next {
    ($name:literal, fn($($argument:ty),*) -> $result:ty) => {{
        static NEXT: OnceLock<usize> = OnceLock::new();
        let found = *NEXT.get_or_init(|| next($name) as usize);
        // SAFETY: it is the C library's function of this name, which has this type on the platforms named above.
        unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($argument),*) -> $result>(found) }
    }};
}

/// `mode` is there only if a file may be made; otherwise it is whatever the register holds, and passed on unread.
///
/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    let open = next!(c"open64", fn(*const c_char, c_int, c_uint) -> c_int);
    // SAFETY: the caller gives a text that ends with a zero.
    let name = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()));
    let layer = layer().filter(|layer| name.starts_with(&layer.folder));
    if let Some(layer) = layer {
        if layer.is("no-direct") && flags & O_DIRECT != 0 {
            return fail(EINVAL);
        }
        let refused = [("read-only", EROFS), ("forbidden", EACCES)];
        if flags & (O_WRONLY | O_RDWR) != 0
            && let Some((_, error)) = refused.into_iter().find(|&(mode, _)| layer.is(mode))
        {
            return fail(error);
        }
    }
    // SAFETY: what the caller gave is passed on.
    let fd = unsafe { open(path, flags, mode) };
    if fd >= 0
        && flags & O_DSYNC != 0
        && let Some(layer) = layer
        && !layer.is("no-dsync")
    {
        done(layer.opened_through(name));
    }
    fd
}

/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: the two differ in nothing where a file's size has 64 bits.
    unsafe { open64(path, flags, mode) }
}

fn sync(fd: c_int, sync: unsafe extern "C" fn(c_int) -> c_int) -> c_int {
    let Some((layer, path)) = layer().and_then(|layer| Some((layer, layer.path_of(fd)?))) else {
        // SAFETY: any number may be given.
        return unsafe { sync(fd) };
    };
    if layer.has("broken") {
        done(layer.break_segments());
        return fail(EIO);
    }
    let is_new = path.extension().is_some_and(|extension| extension == "new");
    while is_new && path.to_string_lossy().contains("segment-") && layer.has("slow") {
        thread::sleep(Duration::from_millis(5));
    }
    if !layer.is("no-fsync") {
        done(layer.synced(&path));
    }
    0
}

/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    sync(fd, next!(c"fsync", fn(c_int) -> c_int))
}

/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(fd, next!(c"fdatasync", fn(c_int) -> c_int))
}

/// Whether a write finds no room.
fn is_full(fd: c_int) -> bool {
    layer().is_some_and(|layer| layer.has("full") && layer.path_of(fd).is_some())
}

/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, bytes: *const c_void, count: usize) -> isize {
    if is_full(fd) {
        return fail(ENOSPC) as isize;
    }
    let write = next!(c"write", fn(c_int, *const c_void, usize) -> isize);
    // SAFETY: what the caller gave is passed on.
    unsafe { write(fd, bytes, count) }
}

/// # Safety
/// As for the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, bytes: *const c_void, count: usize, offset: i64) -> isize {
    if is_full(fd) {
        return fail(ENOSPC) as isize;
    }
    let write = next!(c"pwrite64", fn(c_int, *const c_void, usize, i64) -> isize);
    // SAFETY: what the caller gave is passed on.
    unsafe { write(fd, bytes, count, offset) }
}
