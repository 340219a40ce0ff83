//! A disk that forgets at each start what was not synced, as when power fails; kill -9 alone leaves the page cache.
//!
//! It is the library in `../layer`, preloaded into mqttd, which notes what was synced; here the notes become files again.
//! Names count from when their folder was synced, bytes from when their file was, or from when a write to a file is
//! over that was opened to be written through.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// How the disk behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it should.
    Honest,
    /// It refuses to be written past the page cache.
    NoDirect,
    /// O_DSYNC is overlooked.
    NoDsync,
    /// So are `fsync` and `fdatasync`.
    NoFsync,
    /// Nothing can be written, or made.
    ReadOnly,
    /// All belongs to somebody else.
    Forbidden,
}

/// The disk below a folder.
pub(crate) struct Disk {
    folder: PathBuf,
    notes: PathBuf,
    mode: Mode,
}

impl Disk {
    /// The disk has what is in the folder now.
    pub(crate) fn new(folder: &Path, mode: Mode) -> Disk {
        let folder = folder.canonicalize().expect("it is there");
        let disk = Disk { notes: beside(&folder, "notes"), folder, mode };
        disk.settle();
        disk
    }

    /// Lets what is started run over this disk.
    pub(crate) fn preload(&self, command: &mut Command) {
        let mode = match self.mode {
            Mode::Honest => "",
            Mode::NoDirect => "no-direct",
            Mode::NoDsync => "no-dsync",
            Mode::NoFsync => "no-fsync",
            Mode::ReadOnly => "read-only",
            Mode::Forbidden => "forbidden",
        };
        command.env("LD_PRELOAD", library());
        command.env("MQTTD_LAYER_FOLDER", &self.folder).env("MQTTD_LAYER_NOTES", &self.notes);
        command.env("MQTTD_LAYER_MODE", mode);
    }

    /// From now on there is no room, or there is again.
    pub(crate) fn set_full(&self, is_full: bool) {
        self.set("full", is_full);
    }

    /// No segment is made for as long as it is slow.
    pub(crate) fn set_slow(&self, is_slow: bool) {
        self.set("slow", is_slow);
    }

    /// From the next sync on, none is done, and no segment that is open then can be written; or no longer.
    pub(crate) fn set_broken(&self, is_broken: bool) {
        self.set("broken", is_broken);
    }

    fn set(&self, fault: &str, is_there: bool) {
        let fault = self.notes.join(fault);
        let set = if is_there { fs::write(fault, "") } else { fs::remove_file(fault) };
        set.expect("the notes are writable");
    }

    /// Power fails: of what processes that have ended did, the disk has what was synced.
    pub(crate) fn cut(&self) {
        let new = beside(&self.folder, "new");
        self.lay_out("@", &new);
        fs::remove_dir_all(&self.folder).expect("it is there");
        fs::rename(&new, &self.folder).expect("both are on one disk");
        self.settle();
    }

    /// Makes a folder as it was synced.
    fn lay_out(&self, key: &str, to: &Path) {
        fs::create_dir(to).expect("nothing has this name");
        let names = fs::read_to_string(self.notes.join("names").join(key)).unwrap_or_default();
        for line in names.lines() {
            let (name, inode) = line.rsplit_once(' ').expect("a name and a number");
            let path = to.join(name);
            if inode == "/" {
                let below = if key == "@" { format!("@{name}") } else { format!("{key}@{name}") };
                self.lay_out(&below, &path);
                continue;
            }
            let is_through = self.notes.join("through").join(inode).exists();
            let kind = if is_through { "live" } else { "content" };
            // A name without bytes is what is left of a file that was never synced.
            let bytes = fs::read(self.notes.join(kind).join(inode)).unwrap_or_default();
            fs::write(&path, bytes).expect("the folder is writable");
        }
    }

    /// All that is there is on the disk.
    fn settle(&self) {
        for kind in ["live", "content", "through", "names"] {
            let _ = fs::remove_dir_all(self.notes.join(kind));
            fs::create_dir_all(self.notes.join(kind)).expect("the temporary folder is writable");
        }
        self.note("@", &self.folder);
    }

    fn note(&self, key: &str, folder: &Path) {
        let mut names = String::new();
        for entry in fs::read_dir(folder).expect("it is there") {
            let entry = entry.expect("it is there");
            let (name, metadata) = (entry.file_name(), entry.metadata().expect("it is there"));
            let name = name.to_str().expect("ASCII");
            if metadata.is_dir() {
                let below = if key == "@" { format!("@{name}") } else { format!("{key}@{name}") };
                self.note(&below, &entry.path());
                names.push_str(&format!("{name} /\n"));
                continue;
            }
            let inode = metadata.ino().to_string();
            fs::hard_link(entry.path(), self.notes.join("live").join(&inode)).expect("one disk");
            fs::copy(entry.path(), self.notes.join("content").join(&inode)).expect("there is room");
            names.push_str(&format!("{name} {inode}\n"));
        }
        fs::write(self.notes.join("names").join(key), names).expect("the notes are writable");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.notes);
    }
}

/// A folder beside another: files can be linked and moved between the two.
fn beside(folder: &Path, what: &str) -> PathBuf {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("ASCII");
    folder.with_file_name(format!("{name}-{what}"))
}

/// The library, built once.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("layer");
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "--offline", "--manifest-path"]);
        build.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/layer/Cargo.toml"));
        build.arg("--target-dir").arg(&target).env_remove("CARGO_BUILD_TARGET").stdin(Stdio::null());
        let built = build.output().expect("cargo runs these tests");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        target.join("debug/libmqttd_test_layer.so")
    })
}
