//! What is unknown or varies on the real platform, as numbers and switches.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Durations in milliseconds unless the name says otherwise. [`Knobs::default`] is fast; [`Knobs::realistic`] has
/// the figures that were documented or measured on Fly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Knobs {
    /// A new machine stays `created` this long while its images are fetched.
    pub prepare_ms: u64,
    /// A machine made with `skip_launch` rests at `created` (as documented) instead of `stopped` (as observed).
    pub rest_at_created: bool,
    /// `starting` before the machine's process is launched.
    pub start_ms: u64,
    /// Least time a machine spends in `stopping`.
    pub stop_ms: u64,
    /// Least time a machine spends in `replacing`.
    pub replace_ms: u64,
    /// Least time a machine spends in `destroying`.
    pub destroy_ms: u64,
    /// After `stopped`, a start is refused this long with "machine still active".
    pub still_active_ms: u64,
    /// A destroyed machine still answers `GET` (with state `destroyed`) this long.
    pub destroyed_visible_ms: u64,
    /// Destroyed machines are listed by `include_deleted` this long.
    pub destroyed_kept_ms: u64,
    /// After its machine is gone a volume stays claimed by an id of NUL bytes this long.
    pub claim_lingers_ms: u64,
    /// Pause before the restart policy restarts a machine; doubles per restart up to 32 times this.
    pub restart_backoff_ms: u64,
    /// A new volume stays `restoring` / `hydrating` at least this long.
    pub restore_ms: u64,
    /// A deleted volume stays `scheduling_destroy` this long, then `pending_destroy`.
    pub volume_scheduling_ms: u64,
    /// How long a deleted volume stays `pending_destroy`.
    pub volume_pending_ms: u64,
    /// A snapshot stays `waiting` this long.
    pub snapshot_wait_ms: u64,
    /// A snapshot stays `running` at least this long.
    pub snapshot_run_ms: u64,
    /// Interval of automatic snapshots.
    pub snapshot_every_ms: u64,
    /// The name of a deleted app is free again after this.
    pub app_delete_ms: u64,

    /// Lists answer with the world as it was this long ago.
    pub list_lag_ms: u64,
    /// Reads of one thing answer with the world as it was this long ago: 404 right after a create.
    pub read_lag_ms: u64,

    /// Stop and destroy by a non-holder wait for the lease to end (measured); otherwise they are refused with 409.
    pub lease_blocks_stop_and_destroy: bool,
    /// TTL of a lease asked for without one. Fly's default is not documented.
    pub lease_default_ttl_s: u64,
    /// Longest TTL granted; more is cut down to this. Fly's limit is not documented.
    pub lease_max_ttl_s: u64,
    /// `wait` answers 400 at once when the machine is resting in a state it will not leave by itself for the wanted one.
    pub wait_refuses_hopeless: bool,
    /// Read `autostop` back as `false` / `true` / `"suspend"`, as live answers do.
    pub autostop_as_bool: bool,
    /// `Regions` / `Nearest` (live) instead of `regions` / `nearest` (spec).
    pub pascal_case_platform: bool,
    /// The region of the API's edge: where machines without a region go.
    pub nearest: String,

    /// Hosts per region.
    pub hosts_per_region: u16,
    /// Capacity of one host; `None` is without limit.
    pub host_cpus: Option<u64>,
    pub host_memory_mb: Option<u64>,
    pub host_volume_gb: Option<u64>,
    /// Regions that refuse every placement.
    pub full_regions: BTreeSet<String>,
    /// Machines an organisation may have; `None` is without limit.
    pub machine_limit: Option<u64>,

    /// Requests per second and burst, per action and machine or app; `None` is without limit.
    pub rate_limit: Option<RateLimit>,
    /// Length of the `Retry-After` (seconds) on 429; `None` leaves the header out.
    pub retry_after_s: Option<u64>,
    /// Set the `fly_flaps_affinity` cookie when an app is created.
    pub affinity_cookie: bool,
}

/// Token buckets, refilled per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Most actions.
    pub per_second: u32,
    pub burst: u32,
    /// `GET` of one machine.
    pub get_machine_per_second: u32,
    pub get_machine_burst: u32,
    /// App deletions, for all apps together.
    pub app_deletes_per_minute: u32,
}

impl RateLimit {
    /// Fly's documented limits.
    pub const FLY: Self =
        Self { per_second: 1, burst: 3, get_machine_per_second: 5, get_machine_burst: 10, app_deletes_per_minute: 100 };
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl Default for Knobs {
    fn default() -> Self {
        Self {
            prepare_ms: 0,
            rest_at_created: false,
            start_ms: 0,
            stop_ms: 0,
            replace_ms: 50,
            destroy_ms: 50,
            still_active_ms: 0,
            destroyed_visible_ms: 250,
            destroyed_kept_ms: 60 * 60 * 1000,
            claim_lingers_ms: 0,
            restart_backoff_ms: 100,
            restore_ms: 50,
            volume_scheduling_ms: 50,
            volume_pending_ms: DAY_MS,
            snapshot_wait_ms: 50,
            snapshot_run_ms: 50,
            snapshot_every_ms: DAY_MS,
            app_delete_ms: 50,
            list_lag_ms: 0,
            read_lag_ms: 0,
            lease_blocks_stop_and_destroy: true,
            lease_default_ttl_s: 30,
            lease_max_ttl_s: 60 * 60,
            wait_refuses_hopeless: false,
            autostop_as_bool: true,
            pascal_case_platform: true,
            nearest: "ord".to_owned(),
            hosts_per_region: 8,
            host_cpus: None,
            host_memory_mb: None,
            host_volume_gb: None,
            full_regions: BTreeSet::new(),
            machine_limit: None,
            rate_limit: None,
            retry_after_s: None,
            affinity_cookie: false,
        }
    }
}

impl Knobs {
    /// The figures documented for Fly or measured on it: 9 s of preparation, 3.5 s of `replacing`, the documented
    /// rate limits, reads that lag behind writes.
    #[must_use]
    pub fn realistic() -> Self {
        Self {
            prepare_ms: 9_000,
            start_ms: 1_000,
            stop_ms: 500,
            replace_ms: 3_500,
            destroy_ms: 2_000,
            still_active_ms: 500,
            destroyed_visible_ms: 2_000,
            claim_lingers_ms: 30_000,
            restart_backoff_ms: 1_000,
            restore_ms: 5_000,
            volume_scheduling_ms: 1_000,
            snapshot_wait_ms: 2_000,
            snapshot_run_ms: 5_000,
            app_delete_ms: 5_000,
            list_lag_ms: 500,
            read_lag_ms: 100,
            host_cpus: Some(64),
            host_memory_mb: Some(256 * 1024),
            host_volume_gb: Some(4_000),
            rate_limit: Some(RateLimit::FLY),
            affinity_cookie: true,
            ..Self::default()
        }
    }
}
