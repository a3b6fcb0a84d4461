//! Where a node's WAL ends, once nothing can be added to it (rule R5).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use flypg_core::failover::History;
use flypg_core::protocol::{End, Lsn};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep};

use crate::account::command;
use crate::config::Config;
use crate::data_dir::{self, ControlData, ControlError};
use crate::marker;
use crate::processes::Awaited;
use crate::sql::{Session, SqlError};
use crate::wal;

/// How long a standby may take before somebody looks at everything else again; then it is asked again.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is asked.
const EACH: Duration = Duration::from_millis(5);
/// A startup process that waited this long without finding anything has read all there is: it looks again every
/// `wal_retrieve_retry_interval`, which is half a second.
const LOOKED_AGAIN: Duration = Duration::from_millis(1100);
/// Replay that stands still for so long, and does not wait for WAL, waits for a reader of this standby.
const HELD_UP: Duration = Duration::from_millis(100);

/// Where the WAL ends is not known, and nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    #[error("Postgres could not be asked where its WAL ends")]
    Sql(#[from] SqlError),
    #[error("what it was when it stopped cannot be read")]
    Control(#[from] ControlError),
    #[error("pg_wal cannot be read")]
    Io(#[from] std::io::Error),
    #[error("the history of timeline {0} is not here")]
    NoHistory(u32),
    #[error("no segment here holds {0}, where the WAL is to end")]
    NoSegment(Lsn),
    #[error("it has not replayed all that it received within {PATIENCE:?}: {0}")]
    NotYet(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Standby {
    recovering: bool,
    receivers: u32,
    waits: Option<String>,
    received: Option<Lsn>,
    replayed: Option<Lsn>,
    paused: bool,
}

/// A receiver has written its last byte before it disappears from both views.
const STANDBY: &str = "SELECT json_build_object(
    'recovering', pg_is_in_recovery(),
    'receivers', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver')
        + (SELECT count(*) FROM pg_stat_wal_receiver),
    'waits', (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'),
    'received', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() END,
    'replayed', CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END,
    'paused', pg_is_in_recovery() AND pg_is_wal_replay_paused())::text";

impl Standby {
    /// The startup process has nothing to read.
    fn waits_for_wal(&self) -> bool {
        self.receivers == 0
            && matches!(self.waits.as_deref(), Some("RecoveryRetrieveRetryInterval" | "RecoveryWalStream"))
    }

    /// All that a receiver of this Postgres has written is replayed, if there was one.
    fn has_caught_up(&self) -> bool {
        self.received.is_none_or(|received| self.replayed.is_some_and(|replayed| replayed >= received))
    }
}

/// The end of a running standby that has no upstream any more. Only once its receiver is gone and everything was
/// replayed: what it says of receiving is worth nothing after a restart, and may end within a record (E12).
pub async fn find(config: &Config, session: &Session, segment: u64) -> Result<End, EndError> {
    let lsn = settle(session).await?;
    let pgdata = &config.paths.pgdata;
    let timeline = wal::timeline_at(pgdata, lsn, segment)?.ok_or(EndError::NoSegment(lsn))?;
    let switches = wal::switches(pgdata, timeline)?.ok_or(EndError::NoHistory(timeline))?;
    let has_markers: bool = session.json("SELECT to_json(to_regclass('flypg.epoch') IS NOT NULL)::text").await?;
    let markers = if has_markers { marker::read(session).await? } else { Vec::new() };
    Ok(End { history: History { timeline, switches, markers }, lsn })
}

async fn settle(session: &Session) -> Result<Lsn, EndError> {
    let deadline = Instant::now() + PATIENCE;
    let mut last = None;
    let mut moved = Instant::now();
    let mut waits_in_a_row = 0;
    loop {
        let now: Standby = session.json(STANDBY).await?;
        if !now.recovering {
            return Err(EndError::NotYet("it is not in recovery".to_owned()));
        }
        let reached = Some((now.received, now.replayed));
        if reached != last {
            (last, moved, waits_in_a_row) = (reached, Instant::now(), 0);
        }
        waits_in_a_row = if now.waits_for_wal() { waits_in_a_row + 1 } else { 0 };
        let stands_still = moved.elapsed();
        let caught_up = waits_in_a_row >= 2 && now.has_caught_up();
        let nothing_more = waits_in_a_row >= 1 && stands_still >= LOOKED_AGAIN;
        if let Some(end) = now.replayed
            && (caught_up || nothing_more)
        {
            return Ok(end);
        }
        if now.paused {
            tracing::warn!("replay was paused on this standby; it goes on");
            session.execute("SELECT pg_wal_replay_resume()").await?;
        } else if now.receivers == 0 && waits_in_a_row == 0 && stands_still >= HELD_UP {
            session.execute(END_READERS).await?;
        }
        if Instant::now() >= deadline {
            return Err(EndError::NotYet(format!("{now:?}")));
        }
        sleep(EACH).await;
    }
}

/// Readers may hold replay up for as long as `max_standby_streaming_delay`.
const END_READERS: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND usename <> current_user";

/// The end of a stopped Postgres, and whether it was shut down cleanly, so that there is nothing else. Markers are not
/// in files: `known` are those that were seen last.
pub async fn inspect(config: &Config, known: &[(flypg_core::decree::Epoch, String)]) -> Result<(bool, End), EndError> {
    let pgdata = &config.paths.pgdata;
    let control = data_dir::control_data(config).await?;
    let mut timeline = control.timeline();
    if pgdata.join("standby.signal").try_exists()?
        && let Some(newest) = wal::newest_timeline(pgdata)?.filter(|newest| *newest > timeline)
        && let Some(switches) = wal::switches(pgdata, newest)?
        && switches.iter().any(|switch| switch.timeline == timeline)
    {
        // A standby may have received a newer timeline since its last restartpoint. Where the signal is gone, somebody
        // began a promotion, and only what the control file says of it has come about.
        timeline = newest;
    }
    let switches = wal::switches(pgdata, timeline)?.ok_or(EndError::NoHistory(timeline))?;
    let lsn = last_end(config, &control, timeline).await?;
    let clean = control.is_shut_down() || control.is_shut_down_in_recovery();
    Ok((clean, End { history: History { timeline, switches, markers: known.to_vec() }, lsn }))
}

/// Where the last valid record ends, as recovery would find it.
async fn last_end(config: &Config, control: &ControlData, timeline: u32) -> Result<Lsn, EndError> {
    let from = if control.is_shut_down() { control.checkpoint } else { control.redo };
    // Recovery would begin on an earlier timeline, of which there is nothing after the switch.
    let first = wal::segments_from(&config.paths.pgdata, timeline, Lsn(0), control.segment)?;
    let begins =
        first.first().and_then(|path| segment_start(path, control.segment)).ok_or(EndError::NoSegment(from))?;
    let from = from.max(begins);
    let mut waldump = command(&config.program("pg_waldump"), config.account);
    waldump.arg("-p").arg(wal::directory(&config.paths.pgdata));
    waldump.arg("-t").arg(timeline.to_string()).arg("-s").arg(from.to_string());
    waldump.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut running = Awaited::disposable(&mut waldump)?;
    let stdout = running.child.stdout.take().expect("stdout was asked for as a pipe");
    let mut lines = BufReader::with_capacity(64 * 1024, stdout).lines();
    let mut end = None;
    while let Some(line) = lines.next_line().await? {
        if let Some((start, length)) = parse_record(&line) {
            end = Some(wal::record_end(start, length, control.segment));
        }
    }
    // It ends with an error wherever WAL ends, so its status tells nothing.
    running.child.wait().await?;
    end.ok_or(EndError::NoSegment(from))
}

fn segment_start(path: &Path, segment: u64) -> Option<Lsn> {
    let (_, suffix) = path.file_name()?.to_str()?.split_at_checked(8)?;
    let (high, low) = suffix.split_at_checked(8)?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    Some(Lsn((number(high)? << 32) + number(low)? * segment))
}

/// `rmgr: XLOG  len (rec/tot): 114/ 114, tx: 0, lsn: 0/03000028, prev 0/02000100, desc: CHECKPOINT_SHUTDOWN …`
fn parse_record(line: &str) -> Option<(Lsn, u64)> {
    let (_, rest) = line.split_once("len (rec/tot):")?;
    let (length, rest) = rest.split_once('/')?.1.split_once(',')?;
    let (lsn, _) = rest.split_once("lsn: ")?.1.split_once(',')?;
    Some((lsn.parse().ok()?, length.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_pg_waldump_prints_them() {
        let line = "rmgr: XLOG        len (rec/tot):    114/   114, tx:          0, lsn: 0/03000028, prev 0/02000100, \
                    desc: CHECKPOINT_SHUTDOWN redo 0/3000028; tli 1; prev tli 1; fpw true";
        assert_eq!(parse_record(line), Some((Lsn(0x300_0028), 114)));
        let line = "rmgr: Heap        len (rec/tot):     54/  8162, tx:        735, lsn: 1/0A0000B8, prev 1/0A000028, \
                    desc: INSERT off 1, blkref #0: rel 1663/5/1 blk 0 FPW";
        assert_eq!(parse_record(line), Some((Lsn(0x1_0A00_00B8), 8162)));
        assert_eq!(parse_record("pg_waldump: first record is after 0/3000000"), None);
        let start = segment_start(Path::new("pg_wal/00000002000000010000000A"), 16 << 20);
        assert_eq!(start, Some(Lsn(0x1_0A00_0000)));
    }
}
