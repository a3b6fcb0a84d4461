//! What the primary says of itself over a replication connection, to a standby that cannot stream from it.

use std::time::Duration;

use flypg_core::decree::SystemId;
use flypg_core::node::{Position, PrimarySeen};
use flypg_core::protocol::Lsn;

use crate::account::command;
use crate::conf::{Purpose, conninfo};
use crate::config::Config;
use crate::processes::output;
use crate::server_log::errors_in;

/// A primary that is asked and says nothing for so long was not reached.
const PATIENCE: Duration = Duration::from_secs(10);

/// The primary could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("psql could not be run")]
    Run(#[source] std::io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("it did not answer within {0:?}")]
    TooSlow(Duration),
    #[error("its answer to {0} is not understood: {1}")]
    Unexpected(&'static str, String),
}

/// Asks through the agent's own way to the upstream, as `pg_basebackup` would. `own` is the timeline of the copy here.
///
/// PostgreSQL documentation, "Streaming Replication Protocol": IDENTIFY_SYSTEM, READ_REPLICATION_SLOT (from 15 on),
/// TIMELINE_HISTORY.
pub async fn ask(config: &Config, own: u32) -> Result<PrimarySeen, AskError> {
    let slot = format!("READ_REPLICATION_SLOT {}", config.node.slot());
    let answer = run(config, &["IDENTIFY_SYSTEM", &slot]).await?;
    let mut lines = answer.lines();
    let (system_id, at) = lines
        .next()
        .and_then(parse_identity)
        .ok_or_else(|| AskError::Unexpected("IDENTIFY_SYSTEM", answer.trim().to_owned()))?;
    // A slot that is not there is a row of nulls; one that lost its WAL has no restart_lsn.
    let keeps_wal = lines.next().is_some_and(|row| row.starts_with("physical|") && !row.contains("||"));
    // A primary on an older timeline than the copy has nothing to say of the copy's.
    let ended = match at.timeline <= own {
        true => Vec::new(),
        false => parse_history(&run(config, &[&format!("TIMELINE_HISTORY {}", at.timeline)]).await?),
    };
    Ok(PrimarySeen { system_id, at, ended, keeps_wal })
}

/// Asks the database `postgres` of the upstream, as a rewind does.
pub async fn query(config: &Config, statement: &str) -> Result<String, AskError> {
    psql(config, &format!("{} dbname=postgres connect_timeout=5", conninfo(config, Purpose::Rewind)), &[statement])
        .await
}

async fn run(config: &Config, commands: &[&str]) -> Result<String, AskError> {
    let to = format!("{} replication=true connect_timeout=5", conninfo(config, Purpose::Ask));
    psql(config, &to, commands).await
}

async fn psql(config: &Config, to: &str, commands: &[&str]) -> Result<String, AskError> {
    let mut psql = command(&config.program("psql"), config.account);
    psql.args(["--no-psqlrc", "--no-align", "--tuples-only", "--no-password", "--dbname"]);
    psql.arg(to);
    for command in commands {
        psql.args(["--command", command]);
    }
    let output = tokio::time::timeout(PATIENCE, output(&mut psql)).await;
    let output = output.map_err(|_| AskError::TooSlow(PATIENCE))?.map_err(AskError::Run)?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(AskError::Failed(errors_in(words.lines()).unwrap_or_else(|| words.trim().to_owned())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `7412345678901234567|1|0/5000060|`: system, timeline, flushed position, database.
fn parse_identity(row: &str) -> Option<(SystemId, Position)> {
    let mut columns = row.split('|');
    let system_id = columns.next().filter(|id| !id.is_empty())?;
    let position = Position { timeline: columns.next()?.parse().ok()?, lsn: columns.next()?.parse().ok()? };
    Some((SystemId(system_id.to_owned()), position))
}

/// The history file's name, `|`, and its text: a line per timeline that ended, with where and why.
fn parse_history(answer: &str) -> Vec<Position> {
    let text = answer.split_once('|').map_or("", |(_, text)| text);
    let end = |line: &str| {
        let mut columns = line.split('\t');
        let timeline = columns.next()?.trim().parse().ok()?;
        let lsn: Lsn = columns.next()?.trim().parse().ok()?;
        Some(Position { timeline, lsn })
    };
    text.lines().filter_map(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_psql_prints_them() {
        let (id, at) = parse_identity("7412345678901234567|2|0/5000060|").unwrap();
        assert_eq!((id.0.as_str(), at), ("7412345678901234567", Position { timeline: 2, lsn: Lsn(0x500_0060) }));
        assert_eq!(parse_identity("|||"), None);
        let history = "00000003.history|1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tbefore 0/6\n\n";
        let ended = [(1, 0x300_0158), (2, 0x500_0000)].map(|(timeline, lsn)| Position { timeline, lsn: Lsn(lsn) });
        assert_eq!(parse_history(history), ended);
        assert_eq!(parse_history(""), []);
    }
}
