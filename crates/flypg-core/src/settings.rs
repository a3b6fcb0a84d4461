//! PostgreSQL's settings: which follow the guest, which are ours, which are the person's.
//!
//! Three layers make one `postgresql.conf`: [`derive()`] gives defaults that follow the Machine, the person's
//! `postgres.parameters` win over those, and what flypg must own ([`owned`]) wins over everything. Names that flypg
//! owns are [`refused`] when a person writes them, so the last rule never surprises anybody.

mod refused;
mod render;
mod restart;

use std::collections::BTreeMap;

pub use refused::{BadParameterName, check_name, refused, refused_value};
pub use render::{BadValue, check_value, render};
pub use restart::needs_restart;

use crate::names::{ClusterName, NodeName};

/// What a Machine has to give. Memory in MB (of 1024² bytes), CPUs as the guest sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    pub memory_mb: u64,
    pub cpus: u32,
}

/// The default of `max_connections`, as in Fly Postgres. It does not follow the memory, so that resizing a Machine
/// never changes a setting that standbys must not have less of than their primary.
pub const DEFAULT_MAX_CONNECTIONS: u64 = 300;

/// Walsenders and slots: one of each per node, two walsenders for a clone, the rest for logical replication. Constant
/// for the reason above.
const MAX_WAL_SENDERS: u64 = 32;
const MAX_REPLICATION_SLOTS: u64 = 32;

/// Settings that a standby must have at least as much of as its primary had, with PostgreSQL's defaults
/// (documentation, "Hot Standby", Administrator's Overview).
pub const HOT_STANDBY_SENSITIVE: [(&str, u64); 5] = [
    ("max_connections", 100),
    ("max_locks_per_transaction", 64),
    ("max_prepared_transactions", 0),
    ("max_wal_senders", 10),
    ("max_worker_processes", 8),
];

/// A digest of what a person asked for under `postgres.parameters`.
pub fn digest(parameters: &BTreeMap<String, String>) -> String {
    crate::digest::short(&serde_json::to_vec(parameters).expect("a map of strings is JSON"))
}

/// Defaults that follow the Machine; a person may override each.
///
/// `disk_mb` is the size of the volume, `None` if it could not be measured: what follows the disk is then left to
/// PostgreSQL's own defaults. `major` is 15 to 18.
pub fn derive(guest: Guest, disk_mb: Option<u64>, major: u32) -> BTreeMap<String, String> {
    let memory = guest.memory_mb.max(128);
    let cpus = u64::from(guest.cpus.max(1));
    let mut settings = Settings::default();

    // PostgreSQL's documentation of shared_buffers: 25 % from 1 GB on, and a smaller share below, to leave room
    // for the operating system. 10 % is what Fly Postgres gives.
    let shared_buffers = if memory >= 1024 { memory / 4 } else { (memory / 10).max(16) };
    settings.mb("shared_buffers", shared_buffers);
    // What is left for caching once half of the rest is in use; the customary three quarters.
    settings.mb("effective_cache_size", memory * 3 / 4);
    // If every connection sorted once at the same moment, memory would still suffice. 4 MB is PostgreSQL's default.
    settings.mb("work_mem", ((memory - shared_buffers) / DEFAULT_MAX_CONNECTIONS).max(4));
    // A twentieth, as in Fly's earlier image; times autovacuum_max_workers that stays below the rest. 64 MB is
    // PostgreSQL's default, and above 1 GB vacuum up to 16 cannot use more.
    settings.mb("maintenance_work_mem", (memory / 20).clamp(if memory < 1024 { 16 } else { 64 }, 1024));

    if let Some(disk) = disk_mb {
        // A tenth of the disk, as in Fly Postgres; above 16 GB crash recovery takes longer than it saves.
        let max_wal = (disk / 10).clamp(80, 16 * 1024);
        settings.mb("max_wal_size", max_wal);
        // PostgreSQL refuses less than two segments of 16 MB.
        settings.mb("min_wal_size", (max_wal / 4).clamp(32, 1024));
        // Beyond what slots keep: a standby that is promoted has none for the others yet, and a primary that was
        // replaced is rewound from its last checkpoint before that.
        settings.mb("wal_keep_size", (disk / 20).clamp(16, 1024));
    }

    settings.number("max_connections", DEFAULT_MAX_CONNECTIONS);
    // PostgreSQL's default of 8 for extensions and logical replication, and one per CPU for parallel queries.
    settings.number("max_worker_processes", 8 + cpus);
    settings.number("max_parallel_workers", cpus);
    // Half the CPUs for one query, and none where there is only one: the leader would wait for its own worker.
    let per_query = (cpus / 2).min(4);
    settings.number("max_parallel_workers_per_gather", per_query);
    settings.number("max_parallel_maintenance_workers", per_query);
    settings.number("autovacuum_max_workers", (cpus / 2).clamp(3, 8));

    // Fly volumes are NVMe drives of the host: a random page costs about as much as the next one.
    settings.text("random_page_cost", "1.1");
    if major < 18 {
        // From 18 on the number has another meaning (asynchronous IO) and a default made for such disks.
        settings.text("effective_io_concurrency", "200");
    }
    settings.text("wal_compression", "on");
    // Reads on a standby are what read replicas are for; without this, vacuum on the primary cancels them.
    settings.text("hot_standby_feedback", "on");
    // A query whose client was cut off ends soon instead of running on for nobody.
    settings.text("client_connection_check_interval", "10s");
    settings.text("log_line_prefix", "%m [%p] %q%u@%d ");
    settings.text("log_timezone", "UTC");
    settings.text("timezone", "UTC");
    settings.0
}

