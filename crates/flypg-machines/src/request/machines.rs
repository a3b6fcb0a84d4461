//! `/v1/apps/{app}/machines`: create, read, update, destroy. Starting, stopping and the like: [`super::lifecycle`].

use std::collections::BTreeMap;

use http::Method;

use super::page::page;
use super::{Idempotence, Page, Path, Removal, Request, gone, json, removed};
use crate::bucket::BucketKey;
use crate::types::{Ack, CreateMachine, Machine, MachineEvent, MachineState, MachineVersion, UpdateMachine};

/// Which Machines to list, and how much of each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListMachines {
    pub include_deleted: bool,
    pub include_leases: bool,
    pub region: Option<String>,
    /// Any of these: created, started, stopped, suspended.
    pub state: Vec<MachineState>,
    /// Without configuration, checks, events, host status and nonce.
    pub summary: bool,
    /// All of these.
    pub metadata: BTreeMap<String, String>,
    /// 1 to 1000; switches paging on.
    pub limit: Option<u32>,
    pub cursor: Option<String>,
}

/// Lists the Machines of an app. Lags behind; **an empty list is not proof of absence**.
pub fn list(app: &str, options: &ListMachines) -> Request<Page<Machine>> {
    let states: Vec<&str> = options.state.iter().map(MachineState::as_str).collect();
    let request = Request::new(
        Method::GET,
        Path::app(app).then("machines"),
        Idempotence::Read,
        BucketKey::new("machines.list", app),
        page,
    )
    .with_flag("include_deleted", options.include_deleted)
    .with_flag("include_leases", options.include_leases)
    .with_query_if("region", options.region.as_ref())
    .with_query_if("state", (!states.is_empty()).then(|| states.join(",")))
    .with_flag("summary", options.summary)
    .with_query_if("limit", options.limit)
    .with_query_if("cursor", options.cursor.as_ref());
    options.metadata.iter().fold(request, |request, (key, value)| request.with_query(format!("metadata.{key}"), value))
}

/// Creates a Machine; it launches in the background. Not idempotent: give it a name that can be derived again, and
/// look for it before a second try.
pub fn create(app: &str, machine: &CreateMachine) -> Request<Machine> {
    Request::new(
        Method::POST,
        Path::app(app).then("machines"),
        Idempotence::Once,
        BucketKey::new("machines.create", app),
        json,
    )
    .with_body(machine)
}

/// Right after a create this may still be not found.
pub fn get(app: &str, machine: &str) -> Request<Machine> {
    Request::new(Method::GET, Path::machine(app, machine), Idempotence::Read, BucketKey::get_machine(machine), json)
}

/// A Machine as of an older version; its state is `replaced`.
pub fn get_version(app: &str, machine: &str, version: &str) -> Request<Machine> {
    get(app, machine).with_query("version", version)
}

/// Replaces the whole configuration, and restarts the Machine (or starts it, unless `skip_launch`). Guard it with
/// `current_version`.
pub fn update(app: &str, machine: &str, update: &UpdateMachine) -> Request<Machine> {
    Request::new(
        Method::POST,
        Path::machine(app, machine),
        Idempotence::Once,
        BucketKey::new("machines.update", machine),
        json,
    )
    .with_body(update)
}

/// Destroys a Machine in the background; its volume survives and stays bound until the Machine is really gone.
/// Without `force` a running one is refused. On an unreachable host this is only a promise: it is no fence. Under
/// somebody else's lease it hangs until that ends.
pub fn destroy(app: &str, machine: &str, force: bool) -> Request<Removal<Ack>> {
    Request::new(
        Method::DELETE,
        Path::machine(app, machine),
        Idempotence::Repeatable,
        BucketKey::new("machines.destroy", machine),
        removed,
    )
    .with_flag("force", force)
    .settling(gone)
}

/// The latest events, newest first: 20 unless `limit` says otherwise, 50 at most.
pub fn events(app: &str, machine: &str, limit: Option<u32>) -> Request<Vec<MachineEvent>> {
    Request::new(
        Method::GET,
        Path::machine(app, machine).then("events"),
        Idempotence::Read,
        BucketKey::new("machines.events", machine),
        |received| page(received).map(|page| page.items),
    )
    .with_query_if("limit", limit)
}

/// Every version of the Machine's configuration.
pub fn versions(app: &str, machine: &str) -> Request<Vec<MachineVersion>> {
    Request::new(
        Method::GET,
        Path::machine(app, machine).then("versions"),
        Idempotence::Read,
        BucketKey::new("machines.versions", machine),
        |received| page(received).map(|page| page.items),
    )
}
