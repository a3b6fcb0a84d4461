//! Status, completed by what only the controller remembers.

use flypg_core::Timestamp;
use flypg_core::observed::Observed;
use flypg_core::plan::Plan;
use flypg_core::status::{ClusterStatus, Condition, status};

use crate::store::{Store, StoreError};
use crate::turn::Wanted;

/// What there is to say about a cluster. `last`: what its vigil has known last, for while its machines cannot be seen.
/// `stuck`: how many turns in a row got nowhere, once that is too many.
///
/// # Errors
/// If the memory cannot be read.
pub async fn status_of(
    store: &Store,
    wanted: &Wanted,
    observed: &Observed,
    last: &Observed,
    plan: &Plan,
    stuck: Option<u32>,
    now: Timestamp,
) -> Result<ClusterStatus, StoreError> {
    let mut status = status(wanted.spec(), observed, plan, now).with_last_seen(wanted.spec(), observed, last);
    if let Some(turns) = stuck {
        status.conditions.push(Condition {
            kind: "Stuck".to_owned(),
            status: true,
            reason: "NoProgress".to_owned(),
            message: format!("{turns} turns in a row did the same, and the world does not change"),
            since: None,
        });
    }
    status.observed_generation = store.observed_generation(wanted.name()).await?;
    status.conditions = store.date(wanted.name(), status.conditions, now).await?;
    Ok(status)
}
