//! PostgreSQL's settings: which follow the guest, which are ours, which are the person's.

use std::collections::BTreeMap;

/// A digest of what a person asked for under `postgres.parameters`.
pub fn digest(parameters: &BTreeMap<String, String>) -> String {
    crate::digest::short(&serde_json::to_vec(parameters).expect("a map of strings is JSON"))
}
