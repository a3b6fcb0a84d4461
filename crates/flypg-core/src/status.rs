//! The status of one cluster, as `flypg status -o json` prints it.

mod leadership;

use serde::{Deserialize, Serialize};

pub use leadership::Leadership;

use crate::Timestamp;
use crate::decree::Decree;
use crate::names::NodeName;
use crate::observed::{Machine, Observed, Power, Seen};
use crate::plan::Plan;
use crate::protocol::{Lsn, NodeReport, PgReport, PgRole, Phase, ports};
use crate::render;
use crate::spec::ClusterSpec;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub cluster: String,
    pub app: String,
    /// A digest of the spec that is wanted now.
    pub generation: String,
    /// The digest of the spec for which nothing was left to do; absent until then.
    pub observed_generation: Option<String>,
    pub ready: bool,
    pub epoch: Option<u64>,
    pub primary: Option<String>,
    /// Absent until somebody leads.
    #[serde(default)]
    pub leadership: Option<Leadership>,
    pub endpoints: Endpoints,
    pub nodes: Vec<NodeStatus>,
    pub conditions: Vec<Condition>,
}

/// `host:port` each; absent while there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    pub read_write: Option<String>,
    pub read_only: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: String,
    pub machine: Option<String>,
    pub region: String,
    /// `primary`, `replica` or `unknown`.
    pub role: String,
    /// A word a person understands: `running`, `streaming`, `cloning`, `stopped`, `unreachable`, …
    pub state: String,
    pub lsn: Option<Lsn>,
    pub lag_bytes: Option<u64>,
    pub lag_seconds: Option<f64>,
    pub volume: Option<String>,
    /// PostgreSQL's version.
    pub version: Option<String>,
    /// When Postgres started, RFC 3339.
    pub since: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// `Ready`, `HighlyAvailable`, `Progressing`, `Held`; `Leftovers` where there are any.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
    /// When this status was first seen, RFC 3339; whoever remembers fills it in.
    pub since: Option<String>,
}

/// What there is to say about a cluster, from one look at it and the plan that followed.
pub fn status(spec: &ClusterSpec, observed: &Observed, plan: &Plan, _now: Timestamp) -> ClusterStatus {
    let decree = observed.record.known().and_then(Option::as_ref).filter(|d| d.system_id().is_some());
    let machines = observed.machines.known().map_or(&[][..], Vec::as_slice);
    let mut nodes: Vec<(NodeName, &Machine)> =
        machines.iter().filter_map(|m| Some((m.node_of(&spec.name)?, m))).collect();
    nodes.sort_by_key(|(name, _)| (decree.is_none_or(|d| d.primary != *name), name.clone()));

    let primary_lsn = nodes.iter().find_map(|(name, machine)| {
        let pg = postgres(observed, machine)?;
        match &pg.role {
            PgRole::Primary { lsn, .. } if decree.is_some_and(|d| d.primary == *name) => Some(*lsn),
            _ => None,
        }
    });
    let node_statuses: Vec<NodeStatus> =
        nodes.iter().map(|(name, machine)| node(observed, decree, primary_lsn, name, machine)).collect();

    let working = |n: &&NodeStatus| matches!(n.state.as_str(), "running" | "streaming");
    let serves = node_statuses.iter().any(|n| n.role == "primary" && n.state == "running");
    let complete = node_statuses.iter().filter(working).count() >= spec.total_nodes() as usize;
    let ready = serves && complete;
    let generation = generation(spec);
    ClusterStatus {
        cluster: spec.name.to_string(),
        app: spec.name.to_string(),
        observed_generation: plan.is_quiet().then(|| generation.clone()),
        generation,
        ready,
        epoch: decree.map(|d| d.epoch.0),
        primary: decree.map(|d| d.primary.to_string()),
        leadership: decree.map(|decree| leadership::of(spec, observed, decree)),
        endpoints: endpoints(observed, decree, &nodes),
        conditions: conditions(plan, spec, observed, decree, serves, ready, &node_statuses)
            .into_iter()
            .chain(leftovers(observed, plan, &nodes))
            .collect(),
        nodes: node_statuses,
    }
}

