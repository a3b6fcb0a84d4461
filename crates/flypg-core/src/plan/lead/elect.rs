//! An attempt to find out who leads next: from the suspicion to the decision. Each piece is recognised from the record
//! and the reports, so that any controller can go on with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::scene::{Recruit, Scene, end, millis};
use super::terms;
use crate::decree::{CommitMode, Decree, Promotion, Stage};
use crate::failover::lease::over_at;
use crate::failover::{Ending, Fences, Missing, Mode, Permission, Position, Reign, Rule, permission};
use crate::names::NodeName;
use crate::observed::Order;
use crate::plan::{Suspicion, Until, Why};
use crate::protocol::{Gate, PgRole, Phase, Standing};

/// Once a promotion is permitted, nodes that answer are waited for so long: whoever is not recruited may have more than
/// the one that is chosen, and would have to be rewound (protocol §2.6, "grace").
const GRACE: Duration = Duration::from_millis(150);
/// The same for the one that a switchover goes to: the old primary has stopped for it (§2.6, "Verify").
const VERIFY: Duration = Duration::from_secs(3);
/// Automatic failovers in an hour, and in a minute (rule R19).
const HOURLY: (Duration, usize) = (Duration::from_secs(3600), 3);
const MINUTELY: (Duration, usize) = (Duration::from_secs(60), 2);

/// What is to become of the record, or what is waited for.
pub(super) enum Course {
    Decide(Box<Decree>, Why),
    Wait(Until),
}

/// A new attempt, if it can come to anything.
pub(super) fn begin(scene: &Scene<'_>, suspicion: Suspicion) -> Course {
    let decree = scene.decree;
    // One that gave up can only go on by another attempt. Any other one is let be until somebody can replace it: its
    // recovery may take its time, and to recruit it would begin that again.
    if suspicion != Suspicion::GaveUp
        && let Some(missing) = hopeless(scene, &suspicion)
    {
        return wait_for(scene, missing, &BTreeMap::new());
    }
    if let Some(recent) = over_budget(scene) {
        return Course::Wait(Until::FailoverBudget { recent });
    }
    let why = match decree.stage {
        Stage::Promoting { .. } => Why::AttemptFailed { node: decree.primary.clone() },
        _ => Why::Suspected { node: decree.primary.clone(), suspicion },
    };
    attempt(decree, why)
}

pub(super) fn attempt(decree: &Decree, why: Why) -> Course {
    Course::Decide(Box::new(decree.amended(|next| next.epoch = next.epoch.next())), why)
}

/// Recruiting the others who answer now would not do: then nobody is disturbed. A candidate that cannot confirm its
/// promotion is recruited with them: it answers, and its own promise ends whatever it may have acknowledged.
fn hopeless(scene: &Scene<'_>, suspicion: &Suspicion) -> Option<Missing> {
    let decree = scene.decree;
    let mut reachable = scene.others_there();
    if *suspicion == Suspicion::Unconfirmed {
        reachable.insert(decree.primary.clone());
    }
    if reachable.is_empty() {
        return Some(Missing::Candidate);
    }
    match decree.mode {
        CommitMode::Synchronous if crate::mutant::off("F1") => None,
        CommitMode::Synchronous => decree.rules().find_map(|rule| {
            let missing = || rule.members().difference(&reachable).cloned().collect();
            match rule.recruits_needed() {
                _ if rule.is_revoked_by(&reachable, &decree.primary) => None,
                Some(needed) => {
                    let have = rule.members().intersection(&reachable).count();
                    Some(Missing::Recruits { more: needed - have, of: missing() })
                }
                None => Some(Missing::Recruits { more: 1, of: [decree.primary.clone()].into() }),
            }
        }),
        CommitMode::Asynchronous => decree.candidates.is_disjoint(&reachable).then_some(Missing::Candidate),
    }
}

fn over_budget(scene: &Scene<'_>) -> Option<u32> {
    if crate::mutant::off("R19") {
        return None;
    }
    let recent = |(within, most): (Duration, usize)| {
        let since = scene.now.checked_sub(within).unwrap_or(scene.now);
        let count = scene.decree.failovers.iter().filter(|at| **at > since).count();
        (count >= most).then_some(u32::try_from(count).unwrap_or(u32::MAX))
    };
    recent(MINUTELY).or_else(|| recent(HOURLY))
}

