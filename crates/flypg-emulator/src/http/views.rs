//! Records as JSON bodies.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::world::app::App;
use crate::world::ips::IpAssignment;
use crate::world::machine::{CheckStatus, Event, ImageRef, Lease, Machine, OldVersion};
use crate::world::snapshot::{Snapshot, SnapshotStatus};
use crate::world::time::Millis;
use crate::world::volume::Volume;

/// What a body shows beyond the record itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Look {
    pub(crate) unreachable: BTreeSet<String>,
    pub(crate) leases: bool,
    pub(crate) summary: bool,
    pub(crate) now: Millis,
}

#[derive(Serialize)]
pub(crate) struct MachineBody<'a> {
    id: &'a str,
    name: &'a str,
    state: &'a str,
    region: &'a str,
    image_ref: &'a ImageRef,
    instance_id: &'a str,
    version: &'a str,
    private_ip: &'a str,
    created_at: String,
    updated_at: String,
    #[serde(flatten)]
    detail: Option<Detail<'a>>,
    cordoned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<StrippedLease<'a>>,
}

/// What `summary=true` leaves out.
#[derive(Serialize)]
struct Detail<'a> {
    config: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    incomplete_config: Option<Value>,
    events: Vec<EventBody<'a>>,
    checks: Vec<CheckBody<'a>>,
    host_status: &'static str,
}

#[derive(Serialize)]
pub(crate) struct EventBody<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    status: &'a str,
    source: &'a str,
    timestamp: Millis,
    request: Option<&'a Value>,
}

#[derive(Serialize)]
struct CheckBody<'a> {
    name: &'a str,
    status: &'a str,
    output: &'a str,
    updated_at: String,
}

#[derive(Serialize)]
struct StrippedLease<'a> {
    owner: &'a str,
    description: &'a str,
    expires_at: u64,
}

pub(crate) fn event(event: &Event) -> EventBody<'_> {
    EventBody {
        id: &event.id,
        kind: &event.kind,
        status: &event.status,
        source: &event.source,
        timestamp: event.timestamp,
        request: event.request.as_ref(),
    }
}

fn check(check: &CheckStatus) -> CheckBody<'_> {
    CheckBody {
        name: &check.name,
        status: &check.status,
        output: &check.output,
        updated_at: check.updated_at.rfc3339(),
    }
}

pub(crate) fn machine<'a>(machine: &'a Machine, look: &Look) -> MachineBody<'a> {
    let unreachable = look.unreachable.contains(&machine.host);
    let detail = Detail {
        config: (!unreachable).then_some(&machine.config.raw),
        incomplete_config: unreachable.then(|| overview(machine)),
        events: machine.events.iter().map(event).collect(),
        checks: machine.checks.iter().map(check).collect(),
        host_status: if unreachable { "unreachable" } else { "ok" },
    };
    let lease = machine.lease_at(look.now).filter(|_| look.leases);
    MachineBody {
        id: &machine.id,
        name: &machine.name,
        state: machine.state.word(),
        region: &machine.region,
        image_ref: &machine.image,
        instance_id: &machine.version,
        version: &machine.version,
        private_ip: &machine.address,
        created_at: machine.created_at.rfc3339_seconds(),
        updated_at: machine.updated_at.rfc3339_seconds(),
        detail: (!look.summary).then_some(detail),
        cordoned: machine.cordoned,
        nonce: None,
        lease: lease.map(|lease| StrippedLease {
            owner: &lease.owner,
            description: &lease.description,
            expires_at: lease.expires_at.seconds(),
        }),
    }
}

impl<'a> MachineBody<'a> {
    pub(crate) const fn with_nonce(mut self, nonce: Option<&'a str>) -> Self {
        self.nonce = nonce;
        self
    }

    /// The machine as it was at an older version: state `replaced`, and its config of then.
    pub(crate) fn at(mut self, old: &'a OldVersion) -> Self {
        self.state = "replaced";
        self.version = &old.version;
        self.instance_id = &old.version;
        self.image_ref = &old.image;
        if let Some(detail) = &mut self.detail {
            detail.config = detail.config.map(|_| &old.config);
        }
        self
    }
}

/// What is known of a config while its host does not answer, and what org-wide lists show of it: not enough to make the
/// machine again.
fn overview(machine: &Machine) -> Value {
    let keep = |key: &str| machine.config.raw.get(key).cloned();
    let parts = ["image", "guest", "metadata"].map(|key| (key, keep(key)));
    Value::Object(parts.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect())
}

