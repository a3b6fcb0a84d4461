//! Volumes and snapshots as directories.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

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

/// How long to wait before a copy that failed is tried again.
const COPY_AGAIN: Duration = Duration::from_secs(1);

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
    let output = Command::new("cp").args(["-a", "--reflink=auto"]).arg(source).arg(&new).env("LC_ALL", "C").output()?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        // Files that vanish while they are copied are to be expected; a full disk must not make a copy that looks whole.
        if !from.exists() || !error.lines().all(|line| line.ends_with("No such file or directory")) {
            return Err(io::Error::other(error));
        }
        tracing::warn!(from = %from.display(), error, "incomplete copy");
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

/// Copies until it works: a disk may be full for a while. `None` when it is not wanted any more.
async fn persist(
    inner: &Arc<Inner>,
    volume: &str,
    copy: impl Fn(&Inner) -> io::Result<()> + Clone + Send + 'static,
) -> Option<()> {
    while !inner.closing() && inner.volume_dir(volume).exists() {
        // Never closed.
        let permit = inner.copies.acquire().await;
        let (worker, copy) = (Arc::clone(inner), copy.clone());
        match tokio::task::spawn_blocking(move || copy(&worker)).await {
            Ok(Ok(())) => return Some(()),
            Ok(Err(error)) => tracing::error!(%error, volume, "the volume could not be copied; trying again"),
            Err(error) => tracing::error!(%error, volume, "the volume could not be copied; trying again"),
        }
        drop(permit);
        tokio::time::sleep(COPY_AGAIN).await;
    }
    None
}

/// Fills a new volume. Until it has all its content it is not reported as filled, so nothing boots on a part of it.
pub(super) async fn fill(inner: Arc<Inner>, app: String, volume: String, from: Source) {
    let id = volume.clone();
    let filled = persist(&inner, &volume, move |inner| {
        let to = inner.volume_dir(&id);
        match &from {
            Source::Snapshot(snapshot) => copy(&inner.snapshot_dir(snapshot), &to),
            Source::Volume(source) => copy_at_one_moment(inner, source, &to),
        }
    });
    if filled.await.is_some() {
        inner.report(Report::VolumeFilled { app, volume });
    }
}

/// Takes a snapshot; it stays `running` until it is whole.
pub(super) async fn snapshot(inner: Arc<Inner>, app: String, volume: String, snapshot: String) {
    let (id, to) = (volume.clone(), inner.snapshot_dir(&snapshot));
    let place = to.clone();
    if persist(&inner, &volume, move |inner| copy_at_one_moment(inner, &id, &place)).await.is_some() {
        let size = tokio::task::spawn_blocking(move || bytes_used(&to)).await.unwrap_or(0);
        inner.report(Report::SnapshotTaken { app, volume, snapshot, size });
    }
}
