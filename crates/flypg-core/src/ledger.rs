//! What one node remembers and has promised, and the rules by which it answers an [`Assignment`].
//!
//! The agent writes the ledger to disk before it obeys it. Nothing here expires: a lease, when there is one, is never
//! part of a ledger.

mod high_water;
mod slots;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use high_water::HighWater;
pub use slots::{Kept, Recovered, Slot, SlotError, Unreadable, encode, recover};

use crate::decree::{Epoch, SystemId};
use crate::failover::lease::Timing;
use crate::mutant;
use crate::names::{ClusterName, NodeName};
use crate::node::DataDir;
use crate::protocol::{Assignment, Task};
use crate::spec::Profile;

/// One node's durable memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// Fly's id of the Machine that wrote this. Another id means that the volume moved or was restored (rule R17).
    pub machine: String,
    /// Goes up by one at every start of the agent.
    pub incarnation: u64,
    /// The controller that was last obeyed (FAILOVER §2, "the record").
    #[serde(default)]
    pub controller: Option<Caller>,
    /// The highest epoch this node has promised to obey.
    pub promised: Epoch,
    /// The highest revision of the record that it has obeyed in that epoch.
    #[serde(default)]
    pub revision: u64,
    /// It has pledged to its primary since it was last recruited, and no such pledge binds it for longer: one of an
    /// earlier boot may still run.
    #[serde(default)]
    pub pledged: Option<Duration>,
    pub role: LedgerRole,
    /// The identity of the data on this volume, or of the data it was told to clone.
    pub system_id: Option<SystemId>,
    /// The last assignment that was accepted, whole.
    pub assignment: Option<Assignment>,
    /// The person's parameters with which Postgres last came up: what the agent falls back to when newer ones keep it
    /// from starting.
    pub proven: Option<BTreeMap<String, String>>,
}

/// Who calls: one life of one controller's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Drawn when the store was made.
    pub id: String,
    /// Goes up by one, durably, whenever a controller begins to lead with that store.
    pub generation: u64,
    /// Drawn at that moment: two copies of one store begin the same generation with different ones.
    pub boot: String,
}

/// What this node is, as far as it was told and has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum LedgerRole {
    /// Nothing was ever asked of it.
    Blank,
    /// May run `initdb` under this nonce, and has not finished.
    Initialising { nonce: String, epoch: Epoch },
    /// Is to become a copy, and is not one yet.
    Cloning { upstream: NodeName, epoch: Epoch },
    /// Leads in this epoch; `nonce` is that of its marker row.
    Primary { epoch: Epoch, nonce: String },
    /// Holds a copy and streams.
    Replica { upstream: NodeName, epoch: Epoch },
    /// Holds a copy, and follows nobody: it has promised this epoch.
    Recruited { epoch: Epoch },
    /// Was recruited, and is to become the primary on this timeline; not known to have done so.
    Promoting { epoch: Epoch, timeline: u32, nonce: String },
    /// Has led, or was to, and never will again up to this epoch. Its data are a primary's.
    Relinquished { epoch: Epoch },
    /// Its data went another way, or were a primary's, and are to become a copy. Once `rewinding`, they are not whole:
    /// Postgres does not run on them until they are (rule R16, protocol I12).
    Rejoining { upstream: NodeName, epoch: Epoch, rewinding: bool },
}