/// The next piece of the attempt under way.
pub(super) fn go_on(scene: &Scene<'_>) -> Course {
    if is_well(scene) {
        return reaffirm(scene, None);
    }
    let recruits = scene.recruits();
    let fences = fences(scene);
    if let Some(Order::Failover { to, accept_data_loss: true }) = &scene.watch.order {
        return by_order(scene, to, &recruits, fences);
    }
    match permitted(scene, &recruits, fences) {
        // It goes on in place: that is no promotion.
        Ok(permission) if permission.candidate == scene.decree.primary && !is_unpromoted(scene) => {
            hold_out(scene, Missing::Candidate, &recruits, Some(permission))
        }
        Ok(permission) => match late(scene) {
            Some(nodes) => Course::Wait(Until::Recruited { nodes }),
            None => decide(scene, permission, &recruits, None),
        },
        Err(missing) => hold_out(scene, missing, &recruits, None),
    }
}

/// The old primary was suspected wrongly, and nobody has it on disk yet that it is over: it answers, leads, and nothing
/// keeps it from going on.
fn is_well(scene: &Scene<'_>) -> bool {
    let ordered = is_forced(scene) || matches!(scene.decree.stage, Stage::HandingOver { .. });
    let serves = scene.leading().is_some_and(|l| l.confirmed && matches!(l.gate, Gate::Open | Gate::Leaseless));
    let hangs = |report: &crate::protocol::NodeReport| {
        report.postgres.as_ref().is_none_or(
            |pg| matches!(&pg.role, PgRole::Primary { probe, .. } if probe.is_some_and(|p| p.hangs.is_some())),
        )
    };
    let healthy = scene.primary().is_some_and(|report| report.phase == Phase::Running && !hangs(report));
    !ordered && serves && healthy && scene.stranger().is_none()
}

/// The old primary goes on, in the epoch of the attempt: recruits have promised that, and can follow it again. `anew`: it
/// gave up, and could be chosen by this, like any other.
fn reaffirm(scene: &Scene<'_>, anew: Option<Permission>) -> Course {
    let decree = scene.decree;
    let nonce = nonce(scene);
    // One that had confirmed its marker, and was not heard of that, is established: its timeline is the cluster's. One
    // that had not goes on with the seal and the joint rule that it was chosen by, whatever it is called now.
    let confirmed = scene.leading().is_some_and(|leading| leading.confirmed);
    let branch = scene.lineage().branches().last().filter(|branch| branch.epoch > last_epoch(decree)).cloned();
    let mut promotion = decree.promotion().filter(|_| !(confirmed && branch.is_some())).cloned();
    let mut joint = None;
    if let (Some(promotion), Some(anew)) = (&mut promotion, anew)
        && decree.mode == CommitMode::Synchronous
    {
        // Those that it was to wait for may never come: it waits for those that are here now. Whatever it may have
        // acknowledged by the rule before, it has itself, and the new seal covers all of that: whoever follows it must
        // have all that it has now (rule R10).
        let others = anew.recruits.keys().filter(|name| **name != decree.primary).cloned().collect();
        joint = Some(terms::rule_of_a_promotion(scene, &decree.primary, &others));
        promotion.permission = anew;
    }
    let next = decree.amended(|next| {
        if joint.is_some() {
            next.joint = joint;
        }
        next.reign = next.epoch;
        next.lineage.authorise(next.epoch, nonce.clone());
        if next.promotion().is_some() && promotion.is_none() {
            if let Some(branch) = branch {
                let _ = next.lineage.append(branch);
            }
            next.rule = next.joint.take().unwrap_or_else(Rule::alone);
        }
        next.stage = Stage::Reaffirming { nonce, promotion };
    });
    Course::Decide(Box::new(next), Why::Abandoned { node: decree.primary.clone() })
}

fn last_epoch(decree: &Decree) -> crate::decree::Epoch {
    decree.lineage.branches().last().map_or_else(Default::default, |branch| branch.epoch)
}

/// A person chose somebody, and does not want the old primary back.
fn is_forced(scene: &Scene<'_>) -> bool {
    matches!(scene.watch.order, Some(Order::Failover { .. }))
}

