//! `/v1/orgs/{org}`

use http::Method;

use super::{Idempotence, Path, Request, json};
use crate::bucket::BucketKey;
use crate::types::{MachineState, OrgMachines};

/// Which of an organisation's Machines to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListOrgMachines {
    pub include_deleted: bool,
    pub region: Option<String>,
    /// Any of these: created, started, stopped, suspended.
    pub state: Vec<MachineState>,
    /// Without the configuration.
    pub summary: bool,
    /// RFC 3339. Late arrivals happen: overlap the windows.
    pub updated_after: Option<String>,
    /// 1000 at most, and when not given.
    pub limit: Option<u32>,
    /// Wins over `updated_after`.
    pub cursor: Option<String>,
}

/// The Machines of every app of an organisation. `error_regions` in the answer: the list is partial.
pub fn machines(org_slug: &str, options: &ListOrgMachines) -> Request<OrgMachines> {
    let states: Vec<&str> = options.state.iter().map(MachineState::as_str).collect();
    Request::new(
        Method::GET,
        Path::v1().then("orgs").then(org_slug).then("machines"),
        Idempotence::Read,
        BucketKey::new("orgs.machines", org_slug),
        json,
    )
    .with_flag("include_deleted", options.include_deleted)
    .with_query_if("region", options.region.as_ref())
    .with_query_if("state", (!states.is_empty()).then(|| states.join(",")))
    .with_flag("summary", options.summary)
    .with_query_if("updated_after", options.updated_after.as_ref())
    .with_query_if("limit", options.limit)
    .with_query_if("cursor", options.cursor.as_ref())
}
