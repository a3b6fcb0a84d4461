use serde::{Deserialize, Serialize};

use super::open::{nullable, open_enum};
use super::{Extra, Guest, HostStatus};

open_enum! {
    VolumeState {
        Creating = "creating",
        Created = "created",
        Extending = "extending",
        Restoring = "restoring",
        EnablingRemoteExport = "enabling_remote_export",
        /// A fork that is still copying; it can be mounted already.
        Hydrating = "hydrating",
        Recovering = "recovering",
        SchedulingDestroy = "scheduling_destroy",
        /// Deleted, and kept for 24 hours.
        PendingDestroy = "pending_destroy",
        ForkCleanup = "fork_cleanup",
        WaitingForDetach = "waiting_for_detach",
        Destroying = "destroying",
        Destroyed = "destroyed",
    }
}

impl VolumeState {
    /// Whether the volume is on its way out, and no longer counts. Unknown states count.
    pub fn is_leaving(&self) -> bool {
        matches!(
            self,
            Self::SchedulingDestroy
                | Self::PendingDestroy
                | Self::ForkCleanup
                | Self::WaitingForDetach
                | Self::Destroying
                | Self::Destroyed
        )
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// `vol_…`
    pub id: String,
    /// Not unique.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub state: VolumeState,
    #[serde(default, deserialize_with = "nullable")]
    pub size_gb: u64,
    #[serde(default, deserialize_with = "nullable")]
    pub region: String,
    /// The server it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    #[serde(default)]
    pub attached_machine_id: Option<String>,
    #[serde(default)]
    pub attached_alloc_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Counters are 0 right after create, fork and extend, and left out of summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<u64>,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_free: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks_avail: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_used: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// `ext4` or `raw`; empty right after create.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fstype: Option<String>,
    /// Days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_retention: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_backup_enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_status: Option<HostStatus>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST …/volumes`: a new volume, a restored one (`snapshot_id`) or a fork (`source_volume_id`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateVolume {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// 500 at most; not below that of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_gb: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fstype: Option<String>,
    /// On a server that has no other volume of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_unique_zone: Option<bool>,
    /// On a server that has no other volume of the app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_zone_app_wide: Option<bool>,
    /// Days, 1 to 60; 5 when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_retention: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_backup_enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_volume_id: Option<String>,
    /// Choose a host that has room for this guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Guest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_image: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `PUT …/volumes/{id}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateVolume {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_retention: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_backup_enabled: Option<bool>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `PUT …/volumes/{id}/extend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExtendVolume {
    /// The new total, not the increment.
    pub size_gb: u64,
}

/// Answer to `PUT …/volumes/{id}/extend`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExtendedVolume {
    pub volume: Volume,
    /// The file system grows at the Machine's next stop and start.
    #[serde(default, deserialize_with = "nullable")]
    pub needs_restart: bool,
    #[serde(flatten)]
    pub extra: Extra,
}

open_enum! {
    SnapshotStatus {
        Waiting = "waiting",
        Running = "running",
        Created = "created",
    }
}

/// An item of `GET …/snapshots`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `vs_…`
    pub id: String,
    /// Stored bytes; 0 until it is `created`.
    #[serde(default, deserialize_with = "nullable")]
    pub size: u64,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `0001-01-01T00:00:00Z` until it is `created`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<SnapshotStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_days: Option<u32>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `POST …/snapshots`: a job, not the snapshot. Documented without a body, so it may be empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotJobAnswer {
    #[serde(rename = "Msg", alias = "msg", default, skip_serializing_if = "Option::is_none")]
    pub msg: Option<SnapshotJobMessage>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotJobMessage {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<SnapshotJob>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotJob {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(default)]
    pub finished_at: Option<String>,
    /// The id under which the snapshot is listed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_id: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}