/// Nobody may be promoted now. Where the old primary itself has promised, and nobody else can come to decide it, it is
/// the one that goes on.
fn hold_out(
    scene: &Scene<'_>,
    missing: Missing,
    recruits: &BTreeMap<NodeName, Recruit<'_>>,
    in_place: Option<Permission>,
) -> Course {
    let decree = scene.decree;
    let back = scene
        .primary()
        .filter(|report| report.promised == decree.epoch && matches!(report.standing, Standing::Relinquished { .. }));
    let able = back.is_some_and(|r| {
        let fails = matches!(r.phase, Phase::Quarantined { .. } | Phase::Failing { .. });
        !fails && scene.is_known(&decree.primary, r)
    });
    // A candidate that gave up may never have been promoted: then it has nothing to go on with.
    let led = match &decree.stage {
        Stage::Promoting { promotion, .. } => back.is_some_and(|r| {
            let timeline = promotion.timeline;
            matches!(&r.standing, Standing::Relinquished { end: Some(end), .. } if end.history.timeline == timeline)
        }),
        _ => true,
    };
    if able && led && late(scene).is_none() && !is_forced(scene) {
        return reaffirm(scene, in_place);
    }
    match missing {
        Missing::GateClosed => hold_out_for_the_gate(scene),
        missing => wait_for(scene, missing, recruits),
    }
}

/// What is missing may come by itself, or only a person can go on without it: nobody who could bring it is left.
fn wait_for(scene: &Scene<'_>, missing: Missing, recruits: &BTreeMap<NodeName, Recruit<'_>>) -> Course {
    let may_come = |name: &NodeName| scene.comes(name) && !scene.is_lost(name);
    let may_bring_more = |name: &NodeName| may_come(name) && !recruits.contains_key(name) && scene.end(name).is_none();
    let may_end = match &missing {
        Missing::Lag { .. } => false,
        Missing::GateClosed => true,
        Missing::Recruits { more, of } => {
            of.iter().filter(|name| may_come(name)).count() >= *more || may_come(&scene.decree.primary)
        }
        Missing::Seal { .. } | Missing::Candidate => {
            let all = scene.decree.members.keys().chain([&scene.decree.primary]);
            all.filter(|name| scene.matters(name)).any(may_bring_more)
        }
    };
    Course::Wait(if may_end { Until::Promotable { missing } } else { Until::LossAccepted { missing } })
}

/// Nodes that answer and have not said yet where their data end, while there is still time for them.
fn late(scene: &Scene<'_>) -> Option<Vec<NodeName>> {
    let decree = scene.decree;
    let is_late = |name: &&NodeName| {
        let report = scene.fresh(name).filter(|report| scene.is_known(name, report));
        report.is_some_and(|report| report.promised < decree.epoch || unfinished(&report.standing))
    };
    let wanted = |name: &NodeName| matches!(&decree.stage, Stage::HandingOver { to } if to == name);
    let in_time = |name: &&NodeName| scene.epoch_age() < if wanted(name) { VERIFY } else { GRACE };
    let others = decree.members.keys().filter(|name| **name != decree.primary && scene.matters(name));
    let names: Vec<NodeName> = others.filter(in_time).filter(is_late).cloned().collect();
    (!names.is_empty()).then_some(names)
}

fn unfinished(standing: &Standing) -> bool {
    matches!(standing, Standing::Recruited { end: None })
}

/// What is known of the old primary's gate (protocol §2.4).
fn fences(scene: &Scene<'_>) -> Fences {
    let decree = scene.decree;
    let machine = scene.node(&decree.primary).and_then(|node| node.machine);
    let granted = scene.watch.granted.filter(|granted| granted.epoch <= decree.reign);
    let proof = machine.and_then(|machine| scene.watch.stopped.get(&machine.id));
    Fences {
        lease_over: lease_over_in(scene) == Some(Duration::ZERO),
        // It may be started again, and then goes on as soon as it has a lease, or needs none.
        machine_stopped: proof.is_some_and(|proof| granted.is_none_or(|granted| granted.last < proof.at))
            && is_failsafe_broken(scene),
        // Its own durable word. That the epoch was never promised to it is no word.
        relinquished: scene.promise(&decree.primary).is_some_and(|report| report.leading().is_none()),
    }
}

/// Enough of those have promised who would have to pledge for the old primary: without a controller it has no lease, in
/// this boot or a later one.
///
/// What it was told may be older than the record, and weaker: the partner of a rule may be unknown to it, and so may
/// whoever was not a candidate yet. One that may need no lease at all can only end that itself (protocol §2.8).
fn is_failsafe_broken(scene: &Scene<'_>) -> bool {
    let decree = scene.decree;
    let promised: BTreeSet<NodeName> = scene.promised().into_iter().filter(|name| *name != decree.primary).collect();
    match (decree.mode, decree.promotion()) {
        // It leads only once it was told the rule of its promotion.
        (CommitMode::Synchronous, Some(_)) => {
            decree.joint.as_ref().is_some_and(|rule| rule.is_revoked_by(&promised, &decree.primary))
        }
        (CommitMode::Synchronous, _) => decree.rule.is_revoked_by(&promised, &decree.primary),
        (CommitMode::Asynchronous, _) => !decree.candidates.is_disjoint(&promised),
    }
}

