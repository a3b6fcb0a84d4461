//! Under what terms an established primary leads: which nodes count, which rule acknowledges commits, whose pledges
//! hold its lease up. One change of the record at a time (rule R13).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::elect::Course;
use super::scene::{Scene, disk_full, millis};
use crate::decree::{CommitMode, Decree, Member, Stage};
use crate::failover::Rule;
use crate::failover::lease::Timing;
use crate::names::NodeName;
use crate::observed::Order;
use crate::plan::{Until, Why, Work};
use crate::protocol::{Gate, PgRole};
use crate::spec::Durability;

/// A standby that was not heard for so long is not waited for any more (protocol §2.8).
const GONE_AFTER: Duration = Duration::from_secs(30);

/// The rule for a new primary, of which `others` are known to be with it.
pub(super) fn rule_of_a_promotion(scene: &Scene<'_>, candidate: &NodeName, others: &BTreeSet<NodeName>) -> Rule {
    let strict = scene.spec.durability != Durability::QuorumAvailable;
    // Nodes that are to stay, as far as there are any; and nodes that are here before those that would have to come back
    // before anything is acknowledged.
    let stays = |name: &&NodeName| scene.is_eligible(name);
    let rest = scene.decree.members.keys();
    let rest = rest.filter(|name| *name != candidate && scene.matters(name) && scene.comes(name));
    let pick = |names: BTreeSet<NodeName>| (!names.is_empty()).then_some(names);
    let here = pick(others.iter().filter(stays).cloned().collect());
    let members = match here {
        Some(here) => here,
        None if !strict => BTreeSet::new(),
        None => pick(others.clone())
            .or_else(|| pick(rest.clone().filter(stays).cloned().collect()))
            .unwrap_or_else(|| rest.cloned().collect()),
    };
    rule_over(scene, members)
}

/// As many acknowledgements of these as the file asks for, and as there can be.
pub(super) fn rule_over(scene: &Scene<'_>, members: BTreeSet<NodeName>) -> Rule {
    let acks = Rule::acks_of(scene.spec.primary.nodes).min(members.len());
    Rule::any(acks, members).unwrap_or_else(|_| Rule::alone())
}

/// The next change, if there is one to make now, and what is waited for otherwise.
pub(super) fn next(scene: &Scene<'_>) -> (Option<Course>, Vec<(Work, Until)>) {
    let mut holds = Vec::new();
    let decree = scene.decree;
    // Also while its gate is shut because those that it must wait for are gone: all that was acknowledged it has itself,
    // and it opens only once another rule has that too.
    let leads = scene.node(&decree.primary).is_some_and(|node| node.leads());
    let Some(leading) = scene.leading().filter(|_| leads) else { return (None, holds) };
    if !leading.confirmed {
        holds.push((Work::Rule, Until::MarkerConfirmed { node: decree.primary.clone() }));
    }
    let told = scene.primary().is_some_and(|report| report.revision >= decree.revision);

    if let Some(joint) = &decree.joint {
        let covered = leading.covered || crate::mutant::off("R13");
        if told && leading.rule.as_ref() == Some(joint) && covered {
            let next = decree.amended(|next| {
                next.rule = joint.clone();
                next.joint = None;
                next.superseded.clear();
            });
            return (Some(Course::Decide(Box::new(next), Why::RuleChanged)), holds);
        }
        if let Some((next, why)) = turned(scene, joint) {
            return (Some(Course::Decide(Box::new(next), why)), holds);
        }
        holds.push((Work::Rule, Until::RuleInEffect { rule: joint.clone() }));
        return (None, holds);
    }
    // Who counts is what the rest goes by, and may change together with it.
    let counted = members(scene).map(|members| Decree { members, ..decree.clone() });
    let scene = &Scene { decree: counted.as_ref().unwrap_or(decree), ..*scene };
    let changes = [profile(scene, &mut holds), mode(scene), rule(scene, &mut holds), pledgers(scene, told)];
    let alone = || counted.as_ref().map(|counted| (counted.amended(|_| ()), Why::MembersChanged));
    let first = changes.into_iter().flatten().next().or_else(alone);
    (first.map(|(next, why)| Course::Decide(Box::new(next), why)), holds)
}

type Change = Option<(Decree, Why)>;

/// Who counts: whoever is found to be a whole copy now, and whoever was and is still wanted (rules R9, R17).
fn members(scene: &Scene<'_>) -> Option<BTreeMap<NodeName, Member>> {
    let decree = scene.decree;
    let mut members: BTreeMap<NodeName, Member> = decree.members.clone();
    for name in scene.census.nodes.keys().filter(|name| scene.is_admitted(name)) {
        let Some(report) = scene.fresh(name) else { continue };
        let now = scene.member(name, report);
        members.insert(name.clone(), now);
    }
    let bound = |name: &NodeName| decree.rule.members().contains(name) || decree.pledgers.contains(name);
    // A node is forgotten once nothing of it is left.
    members.retain(|name, _| bound(name) || *name == decree.primary || scene.node(name).is_some());
    (members != decree.members).then_some(members)
}

