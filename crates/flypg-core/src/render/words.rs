//! Every enum of a plan, as a phrase.

use std::collections::BTreeMap;

use crate::decree::Stage;
use crate::failover::Verdict;
use crate::plan::{Action, Field, Hold, Progress, Step, Subject, Until, Why, Work};
use crate::protocol::{Task, env};
use crate::spec::{Deletion, ReconcileMode, SnapshotPolicy};

/// One step as one line: its mark, what is done, and why.
pub fn step(step: &Step) -> String {
    let (mark, what) = match (&step.action, &step.why) {
        (Action::Assign { assignment, .. }, Why::OthersChanged) => {
            ('~', format!("{} learns where the others are", assignment.node))
        }
        (Action::Assign { assignment, .. }, Why::FileChanged) => ('~', format!("{} takes parameters", assignment.node)),
        (other, _) => action(other),
    };
    format!("{mark} {what}: {}", why(&step.why))
}

/// One hold as one line: what waits, and for what.
pub fn hold(hold: &Hold) -> String {
    format!("{}: until {}", work(&hold.what), until(&hold.until))
}

/// `+`, `~` or `-`, and the act.
pub(super) fn action(action: &Action) -> (char, String) {
    let mark = if action.creates() {
        '+'
    } else if action.destroys() {
        '-'
    } else {
        '~'
    };
    (mark, act(action))
}

fn act(action: &Action) -> String {
    match action {
        Action::CreateApp { app, organization } => format!("app {app} in organization {organization}"),
        Action::SetClusterKey { .. } => format!("secret {} with the cluster's key", env::CLUSTER_KEY),
        Action::AllocateFlycast { app } => format!("private address {app}.flycast"),
        Action::ReleaseFlycast { ip, .. } => format!("private address {ip}"),
        Action::CreateVolume { name, region, size_gb, snapshots, .. } => {
            format!("volume {name}, {size_gb} GB in {region}, {}", policy(*snapshots))
        }
        Action::SetSnapshotPolicy { node, snapshots, .. } => {
            format!("volume {}: {}", node.volume(), policy(*snapshots))
        }
        Action::CreateMachine { machine, .. } => {
            format!("machine {}, {} with {}", machine.node, machine.guest, machine.image)
        }
        Action::StartMachine { node, .. } => format!("machine {node} is started"),
        Action::SetMetadata { node, metadata, .. } => format!("machine {node}: {}", pairs(metadata)),
        Action::Decide { decree, .. } => match &decree.stage {
            Stage::Bootstrapping { .. } => {
                format!("record: {} makes the cluster's data, in epoch {}", decree.primary, decree.epoch)
            }
            Stage::Established { .. } => format!("record: {} leads, in epoch {}", decree.primary, decree.epoch),
        },
        Action::Assign { assignment, .. } => match &assignment.task {
            Task::Bootstrap { .. } => format!("{} makes the cluster's data", assignment.node),
            Task::Lead { .. } => format!("{} leads", assignment.node),
            Task::Follow { primary, .. } => format!("{} follows {primary}", assignment.node),
        },
        Action::RestartPostgres { node, parameters, .. } => {
            format!("Postgres on {node} is restarted for {}", parameters.join(", "))
        }
        Action::StopMachine { node, .. } => format!("machine {node} is stopped"),
        Action::DestroyMachine { node, .. } => format!("machine {node}"),
        Action::DeleteVolume { node, volume, .. } => format!("volume {} ({volume})", node.volume()),
        Action::DeleteApp { app } => format!("app {app}"),
        Action::Forget { cluster, .. } => format!("record of {cluster}"),
    }
}

