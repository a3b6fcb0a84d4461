//! The ledger on disk, and the high-water mark beside it: two files each, written in turn and flushed before they are
//! obeyed. Once made, they are overwritten where they are: a full volume must not keep a node from promising anything.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use flypg_core::ledger::{HighWater, Kept, Ledger, Recovered, Refusal, Slot, Unreadable, encode, recover};
use flypg_core::node::Position;

use crate::config::Config;
use crate::files;

const LEDGER: Files = Files { names: ["a", "b"], unit: 32 * 1024 };
const HIGH_WATER: Files = Files { names: ["high-water.a", "high-water.b"], unit: 4096 };

/// What is kept of this node, as it is on disk.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Held while a new ledger is decided and written, so that decisions follow one another.
    writing: Mutex<Slots>,
    current: Mutex<Ledger>,
    /// Held while a high-water mark is written; what is in it is on disk.
    marking: Mutex<(Slots, HighWater)>,
    high_water: Mutex<HighWater>,
}

/// The files of two slots.
#[derive(Debug, Clone, Copy)]
struct Files {
    names: [&'static str; 2],
    /// Their length is a multiple of this, so that they rarely grow.
    unit: usize,
}

impl Files {
    fn read<T: Kept>(self, directory: &Path) -> Result<Option<Recovered<T>>, StoreError> {
        let read = |name| files::read_if_there(&directory.join(name)).map_err(|source| io(directory, "read", source));
        let [first, second] = self.names.map(read);
        let (first, second) = (first?, second?);
        let [first, second] = [&first, &second].map(|slot| slot.as_deref().map_or(Slot::Absent, Slot::Bytes));
        recover([first, second]).map_err(StoreError::Unreadable)
    }
}

/// Where two slots stand.
#[derive(Debug)]
struct Slots {
    files: Files,
    sequence: u64,
    next: usize,
    /// This life of the agent has written one.
    begun: bool,
}

impl Slots {
    fn after<T>(files: Files, found: Option<&Recovered<T>>) -> Self {
        let (sequence, next) = found.map_or((0, 0), |found| (found.sequence, found.next_slot));
        Self { files, sequence, next, begun: false }
    }

    /// Nothing counts as written unless all of it is.
    fn write<T: Kept>(&mut self, directory: &Path, kept: &T) -> Result<(), StoreError> {
        let sequence = self.sequence + 1;
        let path = directory.join(self.files.names[self.next]);
        let mut bytes = encode(sequence, kept);
        bytes.resize(bytes.len().next_multiple_of(self.files.unit), 0);
        let written = match files::overwrite(&path, &bytes) {
            Ok(false) => files::replace(&path, &bytes, None),
            written => written.map(drop),
        };
        written.map_err(|source| io(directory, "written", source))?;
        *self = Self { files: self.files, sequence, next: 1 - self.next, begun: true };
        Ok(())
    }
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

fn io(directory: &Path, doing: &'static str, source: std::io::Error) -> StoreError {
    StoreError::Io { directory: directory.display().to_string(), doing, source }
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
        let made = std::fs::create_dir_all(&directory).and_then(|()| files::flush_parent(&directory));
        made.map_err(|source| io(&directory, "made", source))?;
        let found = LEDGER.read::<Ledger>(&directory)?;
        let marked = HIGH_WATER.read::<HighWater>(&directory)?;
        let slots = Slots::after(LEDGER, found.as_ref());
        let ledger = match found {
            None => Ledger::blank(config.cluster.clone(), config.node.clone(), config.machine.clone()),
            Some(found) => {
                if found.damaged {
                    tracing::warn!("one slot of the ledger was damaged; the other one counts");
                }
                if found.kept.cluster != config.cluster || found.kept.node != config.node {
                    return Err(StoreError::Foreign {
                        node: found.kept.node.to_string(),
                        cluster: found.kept.cluster.to_string(),
                    });
                }
                found.kept.restarted(&config.machine)
            }
        };
        let high_water = marked.as_ref().map(|marked| marked.kept).unwrap_or_default();
        if high_water.promised > ledger.promised {
            let (knows, promised) = (ledger.promised, high_water.promised);
            tracing::error!(%knows, %promised, "this ledger is older than what was promised; its task is forgotten");
        }
        let ledger = ledger.bound_by(high_water.promised);
        let store = Self {
            directory,
            writing: Mutex::new(slots),
            current: Mutex::new(ledger),
            marking: Mutex::new((Slots::after(HIGH_WATER, marked.as_ref()), high_water)),
            high_water: Mutex::new(high_water),
        };
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
        let mut slots = self.writing.lock().expect("no holder of this lock panics");
        let now = self.current();
        let Some(next) = change(&now) else { return Ok(()) };
        if next == now && slots.begun {
            return Ok(());
        }
        if next.promised > now.promised || next.role != now.role {
            self.mark_now().promised = next.promised;
            // The ledger alone keeps a promise too; the mark is there for when the ledger does not.
            if let Err(error) = self.flush_high_water() {
                tracing::warn!(error = crate::words(&error), "how far this node has come could not be remembered");
            }
        }
        slots.write(&self.directory, &next)?;
        *self.current.lock().expect("no holder of this lock panics") = next;
        Ok(())
    }

    /// How far this node has come, as far as it was seen.
    pub fn high_water(&self) -> HighWater {
        *self.mark_now()
    }

    /// The data were seen to be flushed up to here; on disk with the next [`Store::flush_high_water`].
    pub fn reach(&self, at: Position) {
        let mut mark = self.mark_now();
        *mark = mark.reaching(at);
    }

    /// The data are about to be made anew, or were: how far they had come says nothing any more. Blocks for the disk.
    pub fn forget_reached(&self) -> Result<(), StoreError> {
        self.mark_now().reached = None;
        self.flush_high_water()
    }

    /// Brings to disk how far this node has come. Blocks for the disk.
    pub fn flush_high_water(&self) -> Result<(), StoreError> {
        let mut marking = self.marking.lock().expect("no holder of this lock panics");
        let (slots, on_disk) = &mut *marking;
        let now = self.high_water();
        if now != *on_disk {
            slots.write(&self.directory, &now)?;
            *on_disk = now;
        }
        Ok(())
    }

    fn mark_now(&self) -> MutexGuard<'_, HighWater> {
        self.high_water.lock().expect("no holder of this lock panics")
    }
}