/// Other times for leases: leases of the longer ones are waited out before that is forgotten.
fn profile(scene: &Scene<'_>, holds: &mut Vec<(Work, Until)>) -> Change {
    let decree = scene.decree;
    let wanted = scene.spec.failover.profile;
    if let Some(leaving) = decree.leaving {
        let left = Timing::of(leaving).over_after().saturating_sub(scene.decided_ago());
        if left.is_zero() {
            return Some((decree.amended(|next| next.leaving = None), Why::ProfileChange));
        }
        let left_ms = millis(left);
        holds.push((Work::Rule, Until::LongLeaseOver { left_ms }));
        return None;
    }
    (wanted != decree.profile).then(|| {
        let next = decree.amended(|next| {
            next.leaving = Some(next.profile);
            next.profile = wanted;
        });
        (next, Why::ProfileChange)
    })
}

/// From waiting for standbys to not, and back: through a moment in which only this primary may go on (protocol §2.4).
fn mode(scene: &Scene<'_>) -> Change {
    let decree = scene.decree;
    let wanted = scene.spec.durability.commit_mode();
    if wanted == decree.mode {
        return None;
    }
    match wanted {
        CommitMode::Synchronous => {
            let next = decree.amended(|next| {
                next.mode = wanted;
                next.candidates.clear();
                next.pledgers.clear();
            });
            Some((next, Why::RuleChange))
        }
        CommitMode::Asynchronous if decree.rule.acks() == 0 => {
            Some((decree.amended(|next| next.mode = wanted), Why::RuleChange))
        }
        CommitMode::Asynchronous => Some((decree.amended(|next| next.joint = Some(Rule::alone())), Why::RuleChange)),
    }
}

/// A change to a rule that waits for standbys that were lost is turned to another rule, which may be the one before it.
/// Whatever was acknowledged meanwhile was acknowledged by one of those on record: each of them has to be revoked before
/// anybody else is promoted, until the last one is in effect everywhere and has all that came before it (rule R13).
fn turned(scene: &Scene<'_>, joint: &Rule) -> Change {
    let there = joint.members().iter().filter(|name| !scene.is_gone(name, gone_after(scene))).count();
    if there >= joint.acks() || scene.decree.mode == CommitMode::Asynchronous {
        return None;
    }
    let next = match scene.spec.durability {
        Durability::Async => Rule::alone(),
        Durability::Quorum | Durability::QuorumAvailable => wanted(scene, &mut Vec::new())?,
    };
    (next != *joint).then(|| {
        let turn = |record: &mut Decree| {
            record.superseded.retain(|rule| rule != joint);
            record.superseded.push(joint.clone());
            record.joint = Some(next);
        };
        (scene.decree.amended(turn), Why::RuleChange)
    })
}

/// Who is not there just now is waited for, for a while: shorter where writes shall not wait (§2.6, "degrade_after").
fn gone_after(scene: &Scene<'_>) -> Duration {
    match scene.spec.durability {
        Durability::QuorumAvailable => scene.timing().ttl * 2,
        Durability::Quorum | Durability::Async => GONE_AFTER,
    }
}

fn rule(scene: &Scene<'_>, holds: &mut Vec<(Work, Until)>) -> Change {
    let decree = scene.decree;
    if decree.mode == CommitMode::Asynchronous || scene.spec.durability == Durability::Async {
        return None;
    }
    let next = wanted(scene, holds).filter(|next| *next != decree.rule)?;
    Some((decree.amended(|record| record.joint = Some(next)), Why::RuleChange))
}

