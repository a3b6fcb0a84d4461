//! Every enum of a plan, as a phrase.

use std::collections::BTreeMap;

use crate::decree::{Decree, Stage};
use crate::failover::{Missing, Rule, Verdict};
use crate::names::NodeName;
use crate::plan::{Action, Field, Hold, Progress, Step, Subject, Suspicion, Until, Why, Work};
use crate::protocol::{Task, env};
use crate::spec::{ClusterSpec, Deletion, Durability, ReconcileMode, SnapshotPolicy};

/// One step as one line: its mark, what is done, and why.
pub fn step(step: &Step) -> String {
    let (mark, what) = match (&step.action, &step.why) {
        (Action::Decide { decree, .. }, Why::MembersChanged) => ('~', members(decree)),
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
            _ if decree.is_electing() => {
                format!("record: an attempt to find who leads after {}, in epoch {}", decree.primary, decree.epoch)
            }
            Stage::Promoting { promotion, .. } => {
                let timeline = promotion.timeline;
                format!("record: {} is promoted to timeline {timeline}, in epoch {}", decree.primary, decree.epoch)
            }
            Stage::Reaffirming { .. } => {
                format!("record: {} goes on leading, in epoch {}", decree.primary, decree.epoch)
            }
            Stage::HandingOver { to } => format!("record: {} hands over to {to}", decree.primary),
            Stage::Established => {
                let leads = format!("record: {} leads, in epoch {}", decree.primary, decree.epoch);
                match &decree.joint {
                    Some(joint) => format!("{leads}, and is to acknowledge commits by {}", rule(joint)),
                    None => format!("{leads}; commits are acknowledged by {}", rule(&decree.rule)),
                }
            }
        },
        Action::Assign { assignment, .. } => task(&assignment.node, &assignment.task),
        Action::Renew { node, grant, .. } => {
            format!("{node} keeps its lease, {:.1} s from its report", grant.ttl.as_secs_f64())
        }
        Action::ProveStopped { node, .. } => format!("machine {node} is stopped, and proven to be"),
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

/// Who counts, on record.
pub(super) fn members(decree: &Decree) -> String {
    format!("record: whole copies are {}", list(decree.members.keys().map(ToString::to_string)))
}

/// What a node is told, in a few words.
pub(super) fn task(node: &NodeName, task: &Task) -> String {
    match task {
        Task::Bootstrap { .. } => format!("{node} makes the cluster's data"),
        Task::Recruit { .. } => format!("{node} promises the new epoch and says where its data end"),
        Task::Promote { timeline, .. } => format!("{node} is promoted to timeline {timeline}"),
        Task::Reaffirm { .. } => format!("{node} goes on leading in a new epoch"),
        Task::Lead { .. } => format!("{node} leads"),
        Task::HandOver { to, .. } => format!("{node} leads until {to} is ready, and gives up"),
        Task::Follow { primary, .. } => format!("{node} follows {primary}"),
    }
}

/// What a cluster as the file wants it survives by itself (protocol §2.8).
pub fn promise(spec: &ClusterSpec) -> String {
    let standbys = spec.primary.nodes.saturating_sub(1);
    if standbys == 0 {
        return "one node: when it is lost, the cluster waits until it is back".to_owned();
    }
    if spec.durability == Durability::Async {
        let mb = spec.failover.max_lag_bytes >> 20;
        return format!(
            "async: a lost primary is replaced while a standby is left; up to {mb} MB of what it acknowledged may be lost"
        );
    }
    let acks = Rule::acks_of(spec.primary.nodes).min(standbys as usize);
    let spare = standbys as usize - acks;
    let with_primary = acks - 1;
    let writes = match (spare, spec.durability) {
        (_, Durability::QuorumAvailable) => "writes go on while one node is left".to_owned(),
        (0, _) => "writes wait while a standby is away".to_owned(),
        (spare, _) => {
            format!("writes go on while {spare} {} away", if spare == 1 { "standby is" } else { "standbys are" })
        }
    };
    let lost = match with_primary {
        0 => "the loss of any one node".to_owned(),
        more => format!("the loss of any {} nodes at once", more + 1),
    };
    format!(
        "a commit is acknowledged once {acks} of {standbys} {} it; no acknowledged commit is lost by {lost}; {writes}",
        if standbys == 1 { "standbys has" } else { "standbys have" },
    )
}

/// By whom a commit is acknowledged.
pub fn rule(rule: &Rule) -> String {
    let members = list(rule.members().iter().map(ToString::to_string));
    match rule.acks() {
        0 => "the primary alone".to_owned(),
        all if all == rule.members().len() => format!("the primary with {members}"),
        acks => format!("the primary with any {acks} of {members}"),
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
        | Action::ProveStopped { node, .. }
        | Action::DestroyMachine { node, .. } => format!("machine {node}"),
        Action::Decide { cluster, .. } | Action::Forget { cluster, .. } => format!("record {cluster}"),
        Action::Assign { assignment, .. } => format!("node {}", assignment.node),
        Action::RestartPostgres { node, .. } | Action::Renew { node, .. } => format!("node {node}"),
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
        Why::Suspected { node, suspicion } => format!("{node} {}", self::suspicion(suspicion)),
        Why::AttemptFailed { node } => format!("{node} did not take over"),
        Why::Chosen { node } => format!("{node} has every acknowledged commit, and nobody else can acknowledge one"),
        Why::Abandoned { node } => format!("nobody was promoted, and {node} is well"),
        Why::Established { node } => format!("{node} has confirmed that it leads"),
        Why::MembersChanged => "they have everything the primary has, or do not any more".to_owned(),
        Why::RuleChange => "as `durability` asks, with the standbys there are".to_owned(),
        Why::RuleChanged => "it is in effect, and covers everything before it".to_owned(),
        Why::ProfileChange => "`failover.profile` says so".to_owned(),
        Why::Switchover { to } => format!("a switchover to {to} was asked for"),
        Why::LossAccepted { to } => format!("a person chose {to}, and accepts what that loses"),
        Why::SwitchoverAborted { to } => format!("{to} cannot take over now"),
        Why::LeaseRuns => "it reports".to_owned(),
        Why::NotHeard => "so that it is sure to answer nobody".to_owned(),
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

fn suspicion(suspicion: &Suspicion) -> String {
    match suspicion {
        Suspicion::Silent { missed } => format!("left {missed} questions unanswered"),
        Suspicion::Crashed => "says that its Postgres has ended".to_owned(),
        Suspicion::Failing { why } => format!("says that its Postgres does not come up ({why})"),
        Suspicion::Hangs => "does not finish its writes".to_owned(),
        Suspicion::Stopped => "has stopped: its machine is off".to_owned(),
        Suspicion::GaveUp => "gave up leading".to_owned(),
        Suspicion::Stalled => "does not take over".to_owned(),
        Suspicion::Unconfirmed => "waits for standbys that do not answer".to_owned(),
    }
}

fn missing(missing: &Missing) -> String {
    match missing {
        Missing::Recruits { more, of } => {
            format!("{more} more of {} answer", list(of.iter().map(ToString::to_string)))
        }
        Missing::Seal { seal } => format!("a node answers that has everything up to {}", seal.lsn),
        Missing::GateClosed => "the old primary is sure to answer nobody".to_owned(),
        Missing::Candidate => "a node answers that may lead".to_owned(),
        Missing::Lag { bytes: Some(bytes) } => {
            format!("a node answers that lacks no more than `maxLag` (the best one lacks {bytes} bytes)")
        }
        Missing::Lag { bytes: None } => "it is known how much the best node lacks".to_owned(),
    }
}

pub fn work(work: &Work) -> String {
    match work {
        Work::Everything => "everything".to_owned(),
        Work::Bootstrap => "making the cluster's data".to_owned(),
        Work::Failover { node } => format!("taking over from {node}"),
        Work::Switchover { to } => format!("handing over to {to}"),
        Work::Rule => "waiting for standbys before commits are acknowledged".to_owned(),
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
        Until::Recruited { nodes } => {
            format!("{} have promised and said where their data end", list(nodes.iter().map(ToString::to_string)))
        }
        Until::Promotable { missing } => self::missing(missing),
        Until::LeaseOver { node, left_ms } => {
            format!("the last lease of {node} is over (in {:.1} s)", *left_ms as f64 / 1000.0)
        }
        Until::PledgeOver { node, left_ms } => {
            format!("the pledge of {node} to the old primary is over, in {:.1} s", *left_ms as f64 / 1000.0)
        }
        Until::PrimaryHeard { node, by } => {
            format!("{node} answers again: {by} still hears it, so only the controller is cut off")
        }
        Until::MarkerConfirmed { node } => format!("{node} has confirmed that it leads"),
        Until::RuleInEffect { rule } => format!("commits are acknowledged by {} everywhere", self::rule(rule)),
        Until::MembersReady { wanted, have } => {
            format!("{wanted} standbys are whole copies and stream (there are {have})")
        }
        Until::CaughtUp { node } => format!("{node} has caught up"),
        Until::HandedOver { node } => format!("{node} has stopped cleanly and given up"),
        Until::LongLeaseOver { left_ms } => {
            format!("leases of the longer profile are over (in {:.1} s)", *left_ms as f64 / 1000.0)
        }
        Until::FailoverBudget { recent } => format!(
            "an hour has passed, or a person orders it (`flypg failover`): {recent} automatic failovers in an hour are \
             not mended by another one"
        ),
        Until::LossAccepted { missing } => format!(
            "{}, or a person accepts the loss (`flypg failover --to NODE --accept-data-loss`)",
            self::missing(missing)
        ),
        Until::CauseMended { node, why } => {
            format!("{node} is mended: {why}, which another node would meet too")
        }
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
        Verdict::Electing { node, epoch } => format!("who leads after {node} is being found out, in epoch {epoch}"),
        Verdict::Promoting { node, epoch } => format!("{node} takes over, in epoch {epoch}"),
        Verdict::HandingOver { node, to } => format!("{node} hands over to {to}"),
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
