//! What the controller must not lose: who may lead, and what it has done that the world may not show yet.
//! Everything else is observed again.

mod clusters;
mod lock;
mod master_key;
mod notes;
mod records;
mod term;

use std::fs::OpenOptions;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flypg_core::ledger::Caller;
use rusqlite::{Connection, OpenFlags};

pub use clusters::KnownSpec;
pub use lock::{Holder, LockError, StateLock, holder};
pub use master_key::{MasterKeyError, load_master_key, load_or_create_master_key};
pub use notes::{Doubt, Known, Recalled, Thing};
pub use records::{Reading, Records, Swap};
pub use term::{Home, Term};

/// Version of the tables below; in `PRAGMA user_version`.
const VERSION: i64 = 2;
/// How long a statement waits for another process: a status beside a running controller.
const BUSY: Duration = Duration::from_secs(5);

/// A row's revision goes up with every change and stays when its decree goes, so that a compare-and-set can never
/// mistake a new cluster's record for an old one's.
const TABLES: &str = "
CREATE TABLE decree (
    cluster  TEXT PRIMARY KEY,
    revision INTEGER NOT NULL,
    decree   TEXT
) STRICT;
CREATE TABLE spec (
    cluster TEXT PRIMARY KEY,
    file    TEXT NOT NULL,
    spec    TEXT NOT NULL
) STRICT;
CREATE TABLE known (
    cluster TEXT NOT NULL,
    thing   TEXT NOT NULL,
    id      TEXT NOT NULL,
    since   TEXT NOT NULL,
    seen    INTEGER NOT NULL,
    PRIMARY KEY (cluster, thing, id)
) STRICT;
CREATE TABLE doubt (
    cluster TEXT NOT NULL,
    subject TEXT NOT NULL,
    name    TEXT NOT NULL,
    since   TEXT NOT NULL,
    PRIMARY KEY (cluster, subject, name)
) STRICT;
CREATE TABLE progress (
    cluster    TEXT PRIMARY KEY,
    generation TEXT NOT NULL
) STRICT;
CREATE TABLE condition (
    cluster TEXT NOT NULL,
    kind    TEXT NOT NULL,
    status  INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    since   TEXT NOT NULL,
    PRIMARY KEY (cluster, kind)
) STRICT;
";

