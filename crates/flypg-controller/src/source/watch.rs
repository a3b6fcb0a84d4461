use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Files, SourceError};

/// An editor's save is several events; they are over by then.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Network file systems and some mounts tell nobody of changes.
const POLL: Duration = Duration::from_secs(5);

/// Files, read again whenever they change.
#[derive(Debug)]
pub struct Watch {
    paths: Vec<PathBuf>,
    begun: bool,
    /// Something has changed, and has not been read yet.
    heard: bool,
    last: Option<Files>,
    events: mpsc::Receiver<()>,
    /// Dropping it ends the events; without one there is still the poll.
    _watcher: Option<RecommendedWatcher>,
}

impl Watch {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let (tell, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| {
            // Full: an event that is not read yet stands for this one too.
            let _ = tell.try_send(());
        });
        let watcher = watcher.and_then(|mut watcher| {
            for path in &paths {
                // An editor replaces a file rather than writing to it: what is watched is its directory.
                let (place, mode) = if path.is_dir() {
                    (path.as_path(), RecursiveMode::Recursive)
                } else {
                    (directory_of(path), RecursiveMode::NonRecursive)
                };
                watcher.watch(place, mode)?;
            }
            Ok(watcher)
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "changes are seen every {} s only", POLL.as_secs());
        }
        Self { paths, begun: false, heard: false, last: None, events, _watcher: watcher.ok() }
    }

    /// The files at once the first time, and then as soon as they differ; an error as often as it is met. May be
    /// dropped and called again.
    ///
    /// # Errors
    /// If the files cannot be read; the next call tries again.
    pub async fn changed(&mut self) -> Result<Files, SourceError> {
        loop {
            if std::mem::replace(&mut self.begun, true) {
                let poll = Instant::now() + POLL;
                if !self.heard && timeout_at(poll, self.events.recv()).await.is_ok_and(|event| event.is_none()) {
                    tokio::time::sleep_until(poll).await;
                }
                self.heard = true;
                sleep(DEBOUNCE).await;
                self.heard = false;
                while self.events.try_recv().is_ok() {}
            }
            let last = self.last.take();
            let files = self.read()?;
            if last.as_ref() != Some(&files) {
                return Ok(files);
            }
        }
    }

    /// The files as they are at this moment.
    ///
    /// # Errors
    /// If the files cannot be read.
    pub fn read(&mut self) -> Result<Files, SourceError> {
        let files = Files::read(&self.paths)?;
        self.last = Some(files.clone());
        Ok(files)
    }
}

fn directory_of(file: &Path) -> &Path {
    match file.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_replaced_file_is_seen_and_an_untouched_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("orders.yaml");
        fs::write(&file, "one").unwrap();
        let mut watch = Watch::new(vec![file.clone()]);
        let deadline = Duration::from_secs(20);
        let first = tokio::time::timeout(deadline, watch.changed()).await.unwrap().unwrap();

        fs::write(dir.path().join("draft"), "two").unwrap();
        fs::rename(dir.path().join("draft"), &file).unwrap();
        let second = tokio::time::timeout(deadline, watch.changed()).await.unwrap().unwrap();
        assert_ne!(first, second);

        fs::remove_file(&file).unwrap();
        let error = tokio::time::timeout(deadline, watch.changed()).await.unwrap().unwrap_err();
        assert!(matches!(error, SourceError::Missing { .. }));
        fs::write(&file, "three").unwrap();
        let third = tokio::time::timeout(deadline, watch.changed()).await.unwrap().unwrap();
        assert_ne!(second, third);
    }
}
