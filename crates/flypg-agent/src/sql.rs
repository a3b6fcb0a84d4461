//! The agent's own session with this node's Postgres, and what it asks through it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flypg_core::decree::SystemId;
use flypg_core::keys::Role;
use flypg_core::names::NodeName;
use flypg_core::node::SlotSeen;
use flypg_core::protocol::{Lsn, PgRole, ReplicaReport};
use serde::Deserialize;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::config::Config;

/// A look that takes longer than this found a Postgres that does not answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// What every session of the agent says of itself. `search_path` is pinned, so that nobody can plant a function or an
/// operator in its way; its statements are not logged, since some carry password verifiers; none of its commits waits
/// for a standby; and neither a library that cannot be loaded nor a limit on idle sessions locks the agent out.
const OPTIONS: &str = "-c search_path=pg_catalog -c log_statement=none -c log_min_duration_statement=-1 \
                       -c synchronous_commit=local -c default_transaction_read_only=off -c statement_timeout=0 \
                       -c lock_timeout=5s -c client_min_messages=error -c session_preload_libraries= \
                       -c local_preload_libraries= -c idle_session_timeout=0";
/// The same for what came with PostgreSQL 17: a trigger on logins may fail too.
const OPTIONS_FROM_17: &str = " -c event_triggers=off -c transaction_timeout=0";

/// What is different where a commit is to wait for standbys: it does, and says so if the wait is cancelled.
const WAITING: &str = " -c synchronous_commit=on -c client_min_messages=warning";

#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
}

#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("Postgres refused a statement or the connection")]
    Postgres(#[from] tokio_postgres::Error),
    #[error("Postgres did not answer within {0:?}")]
    TooSlow(Duration),
    #[error("Postgres answered something unexpected")]
    Unexpected(#[source] serde_json::Error),
    #[error("Postgres did not take {0}")]
    Refused(&'static str),
    #[error("this is not a value of Postgres: {0}")]
    BadValue(String),
}

impl SqlError {
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            SqlError::Postgres(error) => error.code(),
            _ => None,
        }
    }
}

/// What does not change while this postmaster lives.
#[derive(Debug, Clone, Deserialize)]
pub struct Identity {
    pub version: String,
    pub system_id: SystemId,
    pub started_at: i64,
    /// Bytes of a segment of WAL.
    pub segment: u64,
    pub max_connections: usize,
    /// Where the last checkpoint begins.
    pub checkpoint: Lsn,
}

/// One look.
#[derive(Debug, Clone)]
pub struct Look {
    /// What is written, or was received or replayed last, is on this one.
    pub timeline: u32,
    /// That of the last checkpoint.
    pub checkpointed: u32,
    /// `synchronous_standby_names`, and when the files were last read.
    pub waits_for: String,
    pub loaded_at: String,
    /// The table of markers is there.
    pub has_markers: bool,
    pub role: PgRole,
    /// The receiver streams now, from whomever the agent connected it to.
    pub streams: bool,
    /// Physical slots of ours.
    pub slots: BTreeMap<String, SlotSeen>,
}

#[derive(Debug, Deserialize)]
struct RawLook {
    in_recovery: bool,
    timeline: Option<u32>,
    checkpointed: u32,
    waits_for: String,
    loaded_at: String,
    has_markers: bool,
    lsn: Option<Lsn>,
    replicas: Option<Vec<RawReplica>>,
    slots: Option<BTreeMap<String, RawSlot>>,
    received: Option<Lsn>,
    replayed: Option<Lsn>,
    receiver: Option<String>,
    since_replayed: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct RawReplica {
    name: String,
    state: String,
    sent: Option<Lsn>,
    flushed: Option<Lsn>,
    replayed: Option<Lsn>,
}

#[derive(Debug, Deserialize)]
struct RawSlot {
    active: bool,
    kept: Option<u64>,
    lost: bool,
}

const IDENTITY: &str = "SELECT json_build_object(
    'version', split_part(current_setting('server_version'), ' ', 1),
    'system_id', (SELECT system_identifier::text FROM pg_control_system()),
    'started_at', extract(epoch FROM pg_postmaster_start_time())::int8,
    'segment', (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size'),
    'max_connections', current_setting('max_connections')::int,
    'checkpoint', (SELECT checkpoint_lsn FROM pg_control_checkpoint()))::text";

const LOOK: &str = "WITH me AS (SELECT pg_is_in_recovery() AS standby),
    here AS (SELECT standby,
        CASE WHEN NOT standby THEN pg_current_wal_flush_lsn() END AS lsn,
        CASE WHEN standby THEN pg_last_wal_receive_lsn() END AS received,
        CASE WHEN standby THEN pg_last_wal_replay_lsn() END AS replayed FROM me)
  SELECT json_build_object(
    'in_recovery', standby,
    'timeline', CASE WHEN standby
        THEN (SELECT nullif(received_tli, 0) FROM pg_stat_wal_receiver)
        ELSE ('x' || substr(pg_walfile_name(lsn), 1, 8))::bit(32)::int END,
    'checkpointed', (SELECT timeline_id FROM pg_control_checkpoint()),
    'waits_for', current_setting('synchronous_standby_names'), 'loaded_at', pg_conf_load_time(),
    'has_markers', to_regclass('flypg.epoch') IS NOT NULL,
    'lsn', lsn, 'received', received, 'replayed', replayed,
    'receiver', (SELECT status FROM pg_stat_wal_receiver),
    'since_replayed', CASE WHEN standby
        THEN extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8 END,
    'replicas', (SELECT json_agg(json_build_object('name', application_name, 'state', state, 'sent', sent_lsn,
        'flushed', flush_lsn, 'replayed', replay_lsn) ORDER BY application_name, pid) FROM pg_stat_replication),
    'slots', (SELECT json_object_agg(slot_name, json_build_object('active', active,
        'lost', coalesce(wal_status = 'lost', false), 'kept',
        greatest(0, (coalesce(lsn, received, replayed) - restart_lsn))::int8))
        FROM pg_replication_slots WHERE slot_type = 'physical' AND slot_name LIKE 'flypg\\_%'))::text
  FROM here";

impl Session {
    /// Connects as the agent's own role.
    pub async fn connect(config: &Config) -> Result<Self, SqlError> {
        Self::connect_as(config, Role::Agent, "postgres").await
    }

