//! `/v1/apps`

use http::Method;

use super::{Idempotence, Path, Removal, Request, gone, json, removed_silently};
use crate::bucket::BucketKey;
use crate::types::{App, AppList, CreateApp, CreatedApp};

/// Creates an app. A taken name is refused with [`crate::Reason::NameTaken`], also when it is ours.
pub fn create(app: &CreateApp) -> Request<CreatedApp> {
    let bucket = BucketKey::new("apps.create", &app.org_slug);
    Request::new(Method::POST, Path::v1().then("apps"), Idempotence::Once, bucket, json).with_body(app)
}

/// 200 is ours, [`crate::Cause::Forbidden`] is another organisation's, not found is free. Right after a create the
/// app may still be not found.
pub fn get(app: &str) -> Request<App> {
    let bucket = BucketKey::new("apps.get", app);
    Request::new(Method::GET, Path::app(app), Idempotence::Read, bucket, json)
}

/// Which apps to list, and how many at a time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListApps {
    pub app_role: Option<String>,
    /// 1 to 5000; switches paging on.
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// The apps of an organisation (`personal` is one).
pub fn list(org_slug: &str, options: &ListApps) -> Request<AppList> {
    let bucket = BucketKey::new("apps.list", org_slug);
    Request::new(Method::GET, Path::v1().then("apps"), Idempotence::Read, bucket, json)
        .with_query("org_slug", org_slug)
        .with_query_if("app_role", options.app_role.as_ref())
        .with_query_if("limit", options.limit)
        .with_query_if("cursor", options.cursor.as_ref())
}

/// Deletes an app **and its machines and volumes**, in the background. With `force`, also when Machines run.
pub fn delete(app: &str, force: bool) -> Request<Removal<()>> {
    Request::new(Method::DELETE, Path::app(app), Idempotence::Repeatable, BucketKey::app_deletion(), removed_silently)
        .with_flag("force", force)
        .settling(gone)
}
