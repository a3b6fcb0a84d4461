//! `/v1/apps/{app}/machines/{machine}/lease`. Never lease a Machine whose host is not `ok`.

use http::Method;

use super::{Idempotence, Path, Received, Removal, Request, gone, json, removed};
use crate::bucket::BucketKey;
use crate::types::{AcquireLease, Lease, LeaseAnswer, LeaseReleased};

/// Takes a lease. Held by anybody, us included, it is refused with [`crate::Reason::LeaseHeld`].
pub fn acquire(app: &str, machine: &str, ttl_seconds: u64, description: Option<&str>) -> Request<Lease> {
    Request::new(Method::POST, lease(app, machine), Idempotence::Once, BucketKey::new("lease.acquire", machine), read)
        .with_body(&AcquireLease {
            ttl: Some(ttl_seconds),
            description: description.map(str::to_owned),
            ..AcquireLease::default()
        })
}

/// Extends a lease that we hold. The answer has the same nonce; a different one means that it was lost in between.
pub fn refresh(app: &str, machine: &str, nonce: &str, ttl_seconds: u64) -> Request<Lease> {
    acquire(app, machine, ttl_seconds, None).lease(Some(nonce)).idempotent(Idempotence::Repeatable)
}

/// Reads the lease, nonce included. No lease is not found.
pub fn get(app: &str, machine: &str) -> Request<Lease> {
    Request::new(Method::GET, lease(app, machine), Idempotence::Read, BucketKey::new("lease.get", machine), read)
}

pub fn release(app: &str, machine: &str, nonce: &str) -> Request<Removal<LeaseReleased>> {
    Request::new(
        Method::DELETE,
        lease(app, machine),
        Idempotence::Repeatable,
        BucketKey::new("lease.release", machine),
        removed,
    )
    .lease(Some(nonce))
    .settling(gone)
}

fn lease(app: &str, machine: &str) -> Path {
    Path::machine(app, machine).then("lease")
}

fn read(received: &Received<'_>) -> Result<Lease, serde_json::Error> {
    json::<LeaseAnswer>(received).map(|answer| answer.0)
}
