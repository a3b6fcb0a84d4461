//! `/v1/platform`

use http::Method;

use super::{Idempotence, Path, Request, json};
use crate::bucket::BucketKey;
use crate::types::{PlacementQuery, Placements, Regions};

/// Every region. Needs no token.
pub fn regions() -> Request<Regions> {
    Request::new(
        Method::GET,
        Path::v1().then("platform").then("regions"),
        Idempotence::Read,
        BucketKey::new("platform.regions", ""),
        json,
    )
}

/// Where a Machine, and its volume, would fit right now. Reserves nothing.
pub fn placements(query: &PlacementQuery) -> Request<Placements> {
    Request::new(
        Method::POST,
        Path::v1().then("platform").then("placements"),
        Idempotence::Read,
        BucketKey::new("platform.placements", &query.org_slug),
        json,
    )
    .with_body(query)
}