/// Why a node does not obey an assignment. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("this is node {mine} of cluster {cluster}, not {given}: the address belongs to another node now")]
    OtherNode { mine: NodeName, cluster: ClusterName, given: String },
    #[error("epoch {given} is below {promised}, which this node has promised to obey")]
    StaleEpoch { given: Epoch, promised: Epoch },
    #[error("revision {given} of the record is below {obeyed}, which this node obeys")]
    StaleRevision { given: u64, obeyed: u64 },
    #[error("another controller was obeyed here: {known}; this one is {given}")]
    OtherController { known: String, given: String },
    #[error("a pledge to the primary runs for another {} ms: until then nobody is promoted over it", .left.as_millis())]
    Pledged { left: Duration },
    #[error("this node was not recruited in epoch {given}: it is {role}")]
    NotRecruited { role: String, given: Epoch },
    #[error("who leads in epoch {epoch} was decided before this was sent: this node is {role}")]
    Decided { role: String, epoch: Epoch },
    #[error("this node has given up epoch {given} for good: it is {role}")]
    GivenUp { role: String, given: Epoch },
    #[error("a pledge is given by a replica of {asks} in epoch {epoch} only; this node is {role}")]
    NoPledge { role: String, asks: NodeName, epoch: Epoch },
    #[error("the data here belong to system {mine}, the assignment speaks of {given}")]
    OtherSystem { mine: String, given: String },
    #[error("the volume is not blank ({found}), so nothing is initialised on it")]
    BootstrapOverData { found: String },
    #[error("an initialisation under another nonce has begun here")]
    OtherNonce,
    #[error("there is nothing to lead with: {found}")]
    NothingToLead { found: String },
    #[error("this node is {role}; it leads in epoch {given} only after it was promoted, which an assignment cannot do")]
    NotPromoted { role: String, given: Epoch },
    #[error(
        "this node leads in epoch {leads}; it follows another only after it was demoted, which an assignment cannot do"
    )]
    NotDemoted { leads: Epoch },
    #[error("a node cannot follow itself")]
    FollowsItself,
    #[error("the volume holds data that this node's ledger does not know")]
    UnknownData,
    #[error("an unfinished initialisation is here; it goes on under its own nonce only")]
    Unfinished,
}

impl Ledger {
    /// The memory of a node that has none yet, in its first incarnation.
    pub fn blank(cluster: ClusterName, node: NodeName, machine: String) -> Self {
        Self {
            cluster,
            node,
            machine,
            incarnation: 1,
            controller: None,
            promised: Epoch::default(),
            revision: 0,
            pledged: None,
            role: LedgerRole::Blank,
            system_id: None,
            assignment: None,
            proven: None,
        }
    }

    /// The memory with which the next start of the agent begins.
    ///
    /// On another Machine the assignment is forgotten: a volume that moved, or came back from a snapshot, does not run
    /// by itself (rule R17). What was promised stays promised.
    pub fn restarted(&self, machine: &str) -> Self {
        let mut next = self.clone();
        next.incarnation += 1;
        if next.machine != machine {
            next.machine = machine.to_owned();
            next.assignment = next.assignment.filter(|_| mutant::off("R17"));
        }
        if mutant::off("R5") {
            (next.promised, next.revision) = (Epoch::default(), 0);
        }
        next
    }

    /// This ledger, where `promised` was promised on its volume. One that knows of less is an older one, put back: what
    /// it was told is forgotten, and what was promised, or may have been pledged, holds (rule R17).
    pub fn bound_by(self, promised: Epoch) -> Self {
        if promised <= self.promised || mutant::off("R17") || mutant::off("R5") {
            return self;
        }
        let longest = Timing::of(Profile::Patient).over_after();
        let pledged = Some(self.pledged.unwrap_or_default().max(longest));
        Self { promised, revision: 0, assignment: None, pledged, ..self }
    }

