use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::open::{is_false, nullable, open_enum};
use super::{Extra, GoDuration, MachineConfig, MachineState, Signal};

/// Body of `POST …/machines`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateMachine {
    /// Unique in the app: what makes a create that was answered by nobody recognisable. Generated when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A region, an alias (`eu`, `any` …), or several in order of preference: `iad,dfw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub config: MachineConfig,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub skip_launch: bool,
    /// Create cordoned.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub skip_service_registration: bool,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub skip_secrets: bool,
    /// The lowest acceptable version of the app's secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_secrets_version: Option<u64>,
    /// Seconds; takes a lease with the same call, its nonce is in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ttl: Option<u64>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST …/machines/{id}`. The configuration is replaced as a whole.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateMachine {
    #[serde(default, deserialize_with = "nullable")]
    pub config: MachineConfig,
    /// Refused with 409 unless this is still the Machine's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_version: Option<String>,
    /// Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub skip_launch: bool,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub skip_service_registration: bool,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub skip_secrets: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_secrets_version: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_ttl: Option<u64>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// `{"ok":true}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ack {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl Ack {
    pub fn ok() -> Self {
        Self { ok: Some(true), extra: Extra::new() }
    }
}

/// Answer to `POST …/start`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StartResponse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_state: Option<MachineState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrated: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_host: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST …/stop`; without one the Machine's `stop_config` counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StopMachine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    #[serde(flatten)]
    pub extra: Extra,
}

open_enum! {
    /// What `GET …/wait` can wait for.
    WaitState {
        Started = "started",
        Stopped = "stopped",
        Suspended = "suspended",
        Destroyed = "destroyed",
        Failed = "failed",
        /// Any resting state; read the Machine again to learn which.
        Settled = "settled",
    }
}

/// Answer to `GET …/wait`. Not a Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WaitResponse {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<MachineState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST …/exec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecRequest {
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The deprecated form: one string. fly-go still sends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// In the Machine's own namespace; not together with `container`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub machine: bool,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `POST …/exec`: 200 whether or not the command succeeded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExecResponse {
    #[serde(default, deserialize_with = "nullable")]
    pub exit_code: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_signal: Option<i64>,
    #[serde(default, deserialize_with = "nullable")]
    pub stdout: String,
    #[serde(default, deserialize_with = "nullable")]
    pub stderr: String,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `PATCH …/metadata`: merges. `None` and `""` remove a key, keys left out stay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PatchMetadata {
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: BTreeMap<String, Option<String>>,
    /// Refused with 412 unless this is still the Machine's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}

/// Body of `POST …/metadata/{key}`, and answer to `GET` of the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MetadataValue {
    #[serde(default, deserialize_with = "nullable")]
    pub value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
}
