//! What Postgres counts. Names and meanings as in postgres_exporter's collectors of the same views.

use std::collections::BTreeMap;

use tokio_postgres::error::SqlState;

use super::{Kind, Page};
use crate::shared::Shared;
use crate::sql::{Session, SqlError};

type Row = BTreeMap<String, String>;

/// One view: each column that is no label becomes `<prefix>_<column>`.
struct View {
    prefix: &'static str,
    /// In every major version of it.
    majors: std::ops::RangeInclusive<u32>,
    statement: &'static str,
    labels: &'static [&'static str],
    columns: &'static [(&'static str, Kind, &'static str)],
}

use Kind::{Counter, Gauge, Untyped};

const VIEWS: &[View] = &[
    View {
        prefix: "pg_replication",
        majors: 15..=18,
        statement: "SELECT pg_is_in_recovery()::int AS is_replica, CASE WHEN NOT pg_is_in_recovery() \
                    OR pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0 \
                    ELSE greatest(0, extract(epoch FROM now() - pg_last_xact_replay_timestamp())) END AS lag_seconds",
        labels: &[],
        columns: &[
            ("is_replica", Gauge, "Indicates if the server is a replica."),
            ("lag_seconds", Gauge, "Seconds that replay is behind; 0 if all that was received is replayed."),
        ],
    },
    View {
        prefix: "pg_postmaster",
        majors: 15..=18,
        statement: "SELECT extract(epoch FROM pg_postmaster_start_time()) AS start_time_seconds",
        labels: &[],
        columns: &[("start_time_seconds", Gauge, "When Postgres was started, in Unix seconds.")],
    },
    View {
        prefix: "pg_database",
        majors: 15..=18,
        statement: "SELECT datname, pg_database_size(oid) AS size_bytes, datconnlimit AS connection_limit \
                    FROM pg_database WHERE datallowconn",
        labels: &["datname"],
        columns: &[
            ("size_bytes", Gauge, "Disk space used by the database."),
            ("connection_limit", Gauge, "Connections that the database allows; -1 for no limit."),
        ],
    },
    View {
        prefix: "pg_stat_activity",
        majors: 15..=18,
        statement: "SELECT coalesce(datname, '') AS datname, coalesce(state, 'none') AS state, count(*) AS count, \
                    coalesce(max(extract(epoch FROM now() - xact_start)), 0) AS max_tx_duration \
                    FROM pg_stat_activity WHERE backend_type = 'client backend' GROUP BY 1, 2",
        labels: &["datname", "state"],
        columns: &[
            ("count", Untyped, "Connections in this state."),
            ("max_tx_duration", Gauge, "Seconds that the longest transaction in this state is open."),
        ],
    },
    View {
        prefix: "pg_stat_database",
        majors: 15..=18,
        statement: "SELECT datid, datname, numbackends, xact_commit, xact_rollback, blks_read, blks_hit, tup_returned, \
                    tup_fetched, tup_inserted, tup_updated, tup_deleted, conflicts, temp_files, temp_bytes, deadlocks, \
                    coalesce(checksum_failures, 0) AS checksum_failures, blk_read_time, blk_write_time \
                    FROM pg_stat_database WHERE datname IS NOT NULL",
        labels: &["datid", "datname"],
        columns: &[
            ("numbackends", Gauge, "Backends connected to this database."),
            ("xact_commit", Untyped, "Transactions committed."),
            ("xact_rollback", Untyped, "Transactions rolled back."),
            ("blks_read", Untyped, "Blocks read from disk."),
            ("blks_hit", Untyped, "Blocks found in the buffer cache."),
            ("tup_returned", Untyped, "Rows returned by queries."),
            ("tup_fetched", Untyped, "Rows fetched by queries."),
            ("tup_inserted", Untyped, "Rows inserted."),
            ("tup_updated", Untyped, "Rows updated."),
            ("tup_deleted", Untyped, "Rows deleted."),
            ("conflicts", Untyped, "Queries cancelled because of conflicts with recovery."),
            ("temp_files", Untyped, "Temporary files created."),
            ("temp_bytes", Untyped, "Bytes written to temporary files."),
            ("deadlocks", Untyped, "Deadlocks detected."),
            ("checksum_failures", Untyped, "Data page checksums that did not match."),
            ("blk_read_time", Untyped, "Milliseconds spent reading blocks, if track_io_timing is on."),
            ("blk_write_time", Untyped, "Milliseconds spent writing blocks, if track_io_timing is on."),
        ],
    },
    View {
        prefix: "pg_stat_replication",
        majors: 15..=18,
        statement: "SELECT application_name, coalesce(host(client_addr), '') AS client_addr, state, \
                    coalesce(slot_name, '') AS slot_name, \
                    coalesce(CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_lsn() - replay_lsn END, 0) \
                    AS pg_wal_lsn_diff \
                    FROM pg_stat_replication LEFT JOIN pg_replication_slots ON active_pid = pid",
        labels: &["application_name", "client_addr", "state", "slot_name"],
        columns: &[("pg_wal_lsn_diff", Gauge, "Bytes of WAL that the replica has not replayed.")],
    },
    View {
        prefix: "pg_replication_slot",
        majors: 15..=18,
        statement: "SELECT slot_name, slot_type, active::int AS slot_is_active, safe_wal_size AS safe_wal_size_bytes, \
                    coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() \
                    ELSE pg_current_wal_lsn() END - '0/0', 0) AS slot_current_wal_lsn FROM pg_replication_slots",
        labels: &["slot_name", "slot_type"],
        columns: &[
            ("slot_is_active", Gauge, "Whether the replication slot is active."),
            ("slot_current_wal_lsn", Gauge, "The current WAL position, in bytes since its start."),
            (
                "safe_wal_size_bytes",
                Gauge,
                "Bytes of WAL that may be written before the slot is in danger of being lost.",
            ),
        ],
    },
    View {
        prefix: "pg_stat_bgwriter",
        majors: 15..=16,
        statement: "SELECT checkpoints_timed AS checkpoints_timed_total, checkpoints_req AS checkpoints_req_total, \
                    checkpoint_write_time AS checkpoint_write_time_total, \
                    checkpoint_sync_time AS checkpoint_sync_time_total, buffers_checkpoint AS buffers_checkpoint_total, \
                    buffers_clean AS buffers_clean_total, maxwritten_clean AS maxwritten_clean_total, \
                    buffers_backend AS buffers_backend_total, buffers_backend_fsync AS buffers_backend_fsync_total, \
                    buffers_alloc AS buffers_alloc_total FROM pg_stat_bgwriter",
        labels: &[],
        columns: &[
            ("checkpoints_timed_total", Counter, "Scheduled checkpoints that were performed."),
            ("checkpoints_req_total", Counter, "Requested checkpoints that were performed."),
            ("checkpoint_write_time_total", Counter, "Milliseconds that checkpoints spent writing."),
            ("checkpoint_sync_time_total", Counter, "Milliseconds that checkpoints spent flushing."),
            ("buffers_checkpoint_total", Counter, "Buffers written by checkpoints."),
            ("buffers_clean_total", Counter, "Buffers written by the background writer."),
            ("maxwritten_clean_total", Counter, "Cleaning scans stopped because of too many buffers."),
            ("buffers_backend_total", Counter, "Buffers written by backends."),
            ("buffers_backend_fsync_total", Counter, "Times that a backend had to flush by itself."),
            ("buffers_alloc_total", Counter, "Buffers allocated."),
        ],
    },
    View {
        prefix: "pg_stat_bgwriter",
        majors: 17..=18,
        statement: "SELECT buffers_clean AS buffers_clean_total, maxwritten_clean AS maxwritten_clean_total, \
                    buffers_alloc AS buffers_alloc_total FROM pg_stat_bgwriter",
        labels: &[],
        columns: &[
            ("buffers_clean_total", Counter, "Buffers written by the background writer."),
            ("maxwritten_clean_total", Counter, "Cleaning scans stopped because of too many buffers."),
            ("buffers_alloc_total", Counter, "Buffers allocated."),
        ],
    },
    View {
        prefix: "pg_stat_checkpointer",
        majors: 17..=18,
        statement: "SELECT num_timed AS num_timed_total, num_requested AS num_requested_total, \
                    write_time AS write_time_total, sync_time AS sync_time_total, \
                    buffers_written AS buffers_written_total FROM pg_stat_checkpointer",
        labels: &[],
        columns: &[
            ("num_timed_total", Counter, "Scheduled checkpoints."),
            ("num_requested_total", Counter, "Requested checkpoints that were performed."),
            ("write_time_total", Counter, "Milliseconds that checkpoints spent writing."),
            ("sync_time_total", Counter, "Milliseconds that checkpoints spent flushing."),
            ("buffers_written_total", Counter, "Buffers written by checkpoints and restartpoints."),
        ],
    },
    View {
        prefix: "pg_settings",
        majors: 15..=18,
        statement: "SELECT current_setting('max_connections') AS max_connections, \
                    current_setting('max_wal_senders') AS max_wal_senders, \
                    current_setting('max_replication_slots') AS max_replication_slots, \
                    pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers_bytes, \
                    pg_size_bytes(current_setting('max_wal_size')) AS max_wal_size_bytes",
        labels: &[],
        columns: &[
            ("max_connections", Gauge, "Connections that Postgres allows at once."),
            ("max_wal_senders", Gauge, "WAL senders that Postgres allows at once."),
            ("max_replication_slots", Gauge, "Replication slots that Postgres allows."),
            ("shared_buffers_bytes", Gauge, "Shared memory for buffers."),
            ("max_wal_size_bytes", Gauge, "WAL that triggers a checkpoint."),
        ],
    },
];

