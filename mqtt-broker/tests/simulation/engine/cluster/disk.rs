//! The disk of one core: the segments of its log and its snapshot, in memory. A write takes its time, and a crash leaves any
//! of its sectors.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use mqtt_broker::ports::{Cold, Commit, Store};
use mqtt_broker::shard::{Shard, SnapshotPosition};
use mqtt_broker::store::image::Image;
use mqtt_broker::store::log::{
    Identity, Log, LogConfig, LogFailed, Media, PAGE, Purpose, ReadConfig, Reader, Room, SEGMENT_STEP,
    SnapshotReader, SnapshotWriter, Source, Write,
};
use mqtt_broker::store::record::Record;

use super::cold::OfCore;
use crate::engine::random::Random;

/// Bytes that a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Bytes that a shard wants to have left: what it asks for as long as it knows of nothing larger.
const ROOM_BYTES: usize = 64 * 1024;

/// Segments of which enough are free once a snapshot stands for all but the newest.
const DRAINS_FROM: usize = 6;

/// What may still be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Left {
    #[default]
    Plenty,
    /// Snapshots, but no segment.
    Little,
    Nothing,
}

/// What outlives a crash.
#[derive(Clone, Default)]
pub(crate) struct Files {
    segments: BTreeMap<u32, File>,
    /// The snapshot, and the last record that it was made of.
    snapshot: Option<(File, u64)>,
    left: Left,
    used: Used,
}

/// What was done with segments since the files are there.
#[derive(Clone, Copy, Default)]
struct Used {
    /// Segments that were begun.
    begun: u64,
    /// Pages of commits that were written, or were being written at a crash.
    pages: u64,
    /// Starts that found something torn.
    torn: u64,
}

impl Used {
    /// A segment is used to its end, but where something is torn in it: a start by itself begins none.
    fn check(self) {
        const EACH: u64 = SEGMENT_STEP as u64 / PAGE as u64 - 1;
        let Used { begun, pages, torn } = self;
        assert!(begun <= pages / EACH + 1 + torn, "{begun} segments for {pages} pages, {torn} times torn");
    }

    fn add(&mut self, write: &Write) {
        self.pages += write.pages.len() as u64 / PAGE as u64;
    }
}

/// A file; a copy shares the bytes until either changes.
#[derive(Clone, Default)]
pub(crate) struct File(Rc<Vec<u8>>);

impl Source for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self.0.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl Media for Files {
    type File = File;

    fn segments(&self) -> io::Result<Vec<u32>> {
        Ok(self.segments.keys().copied().collect())
    }

