//! `/v1/apps/{app}/secrets`. Writing never touches Machines: they pick secrets up when created, updated or started.

use http::Method;

use super::{Idempotence, Path, Removal, Request, gone, json, removed};
use crate::bucket::BucketKey;
use crate::types::{AppSecrets, SecretWritten, SecretsUpdated, UpdateSecrets};

/// Which version of the secrets to read, and whether to show them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListSecrets {
    /// At least this version of the set.
    pub min_version: Option<u64>,
    pub show_secrets: bool,
}

/// Names and digests; values only with `show_secrets`.
pub fn list(app: &str, options: &ListSecrets) -> Request<AppSecrets> {
    Request::new(
        Method::GET,
        Path::app(app).then("secrets"),
        Idempotence::Read,
        BucketKey::new("secrets.list", app),
        json,
    )
    .with_query_if("min_version", options.min_version)
    .with_flag("show_secrets", options.show_secrets)
}

/// Sets and removes many at once; those left out stay. The answer's version is what to ask for at the next create.
pub fn update(app: &str, update: &UpdateSecrets) -> Request<SecretsUpdated> {
    Request::new(
        Method::POST,
        Path::app(app).then("secrets"),
        Idempotence::Repeatable,
        BucketKey::new("secrets.update", app),
        json,
    )
    .with_body(update)
}

pub fn delete(app: &str, name: &str) -> Request<Removal<SecretWritten>> {
    Request::new(
        Method::DELETE,
        Path::app(app).then("secrets").then(name),
        Idempotence::Repeatable,
        BucketKey::new("secrets.delete", app),
        removed,
    )
    .settling(gone)
}
