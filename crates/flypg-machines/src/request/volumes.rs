//! `/v1/apps/{app}/volumes`

use http::Method;

use super::page::page;
use super::{Idempotence, Page, Path, Removal, Request, gone, json, json_or_empty};
use crate::bucket::BucketKey;
use crate::types::{CreateVolume, ExtendVolume, ExtendedVolume, Snapshot, SnapshotJobAnswer, UpdateVolume, Volume};

/// How to list volumes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListVolumes {
    /// Without block counters.
    pub summary: bool,
    /// 1 to 1000; switches paging on.
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Lists the volumes of an app. Lags behind: one just deleted may still show as `created`.
pub fn list(app: &str, options: &ListVolumes) -> Request<Page<Volume>> {
    Request::new(
        Method::GET,
        Path::app(app).then("volumes"),
        Idempotence::Read,
        BucketKey::new("volumes.list", app),
        page,
    )
    .with_flag("summary", options.summary)
    .with_query_if("limit", options.limit)
    .with_query_if("cursor", options.cursor.as_ref())
}

/// Creates, restores or forks. Not idempotent, and names are not unique: look before a second try.
pub fn create(app: &str, volume: &CreateVolume) -> Request<Volume> {
    Request::new(
        Method::POST,
        Path::app(app).then("volumes"),
        Idempotence::Once,
        BucketKey::new("volumes.create", app),
        json,
    )
    .with_body(volume)
}

pub fn get(app: &str, volume: &str) -> Request<Volume> {
    Request::new(Method::GET, Path::volume(app, volume), Idempotence::Read, BucketKey::new("volumes.get", volume), json)
}

/// Changes the snapshot policy.
pub fn update(app: &str, volume: &str, update: &UpdateVolume) -> Request<Volume> {
    Request::new(
        Method::PUT,
        Path::volume(app, volume),
        Idempotence::Repeatable,
        BucketKey::new("volumes.update", volume),
        json,
    )
    .with_body(update)
}

/// Grows a volume to a new total; it cannot shrink. Not repeated blindly: the size it already has may be refused.
pub fn extend(app: &str, volume: &str, size_gb: u64) -> Request<ExtendedVolume> {
    Request::new(
        Method::PUT,
        Path::volume(app, volume).then("extend"),
        Idempotence::Once,
        BucketKey::new("volumes.extend", volume),
        json,
    )
    .with_body(&ExtendVolume { size_gb })
}

/// Deletes a volume softly (24 hours). Refused while a Machine has it, also one that is being destroyed.
pub fn delete(app: &str, volume: &str) -> Request<Removal<Volume>> {
    Request::new(
        Method::DELETE,
        Path::volume(app, volume),
        Idempotence::Repeatable,
        BucketKey::new("volumes.delete", volume),
        |received| json(received).map(Removal::Accepted),
    )
    .settling(gone)
}

/// Also those of a deleted volume, while they are kept.
pub fn snapshots(app: &str, volume: &str) -> Request<Vec<Snapshot>> {
    Request::new(
        Method::GET,
        Path::volume(app, volume).then("snapshots"),
        Idempotence::Read,
        BucketKey::new("snapshots.list", volume),
        |received| page(received).map(|page| page.items),
    )
}

/// Orders a snapshot: one at a time per volume.
pub fn create_snapshot(app: &str, volume: &str) -> Request<SnapshotJobAnswer> {
    Request::new(
        Method::POST,
        Path::volume(app, volume).then("snapshots"),
        Idempotence::Once,
        BucketKey::new("snapshots.create", volume),
        json_or_empty,
    )
}
