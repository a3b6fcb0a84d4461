//! `/v1/apps/{app}/machines/{machine}/metadata`. Writes make no new version, restart nothing, and no lease guards
//! them.

use std::collections::BTreeMap;

use http::Method;

use super::{Idempotence, Path, Removal, Request, gone, json, nothing, removed_silently};
use crate::bucket::BucketKey;
use crate::types::{MetadataValue, PatchMetadata};

pub fn get(app: &str, machine: &str) -> Request<BTreeMap<String, String>> {
    Request::new(
        Method::GET,
        metadata(app, machine),
        Idempotence::Read,
        BucketKey::new("metadata.get", machine),
        |received| json::<Option<_>>(received).map(Option::unwrap_or_default),
    )
}

/// Merges: keys left out stay, `None` and `""` remove.
pub fn patch(app: &str, machine: &str, patch: &PatchMetadata) -> Request<()> {
    // A repeat under the same `updated_at` would come too late for its own first try.
    let idempotence = if patch.updated_at.is_none() { Idempotence::Repeatable } else { Idempotence::Once };
    Request::new(Method::PATCH, metadata(app, machine), idempotence, BucketKey::new("metadata.patch", machine), nothing)
        .with_body(patch)
}

pub fn set(app: &str, machine: &str, key: &str, value: &str) -> Request<()> {
    Request::new(
        Method::POST,
        metadata(app, machine).then(key),
        Idempotence::Repeatable,
        BucketKey::new("metadata.set", machine),
        nothing,
    )
    .with_body(&MetadataValue { value: value.to_owned(), updated_at: None })
}

pub fn delete(app: &str, machine: &str, key: &str) -> Request<Removal<()>> {
    Request::new(
        Method::DELETE,
        metadata(app, machine).then(key),
        Idempotence::Repeatable,
        BucketKey::new("metadata.delete", machine),
        removed_silently,
    )
    .settling(gone)
}

fn metadata(app: &str, machine: &str) -> Path {
    Path::machine(app, machine).then("metadata")
}