/// The widest rule that `durability` asks for and the standbys allow.
fn wanted(scene: &Scene<'_>, holds: &mut Vec<(Work, Until)>) -> Option<Rule> {
    let decree = scene.decree;
    let old = decree.rule.members();
    let is_standby = |name: &&NodeName| **name != decree.primary && scene.is_eligible(name);
    let admitted: BTreeSet<NodeName> =
        decree.members.keys().filter(is_standby).filter(|name| scene.is_admitted(name)).cloned().collect();
    let available = scene.spec.durability == Durability::QuorumAvailable;
    let kept = old.iter().filter(is_standby).filter(|name| !scene.is_gone(name, gone_after(scene))).cloned();
    let members: BTreeSet<NodeName> = admitted.iter().cloned().chain(kept).collect();
    let wanted = Rule::acks_of(scene.spec.primary.nodes);
    let there = admitted.len();
    if scene.spec.primary.nodes > 1 && there < wanted {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        holds.push((Work::Rule, Until::MembersReady { wanted, have: u32::try_from(there).unwrap_or(u32::MAX) }));
        // Of these it is not their readiness that is waited for.
        for node in decree.members.keys().filter(|name| **name != decree.primary) {
            if let Some(why) = scene.fresh(node).and_then(disk_full) {
                holds.push((Work::Rule, Until::NodeInOrder { node: node.clone(), why }));
            }
        }
    }
    let next = match members.is_empty() {
        false => {
            let acks = wanted.min(members.len());
            // Fewer acknowledgements than the file asks for, while there are not enough standbys at all.
            Rule::any(acks, members).ok()?
        }
        // Alone, but only if the record says so first, and while it is sure that this primary leads.
        true if old.is_empty() => Rule::alone(),
        true if available || scene.spec.primary.nodes == 1 => {
            let leased = scene.leading().is_some_and(|leading| leading.gate == Gate::Open);
            leased.then(Rule::alone)?
        }
        true => return None,
    };
    // A rule grows by standbys that are there, so that no commit waits for one that is not.
    let grows_by_absent = next.members().difference(old).any(|name| !admitted.contains(name));
    (!grows_by_absent).then_some(next)
}

/// Asynchronous mode: a candidate is added at the primary first, and removed on record first (FAILOVER §2).
fn pledgers(scene: &Scene<'_>, told: bool) -> Change {
    let decree = scene.decree;
    if decree.mode != CommitMode::Asynchronous {
        return None;
    }
    let is_standby = |name: &&NodeName| **name != decree.primary && scene.is_eligible(name);
    let wanted: BTreeSet<NodeName> = decree
        .members
        .keys()
        .filter(is_standby)
        .filter(|name| scene.is_admitted(name) || decree.pledgers.contains(*name) && !scene.is_gone(name, GONE_AFTER))
        .cloned()
        .collect();
    if wanted != decree.pledgers {
        let next = decree.amended(|next| {
            next.candidates.retain(|name| wanted.contains(name));
            next.pledgers = wanted;
        });
        return Some((next, Why::MembersChanged));
    }
    (told && decree.candidates != decree.pledgers)
        .then(|| (decree.amended(|next| next.candidates = next.pledgers.clone()), Why::MembersChanged))
}

/// A person asked for another primary.
pub(super) fn order(scene: &Scene<'_>) -> Option<Course> {
    let decree = scene.decree;
    match scene.watch.order.as_ref()? {
        Order::Switchover { to } => {
            let to = to.clone().or_else(|| best(scene))?;
            if to == decree.primary {
                return None;
            }
            if !is_ready(scene, &to) {
                return Some(Course::Wait(Until::CaughtUp { node: to }));
            }
            if let Some(until) = pledge(scene) {
                return Some(Course::Wait(until));
            }
            let next = decree.amended(|next| next.stage = Stage::HandingOver { to: to.clone() });
            Some(Course::Decide(Box::new(next), Why::Switchover { to }))
        }
        Order::Failover { to, .. } if *to == decree.primary => None,
        Order::Failover { to, .. } => Some(super::elect::attempt(decree, Why::LossAccepted { to: to.clone() })),
    }
}

/// A standby has vouched for the primary, while no controller did, and promises nothing higher before that is over. If
/// the primary gave way now, writes would pause for so long, and nobody might come to lead but itself again.
fn pledge(scene: &Scene<'_>) -> Option<Until> {
    let left = |name: &NodeName| {
        let heard = scene.pulse(name).heard?;
        let left = scene.fresh(name)?.pledged_for?.saturating_sub(scene.mono().since(heard));
        (!left.is_zero()).then(|| Until::PledgeOver { node: name.clone(), left_ms: millis(left).max(1) })
    };
    scene.decree.members.keys().find_map(left)
}

/// Could take over now, with a short pause for writes: a whole copy that streams, close behind, and, where commits wait
/// for standbys, one of those.
pub(super) fn is_ready(scene: &Scene<'_>, to: &NodeName) -> bool {
    let counts = match scene.decree.mode {
        CommitMode::Synchronous => scene.decree.rule.members().contains(to),
        CommitMode::Asynchronous => scene.decree.candidates.contains(to),
    };
    counts && scene.is_eligible(to) && scene.is_admitted(to)
}

/// The standby that has replayed the most.
fn best(scene: &Scene<'_>) -> Option<NodeName> {
    let replayed = |name: &NodeName| match &scene.node(name)?.running()?.role {
        PgRole::Standby { replayed, .. } => Some(*replayed),
        PgRole::Primary { .. } => None,
    };
    let ready = scene.decree.members.keys().filter(|name| is_ready(scene, name));
    ready.rev().max_by_key(|name| replayed(name)).cloned()
}