    fn open(&self, segment: u32) -> io::Result<File> {
        self.segments.get(&segment).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files {
    /// As much of a write as `lands` says, sector by sector.
    fn write(&mut self, write: &Write, mut lands: impl FnMut() -> bool) {
        let file = self.segments.get_mut(&write.segment).expect("written to once it is made");
        let bytes = Rc::make_mut(&mut file.0);
        for (nth, sector) in write.pages.chunks(SECTOR).enumerate() {
            if lands() {
                let at = write.offset as usize + nth * SECTOR;
                bytes[at..at + sector.len()].copy_from_slice(sector);
            }
        }
    }

    /// What the files add up to, the log to go on with, and whether that has the mark of a clean end. `each` sees every record.
    pub(crate) fn read(
        &mut self,
        identity: Identity,
        segments_max: u32,
        seed: [u64; 4],
        mut each: impl FnMut(&Record<'_>),
    ) -> (Image, Log, bool) {
        let mut image = Image::new(seed);
        let (mut from, mut reach) = (1, 0);
        if let Some((file, last)) = &self.snapshot {
            let mut reader =
                SnapshotReader::open(file.clone(), identity, false).expect("a snapshot is whole");
            from = reader.header().from;
            while let Some(record) = reader.next_record().expect("a snapshot is whole") {
                let said = Record::decode(record.kind, record.body).expect("written by a shard");
                each(&said);
                image.apply_snapshot(record.number, &said).expect("messages come first");
            }
            reach = *last;
        }
        let config = ReadConfig { identity, from, reach, salvage: false };
        let mut reader = Reader::open(&*self, config).expect("a crash is no damage");
        while let Some(record) = reader.next_record().expect("a crash is no damage") {
            let said = Record::decode(record.kind, record.body).expect("written by a shard");
            each(&said);
            image.apply(record.number, &said).expect("messages come first");
        }
        let found = reader.finish().expect("a crash is no damage");
        self.used.torn += u64::from(found.torn.is_some());
        self.used.check();
        let is_clean = found.clean;
        let config = LogConfig { identity, segment_bytes: SEGMENT_STEP, segments_max };
        (image, Log::open(config, found), is_clean)
    }

    /// The files of a new core that begins with this image.
    pub(crate) fn begin(identity: Identity, image: &Image) -> Files {
        let mut writer = SnapshotWriter::new(identity, 1);
        image.write_snapshot(|record| writer.append(0, record.kind(), |out| record.encode(out)));
        Files { snapshot: Some((finish(&mut writer), 0)), ..Files::default() }
    }
}

/// All that the writer has, as a file.
fn finish(writer: &mut SnapshotWriter) -> File {
    writer.finish();
    let mut bytes = Vec::new();
    while let Some(write) = writer.poll_write() {
        assert_eq!(write.offset, bytes.len() as u64);
        bytes.extend_from_slice(&write.pages);
        let len = write.pages.len();
        writer.written(write, len).expect("all of it is written");
    }
    assert!(writer.is_complete());
    File(Rc::new(bytes))
}

/// A snapshot that is being made.
struct Snapshot {
    writer: SnapshotWriter,
    position: SnapshotPosition,
    from: u64,
    reach: u64,
    is_done: bool,
}

/// The disk of one core while the broker runs.
pub(crate) struct Disk {
    identity: Identity,
    files: Files,
    log: Log,
    writing: Option<Write>,
    snapshot: Option<Snapshot>,
    /// The shard was told that there is no room.
    refused: bool,
    /// More waited than goes into the segment that was made.
    short: bool,
}

/// The disk as the shard sees it.
#[derive(Clone)]
pub(crate) struct Handle(Rc<RefCell<Disk>>, OfCore);

impl Store for Handle {
    fn append(&mut self, record: &Record<'_>) -> Commit {
        Commit::At(self.0.borrow_mut().log.append(record.kind(), |out| record.encode(out)))
    }

    fn has_room(&self, bytes: usize) -> bool {
        let disk = &mut *self.0.borrow_mut();
        let has_room = disk.log.room_for(bytes, Purpose::Keep) != Room::Full;
        disk.refused |= !has_room;
        has_room
    }

    fn has_reserve(&self) -> bool {
        self.0.borrow_mut().log.room_for(1, Purpose::CleanUp) != Room::Full
    }

    fn waiting_bytes(&self) -> u64 {
        self.0.borrow().log.waiting_bytes()
    }

    fn is_short(&self) -> bool {
        let disk = &mut *self.0.borrow_mut();
        let is_short = disk.log.is_short();
        disk.short |= is_short;
        is_short
    }

    fn cold(&mut self) -> Option<&mut dyn Cold> {
        Some(&mut self.1)
    }
}

impl Disk {
    /// Makes the segments that the log asks for, if there is room; whether one was made.
    fn make_segments(&mut self) -> bool {
        let mut any = false;
        while let Some(segment) = self.log.poll_make() {
            let is_made = self.files.left == Left::Plenty;
            if is_made {
                let made = File(Rc::new(vec![0; segment.bytes as usize]));
                self.files.segments.insert(segment.number, made);
            }
            self.log.made(is_made);
            any |= is_made;
        }
        any
    }
}

impl Handle {
    pub(super) fn new(identity: Identity, files: Files, log: Log, chunks: OfCore) -> Handle {
        let (writing, snapshot, refused, short) = (None, None, false, false);
        let disk = Disk { identity, files, log, writing, snapshot, refused, short };
        Handle(Rc::new(RefCell::new(disk)), chunks)
    }

    /// From now on only so much can be made.
    pub(crate) fn leave(&self, left: Left) {
        let disk = &mut *self.0.borrow_mut();
        disk.files.left = left;
        if left == Left::Plenty {
            disk.log.try_again();
        }
    }

    /// Whether ordinary records are refused.
    pub(crate) fn is_full(&self) -> bool {
        self.0.borrow_mut().log.room_for(ROOM_BYTES, Purpose::Keep) == Room::Full
    }

    /// Whether not even what is over can be written.
    pub(crate) fn is_stuck(&self) -> bool {
        self.0.borrow_mut().log.room_for(1, Purpose::CleanUp) == Room::Full
    }

    /// Whether a snapshot sets enough free, without another segment.
    pub(crate) fn can_drain(&self) -> bool {
        if self.is_stuck() {
            return false;
        }
        let disk = &*self.0.borrow();
        disk.files.left != Left::Nothing && disk.log.live().len() + disk.log.free() >= DRAINS_FROM
    }

    /// Whether publishers had to wait for a segment since [`Handle::forget_refusals`].
    pub(crate) fn was_short(&self) -> bool {
        self.0.borrow().short
    }

    /// Whether the shard was told that there is no room, since it was asked last.
    pub(crate) fn has_refused(&self) -> bool {
        self.0.borrow().refused
    }

    pub(crate) fn forget_refusals(&self) {
        let disk = &mut *self.0.borrow_mut();
        (disk.refused, disk.short) = (false, false);
    }

    /// Whether all that was appended is on the disk.
    pub(crate) fn is_settled(&self) -> bool {
        let disk = &*self.0.borrow();
        disk.writing.is_none() && disk.log.committed() + 1 == disk.log.next()
    }

    /// Up to where all is committed.
    pub(crate) fn committed(&self) -> u64 {
        self.0.borrow().log.committed()
    }

    /// The write under way fails, after some of it has reached the disk; None if there is none. What the log says of that.
    pub(crate) fn fail(&self, random: &mut Random) -> Option<Result<u64, LogFailed>> {
        let disk = &mut *self.0.borrow_mut();
        let write = disk.writing.take()?;
        let percent = random.pick(&[0, 50, 90]);
        disk.files.write(&write, || random.percent(percent));
        disk.files.used.add(&write);
        Some(disk.log.written(write, 0))
    }

    /// Nothing is appended any more: the log gets the mark of a clean end.
    pub(crate) fn end(&self) {
        self.0.borrow_mut().log.end();
        self.go_on();
    }

    /// Whether the log has that, and all is written.
    pub(crate) fn is_ended(&self) -> bool {
        self.0.borrow().log.is_ended()
    }

    /// A call of the shard is over: a write begins if none is under way.
    pub(crate) fn go_on(&self) {
        let disk = &mut *self.0.borrow_mut();
        disk.log.boundary();
        disk.make_segments();
        if disk.writing.is_none() {
            disk.writing = disk.log.poll_write();
        }
        // What cannot be written for want of a segment has asked for it.
        if disk.writing.is_none() && disk.make_segments() {
            disk.writing = disk.log.poll_write();
        }
    }

    /// The write under way is done; up to where all is committed.
    pub(crate) fn written(&self) -> Option<u64> {
        let disk = &mut *self.0.borrow_mut();
        let write = disk.writing.take()?;
        disk.files.write(&write, || true);
        match write.offset {
            0 => disk.files.used.begun += 1,
            _ => disk.files.used.add(&write),
        }
        let bytes = write.pages.len();
        Some(disk.log.written(write, bytes).expect("all of it is written"))
    }

    /// A slice of a snapshot of this core is told, or the snapshot takes its place if there is room for it; whether it
    /// has just done that.
    pub(crate) fn snapshot(&self, shard: &mut Shard, random: &mut Random) -> bool {
        let disk = &mut *self.0.borrow_mut();
        let next = disk.log.next();
        let snapshot = disk.snapshot.get_or_insert_with(|| Snapshot {
            writer: SnapshotWriter::new(disk.identity, next),
            position: SnapshotPosition::default(),
            from: next,
            reach: 0,
            is_done: false,
        });
        if !snapshot.is_done {
            let (as_of, bytes) = (next - 1, random.pick(&[1, 200, 3_000, 1_000_000]));
            snapshot.reach = as_of;
            let writer = &mut snapshot.writer;
            let mut sink =
                |record: &Record<'_>| writer.append(as_of, record.kind(), |out| record.encode(out));
            snapshot.is_done = shard.write_snapshot(&mut snapshot.position, bytes, &mut sink);
        } else if disk.log.committed() >= snapshot.reach
            && let Some(mut snapshot) = disk.snapshot.take()
        {
            if disk.files.left == Left::Nothing {
                return false;
            }
            disk.files.snapshot = Some((finish(&mut snapshot.writer), snapshot.reach));
            disk.log.release(snapshot.from - 1);
            return true;
        }
        false
    }

    /// Power fails: what is left.
    pub(crate) fn crash(self, random: &mut Random) -> Files {
        let disk = &mut *self.0.borrow_mut();
        let mut files = std::mem::take(&mut disk.files);
        if let Some(write) = disk.writing.take() {
            let percent = random.pick(&[0, 50, 90, 100]);
            files.write(&write, || random.percent(percent));
            files.used.add(&write);
        }
        files
    }
}
