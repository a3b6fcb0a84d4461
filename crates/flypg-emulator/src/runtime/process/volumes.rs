//! Volumes and snapshots as directories.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::world::Source;
use crate::world::report::Report;

use super::tree::{self, Known, Places};
use super::{Inner, launch};

/// Bytes that the files below a directory occupy.
pub(super) fn bytes_used(dir: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        // Files may vanish while they are counted.
        let Ok(meta) = entry.metadata() else { continue };
        sum += meta.blocks() * 512;
        if meta.is_dir() {
            sum += bytes_used(&entry.path());
        }
    }
    sum
}

/// Removes everything below a directory.
pub(super) fn wipe(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "could not be wiped");
        }
    }
}

/// Gives a volume a new name; the old one leads there until its machine has restarted.
pub(super) fn rename(from: &Path, to: &Path) {
    let moved = fs::rename(from, to).and_then(|()| symlink(to, from));
    if let Err(error) = moved {
        tracing::error!(%error, from = %from.display(), "the volume could not be moved");
    }
}

/// Copies everything below `from` into a new directory that then takes the place of `to`.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let new = to.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => launch::make_dir(&new)?,
    }
    let mut source = from.as_os_str().to_owned();
    source.push("/.");
    // Owners, modes, times, links and holes; blocks are shared where the file system can.
    let output = Command::new("cp").args(["-a", "--reflink=auto"]).arg(source).arg(&new).output()?;
    if !output.status.success() {
        // Files that vanish while they are copied are to be expected.
        tracing::warn!(from = %from.display(), error = %String::from_utf8_lossy(&output.stderr), "incomplete copy");
    }
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::rename(&new, to),
    }
}

/// Continues processes when dropped.
struct Frozen(Vec<Known>);

impl Drop for Frozen {
    fn drop(&mut self) {
        self.0.iter().for_each(|process| process.signal(Signal::SIGCONT));
    }
}

/// Copies a volume while nothing writes to it, as a block device would be copied at one moment.
fn copy_at_one_moment(inner: &Inner, volume: &str, to: &Path) -> io::Result<()> {
    let machine = inner.mounted().get(volume).map(|(_, machine)| machine.clone());
    let places: Option<Places> = machine.map(|machine| inner.places(&machine));
    let _frozen = Frozen(places.map(|places| tree::signal_all(&places, Signal::SIGSTOP)).unwrap_or_default());
    copy(&inner.volume_dir(volume), to)
}

pub(super) async fn fill(inner: Arc<Inner>, app: String, volume: String, from: Source) {
    // Never closed.
    let _permit = inner.copies.acquire().await;
    let worker = Arc::clone(&inner);
    let id = volume.clone();
    let filled = tokio::task::spawn_blocking(move || {
        let to = worker.volume_dir(&id);
        match &from {
            Source::Snapshot(snapshot) => copy(&worker.snapshot_dir(snapshot), &to),
            Source::Volume(source) => copy_at_one_moment(&worker, source, &to),
        }
    });
    if let Ok(Err(error)) = filled.await {
        tracing::error!(%error, volume, "the volume could not be filled");
    }
    inner.report(Report::VolumeFilled { app, volume });
}

pub(super) async fn snapshot(inner: Arc<Inner>, app: String, volume: String, snapshot: String) {
    // Never closed.
    let _permit = inner.copies.acquire().await;
    let (worker, id, to) = (Arc::clone(&inner), volume.clone(), inner.snapshot_dir(&snapshot));
    let copied = tokio::task::spawn_blocking(move || copy_at_one_moment(&worker, &id, &to).map(|()| bytes_used(&to)));
    match copied.await {
        Ok(Ok(size)) => inner.report(Report::SnapshotTaken { app, volume, snapshot, size }),
        // It stays `running`, as a stuck one does.
        Ok(Err(error)) => tracing::error!(%error, volume, "the snapshot could not be taken"),
        Err(error) => tracing::error!(%error, volume, "the snapshot could not be taken"),
    }
}
