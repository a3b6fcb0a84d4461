use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::open::nullable;
use super::{Extra, Secret};

/// An app secret. The value is there only when it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppSecret {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `GET …/secrets`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppSecrets {
    #[serde(default, deserialize_with = "nullable")]
    pub secrets: Vec<AppSecret>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST …/secrets`: `None` deletes; a name that is not there is no error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpdateSecrets {
    #[serde(default, deserialize_with = "nullable")]
    pub values: BTreeMap<String, Option<Secret>>,
}

/// Answer to `POST …/secrets`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecretsUpdated {
    #[serde(default, deserialize_with = "nullable")]
    pub secrets: Vec<AppSecret>,
    /// The version of the app's whole set; pass it as `min_secrets_version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Answers may repeat `version` under this deprecated key.
    #[serde(rename = "Version", default, skip_serializing_if = "Option::is_none")]
    pub deprecated_version: Option<u64>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl SecretsUpdated {
    /// The version, under whichever of its two names the answer has it.
    pub fn version(&self) -> Option<u64> {
        self.version.or(self.deprecated_version)
    }
}

/// Body of `POST …/secrets/{name}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SetSecret {
    #[serde(default, deserialize_with = "nullable")]
    pub value: Secret,
}

/// Answer to `POST …/secrets/{name}` (all of it) and to `DELETE` of the same (the version alone).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecretWritten {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Secret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    #[serde(rename = "Version", default, skip_serializing_if = "Option::is_none")]
    pub deprecated_version: Option<u64>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl SecretWritten {
    /// The version, under whichever of its two names the answer has it.
    pub fn version(&self) -> Option<u64> {
        self.version.or(self.deprecated_version)
    }
}