/// F2: how long until no lease of any controller can be valid. `None` while pledges may hold one up for ever.
fn lease_over_in(scene: &Scene<'_>) -> Option<Duration> {
    let decree = scene.decree;
    if crate::mutant::off("F2") {
        return Some(Duration::ZERO);
    }
    if !is_failsafe_broken(scene) {
        return None;
    }
    let since = match crate::mutant::off("R2") {
        true => Default::default(),
        false => scene.watch.leads_since?,
    };
    let at = over_at(scene.watch.granted, decree.reign, since, &scene.longest());
    Some(at.since(scene.mono()))
}

/// Protocol §2.4. Whoever can be chosen without the old primary is: its own data may hold more than anybody was told.
fn permitted(
    scene: &Scene<'_>,
    recruits: &BTreeMap<NodeName, Recruit<'_>>,
    fences: Fences,
) -> Result<Permission, Missing> {
    let decree = scene.decree;
    let ending = match decree.promotion() {
        Some(promotion) => Ending::Promoting { seal: &promotion.permission.position },
        None => Ending::Established,
    };
    let mode = match decree.mode {
        CommitMode::Synchronous => Mode::Synchronous { read_fence: scene.spec.failover.read_fence },
        CommitMode::Asynchronous => Mode::Asynchronous {
            candidates: &decree.candidates,
            last: last_known(scene),
            max_lag: scene.spec.failover.max_lag_bytes,
        },
    };
    let (rule, joint, superseded) = (&decree.rule, decree.joint.as_ref(), decree.superseded.as_slice());
    let reign = Reign { primary: &decree.primary, rule, joint, superseded, ending, mode };
    let barred = |may: &dyn Fn(&NodeName) -> bool| recruits.keys().filter(|name| !may(name)).cloned().collect();
    let is_copy = |name: &NodeName| recruits.get(name).is_some_and(|recruit| recruit.way.astray.is_none());
    // A node that is to be removed leads rather than nobody.
    let wanted: BTreeSet<NodeName> = barred(&|name| scene.is_eligible(name) && is_copy(name));
    let able: BTreeSet<NodeName> = barred(&|name| scene.is_able(name) && is_copy(name));
    // So does a candidate of before whose promotion came to nothing: all that counts it has, and what it has beyond that
    // was written by nobody but itself. What a person did to a copy is for a person to judge.
    let ours: BTreeSet<NodeName> = barred(&|name| {
        scene.is_able(name) && recruits.get(name).is_some_and(|recruit| recruit.was_authorised(decree.burnt))
    });
    let all = positions(recruits);
    let others: BTreeMap<NodeName, Position> =
        all.iter().filter(|(name, _)| **name != decree.primary).map(|(n, p)| (n.clone(), *p)).collect();
    if let Some(to) = preferred(scene) {
        let rest = barred(&|name| name == to && scene.is_able(name) && is_copy(name));
        if let Ok(permission) = permission(&reign, &all, &rest, fences) {
            return Ok(permission);
        }
    }
    permission(&reign, &others, &wanted, fences)
        .or_else(|_| permission(&reign, &others, &able, fences))
        .or_else(|_| permission(&reign, &all, &able, fences))
        .or_else(|missing| permission(&reign, &all, &ours, fences).map_err(|_| missing))
}

fn positions(recruits: &BTreeMap<NodeName, Recruit<'_>>) -> BTreeMap<NodeName, Position> {
    recruits.iter().map(|(name, recruit)| (name.clone(), recruit.way.position)).collect()
}

/// The one that was chosen last is still a standby, and was recruited as one: to go on it must be promoted, anew.
fn is_unpromoted(scene: &Scene<'_>) -> bool {
    scene.primary().is_some_and(|report| matches!(report.standing, Standing::Recruited { .. }))
}

/// Whom a switchover was asked for.
fn preferred<'a>(scene: &'a Scene<'_>) -> Option<&'a NodeName> {
    match (&scene.decree.stage, &scene.watch.order) {
        (Stage::HandingOver { to }, _) => Some(to),
        (_, Some(Order::Switchover { to })) => to.as_ref(),
        (_, Some(Order::Failover { to, .. })) => Some(to),
        (_, None) => None,
    }
}

