//! Cancel requests: to whom they are passed on, and when they are held back.
//!
//! A commit that waits for a standby stops waiting when it is cancelled, and is reported as if it were safe. So nobody
//! is let do that (rule R12); what still does is caught on its way out, by [`crate::wire`] and
//! [`crate::server_log`].

use flypg_core::protocol::Task;
use tokio::time::timeout;

use crate::doors::CONNECT;
use crate::gate::Capacity;
use crate::routes::Place;
use crate::shared::Shared;
use crate::sql::{Session, SqlError};
use crate::startup::Door;
use crate::way::connect;

/// Passes a cancel request to everybody who may have the session it means; the secret in it decides.
pub async fn pass_on(door: Door, packet: &[u8], shared: &Shared) {
    let places = shared.routes.borrow().cancel_places(door);
    let pass_on = places.iter().map(|place| async move {
        if *place == Place::Here && is_held_back(packet, shared).await {
            tracing::info!("a cancel request is not passed on: it would end a wait for a standby");
            return;
        }
        let Ok(mut stream) = connect(place, door, shared).await else { return };
        if stream.write_all(packet).await.is_ok() {
            // Postgres closes once it has signalled, and libpq waits for that.
            let _ = timeout(CONNECT, stream.drain()).await;
        }
    });
    futures::future::join_all(pass_on).await;
}

/// Whether the session that is meant waits for a standby, or may do: where nobody can tell, nothing is cancelled.
async fn is_held_back(packet: &[u8], shared: &Shared) -> bool {
    let leads = matches!(shared.gate.term().capacity, Capacity::Primary(_));
    let Some(pid) = pid(packet).filter(|_| leads && waits_for_standbys(shared)) else { return false };
    match is_waiting(pid, shared).await {
        Ok(waits) => waits,
        Err(error) => {
            tracing::warn!(error = crate::words(&error), "Postgres does not say what is to be cancelled");
            true
        }
    }
}

/// Whether any commit may wait here at all.
fn waits_for_standbys(shared: &Shared) -> bool {
    let ledger = shared.ledger();
    let task = ledger.assignment.as_ref().map(|told| &told.task);
    task.and_then(Task::terms).is_none_or(|terms| terms.rule.acks() > 0)
}

async fn is_waiting(pid: u32, shared: &Shared) -> Result<bool, SqlError> {
    let session = Session::connect(&shared.config).await?;
    let waits = format!("SELECT 1 AS waits FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'");
    Ok(!session.rows(&waits).await?.is_empty())
}

/// CancelRequest: length, code, process id, secret.
fn pid(packet: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(packet.get(8..12)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_request_means() {
        let packet = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 1, 2, 9, 9, 9, 9];
        assert_eq!(pid(&packet), Some(258));
        assert_eq!(pid(&packet[..11]), None);
    }
}