/// What version 2 adds. A record of version 1 says less than a failover must know, and is dropped: the nodes still say who
/// leads, and from that it is written anew.
const SECOND: &str = "
-- One row: the controller that may decide and grant. `home`: the computer that the store is bound to.
CREATE TABLE leader (
    only       INTEGER PRIMARY KEY CHECK (only = 1),
    id         TEXT NOT NULL,
    generation INTEGER NOT NULL,
    boot       TEXT NOT NULL,
    home       TEXT
) STRICT;
UPDATE decree SET revision = revision + 1, decree = NULL;
DROP TABLE IF EXISTS generation;
";

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{path} cannot be {done}")]
    File {
        path: PathBuf,
        done: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{} cannot be opened", .path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the controller's database cannot be {done}")]
    Database {
        done: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    #[error("the controller's database has version {found}; this flypg knows versions up to {VERSION}")]
    Newer { found: i64 },
    #[error("the controller's database has version {found}, and is to be brought to {VERSION} before it can be read")]
    Older { found: i64 },
    #[error("the controller's database is bound to {bound}, and this is {here}")]
    Bound { bound: String, here: String },
    #[error("the controller's database holds {what} that cannot be read")]
    Unreadable {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the database thread ended early")]
    Ended {
        #[source]
        source: tokio::task::JoinError,
    },
}

impl StoreError {
    /// Whether what was to be written may be on disk all the same: then reading it again tells.
    pub fn may_have_happened(&self) -> bool {
        use rusqlite::ErrorCode as Code;
        match self {
            // A commit that the disk did not confirm; every other failure came before it, or rolled it back.
            Self::Database { source, .. } => source.sqlite_error_code() == Some(Code::SystemIoFailure),
            Self::Ended { .. } => true,
            Self::File { .. }
            | Self::Open { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::Bound { .. }
            | Self::Unreadable { .. } => false,
        }
    }

    /// What a person can do about it.
    pub fn suggestion(&self) -> Option<&'static str> {
        use rusqlite::ErrorCode as Code;
        let source = match self {
            Self::File { .. } => return Some("give a directory that can be read and written with --state"),
            Self::Newer { .. } => return Some("use the flypg that wrote it, or a newer one"),
            Self::Open { source, .. } | Self::Database { source, .. } => source,
            Self::Older { .. } => return Some("start `flypg controller`, or run `flypg reconcile`, once"),
            Self::Bound { .. } => {
                return Some(
                    "it is a copy: let the original go on, or, if that is gone for good, take this one with --adopt-state",
                );
            }
            Self::Unreadable { .. } | Self::Ended { .. } => return None,
        };
        Some(match source.sqlite_error_code()? {
            Code::NotADatabase | Code::DatabaseCorrupt => {
                "put back a copy of it; if there is none, move it away: the nodes still say who leads"
            }
            Code::CannotOpen | Code::ReadOnly | Code::PermissionDenied => {
                "give a directory that can be read and written with --state"
            }
            Code::DatabaseBusy | Code::DatabaseLocked => "another process writes to it; try again",
            Code::DiskFull => "make room on the disk, then try again",
            _ => return None,
        })
    }
}

/// The state directory's database. Cheap to clone; every call runs on a thread of its own, as a commit waits for the
/// disk.
#[derive(Debug, Clone)]
pub struct Store {
    db: Arc<Mutex<Connection>>,
    /// A reader takes no notes: what it is asked to remember it forgets.
    writes: bool,
    term: Option<Term>,
}

impl Store {
    /// Opens the database below `dir`, making both where there are none. Readable by this user alone.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        make_dir(dir)?;
        let path = dir.join("flypg.db");
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::File { path: path.clone(), done: "opened", source })?;
        let opened = Connection::open_with_flags(&path, flags()).map_err(open_error(&path))?;
        Self::prepare(opened, &path)
    }

    /// Opens what is below `dir` without changing it. Nothing there is the same as an empty database.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open_to_read(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("flypg.db");
        if !path.exists() {
            return Ok(Self { writes: false, ..Self::in_memory()? });
        }
        let setup = || {
            let db = Connection::open_with_flags(&path, flags())?;
            db.busy_timeout(BUSY)?;
            db.pragma_update(None, "query_only", true)?;
            let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok((db, found))
        };
        match setup().map_err(open_error(&path))? {
            (_, 0) => Ok(Self { writes: false, ..Self::in_memory()? }),
            (_, found) if found > VERSION => Err(StoreError::Newer { found }),
            // What is in an older one is not to be read as it stands, and a reader changes nothing.
            (_, found) if found < VERSION => Err(StoreError::Older { found }),
            (db, _) => Ok(Self { db: Arc::new(Mutex::new(db)), writes: false, term: None }),
        }
    }

    /// A database that ends with the process.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        let path = Path::new("a database in memory");
        Self::prepare(Connection::open_in_memory().map_err(open_error(path))?, path)
    }

    fn prepare(mut db: Connection, path: &Path) -> Result<Self, StoreError> {
        let setup = |db: &mut Connection| {
            db.busy_timeout(BUSY)?;
            db.pragma_update(None, "journal_mode", "WAL")?;
            // A decree must be on the platter before anyone hears of it.
            db.pragma_update(None, "synchronous", "FULL")?;
            let change = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            let found: i64 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if found == 0 {
                change.execute_batch(TABLES)?;
            }
            if found < 2 {
                change.execute_batch(SECOND)?;
                change.pragma_update(None, "user_version", VERSION)?;
            }
            change.commit()?;
            Ok(found)
        };
        let found = setup(&mut db).map_err(open_error(path))?;
        if found > VERSION {
            return Err(StoreError::Newer { found });
        }
        Ok(Self { db: Arc::new(Mutex::new(db)), writes: true, term: None })
    }

    fn caller(&self) -> Option<Caller> {
        self.term.as_ref().map(|term| term.caller.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // A panic while the lock was held has rolled its transaction back.
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<T: Send + 'static>(
        &self,
        done: &'static str,
        work: impl FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&mut store.lock()))
            .await
            .map_err(|source| StoreError::Ended { source })?
            .map_err(database(done))
    }
}

fn flags() -> OpenFlags {
    OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn open_error(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Open { path: path.to_owned(), source }
}

fn database(done: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Database { done, source }
}

fn make_dir(dir: &Path) -> Result<(), StoreError> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| StoreError::File {
        path: dir.to_owned(),
        done: "made",
        source,
    })
}

/// A value that does not have the form its column has.
fn malformed(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
}
