use serde::{Deserialize, Serialize};

use super::Extra;
use super::open::{is_false, nullable, open_enum};

open_enum! {
    /// `pending` until something was deployed; all Machines stopped shows as `suspended`.
    AppStatus {
        Pending = "pending",
        Deployed = "deployed",
        Suspended = "suspended",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct App {
    pub id: String,
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<AppStatus>,
    /// Name of the 6PN network the app lives on; cannot be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<AppOrganization>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppOrganization {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppList {
    #[serde(default, deserialize_with = "nullable")]
    pub apps: Vec<App>,
    /// Counted once, on the first page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_apps: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Body of `POST /v1/apps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreateApp {
    /// One namespace for all of Fly. Written as `name`; the older `app_name` is read as well.
    #[serde(default, deserialize_with = "nullable", alias = "app_name")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub org_slug: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub enable_subdomains: bool,
    /// The same key with the same name returns the first app; with another name it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `POST /v1/apps`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CreatedApp {
    pub id: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<i64>,
    #[serde(flatten)]
    pub extra: Extra,
}
