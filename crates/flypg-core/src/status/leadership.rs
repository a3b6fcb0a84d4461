//! Who leads, under what terms, and what the cluster survives as it is now.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::decree::{CommitMode, Decree, Stage};
use crate::failover::Survives;
use crate::names::NodeName;
use crate::observed::{Observed, Seen};
use crate::protocol::{Gate, NodeReport, PgRole, Phase};
use crate::render;
use crate::spec::ClusterSpec;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// The epoch that the primary leads in; below [`super::ClusterStatus::epoch`] while an attempt runs to replace it.
    pub reign: u64,
    /// `bootstrapping`, `electing`, `promoting`, `reaffirming`, `established` or `handing-over`.
    pub stage: String,
    /// Whether commits wait for standbys by rule: `synchronous` or `asynchronous`.
    pub mode: String,
    /// Who must have a commit on disk before it is acknowledged, in words.
    pub acknowledged_by: String,
    /// How many of `standbys` must; 0 if the primary alone does.
    pub acks: usize,
    pub standbys: Vec<String>,
    /// What the gate of the primary does: `open`, `holding`, `unconfirmed`, `leaseless`, `down` or `fenced`; absent while
    /// it does not answer.
    pub gate: Option<String>,
    /// With the standbys that stream now; absent where no node would take over by itself.
    pub survives: Option<Survives>,
    /// The last automatic failover within an hour, RFC 3339.
    pub last_failover: Option<String>,
}

pub(super) fn of(spec: &ClusterSpec, observed: &Observed, decree: &Decree) -> Leadership {
    let stage = match &decree.stage {
        Stage::Bootstrapping { .. } => "bootstrapping",
        _ if decree.is_electing() => "electing",
        Stage::Promoting { .. } => "promoting",
        Stage::Reaffirming { .. } => "reaffirming",
        Stage::Established => "established",
        Stage::HandingOver { .. } => "handing-over",
    };
    let mode = match decree.mode {
        CommitMode::Synchronous => "synchronous",
        CommitMode::Asynchronous => "asynchronous",
    };
    let leading = said(observed, &decree.primary).and_then(NodeReport::leading);
    Leadership {
        reign: decree.reign.0,
        stage: stage.to_owned(),
        mode: mode.to_owned(),
        acknowledged_by: render::rule(decree.rule_told()),
        acks: decree.rule_told().acks(),
        standbys: decree.rule_told().members().iter().map(ToString::to_string).collect(),
        gate: leading.map(|leading| gate(leading.gate).to_owned()),
        survives: survives(spec, observed, decree),
        last_failover: decree.failovers.last().map(ToString::to_string),
    }
}

/// Whether the loss of the primary would be survived now, without a person and without losing what was acknowledged; the
/// reason in one word, and in words.
pub(super) fn availability(
    spec: &ClusterSpec,
    observed: &Observed,
    decree: Option<&Decree>,
) -> (bool, &'static str, String) {
    if spec.primary.nodes == 1 {
        return (false, "OneNode", "there is one node in the primary region".to_owned());
    }
    let Some(decree) = decree else { return (false, "NoPrimary", "nobody leads yet".to_owned()) };
    if decree.mode == CommitMode::Asynchronous {
        let most = spec.failover.max_lag_bytes as f64 / 1_048_576.0;
        let words = match decree.candidates.is_empty() {
            true => "no standby may take over yet".to_owned(),
            false => format!("a standby takes over by itself, and up to {most} MB of what was acknowledged are lost"),
        };
        return (false, "Asynchronous", words);
    }
    if decree.rule.acks() == 0 {
        let words = "commits are acknowledged by the primary alone, so that only it can go on".to_owned();
        return (false, "AcknowledgesAlone", words);
    }
    let lacks: Vec<String> =
        decree.rule.members().iter().filter(|name| !follows(observed, decree, name)).map(ToString::to_string).collect();
    match survives(spec, observed, decree) {
        Some(survives) => (true, "StandbysReady", format!("survives {}", words(survives))),
        None => (false, "StandbysMissing", format!("too few standbys stream: not {}", lacks.join(", "))),
    }
}

fn words(survives: Survives) -> String {
    let standbys = |count: usize| match count {
        1 => "one standby".to_owned(),
        count => format!("{count} standbys"),
    };
    let with = match survives.standbys_with_primary {
        0 => "the loss of the primary".to_owned(),
        count => format!("the loss of the primary and {}", standbys(count)),
    };
    match survives.standbys_alone {
        0 => format!("{with}; writes wait while a standby is missing"),
        count => format!("{with}, or of {}", standbys(count)),
    }
}

/// What the rules in force survive with the standbys that stream now: those that do not are lost already.
fn survives(spec: &ClusterSpec, observed: &Observed, decree: &Decree) -> Option<Survives> {
    if decree.mode == CommitMode::Asynchronous || spec.primary.nodes == 1 {
        return None;
    }
    let rules = std::iter::once(&decree.rule).chain(&decree.superseded).chain(&decree.joint);
    let each = rules.map(|rule| {
        let lost = rule.members().iter().filter(|name| !follows(observed, decree, name)).count();
        let whole = rule.survives()?;
        Some(Survives {
            standbys_with_primary: whole.standbys_with_primary.checked_sub(lost)?,
            standbys_alone: whole.standbys_alone.saturating_sub(lost),
        })
    });
    let each: Option<Vec<Survives>> = each.collect();
    each?.into_iter().reduce(|one, other| Survives {
        standbys_with_primary: one.standbys_with_primary.min(other.standbys_with_primary),
        standbys_alone: one.standbys_alone.min(other.standbys_alone),
    })
}

/// It answers, and streams from the primary on record.
fn follows(observed: &Observed, decree: &Decree, name: &NodeName) -> bool {
    said(observed, name).is_some_and(|report| {
        let role = report.postgres.as_ref().map(|postgres| &postgres.role);
        report.phase == Phase::Running
            && matches!(role, Some(PgRole::Standby { streaming_from: Some(from), .. }) if *from == decree.primary)
    })
}

fn said<'a>(observed: &'a Observed, name: &NodeName) -> Option<&'a NodeReport> {
    let machines: BTreeSet<&str> =
        observed.machines.known().into_iter().flatten().map(|machine| machine.id.as_str()).collect();
    let reports = observed.reports.iter().filter(|(machine, _)| machines.contains(machine.as_str()));
    reports.filter_map(|(_, seen)| Seen::known(seen)).find(|report| report.node == *name)
}

fn gate(gate: Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Holding => "holding",
        Gate::Unconfirmed => "unconfirmed",
        Gate::Leaseless => "leaseless",
        Gate::Down => "down",
        Gate::Fenced => "fenced",
    }
}

#[cfg(test)]
mod tests;
