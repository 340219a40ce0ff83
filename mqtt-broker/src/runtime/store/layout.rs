//! Another layout: for another number of cores, or of what could be salvaged.
//!
//! The new one is a snapshot a core. It is all on the disk before META names it, and the old one is removed, or moved aside,
//! only after that; so at any instant META names a layout that is whole. Files of chunks that nobody names in what could be
//! salvaged are in the damaged layout by then, and are moved aside with it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use tracing::{error, info};

use super::directory::Directory;
use super::files::{self, CoreFiles};
use super::meta::Meta;
use super::recover::Found;
use super::{StoreError, cold_files, count};
use crate::shard::home_of;
use crate::store::image::Image;
use crate::store::log::{Identity, SnapshotWriter};

/// Bytes of records that collect before they are written.
const SLICE: usize = 1 << 20;

/// Makes a layout for `cores` cores of what was found, and goes over to it.
pub(super) fn go_over(
    directory: &mut Directory,
    found: Vec<Found>,
    cores: u16,
    seed: [u64; 4],
) -> Result<(), StoreError> {
    let (old, old_cores) = (directory.meta.layout, directory.meta.cores);
    let damage: Vec<&str> = found.iter().flat_map(|found| &found.damage).map(String::as_str).collect();
    if !damage.is_empty() {
        for what in &damage {
            error!("the store is damaged: {what}");
        }
        let aside = directory.aside(old);
        error!(aside = %aside.display(), "going on with what can be read; the damaged files are moved aside");
        let kept = found.iter().enumerate().map(|(core, found)| {
            let sessions = count(found.image.session_count(), "session");
            let retained = count(found.image.retained().len(), "retained message");
            format!("kept of core {core}: {sessions}, {retained}")
        });
        let report: Vec<String> = damage.iter().map(|what| what.to_string()).chain(kept).collect();
        directory.keep_damaged(&(report.join("\n") + "\n"))?;
    }
    if old_cores != cores {
        info!(from = old_cores, to = cores, "the number of cores has changed: dealing the store out anew");
    }
    let is_damaged = !damage.is_empty();
    let images = deal(directory, found.into_iter().map(|found| found.image).collect(), cores, seed);
    let written = write_layout(directory, &images).and_then(|meta| {
        if is_damaged {
            let aside = directory.layout();
            cold_files::keep_unnamed(directory.path(), &aside, &images)?;
        }
        Ok(meta)
    });
    change(directory, written)
}

/// Deals `images` out to `cores` cores, writes them as a layout, and goes over to it.
pub(super) fn lay_out(
    directory: &mut Directory,
    images: Vec<Image>,
    cores: u16,
    seed: [u64; 4],
) -> Result<(), StoreError> {
    let images = deal(directory, images, cores, seed);
    let written = write_layout(directory, &images);
    change(directory, written)
}

/// Goes over to a layout that was written. Should that fail, nothing is left of it.
fn change(directory: &mut Directory, written: Result<Meta, StoreError>) -> Result<(), StoreError> {
    let changed = written.and_then(|meta| directory.switch(meta));
    if changed.is_err() {
        directory.give_up_layout();
    }
    changed
}

fn deal(directory: &Directory, images: Vec<Image>, cores: u16, seed: [u64; 4]) -> Vec<Image> {
    let key = directory.meta.hash_key;
    Image::deal(images, cores, seed, |what, cores| home_of(key, cores, what))
}

/// Writes a layout of these images, one a core: what META is to say of it.
fn write_layout(directory: &Directory, images: &[Image]) -> Result<Meta, StoreError> {
    let cores = u16::try_from(images.len()).expect("one a core");
    let meta = directory.next_layout(cores)?;
    for (core, image) in (0..).zip(images) {
        let files = directory.core_of(&meta, core);
        let identity = Identity { store: meta.store, core };
        write(&files, identity, image).map_err(StoreError::system("write a snapshot in", &files.folder))?;
    }
    Ok(meta)
}

/// Writes an image as the snapshot that a log begins with.
fn write(files: &CoreFiles, identity: Identity, image: &Image) -> io::Result<()> {
    files::finish(&files.snapshot(1), false, |file| {
        let mut writer = SnapshotWriter::new(identity, 1);
        let mut failed = Ok(());
        image.write_snapshot(|record| {
            writer.append(0, record.kind(), |out| record.encode(out));
            if failed.is_ok() && writer.waiting() > SLICE {
                failed = write_all(&mut writer, file);
            }
        });
        failed?;
        writer.finish();
        write_all(&mut writer, file)
    })
}

/// Writes what is ready.
fn write_all(writer: &mut SnapshotWriter, file: &File) -> io::Result<()> {
    while let Some(write) = writer.poll_write() {
        file.write_all_at(&write.pages, write.offset)?;
        let bytes = write.pages.len();
        writer.written(write, bytes).map_err(io::Error::other)?;
    }
    Ok(())
}