/// Asks through a session of its own, so that a slow view never holds up the agent's own look.
pub(super) async fn add(page: &mut Page, shared: &Shared) -> prometheus::Result<()> {
    let open = shared.here.borrow().open;
    let answers = if open { ask(shared).await } else { None };
    page.one(Gauge, "pg_up", "Whether Postgres answers.", f64::from(u8::from(answers.is_some())))?;
    let Some(answers) = answers else { return Ok(()) };
    if let Some(postgres) = &shared.report.borrow().postgres {
        let labels = vec![postgres.version.clone()];
        page.add(Gauge, "pg_static", "Always 1; says which Postgres this is.", &["short_version"], [(labels, 1.0)])?;
    }
    for (view, rows) in answers {
        for (column, kind, help) in view.columns {
            let value = |row: &Row| {
                let labels = view.labels.iter().map(|label| row.get(*label).cloned().unwrap_or_default()).collect();
                Some((labels, row.get(*column)?.parse().ok()?))
            };
            let name = format!("{}_{column}", view.prefix);
            page.add(*kind, &name, help, view.labels, rows.iter().filter_map(value))?;
        }
    }
    Ok(())
}

async fn ask(shared: &Shared) -> Option<Vec<(&'static View, Vec<Row>)>> {
    let all = async {
        let session = Session::connect(&shared.config).await?;
        let mut answers = Vec::new();
        for view in VIEWS.iter().filter(|view| view.majors.contains(&shared.config.major)) {
            match session.rows(view.statement).await {
                Ok(rows) => answers.push((view, rows)),
                // Postgres answers, so it is up: a database may have been dropped while its size was taken.
                Err(error) if error.code().is_some_and(|code| *code != SqlState::ADMIN_SHUTDOWN) => {
                    tracing::warn!(view = view.prefix, error = crate::words(&error), "left out of the metrics");
                }
                Err(error) => return Err(error),
            }
        }
        Ok::<_, SqlError>(answers)
    };
    match all.await {
        Ok(answers) => Some(answers),
        Err(error) => {
            tracing::warn!(error = crate::words(&error), "Postgres gave no metrics");
            None
        }
    }
}