    /// The ledger after accepting `assignment`, given what lies on the volume; to be on disk before it is obeyed.
    ///
    /// Only what the ledger itself can tell is checked here: whether a pledge still runs is for
    /// [`Tenure`](crate::node::Tenure) to say.
    pub fn accept(&self, assignment: &Assignment, data: &DataDir) -> Result<Ledger, Refusal> {
        if assignment.cluster != self.cluster || assignment.node != self.node {
            return Err(Refusal::OtherNode {
                mine: self.node.clone(),
                cluster: self.cluster.clone(),
                given: format!("node {} of cluster {}", assignment.node, assignment.cluster),
            });
        }
        let (epoch, promised) = (assignment.epoch, self.promised);
        if epoch < promised {
            return Err(Refusal::StaleEpoch { given: epoch, promised });
        }
        if epoch == promised && assignment.revision < self.revision {
            return Err(Refusal::StaleRevision { given: assignment.revision, obeyed: self.revision });
        }
        let mut next = self.clone();
        next.role = match &assignment.task {
            Task::Bootstrap { nonce } => self.bootstrap(nonce, epoch, data)?,
            Task::Recruit { primary } => self.recruit(epoch, primary)?,
            Task::Promote { system_id, timeline, terms, .. } => {
                self.same_system(system_id)?;
                self.promote(epoch, *timeline, &terms.nonce)?
            }
            Task::Reaffirm { system_id, terms } => {
                self.same_system(system_id)?;
                self.reaffirm(epoch, &terms.nonce, data)?
            }
            Task::Lead { system_id, terms } | Task::HandOver { system_id, terms, .. } => {
                self.same_system(system_id)?;
                self.lead(epoch, &terms.nonce)?
            }
            Task::Follow { primary, system_id, .. } => {
                self.same_system(system_id)?;
                next.system_id = Some(system_id.clone());
                self.follow(primary, epoch, data)?
            }
        };
        if epoch > promised {
            // Whoever was pledged to before is below the promise now.
            next.pledged = None;
        }
        next.promised = epoch;
        next.revision = assignment.revision;
        next.assignment = Some(assignment.clone());
        Ok(next)
    }

    /// The ledger after hearing from `caller` about a record that has reached `epoch`; `None` if that changes nothing.
    ///
    /// One store speaks with one voice: an earlier life of it, or a second copy, is refused. Another store is obeyed
    /// only with an epoch beyond everything that was promised, as a record that was rebuilt has.
    pub fn heed(&self, caller: &Caller, epoch: Epoch) -> Result<Option<Ledger>, Refusal> {
        let obey = match &self.controller {
            None => true,
            Some(known) if known.id != caller.id => epoch > self.promised,
            Some(known) if known.generation == caller.generation => known.boot == caller.boot,
            Some(known) => caller.generation > known.generation,
        };
        match (obey, &self.controller) {
            (true, Some(known)) if known == caller => Ok(None),
            (true, _) => Ok(Some(Ledger { controller: Some(caller.clone()), ..self.clone() })),
            (false, known) => {
                let words = |caller: &Caller| format!("{} in its life {}", caller.id, caller.generation);
                let known = known.as_ref().map(words).unwrap_or_default();
                Err(Refusal::OtherController { known, given: words(caller) })
            }
        }
    }

    fn same_system(&self, given: &SystemId) -> Result<(), Refusal> {
        match &self.system_id {
            Some(mine) if mine != given => Err(Refusal::OtherSystem { mine: mine.0.clone(), given: given.0.clone() }),
            _ => Ok(()),
        }
    }

    fn bootstrap(&self, nonce: &str, epoch: Epoch, data: &DataDir) -> Result<LedgerRole, Refusal> {
        match &self.role {
            LedgerRole::Blank if data.may_be_initialised(nonce) => {
                Ok(LedgerRole::Initialising { nonce: nonce.to_owned(), epoch })
            }
            LedgerRole::Blank => Err(Refusal::BootstrapOverData { found: data.to_string() }),
            LedgerRole::Initialising { nonce: mine, .. } if mine == nonce => {
                Ok(LedgerRole::Initialising { nonce: nonce.to_owned(), epoch })
            }
            LedgerRole::Initialising { .. } => Err(Refusal::OtherNonce),
            // Done already: the controller has not heard of it yet.
            LedgerRole::Primary { nonce: mine, epoch: leads } if mine == nonce && *leads == epoch => {
                Ok(self.role.clone())
            }
            role => Err(Refusal::BootstrapOverData { found: role.to_string() }),
        }
    }

