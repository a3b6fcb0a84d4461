//! The markers of epochs, in a table of the cluster's own data (rules R9, R10, R11).
//!
//! A marker tells two promotions apart that look the same in every file. That its commit came back proves that all WAL
//! before it is as safe as the rule makes it.

use std::sync::atomic::Ordering;

use flypg_core::decree::Epoch;

use crate::config::Config;
use crate::sql::{Session, SqlError, literal};

/// How many of the newest are read; a primary that comes back has missed fewer, or is told apart by its timeline.
const NEWEST: usize = 32;

const TABLES: &str = "CREATE SCHEMA IF NOT EXISTS flypg;
    CREATE TABLE IF NOT EXISTS flypg.epoch (epoch int8 PRIMARY KEY, timeline int4 NOT NULL, nonce text NOT NULL,
        at timestamptz NOT NULL);
    CREATE TABLE IF NOT EXISTS flypg.probe (one bool PRIMARY KEY DEFAULT true CHECK (one), at timestamptz NOT NULL)
        WITH (fillfactor = 20)";

/// The marker is not known to be safe. It may be there all the same, and is written again.
#[derive(Debug, thiserror::Error)]
pub enum MarkerError {
    #[error("the marker of epoch {epoch} could not be written")]
    Sql { epoch: Epoch, source: SqlError },
    #[error("somebody cancelled the wait for the standbys, which may not have the marker of epoch {epoch}")]
    Cancelled { epoch: Epoch },
    #[error("these data have the marker of another promotion under epoch {epoch}")]
    Another { epoch: Epoch },
}

/// Writes the marker, and returns once the rule in effect has it on disk, however long that takes.
pub async fn write(config: &Config, epoch: Epoch, timeline: u32, nonce: &str) -> Result<(), MarkerError> {
    let sql = |source| MarkerError::Sql { epoch, source };
    let (session, cancelled) = Session::connect_waiting(config).await.map_err(sql)?;
    let nonce = literal(nonce).map_err(sql)?;
    // Written anew each time, so that there is something to wait for.
    let statement = format!(
        "{TABLES}; INSERT INTO flypg.epoch AS mine VALUES ({epoch}, {timeline}, {nonce}, pg_catalog.clock_timestamp())
         ON CONFLICT (epoch) DO UPDATE SET at = EXCLUDED.at WHERE mine.nonce = EXCLUDED.nonce"
    );
    let rows = session.execute_patiently(&statement).await.map_err(sql)?;
    if cancelled.load(Ordering::SeqCst) {
        return Err(MarkerError::Cancelled { epoch });
    }
    if rows == 1 { Ok(()) } else { Err(MarkerError::Another { epoch }) }
}

/// The newest markers, oldest first. Only where the table is there.
pub async fn read(session: &Session) -> Result<Vec<(Epoch, String)>, SqlError> {
    let newest: Option<Vec<(Epoch, String)>> = session
        .json(&format!(
            "SELECT json_agg(json_build_array(epoch, nonce) ORDER BY epoch)::text
             FROM (SELECT epoch, nonce FROM flypg.epoch ORDER BY epoch DESC LIMIT {NEWEST}) AS newest"
        ))
        .await?;
    Ok(newest.unwrap_or_default())
}
