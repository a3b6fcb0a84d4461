//! Whether somebody may be promoted, and who: protocol §2.4, and nothing else decides it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::failover::{Position, Rule};
use crate::names::NodeName;

/// What is on record about the primary that is to be replaced.
#[derive(Debug, Clone, PartialEq)]
pub struct Reign<'a> {
    pub primary: &'a NodeName,
    /// The rule in force, and the one that is being changed to.
    pub rule: &'a Rule,
    pub joint: Option<&'a Rule>,
    /// Those that it was being changed to before, and that may be in effect.
    pub superseded: &'a [Rule],
    pub ending: Ending<'a>,
    pub mode: Mode<'a>,
}

/// What the last promotion came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending<'a> {
    /// It is established: its marker was flushed under its rule.
    Established,
    /// It never was: a candidate with at least this position was chosen, to lead under the joint rule.
    Promoting { seal: &'a Position },
}

/// How commits were acknowledged.
#[derive(Debug, Clone, PartialEq)]
pub enum Mode<'a> {
    /// By rule. With a read fence nothing that was read is un-read either.
    Synchronous { read_fence: bool },
    /// By the primary alone: `candidates` may follow it if they are not more than `max_lag` bytes behind `last`, the
    /// last position it is known to have had.
    Asynchronous { candidates: &'a BTreeSet<NodeName>, last: Option<Position>, max_lag: u64 },
}

/// What is known of the old primary's gate. Each is a proof; `false` is the lack of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fences {
    /// F2: no lease of any controller can be valid, and no pledges can hold it up.
    pub lease_over: bool,
    /// F3: its Machine was proven stopped.
    pub machine_stopped: bool,
    /// F5: it gave up, durably.
    pub relinquished: bool,
}

impl Fences {
    /// The old gate is closed, for reads as for writes.
    pub fn gate_closed(self) -> bool {
        self.lease_over || self.machine_stopped || self.relinquished
    }
}

/// Leave to promote, and to whom. Goes into the record with the decision (protocol I4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub candidate: NodeName,
    pub position: Position,
    pub recruits: BTreeMap<NodeName, Position>,
    pub fences: Fences,
}

/// Why nobody may be promoted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Missing {
    /// So many more of these must promise, or the old primary itself.
    Recruits { more: usize, of: BTreeSet<NodeName> },
    /// Nobody who was recruited has what the last decision was sealed with.
    Seal { seal: Position },
    /// The old primary may still be read from: its lease, its Machine or its own word must end that.
    GateClosed,
    /// Nobody who was recruited may lead.
    Candidate,
    /// The best candidate lacks so much, in bytes; absent where nobody knows.
    Lag { bytes: Option<u64> },
}

/// May one of `recruits` lead in the place of `reign`'s primary? The most advanced one is chosen; nodes that may not
/// lead (`barred`) count as recruits all the same.
pub fn permission(
    reign: &Reign<'_>,
    recruits: &BTreeMap<NodeName, Position>,
    barred: &BTreeSet<NodeName>,
    fences: Fences,
) -> Result<Permission, Missing> {
    let names: BTreeSet<NodeName> = recruits.keys().cloned().collect();
    if let Mode::Synchronous { .. } = reign.mode {
        wal_fence(reign, recruits, &names)?;
    } else if let Ending::Promoting { seal } = reign.ending {
        sealed(recruits, seal)?;
    }
    let fenced = match reign.mode {
        Mode::Synchronous { read_fence } => !read_fence || fences.gate_closed(),
        Mode::Asynchronous { .. } => fences.gate_closed(),
    };
    if !fenced {
        return Err(Missing::GateClosed);
    }
    let (best, position) = choose(recruits).ok_or(Missing::Candidate)?;
    let may_lead = |name: &NodeName| {
        !barred.contains(name)
            && match reign.mode {
                Mode::Synchronous { .. } => true,
                Mode::Asynchronous { candidates, .. } => candidates.contains(name) || name == reign.primary,
            }
    };
    // Where the one that has most may not lead, one that has as much may. Less is no choice: the rest would have to be
    // fetched first, and the fetcher be reported anew.
    let equals = recruits.iter().filter(|(_, p)| *p == position).map(|(name, _)| name);
    let candidate = std::iter::once(best).chain(equals).find(|name| may_lead(name)).ok_or(Missing::Candidate)?;
    if let Mode::Asynchronous { last, max_lag, .. } = reign.mode {
        let from = match reign.ending {
            Ending::Promoting { seal } => Some(*seal),
            Ending::Established => last,
        };
        let lag = from.map(|from| lag(from, *position));
        if !crate::mutant::off("R7") && lag.is_none_or(|bytes| bytes.is_none_or(|bytes| bytes > max_lag)) {
            return Err(Missing::Lag { bytes: lag.flatten() });
        }
    }
    Ok(Permission { candidate: candidate.clone(), position: *position, recruits: recruits.clone(), fences })
}

/// The most advanced of the recruits; the first by name among equals.
pub fn choose(recruits: &BTreeMap<NodeName, Position>) -> Option<(&NodeName, &Position)> {
    if crate::mutant::off("R6") {
        return recruits.first_key_value();
    }
    recruits.iter().rev().max_by_key(|(_, position)| **position)
}

/// F1 over every rule that may be in effect.
fn wal_fence(
    reign: &Reign<'_>,
    recruits: &BTreeMap<NodeName, Position>,
    names: &BTreeSet<NodeName>,
) -> Result<(), Missing> {
    if crate::mutant::off("F1") {
        return Ok(());
    }
    match reign.ending {
        Ending::Established => {
            for rule in std::iter::once(reign.rule).chain(reign.superseded) {
                revoked(rule, names, reign.primary)?;
            }
        }
        // The promotion under way acknowledges under the joint rule only; what came before it is in its seal.
        Ending::Promoting { seal } => sealed(recruits, seal)?,
    }
    reign.joint.map_or(Ok(()), |joint| revoked(joint, names, reign.primary))
}

fn revoked(rule: &Rule, names: &BTreeSet<NodeName>, primary: &NodeName) -> Result<(), Missing> {
    if rule.is_revoked_by(names, primary) {
        return Ok(());
    }
    let of: BTreeSet<NodeName> = rule.members().difference(names).cloned().collect();
    let have = rule.members().len() - of.len();
    match rule.recruits_needed() {
        Some(needed) => Err(Missing::Recruits { more: needed - have, of }),
        None => Err(Missing::Recruits { more: 1, of: [primary.clone()].into() }),
    }
}

fn sealed(recruits: &BTreeMap<NodeName, Position>, seal: &Position) -> Result<(), Missing> {
    match crate::mutant::off("R10") || recruits.values().any(|position| position >= seal) {
        true => Ok(()),
        false => Err(Missing::Seal { seal: *seal }),
    }
}

/// Bytes from `at` to `from`; `None` if they are on different branches, where the difference says nothing.
fn lag(from: Position, at: Position) -> Option<u64> {
    match at.rank.cmp(&from.rank) {
        std::cmp::Ordering::Greater => Some(0),
        std::cmp::Ordering::Equal => Some(from.lsn.bytes_since(at.lsn)),
        std::cmp::Ordering::Less => None,
    }
}

#[cfg(test)]
mod tests;