impl ClusterStatus {
    /// Where the cluster's machines could not be seen: the nodes that were there when they were seen `last`, and what
    /// their agents say now. A node whose agent does not answer is in an unknown state, not absent.
    #[must_use]
    pub fn with_last_seen(mut self, spec: &ClusterSpec, observed: &Observed, last: &Observed) -> Self {
        let (None, Seen::At { at, value: machines }) = (observed.machines.known(), &last.machines) else { return self };
        let decree = observed.record.known().and_then(Option::as_ref).filter(|d| d.system_id().is_some());
        let mut nodes: Vec<NodeStatus> = machines
            .iter()
            .filter_map(|machine| {
                let name = machine.node_of(&spec.name)?;
                let seen = node(last, decree, None, &name, &Machine { power: Power::Started, ..machine.clone() });
                let state = if report(last, machine).is_some() { seen.state } else { "unknown".to_owned() };
                Some(NodeStatus { state, ..seen })
            })
            .collect();
        nodes.sort_by_key(|node| (node.role != "primary", node.node.clone()));
        self.nodes = nodes;
        for condition in self.conditions.iter_mut().filter(|condition| condition.reason == "Unknown") {
            condition.message = format!("{}; these were its nodes at {at}", condition.message);
        }
        self
    }
}

/// A digest of a spec, to tell whether what was done is what is wanted now.
pub fn generation(spec: &ClusterSpec) -> String {
    crate::digest::short(&serde_json::to_vec(spec).expect("a spec has string keys only"))
}

fn report<'a>(observed: &'a Observed, machine: &Machine) -> Option<&'a NodeReport> {
    observed.reports.get(&machine.id).and_then(Seen::known)
}

fn postgres<'a>(observed: &'a Observed, machine: &Machine) -> Option<&'a PgReport> {
    report(observed, machine)?.postgres.as_ref()
}

fn node(
    observed: &Observed,
    decree: Option<&Decree>,
    primary_lsn: Option<Lsn>,
    name: &NodeName,
    machine: &Machine,
) -> NodeStatus {
    let report = report(observed, machine);
    let pg = postgres(observed, machine);
    let role = match decree {
        Some(decree) if decree.primary == *name => "primary",
        Some(_) => "replica",
        None => "unknown",
    };
    let lsn = pg.map(|pg| match &pg.role {
        PgRole::Primary { lsn, .. } => *lsn,
        PgRole::Standby { received, replayed, .. } => received.unwrap_or(*replayed).max(*replayed),
    });
    let replayed = pg.and_then(|pg| match &pg.role {
        PgRole::Primary { .. } => None,
        PgRole::Standby { replayed, .. } => Some(*replayed),
    });
    let lag_seconds = pg.and_then(|pg| match &pg.role {
        PgRole::Primary { .. } => None,
        PgRole::Standby { replay_lag_seconds, .. } => *replay_lag_seconds,
    });
    let volumes = observed.volumes.known().map_or(&[][..], Vec::as_slice);
    NodeStatus {
        node: name.to_string(),
        machine: Some(machine.id.clone()),
        region: machine.region.clone(),
        role: role.to_owned(),
        state: state(machine, report, decree),
        lsn,
        lag_bytes: primary_lsn.zip(replayed).map(|(ahead, behind)| ahead.bytes_since(behind)),
        lag_seconds,
        volume: volumes.iter().find(|v| v.attached_to.as_deref() == Some(&machine.id)).map(|v| v.id.clone()),
        version: pg.map(|pg| pg.version.clone()),
        since: pg.and_then(|pg| Timestamp::from_second(pg.started_at).ok()).map(|t| t.to_string()),
    }
}

fn state(machine: &Machine, report: Option<&NodeReport>, decree: Option<&Decree>) -> String {
    if !machine.host_ok {
        return "host unreachable".to_owned();
    }
    let power = match machine.power {
        Power::Started => None,
        Power::Created => Some("created"),
        Power::Stopped => Some("stopped"),
        Power::Suspended => Some("suspended"),
        Power::Failed => Some("failed"),
        Power::Changing => Some("changing"),
        Power::Destroying => Some("destroying"),
    };
    if let Some(power) = power {
        return power.to_owned();
    }
    let Some(report) = report else { return "unreachable".to_owned() };
    let words = match &report.phase {
        Phase::Cloning { done, total: Some(total) } if *total > 0 => {
            return format!("cloning {}%", (u128::from(*done) * 100 / u128::from(*total)).min(100));
        }
        Phase::Running => match report.postgres.as_ref().map(|pg| &pg.role) {
            Some(PgRole::Primary { .. }) => "running",
            Some(PgRole::Standby { streaming_from: Some(from), .. }) if decree.is_none_or(|d| d.primary == *from) => {
                "streaming"
            }
            Some(PgRole::Standby { .. }) => "not streaming",
            None => "starting",
        },
        phase => phase.name(),
    };
    words.to_owned()
}

