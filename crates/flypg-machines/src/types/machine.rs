use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::open::{nullable, open_enum};
use super::{CheckStatus, ContainerStatus, Extra, LeaseSummary, MachineConfig, MachineEvent};

open_enum! {
    /// Where a Machine is in its life.
    MachineState {
        /// Placed, never started; its image may still be on its way.
        Created = "created",
        Creating = "creating",
        Starting = "starting",
        Started = "started",
        Stopping = "stopping",
        Stopped = "stopped",
        Suspending = "suspending",
        Suspended = "suspended",
        Restarting = "restarting",
        Updating = "updating",
        Replacing = "replacing",
        Failed = "failed",
        /// On its way to `destroyed`; cannot be recovered.
        LaunchFailed = "launch_failed",
        Destroying = "destroying",
        Destroyed = "destroyed",
        /// An older version of a Machine; only a query for that version answers it.
        Replaced = "replaced",
        /// The old placement after a move to another host.
        Migrated = "migrated",
    }
}

impl MachineState {
    /// Whether the Machine stays as it is until somebody acts on it. Unknown states do not.
    pub fn is_resting(&self) -> bool {
        matches!(self, Self::Created | Self::Started | Self::Stopped | Self::Suspended | Self::Failed)
            || self.is_terminal()
    }

    /// Whether there is nothing left to act on.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Destroyed | Self::Replaced | Self::Migrated)
    }
}

open_enum! {
    /// What Fly knows of the host below. Other than `ok`, what is shown of the Machine is what was last known.
    HostStatus {
        Ok = "ok",
        Unknown = "unknown",
        Unreachable = "unreachable",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// 14 characters, for life.
    pub id: String,
    /// Unique in the app; cannot be changed.
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub state: MachineState,
    #[serde(default, deserialize_with = "nullable")]
    pub region: String,
    /// Changes with every update of the configuration, not with metadata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The deprecated spelling of `version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_ref: Option<ImageRef>,
    /// The 6PN address. Not for life: it changes with the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    /// Absent when `host_status` is not `ok`, and in summaries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<MachineConfig>,
    /// What is left of the configuration when the host is not `ok`; not enough to create the Machine again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete_config: Option<MachineConfig>,
    /// Newest first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<MachineEvent>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_status: Option<HostStatus>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub host_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
    /// On the answer to a create with `lease_ttl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Only when asked for with `include_leases`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseSummary>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerStatus>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl Machine {
    /// The version, under whichever of its two names the answer has it.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref().or(self.instance_id.as_deref())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageRef {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// An item of `GET …/versions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineVersion {
    pub version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_config: Option<MachineConfig>,
    #[serde(flatten)]
    pub extra: Extra,
}
