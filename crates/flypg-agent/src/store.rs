//! The ledger on disk: two files, written in turn and flushed before they are obeyed. Once made, they are overwritten
//! where they are: a full volume must not keep a node from promising anything.

use std::path::PathBuf;
use std::sync::Mutex;

use flypg_core::ledger::{Ledger, Refusal, Slot, Unreadable, encode, recover};

use crate::config::Config;
use crate::files;

const SLOTS: [&str; 2] = ["a", "b"];
/// A slot's file has a multiple of this many bytes, so that it rarely grows.
const UNIT: usize = 32 * 1024;

/// The ledger of this node, as it is on disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Held while a new ledger is decided and written, so that decisions follow one another.
    writing: Mutex<Position>,
    current: Mutex<Ledger>,
}

#[derive(Debug)]
struct Position {
    sequence: u64,
    next_slot: usize,
    /// This incarnation is on disk.
    begun: bool,
}

/// The ledger could not be brought to disk or read. The one in force is unchanged unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the ledger in {directory} could not be {doing}")]
    Io { directory: String, doing: &'static str, source: std::io::Error },
    #[error("the ledger is damaged")]
    Unreadable(#[source] Unreadable),
    #[error("the ledger on this volume is of node {node} of cluster {cluster}")]
    Foreign { node: String, cluster: String },
}

/// Why what was asked is not done. Nothing was changed, unless the disk failed: then it may have been written, and
/// counts only if it is found there at the next start.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    #[error(transparent)]
    Refused(Refusal),
    #[error("this node cannot promise anything, because its own ledger is of no use: {0}")]
    Quarantined(String),
    #[error("it could not be made durable, so it is not obeyed")]
    Store(#[source] StoreError),
}

impl Store {
    /// Reads the ledger and begins the next incarnation: on disk, or [`begin`](Self::begin) says later.
    pub fn open(config: &Config) -> Result<Self, StoreError> {
        let directory = config.paths.ledger.clone();
        let failed = |doing| {
            let directory = directory.display().to_string();
            move |source| StoreError::Io { directory, doing, source }
        };
        std::fs::create_dir_all(&directory).and_then(|()| files::flush_parent(&directory)).map_err(failed("made"))?;
        let [first, second] = SLOTS.map(|slot| files::read_if_there(&directory.join(slot)));
        let (first, second) = (first.map_err(failed("read"))?, second.map_err(failed("read"))?);
        let [first, second] = [&first, &second].map(|slot| slot.as_deref().map_or(Slot::Absent, Slot::Bytes));
        let found = recover([first, second]).map_err(StoreError::Unreadable)?;
        let (ledger, position) = match found {
            None => (
                Ledger::blank(config.cluster.clone(), config.node.clone(), config.machine.clone()),
                Position { sequence: 0, next_slot: 0, begun: false },
            ),
            Some(found) => {
                if found.damaged {
                    tracing::warn!("one slot of the ledger was damaged; the other one counts");
                }
                if found.ledger.cluster != config.cluster || found.ledger.node != config.node {
                    return Err(StoreError::Foreign {
                        node: found.ledger.node.to_string(),
                        cluster: found.ledger.cluster.to_string(),
                    });
                }
                let position = Position { sequence: found.sequence, next_slot: found.next_slot, begun: false };
                (found.ledger.restarted(&config.machine), position)
            }
        };
        let store = Self { directory, writing: Mutex::new(position), current: Mutex::new(ledger.clone()) };
        if let Err(error) = store.begin() {
            tracing::warn!(error = crate::words(&error), "the ledger can be read only");
        }
        Ok(store)
    }

    /// Makes sure that this incarnation is on disk; before it is, the node does nothing else. Blocks for the disk.
    pub fn begin(&self) -> Result<(), StoreError> {
        self.update(|ledger| Some(ledger.clone()))
    }

    pub fn current(&self) -> Ledger {
        self.current.lock().expect("no holder of this lock panics").clone()
    }

    /// Brings what `next` decides to disk, or says why not. No two are decided at a time. Blocks for the disk.
    pub fn decide(&self, next: impl FnOnce(&Ledger) -> Result<Ledger, Refusal>) -> Result<(), AcceptError> {
        let mut refusal = None;
        self.update(|ledger| match next(ledger) {
            Ok(next) => Some(next),
            Err(why) => {
                refusal = Some(why);
                None
            }
        })
        .map_err(AcceptError::Store)?;
        refusal.map_or(Ok(()), |why| Err(AcceptError::Refused(why)))
    }

    /// Replaces the ledger by what `change` makes of it, durably; `None` leaves it. Blocks for the disk.
    pub fn update(&self, change: impl FnOnce(&Ledger) -> Option<Ledger>) -> Result<(), StoreError> {
        let mut position = self.writing.lock().expect("no holder of this lock panics");
        let now = self.current();
        let Some(next) = change(&now) else { return Ok(()) };
        if next == now && position.begun {
            return Ok(());
        }
        let sequence = position.sequence + 1;
        let path = self.directory.join(SLOTS[position.next_slot]);
        let mut bytes = encode(sequence, &next);
        bytes.resize(bytes.len().next_multiple_of(UNIT), 0);
        let written = match files::overwrite(&path, &bytes) {
            Ok(false) => files::replace(&path, &bytes, None),
            written => written.map(drop),
        };
        written.map_err(|source| StoreError::Io {
            directory: self.directory.display().to_string(),
            doing: "written",
            source,
        })?;
        *position = Position { sequence, next_slot: 1 - position.next_slot, begun: true };
        *self.current.lock().expect("no holder of this lock panics") = next;
        Ok(())
    }
}
