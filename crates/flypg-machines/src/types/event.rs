use serde::{Deserialize, Serialize};

use super::Extra;
use super::open::{lenient, nullable, open_enum};

open_enum! {
    EventType {
        Launch = "launch",
        Start = "start",
        Exit = "exit",
        Update = "update",
        Destroy = "destroy",
    }
}

open_enum! {
    EventStatus {
        Created = "created",
        Started = "started",
        Stopped = "stopped",
        Replacing = "replacing",
        Destroying = "destroying",
        Destroyed = "destroyed",
    }
}

/// Something that happened to a Machine. Lists have the newest first and keep at most 50.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", default, deserialize_with = "nullable")]
    pub event_type: EventType,
    #[serde(default, deserialize_with = "nullable")]
    pub status: EventStatus,
    /// `user` or `flyd`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "nullable")]
    pub timestamp: i64,
    /// `null` on launch and destroy events. What has another shape is taken for that.
    #[serde(default, deserialize_with = "lenient")]
    pub request: Option<EventRequest>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_event: Option<ExitEvent>,
    /// The same exit event one level down, in some answers.
    #[serde(rename = "MonitorEvent", default, skip_serializing_if = "Option::is_none")]
    pub monitor_event: Option<MonitorEvent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_count: Option<u64>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl EventRequest {
    /// The exit event, wherever the answer keeps it.
    pub fn exit(&self) -> Option<&ExitEvent> {
        self.exit_event.as_ref().or_else(|| self.monitor_event.as_ref()?.exit_event.as_ref())
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_event: Option<ExitEvent>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExitEvent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exited_at: Option<EventTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_exit_code: Option<i64>,
    /// -1: no signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_signal: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_killed: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested_stop: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarting: Option<bool>,
    /// -1: no signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A time that some answers give in milliseconds and others as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventTime {
    /// Milliseconds since the Unix epoch.
    Millis(i64),
    /// RFC 3339.
    Text(String),
}