/// `+ volume pg_ord_1` in two words, for the machine-readable plan: what kind of thing, which one.
pub(super) fn target(action: &Action) -> String {
    match action {
        Action::CreateApp { app, .. } | Action::DeleteApp { app } => format!("app {app}"),
        Action::SetClusterKey { .. } => format!("secret {}", env::CLUSTER_KEY),
        Action::AllocateFlycast { app } => format!("address {app}.flycast"),
        Action::ReleaseFlycast { ip, .. } => format!("address {ip}"),
        Action::CreateVolume { name, .. } => format!("volume {name}"),
        Action::SetSnapshotPolicy { node, .. } | Action::DeleteVolume { node, .. } => {
            format!("volume {}", node.volume())
        }
        Action::CreateMachine { machine, .. } => format!("machine {}", machine.node),
        Action::StartMachine { node, .. }
        | Action::SetMetadata { node, .. }
        | Action::StopMachine { node, .. }
        | Action::DestroyMachine { node, .. } => format!("machine {node}"),
        Action::Decide { cluster, .. } | Action::Forget { cluster, .. } => format!("record {cluster}"),
        Action::Assign { assignment, .. } => format!("node {}", assignment.node),
        Action::RestartPostgres { node, .. } => format!("node {node}"),
    }
}

pub fn why(why: &Why) -> String {
    match why {
        Why::Missing => "there is none".to_owned(),
        Why::Grow { have, wanted } => format!("the file wants {wanted} here, there are {have}"),
        Why::Shrink { have, wanted } => format!("the file wants {wanted} here, there are {have}"),
        Why::RegionLeft => "the region left the file".to_owned(),
        Why::FirstNode => "there is no data anywhere".to_owned(),
        Why::Bootstrapped => "the data are made".to_owned(),
        Why::RecordLost => "the record was lost, and all nodes agree".to_owned(),
        Why::NotRunning => "it does not run".to_owned(),
        Why::NotTold => "it has not been told anything yet".to_owned(),
        Why::OthersChanged => "so that it routes and keeps WAL".to_owned(),
        Why::RoleChanged => "as on record".to_owned(),
        Why::FileChanged => "the file says so".to_owned(),
        Why::PendingRestart => "it takes effect only at a start".to_owned(),
        Why::NodeRemoved => "its node is not wanted, and `deletion: delete` lets the data go".to_owned(),
        Why::ClusterLeft => "the cluster left the files".to_owned(),
        Why::AccessRemoved => "`access.flycast` is off".to_owned(),
    }
}

pub fn work(work: &Work) -> String {
    match work {
        Work::Everything => "everything".to_owned(),
        Work::Bootstrap => "making the cluster's data".to_owned(),
        Work::Access => "access".to_owned(),
        Work::Join { node } => format!("{node}"),
        Work::Remove { node } => format!("removing {node}"),
        Work::Restart { node } => format!("restarting Postgres on {node}"),
        Work::Change { node, field } => format!("{} of {node}", self::field(*field)),
        Work::DeleteCluster => "deleting the cluster".to_owned(),
    }
}

fn field(field: Field) -> &'static str {
    match field {
        Field::Image => "image",
        Field::Machine => "machine size",
        Field::StorageSize => "storage size",
        Field::PrimaryRegion => "primary region",
        Field::PostgresVersion => "PostgreSQL version",
        Field::Parameters => "parameters",
    }
}

fn subject(subject: Subject) -> &'static str {
    match subject {
        Subject::Record => "the record",
        Subject::App => "the app",
        Subject::Secrets => "the app's secrets",
        Subject::Addresses => "the app's addresses",
        Subject::Machines => "the app's machines",
        Subject::Volumes => "the app's volumes",
    }
}