pub(crate) fn lease_envelope(lease: &Lease, version: &str) -> Value {
    json!({
        "status": "success",
        "data": {
            "nonce": lease.nonce,
            "expires_at": lease.expires_at.seconds(),
            "owner": lease.owner,
            "description": lease.description,
            "version": version,
        },
    })
}

pub(crate) fn app(app: &App) -> Value {
    json!({
        "id": app.id,
        "internal_numeric_id": app.number,
        "name": app.name,
        "network": app.network,
        "status": app.status(),
        "machine_count": app.living().count(),
        "volume_count": app.volumes.values().filter(|volume| !volume.state.leaving()).count(),
        "organization": { "name": app.org, "slug": app.org },
    })
}

const BLOCK: u64 = 4096;

pub(crate) fn volume(volume: &Volume, look: &Look) -> Value {
    let total = volume.size_gb << 30;
    // Block counters are known once a machine has used the volume.
    let known = volume.mounted_once;
    let blocks = |bytes: u64| if known { bytes / BLOCK } else { 0 };
    let free = total.saturating_sub(volume.bytes_used);
    let mut body = json!({
        "id": volume.id,
        "name": volume.name,
        "state": volume.state.word(),
        "size_gb": volume.size_gb,
        "region": volume.region,
        "zone": volume.zone,
        "encrypted": volume.encrypted,
        "attached_machine_id": volume.claim,
        "attached_alloc_id": null,
        "created_at": volume.created_at.rfc3339(),
        "blocks": blocks(total),
        "block_size": if known { BLOCK } else { 0 },
        "blocks_free": blocks(free),
        "blocks_avail": blocks(free - free / 20),
        "bytes_used": volume.bytes_used,
        "bytes_total": if known { total } else { 0 },
        "fstype": if known { volume.fstype.as_str() } else { "" },
        "snapshot_retention": volume.snapshot_retention,
        "auto_backup_enabled": volume.auto_backup,
        "host_status": if look.unreachable.contains(&volume.host) { "unreachable" } else { "ok" },
        "host_dedication_key": "",
        "type": "local",
    });
    if look.summary
        && let Some(map) = body.as_object_mut()
    {
        for counter in ["blocks", "block_size", "blocks_free", "blocks_avail", "bytes_used", "bytes_total"] {
            map.remove(counter);
        }
    }
    body
}

/// Go's zero time.
const NEVER: &str = "0001-01-01T00:00:00Z";

pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    let done = snapshot.status == SnapshotStatus::Created;
    let mut body = json!({
        "id": snapshot.id,
        "size": if done { snapshot.size } else { 0 },
        "created_at": snapshot.created_at.filter(|_| done).map_or_else(|| NEVER.to_owned(), Millis::rfc3339),
        "status": snapshot.status.word(),
        "retention_days": snapshot.retention_days,
        "volume_size": snapshot.volume_gb << 30,
    });
    if done {
        body["digest"] = json!(format!("{:032x}-1", u128::from(snapshot.job) * 0x9e37_79b9_7f4a_7c15_f39c));
    }
    body
}

/// The job that `POST …/snapshots` answers with.
pub(crate) fn backup_job(snapshot: &Snapshot, app: &App, volume: &str) -> Value {
    let at = snapshot.asked_at.rfc3339();
    let number: u64 = volume.bytes().fold(9_000, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    json!({ "Msg": { "backup": {
        "id": snapshot.job.to_string(),
        "app_id": app.number.to_string(),
        "volume_id": number.to_string(),
        "state": "prepare",
        "type": "BACKUP_TYPE_ON_DEMAND",
        "message": "",
        "created_at": at,
        "updated_at": at,
        "finished_at": null,
        "graph_id": snapshot.id,
    } } })
}

pub(crate) fn ip(ip: &IpAssignment) -> Value {
    let mut body = json!({
        "ip": ip.ip,
        "type": ip.kind,
        "region": ip.region,
        "service_name": ip.service_name,
        "shared": ip.kind == "shared_v4",
        "egress": ip.kind.starts_with("egress"),
        "created_at": ip.created_at.rfc3339_seconds(),
    });
    if let Some((network, org)) = &ip.network {
        body["network"] = json!({ "name": network, "org_slug": org });
    }
    body
}

/// One row of the org-wide machine list.
pub(crate) fn org_machine(app: &str, machine: &Machine, summary: bool) -> Value {
    let mut body = json!({
        "id": machine.id,
        "name": machine.name,
        "app_name": app,
        "region": machine.region,
        "state": machine.state.word(),
        "version": machine.version,
        "private_ip": machine.address,
        "created_at": machine.created_at.rfc3339(),
        "updated_at": machine.updated_at.rfc3339(),
    });
    if !summary {
        body["config"] = overview(machine);
    }
    body
}
