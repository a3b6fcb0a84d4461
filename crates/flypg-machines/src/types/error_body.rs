use serde::{Deserialize, Serialize};

use super::Extra;
use super::open::open_enum;

open_enum! {
    /// The machine-readable part of an error. It outranks the text.
    StatusCode {
        Unknown = "unknown",
        /// The region is full.
        InsufficientCapacity = "insufficient_capacity",
        /// The volume's host is full.
        VolumePlacementCapacity = "volume_placement_capacity",
        NameTaken = "name_taken",
    }
}

/// The body of an error, in any of its shapes: `{"error", "status", "details"}`; `{"message"}` from another server
/// behind the same name; `{"status":"error", "message", "code"}` from the lease calls of old.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusCode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<serde_json::Value>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl ErrorBody {
    /// The usual shape with nothing but a text.
    pub fn new(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }

    /// The text for people: `message` first, then `error`, as fly-go reads them.
    pub fn text(&self) -> Option<&str> {
        [&self.message, &self.error].into_iter().flatten().map(String::as_str).find(|text| !text.is_empty())
    }
}