    pub async fn connect_as(config: &Config, role: Role, database: &str) -> Result<Self, SqlError> {
        Ok(Self::open(config, role, database, "").await?.0)
    }

    /// A session whose commits wait for standbys, and whether one of these waits was cancelled: then its commit was
    /// reported although the standbys may not have it.
    pub async fn connect_waiting(config: &Config) -> Result<(Self, Arc<AtomicBool>), SqlError> {
        Self::open(config, Role::Agent, "postgres", WAITING).await
    }

    async fn open(
        config: &Config,
        role: Role,
        database: &str,
        options: &str,
    ) -> Result<(Self, Arc<AtomicBool>), SqlError> {
        let mut to = tokio_postgres::Config::new();
        to.host_path(&config.paths.socket).port(5432).user(role.name()).password(config.key.password(role));
        to.dbname(database).application_name("flypg-agent").connect_timeout(PATIENCE);
        if role == Role::Agent {
            let since_17 = if config.major >= 17 { OPTIONS_FROM_17 } else { "" };
            to.options(format!("{OPTIONS}{since_17}{options}"));
        }
        let (client, mut connection) =
            timeout(PATIENCE, to.connect(NoTls)).await.map_err(|_| SqlError::TooSlow(PATIENCE))??;
        let cancelled = Arc::new(AtomicBool::new(false));
        let heard = cancelled.clone();
        // Its error is seen by whoever waits for an answer.
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.message().starts_with("canceling wait for synchronous replication")
                {
                    heard.store(true, Ordering::SeqCst);
                }
            }
        });
        Ok((Self { client, connection }, cancelled))
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    pub(crate) async fn json<T: for<'de> Deserialize<'de>>(&self, statement: &str) -> Result<T, SqlError> {
        let rows = timeout(PATIENCE, self.client.simple_query(statement));
        let rows = rows.await.map_err(|_| SqlError::TooSlow(PATIENCE))??;
        let text = first_text(&rows).unwrap_or("null");
        serde_json::from_str(text).map_err(SqlError::Unexpected)
    }

    pub async fn identity(&self) -> Result<Identity, SqlError> {
        self.json(IDENTITY).await
    }

    /// Looks at what changes all the time. Lags of a standby whose receiver does not stream are unknown. `placed` says
    /// on which timeline a position of a standby without a receiver is, if that can be told.
    pub async fn look(&self, placed: impl FnOnce(Lsn) -> Option<u32>) -> Result<Look, SqlError> {
        let raw: RawLook = self.json(LOOK).await?;
        let timeline = raw.timeline.or_else(|| placed(raw.replayed?)).unwrap_or(raw.checkpointed);
        let slots = raw.slots.unwrap_or_default();
        let streams = raw.receiver.as_deref() == Some("streaming");
        let seen = slots
            .iter()
            .map(|(name, slot)| (name.clone(), SlotSeen { active: slot.active, lost: slot.lost }))
            .collect();
        let role = if raw.in_recovery {
            let replayed = raw.replayed.unwrap_or_default();
            // Until the receiver of this start has streamed, Postgres gives the start of a segment.
            let received = raw.received.filter(|lsn| *lsn >= replayed);
            let replay_lag_seconds = match received {
                Some(received) if streams && received == replayed => Some(0.0),
                Some(_) if streams => raw.since_replayed.map(|seconds| seconds.max(0.0)),
                _ => None,
            };
            PgRole::Standby { received, replayed, streaming_from: None, replay_lag_seconds }
        } else {
            let ours = |r: RawReplica| {
                let node = NodeName::of_slot(&r.name)?;
                Some(ReplicaReport { node, state: r.state, sent: r.sent, flushed: r.flushed, replayed: r.replayed })
            };
            PgRole::Primary {
                lsn: raw.lsn.unwrap_or_default(),
                replicas: raw.replicas.unwrap_or_default().into_iter().filter_map(ours).collect(),
                slots: slots
                    .into_iter()
                    .filter(|(name, _)| NodeName::of_slot(name).is_some())
                    .map(|(name, slot)| (name, slot.kept.unwrap_or(0)))
                    .collect(),
                probe: None,
            }
        };
        Ok(Look {
            timeline,
            checkpointed: raw.checkpointed,
            waits_for: raw.waits_for,
            loaded_at: raw.loaded_at,
            has_markers: raw.has_markers,
            role,
            streams,
            slots: seen,
        })
    }

    /// When the running Postgres last read its files, as text to compare.
    pub async fn conf_load_time(&self) -> Result<String, SqlError> {
        self.json("SELECT to_json(pg_conf_load_time())::text").await
    }

    /// Parameters that wait for a restart.
    pub async fn pending_restart(&self) -> Result<Vec<String>, SqlError> {
        let names: Option<Vec<String>> =
            self.json("SELECT json_agg(name ORDER BY name)::text FROM pg_settings WHERE pending_restart").await?;
        Ok(names.unwrap_or_default())
    }

    /// What the last reload refused: parameter and Postgres' words. A change that needs a restart is none of these.
    pub async fn file_errors(&self) -> Result<BTreeMap<String, String>, SqlError> {
        let found: Option<BTreeMap<String, String>> = self
            .json(
                "SELECT json_object_agg(name, error)::text FROM pg_file_settings WHERE error IS NOT NULL \
                 AND name IS NOT NULL AND error <> 'setting could not be applied'",
            )
            .await?;
        Ok(found.unwrap_or_default())
    }

    /// Executes one statement however long it takes, and says how many rows it changed.
    pub async fn execute_patiently(&self, statement: &str) -> Result<u64, SqlError> {
        let messages = self.client.simple_query(statement).await?;
        let changed = |message: &tokio_postgres::SimpleQueryMessage| match message {
            tokio_postgres::SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        };
        Ok(messages.iter().filter_map(changed).next_back().unwrap_or(0))
    }

    /// Begins to end recovery. Whether, and on which timeline, shows later.
    pub async fn promote(&self) -> Result<(), SqlError> {
        let begun: bool = self.json("SELECT to_json(NOT pg_is_in_recovery() OR pg_promote(false))::text").await?;
        if begun { Ok(()) } else { Err(SqlError::Refused("the promotion")) }
    }

    /// A checkpoint, within `limit`.
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), SqlError> {
        timeout(limit, self.client.batch_execute("CHECKPOINT")).await.map_err(|_| SqlError::TooSlow(limit))??;
        Ok(())
    }

    pub async fn execute(&self, statements: &str) -> Result<(), SqlError> {
        let patience = Duration::from_secs(30);
        timeout(patience, self.client.batch_execute(statements)).await.map_err(|_| SqlError::TooSlow(patience))??;
        Ok(())
    }

    /// Rows as maps from column to text; what metrics are made of.
    pub async fn rows(&self, statement: &str) -> Result<Vec<BTreeMap<String, String>>, SqlError> {
        let patience = Duration::from_secs(5);
        let messages = timeout(patience, self.client.simple_query(statement));
        let messages = messages.await.map_err(|_| SqlError::TooSlow(patience))??;
        let row = |row: &tokio_postgres::SimpleQueryRow| {
            let columns = row.columns().iter().enumerate();
            columns.filter_map(|(n, c)| Some((c.name().to_owned(), row.get(n)?.to_owned()))).collect()
        };
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(found) => Some(row(found)),
                _ => None,
            })
            .collect())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn first_text(rows: &[tokio_postgres::SimpleQueryMessage]) -> Option<&str> {
    rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })
}

/// A string literal. `standard_conforming_strings` cannot be relied on where a backslash is, so there may be none.
pub fn literal(text: &str) -> Result<String, SqlError> {
    if text.contains(['\\', '\0']) {
        return Err(SqlError::BadValue(text.to_owned()));
    }
    Ok(format!("'{}'", text.replace('\'', "''")))
}