    /// Refused only where who leads in `epoch` was decided before this came: any other promise binds whoever gives it,
    /// whatever it holds.
    fn recruit(&self, epoch: Epoch, primary: &NodeName) -> Result<LedgerRole, Refusal> {
        let decided = || Err(Refusal::Decided { role: self.role.to_string(), epoch });
        match &self.role {
            LedgerRole::Primary { epoch: mine, .. }
            | LedgerRole::Promoting { epoch: mine, .. }
            | LedgerRole::Replica { epoch: mine, .. }
            | LedgerRole::Cloning { epoch: mine, .. }
            | LedgerRole::Rejoining { epoch: mine, .. }
                if *mine == epoch =>
            {
                decided()
            }
            LedgerRole::Relinquished { epoch: mine } if *mine == epoch && !self.is_recruited_in(epoch) => decided(),
            LedgerRole::Replica { .. } | LedgerRole::Recruited { .. } => Ok(LedgerRole::Recruited { epoch }),
            // Another one leads on record since: its data may be the best there are, but only as a standby's can it be
            // said where they end, and go on from there.
            LedgerRole::Primary { epoch: mine, .. }
            | LedgerRole::Promoting { epoch: mine, .. }
            | LedgerRole::Relinquished { epoch: mine }
                if *primary != self.node && *mine < epoch =>
            {
                Ok(LedgerRole::Rejoining { upstream: primary.clone(), epoch: *mine, rewinding: false })
            }
            LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } | LedgerRole::Relinquished { .. } => {
                Ok(LedgerRole::Relinquished { epoch })
            }
            // They have nothing to be chosen for yet.
            LedgerRole::Blank
            | LedgerRole::Initialising { .. }
            | LedgerRole::Cloning { .. }
            | LedgerRole::Rejoining { .. } => Ok(self.role.clone()),
        }
    }

    fn promote(&self, epoch: Epoch, timeline: u32, nonce: &str) -> Result<LedgerRole, Refusal> {
        match &self.role {
            LedgerRole::Recruited { epoch: mine } if *mine == epoch => {
                Ok(LedgerRole::Promoting { epoch, timeline, nonce: nonce.to_owned() })
            }
            LedgerRole::Promoting { epoch: mine, nonce: theirs, .. }
            | LedgerRole::Primary { epoch: mine, nonce: theirs }
                if *mine == epoch && theirs == nonce =>
            {
                Ok(self.role.clone())
            }
            role => Err(Refusal::NotRecruited { role: role.to_string(), given: epoch }),
        }
    }

    fn reaffirm(&self, epoch: Epoch, nonce: &str, data: &DataDir) -> Result<LedgerRole, Refusal> {
        let again = || Ok(LedgerRole::Primary { epoch, nonce: nonce.to_owned() });
        match &self.role {
            LedgerRole::Primary { epoch: mine, nonce: theirs } if *mine == epoch && theirs == nonce => again(),
            LedgerRole::Primary { epoch: mine, .. } if *mine < epoch => again(),
            LedgerRole::Relinquished { epoch: mine } if *mine < epoch || self.is_recruited_in(epoch) => again(),
            // It led in this very epoch and gave up: others may rely on that already (fence F5).
            LedgerRole::Relinquished { .. } => Err(Refusal::GivenUp { role: self.role.to_string(), given: epoch }),
            // Not known to have been promoted, but its data may have been: whether they are a primary's is seen there.
            LedgerRole::Promoting { epoch: mine, .. } if *mine < epoch => again(),
            LedgerRole::Blank if matches!(data, DataDir::Complete { .. }) => Err(Refusal::UnknownData),
            role => Err(Refusal::NothingToLead { found: role.to_string() }),
        }
    }

    /// The last that it was told is to promise this epoch: who leads in it was still open then.
    fn is_recruited_in(&self, epoch: Epoch) -> bool {
        self.assignment.as_ref().is_some_and(|told| matches!(told.task, Task::Recruit { .. }) && told.epoch == epoch)
    }

    fn lead(&self, epoch: Epoch, nonce: &str) -> Result<LedgerRole, Refusal> {
        match &self.role {
            LedgerRole::Primary { epoch: mine, nonce: theirs } if *mine == epoch && theirs == nonce => {
                Ok(self.role.clone())
            }
            LedgerRole::Relinquished { epoch: mine } if *mine >= epoch => {
                Err(Refusal::GivenUp { role: self.role.to_string(), given: epoch })
            }
            role => Err(Refusal::NotPromoted { role: role.to_string(), given: epoch }),
        }
    }

    fn follow(&self, upstream: &NodeName, epoch: Epoch, data: &DataDir) -> Result<LedgerRole, Refusal> {
        if *upstream == self.node {
            return Err(Refusal::FollowsItself);
        }
        let upstream = upstream.clone();
        match &self.role {
            LedgerRole::Blank => match data {
                DataDir::Blank => Ok(LedgerRole::Cloning { upstream, epoch }),
                _ => Err(Refusal::UnknownData),
            },
            LedgerRole::Cloning { .. } => Ok(LedgerRole::Cloning { upstream, epoch }),
            LedgerRole::Replica { .. } | LedgerRole::Recruited { .. } => Ok(LedgerRole::Replica { upstream, epoch }),
            LedgerRole::Initialising { .. } => Err(Refusal::Unfinished),
            LedgerRole::Primary { epoch: mine, .. } | LedgerRole::Promoting { epoch: mine, .. } if *mine >= epoch => {
                Err(Refusal::NotDemoted { leads: *mine })
            }
            LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } | LedgerRole::Relinquished { .. } => {
                Ok(LedgerRole::Rejoining { upstream, epoch, rewinding: false })
            }
            LedgerRole::Rejoining { rewinding, .. } => {
                Ok(LedgerRole::Rejoining { upstream, epoch, rewinding: *rewinding })
            }
        }
    }

    /// The ledger with which a pledge is given to `asks`, which leads in `epoch`: for as long as it `binds`, nobody is
    /// promoted over the primary with this node's help (FAILOVER §2, "pledges").
    pub fn pledge(&self, asks: &NodeName, epoch: Epoch, binds: Duration) -> Result<Ledger, Refusal> {
        // On a Machine where it was told nothing it counts for nothing (rule R17).
        let follows = matches!(&self.assignment, Some(told) if matches!(&told.task, Task::Follow { primary, .. } if primary == asks));
        match &self.role {
            LedgerRole::Replica { upstream, epoch: mine }
                if follows && upstream == asks && *mine == epoch && epoch == self.promised =>
            {
                Ok(Ledger { pledged: Some(self.pledged.unwrap_or_default().max(binds)), ..self.clone() })
            }
            role => Err(Refusal::NoPledge { role: role.to_string(), asks: asks.clone(), epoch }),
        }
    }

    /// The ledger once Postgres was promoted onto the authorised timeline. `None` for every other role.
    pub fn promoted(&self) -> Option<Ledger> {
        let LedgerRole::Promoting { epoch, nonce, .. } = &self.role else { return None };
        Some(Ledger { role: LedgerRole::Primary { epoch: *epoch, nonce: nonce.clone() }, ..self.clone() })
    }

    /// The ledger once this node gives up leading by itself (fence F5). `None` if it does not lead.
    pub fn relinquished(&self) -> Option<Ledger> {
        match &self.role {
            LedgerRole::Primary { epoch, .. } | LedgerRole::Promoting { epoch, .. } => {
                Some(Ledger { role: LedgerRole::Relinquished { epoch: *epoch }, ..self.clone() })
            }
            _ => None,
        }
    }

    /// The ledger before the data of a copy that went another way are touched: from now on they are not whole.
    pub fn rewinding(&self) -> Option<Ledger> {
        match &self.role {
            LedgerRole::Replica { upstream, epoch } | LedgerRole::Rejoining { upstream, epoch, .. } => {
                let role = LedgerRole::Rejoining { upstream: upstream.clone(), epoch: *epoch, rewinding: true };
                Some(Ledger { role, ..self.clone() })
            }
            _ => None,
        }
    }

    /// The ledger of a node that was to be promoted, was recruited anew, and is found stopped before it was promoted:
    /// `standby.signal` is still there, so that its data are a copy's. `None` if anything but a recruit made it give up:
    /// what it gave up by itself it never takes up again (fence F5).
    pub fn unpromoted(&self) -> Option<Ledger> {
        let LedgerRole::Relinquished { epoch } = self.role else { return None };
        let open = epoch == self.promised && self.is_recruited_in(epoch);
        open.then(|| Ledger { role: LedgerRole::Recruited { epoch }, ..self.clone() })
    }

    /// The ledger once the data of a node that led are a copy's, `standby.signal` and all.
    pub fn rejoined(&self) -> Option<Ledger> {
        let LedgerRole::Rejoining { upstream, epoch, .. } = &self.role else { return None };
        Some(Ledger { role: self.copy_of(upstream, *epoch), ..self.clone() })
    }

    /// The ledger once the data directory is complete: `initdb` under the promised nonce, or the clone, is done.
    /// `None` if nothing was in the making.
    pub fn made(&self, system_id: &SystemId) -> Option<Ledger> {
        let role = match &self.role {
            // It was recruited meanwhile: it has promised not to lead below that.
            LedgerRole::Initialising { epoch, .. } if *epoch < self.promised => {
                LedgerRole::Relinquished { epoch: self.promised }
            }
            LedgerRole::Initialising { nonce, epoch } => LedgerRole::Primary { epoch: *epoch, nonce: nonce.clone() },
            LedgerRole::Cloning { upstream, epoch } => self.copy_of(upstream, *epoch),
            _ => return None,
        };
        Some(Ledger { role, system_id: Some(system_id.clone()), ..self.clone() })
    }

    /// What a copy is that was begun under `epoch`. Recruited meanwhile, it has promised to follow nobody below that.
    fn copy_of(&self, upstream: &NodeName, epoch: Epoch) -> LedgerRole {
        match epoch < self.promised {
            true => LedgerRole::Recruited { epoch: self.promised },
            false => LedgerRole::Replica { upstream: upstream.clone(), epoch },
        }
    }

    /// The ledger of a copy that is of no use any more and is to be made anew. `None` for every other role.
    pub fn given_up(&self) -> Option<Ledger> {
        match &self.role {
            LedgerRole::Replica { upstream, epoch } | LedgerRole::Rejoining { upstream, epoch, .. } => {
                let role = LedgerRole::Cloning { upstream: upstream.clone(), epoch: *epoch };
                Some(Ledger { role, ..self.clone() })
            }
            _ => None,
        }
    }
}

impl std::fmt::Display for LedgerRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LedgerRole::Blank => f.write_str("blank"),
            LedgerRole::Initialising { .. } => f.write_str("being initialised"),
            LedgerRole::Cloning { upstream, .. } => write!(f, "being cloned from {upstream}"),
            LedgerRole::Primary { epoch, .. } => write!(f, "the primary of epoch {epoch}"),
            LedgerRole::Replica { upstream, .. } => write!(f, "a replica of {upstream}"),
            LedgerRole::Recruited { epoch } => write!(f, "recruited for epoch {epoch}"),
            LedgerRole::Promoting { epoch, .. } => write!(f, "being promoted in epoch {epoch}"),
            LedgerRole::Relinquished { epoch } => write!(f, "a former primary that gave up epoch {epoch}"),
            LedgerRole::Rejoining { upstream, .. } => write!(f, "becoming a replica of {upstream} again"),
        }
    }
}

#[cfg(test)]
mod tests;
