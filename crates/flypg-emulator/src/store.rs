//! The world on disk: one file per app and one for the rest, each replaced atomically.
//!
//! ```text
//! DIR/lock          held while an emulator runs
//! DIR/world.json    hosts, id source, address plan
//! DIR/apps/A.json   app A with its machines, volumes, secrets, snapshots
//! ```
//!
//! A change is on disk before its request is answered. Requests that arrive while a write is under way share the next
//! one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{Flock, FlockArg};
use tokio::sync::{Notify, watch};

use crate::world::app::App;
use crate::world::shared::Shared;
use crate::world::{Foundation, World};

#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    pending: Mutex<Pending>,
    woken: Notify,
    written: watch::Sender<u64>,
    /// `None` once it was given up.
    lock: Mutex<Option<Flock<File>>>,
}

#[derive(Debug, Default)]
struct Pending {
    apps: BTreeSet<String>,
    /// Counts changes.
    sequence: u64,
}

/// What one write puts on disk.
#[derive(Debug)]
pub(crate) struct Batch {
    foundation: Foundation,
    apps: Vec<(String, Option<Shared<App>>)>,
    sequence: u64,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("another emulator uses the data directory {}", dir.display())]
    Locked { dir: PathBuf },
    #[error("cannot use {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged; move the data directory away to start afresh", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

impl Store {
    /// Opens a data directory, and reads the world in it if there is one.
    ///
    /// # Errors
    /// When it is in use, damaged, or not accessible.
    pub(crate) fn open(dir: &Path) -> Result<(Self, Option<World>), StoreError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| StoreError::Io { path, source }
        };
        let apps = dir.join("apps");
        fs::create_dir_all(&apps).map_err(io(&apps))?;
        let lock_path = dir.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&lock_path).map_err(io(&lock_path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            nix::errno::Errno::EWOULDBLOCK => StoreError::Locked { dir: dir.to_path_buf() },
            other => StoreError::Io { path: lock_path, source: other.into() },
        })?;
        let world = read_world(dir)?;
        let store = Self {
            dir: dir.to_path_buf(),
            pending: Mutex::default(),
            woken: Notify::new(),
            written: watch::Sender::new(0),
            lock: Mutex::new(Some(lock)),
        };
        Ok((store, world))
    }

    /// Lets another emulator use the directory. Nothing may be written after this.
    pub(crate) fn release(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Notes changed apps. Called under the world's lock.
    pub(crate) fn dirty(&self, apps: &BTreeSet<String>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.apps.extend(apps.iter().cloned());
        pending.sequence += 1;
        drop(pending);
        self.woken.notify_one();
    }

    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Takes what has to be written. Called under the world's lock.
    pub(crate) fn batch(&self, world: &World) -> Batch {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let apps = std::mem::take(&mut pending.apps);
        Batch {
            foundation: world.foundation(),
            apps: apps.into_iter().map(|name| (world.apps.get(&name).cloned(), name)).map(|(a, n)| (n, a)).collect(),
            sequence: pending.sequence,
        }
    }

    /// Writes a batch. If that fails, its apps are part of the next one, and false is returned.
    pub(crate) async fn write(&self, batch: Batch) -> bool {
        let (dir, sequence) = (self.dir.clone(), batch.sequence);
        let apps: Vec<String> = batch.apps.iter().map(|(name, _)| name.clone()).collect();
        let written = tokio::task::spawn_blocking(move || write_batch(&dir, &batch)).await;
        let error = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = &error {
            // Those who wait are answered all the same: standing still would be worse than being forgetful for a while.
            tracing::error!(error, dir = %self.dir.display(), "the world could not be saved");
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).apps.extend(apps);
        }
        self.written.send_replace(sequence);
        error.is_none()
    }

    pub(crate) async fn saved(&self) {
        let sequence = self.pending.lock().unwrap_or_else(PoisonError::into_inner).sequence;
        let mut written = self.written.subscribe();
        // The sender lives as long as self.
        let _ = written.wait_for(|written| *written >= sequence).await;
    }
}

fn write_batch(dir: &Path, batch: &Batch) -> io::Result<()> {
    for (name, app) in &batch.apps {
        let path = dir.join("apps").join(format!("{name}.json"));
        match app {
            Some(app) => replace(&path, &serde_json::to_vec(&**app)?)?,
            None => fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?,
        }
    }
    replace(&dir.join("world.json"), &serde_json::to_vec(&batch.foundation)?)?;
    File::open(dir.join("apps"))?.sync_all()?;
    File::open(dir)?.sync_all()
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(content)?;
    file.sync_data()?;
    fs::rename(&new, path)
}

fn read_world(dir: &Path) -> Result<Option<World>, StoreError> {
    let Some(foundation) = read_json::<Foundation>(&dir.join("world.json"))? else { return Ok(None) };
    let apps_dir = dir.join("apps");
    let entries = fs::read_dir(&apps_dir).map_err(|source| StoreError::Io { path: apps_dir.clone(), source })?;
    let mut apps = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Some(app) = read_json::<App>(&path)?
        {
            apps.push(app);
        }
    }
    Ok(Some(World::from_parts(foundation, apps)))
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| StoreError::Damaged { path: path.to_path_buf(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(StoreError::Io { path: path.to_path_buf(), source }),
    }
}