/// The routers of the primary's own node for writes; for reads, those of the first node that streams.
fn endpoints(observed: &Observed, decree: Option<&Decree>, nodes: &[(NodeName, &Machine)]) -> Endpoints {
    let at = |machine: &Machine, port| machine.address.map(|ip| std::net::SocketAddr::new(ip, port).to_string());
    let runs = |machine: &Machine| report(observed, machine).is_some_and(|r| r.phase == Phase::Running);
    let leader = decree.and_then(|d| nodes.iter().find(|(name, m)| *name == d.primary && runs(m)));
    let reader = nodes.iter().find(|(_, machine)| {
        let role = postgres(observed, machine).map(|pg| &pg.role);
        matches!(role, Some(PgRole::Standby { streaming_from: Some(_), .. }))
    });
    Endpoints {
        read_write: leader.and_then(|(_, machine)| at(machine, ports::READ_WRITE)),
        read_only: reader.or(leader).and_then(|(_, machine)| at(machine, ports::READ_ONLY)),
    }
}

/// Volumes that hold, or held, a node's data and that no Machine uses: kept by `deletion`, or made twice because an
/// answer was lost. They cost money, and nobody else tells of them.
fn leftovers(observed: &Observed, plan: &Plan, nodes: &[(NodeName, &Machine)]) -> Option<Condition> {
    if plan.steps.iter().any(|step| step.action.creates()) {
        return None; // some may be about to be used
    }
    let is_mounted = |id: &str| {
        let volumes = nodes.iter().filter_map(|(_, machine)| machine.config.as_ref()?.volume.as_deref());
        volumes.into_iter().any(|volume| volume == id)
    };
    let volumes = observed.volumes.known()?.iter().filter(|volume| volume.node().is_some());
    let unused = volumes.filter(|volume| volume.attached_to.is_none() && !is_mounted(&volume.id));
    let named: Vec<String> =
        unused.map(|volume| format!("{} ({}, {} GB)", volume.name, volume.id, volume.size_gb)).collect();
    (!named.is_empty()).then(|| Condition {
        kind: "Leftovers".to_owned(),
        status: true,
        reason: "UnusedVolumes".to_owned(),
        message: format!("no machine uses {}", named.join(", ")),
        since: None,
    })
}

fn conditions(
    plan: &Plan,
    spec: &ClusterSpec,
    observed: &Observed,
    decree: Option<&Decree>,
    serves: bool,
    ready: bool,
    nodes: &[NodeStatus],
) -> Vec<Condition> {
    let condition = |kind: &str, status: bool, reason: &str, message: String| Condition {
        kind: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
        since: None,
    };
    let sentences = |wanted: bool| -> Vec<String> {
        plan.holds.iter().filter(|hold| hold.until.is_wait() == wanted).map(render::hold).collect()
    };
    let (waits, held) = (sentences(true), sentences(false));
    let working = nodes.iter().filter(|n| matches!(n.state.as_str(), "running" | "streaming")).count();
    let (reason, message) = match (ready, serves) {
        (true, _) => ("AllNodesReady", format!("{working} of {} nodes work", spec.total_nodes())),
        (false, true) => ("NodesMissing", format!("{working} of {} nodes work", spec.total_nodes())),
        (false, false) if observed.machines.known().is_none() => {
            ("Unknown", "the cluster's machines cannot be seen".to_owned())
        }
        (false, false) => ("NoPrimary", "no primary accepts writes".to_owned()),
    };
    let available = leadership::availability(spec, observed, decree);
    let moving = plan.changes().next().is_some() || !waits.is_empty();
    let progress: Vec<String> = plan.changes().map(render::step).chain(waits).collect();
    vec![
        condition("Ready", ready, reason, message),
        condition("HighlyAvailable", available.0, available.1, available.2),
        condition("Progressing", moving, if moving { "StepsLeft" } else { "Quiet" }, progress.join("; ")),
        condition("Held", !held.is_empty(), if held.is_empty() { "Nothing" } else { "NeedsAPerson" }, held.join("; ")),
    ]
}

#[cfg(test)]
mod tests;
