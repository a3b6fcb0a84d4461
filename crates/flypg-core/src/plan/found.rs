//! What a cluster stands in: the app, its secret, its private address, and the volumes of nodes to come.

use crate::decree::Decree;
use crate::failover::Verdict;
use crate::names::NodeName;
use crate::observed::Observed;
use crate::plan::census::Census;
use crate::plan::draft::Draft;
use crate::plan::{Action, Plan, Subject, Until, Why, Work};
use crate::protocol::env;
use crate::spec::ClusterSpec;

/// True, with a hold, if the app has Machines in it and nothing of ours: neither a Machine or volume by name, nor our
/// secret, nor a record.
pub(super) fn app_is_foreign(
    draft: &mut Draft,
    spec: &ClusterSpec,
    census: &Census<'_>,
    record: Option<&Decree>,
    observed: &Observed,
) -> bool {
    if census.foreign == 0 || !census.nodes.is_empty() || record.is_some() {
        return false;
    }
    let keyed =
        draft.need(Work::Everything, Subject::Secrets, &observed.secrets).map(|s| s.contains_key(env::CLUSTER_KEY));
    if keyed == Some(false) {
        draft.hold(Work::Everything, Until::AppIsOurs { app: spec.name.clone() });
    }
    keyed != Some(true)
}

pub(super) fn furnish(draft: &mut Draft, spec: &ClusterSpec, observed: &Observed) {
    // In a world without the app nothing of it can exist: there is nothing to read.
    let no_app = observed.app.known().is_some_and(Option::is_none);
    let none = Default::default();
    let secrets = if no_app { Some(&none) } else { draft.need(Work::Access, Subject::Secrets, &observed.secrets) };
    if secrets.is_some_and(|s| !s.contains_key(env::CLUSTER_KEY)) {
        draft.step(Action::SetClusterKey { app: spec.name.clone() }, Why::Missing);
    }
    let none = Vec::new();
    let addresses =
        if no_app { Some(&none) } else { draft.need(Work::Access, Subject::Addresses, &observed.addresses) };
    let Some(addresses) = addresses else { return };
    let flycast = addresses.iter().filter(|a| a.flycast);
    if spec.flycast {
        if flycast.count() == 0 {
            draft.step(Action::AllocateFlycast { app: spec.name.clone() }, Why::Missing);
        }
    } else {
        for address in flycast {
            let action = Action::ReleaseFlycast { app: spec.name.clone(), ip: address.ip.clone() };
            draft.step(action, Why::AccessRemoved);
        }
    }
}

/// A cluster whose app does not exist: there is nothing to look at, so nothing to wait for.
pub(super) fn from_nothing(mut draft: Draft, spec: &ClusterSpec, observed: &Observed) -> Plan {
    if let Some(Some(decree)) = observed.record.known() {
        // The app was deleted by hand, and the data with it. To begin again is a person's decision.
        draft.hold(Work::Everything, Until::PrimaryExists { node: decree.primary.clone() });
        return draft.finish(Verdict::Leads { node: decree.primary.clone(), epoch: decree.epoch });
    }
    draft.step(Action::CreateApp { app: spec.name.clone(), organization: spec.organization.clone() }, Why::Missing);
    furnish(&mut draft, spec, observed);
    if draft.need(Work::Everything, Subject::Record, &observed.record).is_none() {
        return draft.finish(Verdict::Unknown);
    }
    for group in spec.regions() {
        for ordinal in 1..=group.nodes {
            let node = NodeName::new(group.code.clone(), ordinal);
            draft.step(volume(spec, &node), Why::Grow { have: 0, wanted: group.nodes });
        }
    }
    draft.finish(Verdict::Bootstrap { node: spec.first_node() })
}

pub(super) fn volume(spec: &ClusterSpec, node: &NodeName) -> Action {
    Action::CreateVolume {
        app: spec.name.clone(),
        node: node.clone(),
        name: node.volume(),
        region: node.region.clone(),
        size_gb: spec.storage.size_gb,
        snapshots: spec.storage.snapshots,
        guest: spec.guest.clone(),
    }
}