/// Asynchronous mode: the furthest position that the old primary is known to have had (rule R7).
fn last_known(scene: &Scene<'_>) -> Option<Position> {
    let decree = scene.decree;
    let clean = scene.node(&decree.primary).and_then(|node| node.report()).and_then(end);
    if let Some(end) = clean {
        return scene.lineage().place(&end.history, end.lsn).ok();
    }
    let known = scene.watch.last_known.filter(|known| known.reign == decree.reign)?;
    // Another controller may have gone on granting until this one came to lead, and only the primary says how far it got
    // by that.
    let leads_since = scene.watch.leads_since?;
    let is_bound = known.recalled || known.said.is_some_and(|said| said >= leads_since);
    let rank = decree.lineage.branches().len().checked_sub(1)?;
    is_bound.then_some(Position { rank, lsn: known.lsn })
}

/// The decision: whom, on which timeline, under which rule, with the leave to do so (rules R1, R6, R8, R10).
fn decide(
    scene: &Scene<'_>,
    permission: Permission,
    recruits: &BTreeMap<NodeName, Recruit<'_>>,
    loss: Option<&NodeName>,
) -> Course {
    let decree = scene.decree;
    let candidate = permission.candidate.clone();
    let nonce = nonce(scene);
    let others: BTreeSet<NodeName> =
        permission.recruits.keys().filter(|name| **name != candidate && **name != decree.primary).cloned().collect();
    let rule = match decree.mode {
        // Those who are not here may never be: whoever ordered this waits for none of them.
        CommitMode::Synchronous if loss.is_some() => terms::rule_over(scene, others.clone()),
        CommitMode::Synchronous => terms::rule_of_a_promotion(scene, &candidate, &others),
        CommitMode::Asynchronous => Rule::alone(),
    };
    let automatic = !matches!(decree.stage, Stage::HandingOver { .. }) && scene.watch.order.is_none();
    let next = decree.amended(|next| {
        // The cluster goes on from what the chosen node has: a timeline that it is on has come about, whether or not
        // anybody said so.
        if let Some(recruit) = recruits.get(&candidate) {
            next.lineage = scene.lineage().adopt(&candidate, &recruit.end.history, permission.position);
        }
        // Nor is a number free that somebody took whom nobody told to (rule R8).
        next.burnt = scene.timelines().chain([next.burnt]).max().unwrap_or(next.burnt) + 1;
        next.primary = candidate.clone();
        next.reign = next.epoch;
        next.lineage.authorise(next.epoch, nonce.clone());
        next.joint = (decree.mode == CommitMode::Synchronous).then_some(rule);
        next.superseded.clear();
        if decree.mode == CommitMode::Asynchronous {
            next.pledgers = others.into_iter().filter(|name| scene.is_eligible(name)).collect();
            next.candidates.clone_from(&next.pledgers);
        }
        if automatic {
            let hour_ago = scene.now.checked_sub(HOURLY.0).unwrap_or(scene.now);
            next.failovers.retain(|at| *at > hour_ago);
            next.failovers.push(scene.now);
        }
        next.stage =
            Stage::Promoting { nonce, promotion: Promotion { epoch: next.epoch, timeline: next.burnt, permission } };
    });
    let why = match loss {
        Some(to) => Why::LossAccepted { to: to.clone() },
        None => Why::Chosen { node: candidate },
    };
    Course::Decide(Box::new(next), why)
}

/// A person chose, and accepts what that loses. Two primaries are not for a person to accept: a gate must be closed.
fn by_order(scene: &Scene<'_>, to: &NodeName, recruits: &BTreeMap<NodeName, Recruit<'_>>, fences: Fences) -> Course {
    if !fences.gate_closed() {
        return hold_out_for_the_gate(scene);
    }
    match recruits.get(to) {
        Some(recruit) => {
            let permission = Permission {
                candidate: to.clone(),
                position: recruit.way.position,
                recruits: positions(recruits),
                fences,
            };
            decide(scene, permission, recruits, Some(to))
        }
        None => Course::Wait(Until::Recruited { nodes: vec![to.clone()] }),
    }
}

fn hold_out_for_the_gate(scene: &Scene<'_>) -> Course {
    Course::Wait(match lease_over_in(scene) {
        Some(left) => Until::LeaseOver { node: scene.decree.primary.clone(), left_ms: millis(left) },
        None => Until::Promotable { missing: Missing::GateClosed },
    })
}

/// Different for every decision, and the same whoever computes it from the same sight: a compare-and-set lets only one
/// of them through anyway.
fn nonce(scene: &Scene<'_>) -> String {
    let decree = scene.decree;
    let seed = format!("{}/{}/{}/{}", scene.spec.name, decree.epoch, decree.revision, scene.now);
    crate::digest::short(seed.as_bytes())
}
