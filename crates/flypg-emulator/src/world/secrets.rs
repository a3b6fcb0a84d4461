//! App secrets: one growing version per app, digests for everyone, values for machines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::World;
use super::machine::hex;
use super::refusal::Refusal;
use super::time::Millis;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secrets {
    /// Grows by one with every write.
    pub version: u64,
    pub values: BTreeMap<String, Secret>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    pub value: String,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret").field("digest", &self.digest()).finish_non_exhaustive()
    }
}

impl Secret {
    /// 16 hexadecimal digits of SHA-256. The length on Fly is not documented.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.value.as_bytes())[..8])
    }
}

impl Secrets {
    /// # Errors
    /// 412 when `wanted` is newer than what there is.
    pub fn at_least(&self, wanted: Option<u64>) -> Result<(), Refusal> {
        match wanted {
            Some(wanted) if wanted > self.version => Err(Refusal::secrets_not_there(&wanted.to_string())),
            _ => Ok(()),
        }
    }
}

impl World {
    /// Sets (`Some`) and removes (`None`) secrets in one new version, and returns that version.
    ///
    /// # Errors
    /// 404 for an unknown app.
    pub fn write_secrets(
        &mut self,
        now: Millis,
        app: &str,
        values: BTreeMap<String, Option<String>>,
    ) -> Result<u64, Refusal> {
        let secrets = &mut self.edit_app(app)?.secrets;
        secrets.version += 1;
        for (name, value) in values {
            match value {
                None => drop(secrets.values.remove(&name)),
                Some(value) => {
                    let created_at = secrets.values.get(&name).map_or(now, |old| old.created_at);
                    secrets.values.insert(name, Secret { value, created_at, updated_at: now });
                }
            }
        }
        Ok(secrets.version)
    }
}