/// Ends a sentence that began with "… until".
pub fn until(until: &Until) -> String {
    match until {
        Until::Readable { what, error } => format!("{} can be read ({error})", subject(*what)),
        Until::Confirmed { what } => format!("{} have been read again", subject(*what)),
        Until::MachineSettled { node } => format!("machine {node} has settled"),
        Until::AgentAnswers { node, error: None } => format!("{node} answers"),
        Until::AgentAnswers { node, error: Some(error) } => format!("{node} answers ({error})"),
        Until::KeyAccepted { node } => format!(
            "{node} accepts our key: the cluster was made with another master key, so use its state directory (--state) \
             or FLYPG_MASTER_KEY"
        ),
        Until::RecordCurrent { node, ours, promised } => format!(
            "our record is that of the cluster again: it says epoch {ours}, and {node} obeys epoch {promised}. Another \
             controller has taken the cluster over, or the state directory is an old copy: use the newer one, or move \
             this one's flypg.db away to learn from the nodes"
        ),
        Until::Ready { node, progress } => format!("{node} is ready ({})", self::progress(progress)),
        Until::Bootstrapped { node } => format!("{node} has made the cluster's data"),
        Until::ParametersRead { node } => format!("{node} has read its parameters"),
        Until::Streams { node } => format!("{node} streams from the primary"),
        Until::PrimaryAnswers { node } => format!("the primary {node} answers"),
        Until::After { work } => format!("{} is done", self::work(work)),
        Until::DeletionAllowed { deletion } => {
            format!("the file that last named it says `deletion: delete` (it said `{}`)", self::deletion(*deletion))
        }
        Until::Resumed { mode } => format!("the file says `reconcile: active` (it says `{}`)", self::mode(*mode)),
        Until::AppIsOurs { app } => {
            format!("app {app} is free: machines run in it that are not flypg's; choose another name")
        }
        Until::Permitted { what, error } => format!("the token may read {} ({error})", subject(*what)),
        Until::Organization { app, actual, wanted } => {
            format!("app {app} belongs to organization {wanted} (it belongs to {actual})")
        }
        Until::HostReturns { node } => format!("the host of {node} answers again"),
        Until::Accounted { nodes } => {
            let names = list(nodes.iter().map(ToString::to_string));
            format!(
                "it is known what the volumes of {names} hold: there is no record of this cluster, and data may be there"
            )
        }
        Until::OneLineage { nodes } => {
            let names = list(nodes.iter().map(ToString::to_string));
            format!("exactly one of {names} leads: the record is lost, and they do not agree")
        }
        Until::NodeInOrder { node, why } => format!("{node} is put in order: {why}"),
        Until::PrimaryExists { node } => format!("the primary {node} is back with its volume"),
        Until::AnotherLeads { node } => format!("another node than {node} leads"),
        Until::Supported { from, to } => {
            format!("flypg can change it on a running cluster (from {from} to {to}); this version cannot")
        }
        Until::ParametersAccepted { rejected } => {
            let each = rejected.iter().map(|(name, words)| format!("{name}: {words}"));
            format!("Postgres accepts them ({})", each.collect::<Vec<_>>().join("; "))
        }
    }
}

pub fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Unknown => "unknown".to_owned(),
        Verdict::Bootstrap { node } => format!("{node} will make the cluster's data"),
        Verdict::Bootstrapping { node } => format!("{node} makes the cluster's data"),
        Verdict::Leads { node, epoch } => format!("{node} leads in epoch {epoch}"),
        Verdict::Adopt { node } => format!("{node} leads, by what all nodes say"),
    }
}

fn progress(progress: &Progress) -> String {
    match progress {
        Progress::Initialising => "initdb".to_owned(),
        Progress::Cloning { done, total: Some(total) } if *total > 0 => {
            format!("cloning, {}%", (u128::from(*done) * 100 / u128::from(*total)).min(100))
        }
        Progress::Cloning { done, .. } => format!("cloning, {} MB", done >> 20),
        Progress::Starting => "starting".to_owned(),
        Progress::Failing { why } => format!("it does not stay up: {why}"),
    }
}

fn policy(policy: SnapshotPolicy) -> String {
    match policy.daily {
        true => format!("daily snapshots kept {} days", policy.retention_days),
        false => "no daily snapshots".to_owned(),
    }
}

fn deletion(deletion: Deletion) -> &'static str {
    match deletion {
        Deletion::Protect => "protect",
        Deletion::RetainVolumes => "retain-volumes",
        Deletion::Delete => "delete",
    }
}

fn mode(mode: ReconcileMode) -> &'static str {
    match mode {
        ReconcileMode::Active => "active",
        ReconcileMode::FailoverOnly => "failover-only",
        ReconcileMode::Observe => "observe",
        ReconcileMode::Stop => "stop",
    }
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    list(map.iter().map(|(key, value)| format!("{key}={value}")))
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.collect::<Vec<_>>().join(", ")
}