/// What [`owned`] needs to know.
#[derive(Debug, Clone)]
pub struct Ownership<'a> {
    pub cluster: &'a ClusterName,
    pub node: &'a NodeName,
    /// 15 to 18.
    pub major: u32,
    pub disk_mb: Option<u64>,
    /// Where PostgreSQL makes its only socket; nobody but the agent may enter.
    pub socket_directory: &'a str,
    /// How a standby reaches its upstream; absent on a primary.
    pub primary_conninfo: Option<&'a str>,
    /// Whom a primary waits for ([`crate::failover::Rule::synchronous_standby_names`]); empty on a standby.
    pub synchronous_standby_names: &'a str,
}

/// Settings that flypg must own: the door, replication, durability and the logs. They win over everything.
pub fn owned(of: &Ownership<'_>) -> BTreeMap<String, String> {
    let mut settings = Settings::default();
    settings.text("cluster_name", &format!("{}.{}", of.node, of.cluster));

    // The gate is the only door.
    settings.text("listen_addresses", "");
    settings.text("unix_socket_directories", of.socket_directory);
    settings.text("unix_socket_permissions", "0700");
    settings.text("port", "5432");
    settings.text("ssl", "off"); // TLS, when it comes, ends at the gate
    settings.text("password_encryption", "scram-sha-256");

    // `logical` includes all that physical replication needs, and changing it later would need a restart.
    settings.text("wal_level", "logical");
    settings.text("hot_standby", "on");
    settings.number("max_wal_senders", MAX_WAL_SENDERS);
    settings.number("max_replication_slots", MAX_REPLICATION_SLOTS);
    settings.text("primary_conninfo", of.primary_conninfo.unwrap_or(""));
    let slot = of.primary_conninfo.map(|_| of.node.slot()).unwrap_or_default();
    settings.text("primary_slot_name", &slot);
    settings.text("synchronous_standby_names", of.synchronous_standby_names);
    settings.text("recovery_target_timeline", "latest");
    settings.text("restore_command", "");
    settings.text("archive_mode", "off");
    settings.text("archive_command", "");
    // One lost standby must not fill the primary's disk (rule R18): past a fifth of it, that standby is made anew.
    settings.mb("max_slot_wal_keep_size", of.disk_mb.map_or(1024, |disk| (disk / 5).max(64)));
    // failover-protocol §2.7: a dead peer is noticed in seconds.
    settings.text("wal_sender_timeout", "5s");
    settings.text("wal_receiver_timeout", "5s");
    settings.text("wal_receiver_status_interval", "1s");
    settings.text("wal_retrieve_retry_interval", "500ms");

    // Rule R14: an acknowledged commit is a flushed one, and what is flushed can be read back.
    settings.text("fsync", "on");
    settings.text("full_page_writes", "on");
    settings.text("synchronous_commit", "on");
    settings.text("wal_log_hints", "on"); // pg_rewind, also where checksums are off
    // A crash of one backend ends the postmaster too, so that every restart passes the agent (rule R11).
    settings.text("restart_after_crash", "off");

    settings.text("log_destination", "stderr"); // which the agent reads
    settings.text("logging_collector", "off");
    settings.text("lc_messages", "C"); // which the agent understands
    if of.major >= 17 {
        settings.text("allow_alter_system", "off");
    }
    settings.0
}

/// One set out of three layers; later ones win. Names are lower-cased, as PostgreSQL compares them.
pub fn layered(
    derived: BTreeMap<String, String>,
    person: &BTreeMap<String, String>,
    owned: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut settings = derived;
    settings.extend(person.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
    settings.extend(owned);
    settings
}

/// Raises `wanted` to what the control file says the primary had, so that a standby can always start.
///
/// `control` holds the five settings of [`HOT_STANDBY_SENSITIVE`] as `pg_controldata` prints them. A value that is
/// not a plain number is left for PostgreSQL to judge.
pub fn effective_for_standby(wanted: &mut BTreeMap<String, String>, control: &BTreeMap<String, u64>) {
    for (name, default) in HOT_STANDBY_SENSITIVE {
        let Some(&floor) = control.get(name) else { continue };
        match wanted.get(name).map(|value| value.trim().parse::<u64>()) {
            Some(Ok(value)) if value >= floor => {}
            Some(Err(_)) => {}
            None if default >= floor => {}
            Some(Ok(_)) | None => {
                wanted.insert(name.to_owned(), floor.to_string());
            }
        }
    }
}

#[derive(Default)]
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn text(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), value.to_owned());
    }

    fn number(&mut self, name: &str, value: u64) {
        self.text(name, &value.to_string());
    }

    fn mb(&mut self, name: &str, value: u64) {
        self.text(name, &format!("{value}MB"));
    }
}

#[cfg(test)]
mod tests;
