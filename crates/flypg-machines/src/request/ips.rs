//! `/v1/apps/{app}/ip_assignments`

use http::Method;

use super::{Idempotence, Path, Removal, Request, gone, json, removed_silently};
use crate::bucket::BucketKey;
use crate::types::{AssignIp, IpAssignment, IpAssignments};

pub fn list(app: &str) -> Request<IpAssignments> {
    Request::new(
        Method::GET,
        Path::app(app).then("ip_assignments"),
        Idempotence::Read,
        BucketKey::new("ips.list", app),
        json,
    )
}

/// Assigns an address. Sent twice it may assign two.
pub fn create(app: &str, ip: &AssignIp) -> Request<IpAssignment> {
    Request::new(
        Method::POST,
        Path::app(app).then("ip_assignments"),
        Idempotence::Once,
        BucketKey::new("ips.create", app),
        json,
    )
    .with_body(ip)
}

pub fn delete(app: &str, ip: &str) -> Request<Removal<()>> {
    Request::new(
        Method::DELETE,
        Path::app(app).then("ip_assignments").then(ip),
        Idempotence::Repeatable,
        BucketKey::new("ips.delete", app),
        removed_silently,
    )
    .settling(gone)
}
