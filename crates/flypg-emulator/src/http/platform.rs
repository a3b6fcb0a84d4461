//! Regions, placements, org-wide lists, tokens.

use std::sync::Arc;

use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::engine::Engine;
use crate::world::config::guest_rules;
use crate::world::decode::{self, Object};
use crate::world::hosts::Room;
use crate::world::machine::MachineState;
use crate::world::refusal::Refusal;
use crate::world::regions::REGIONS;
use crate::world::time::Millis;
use crate::world::volume::VolumeState;

use super::call::Call;
use super::paging::Page;
use super::reply::Reply;
use super::views;

/// Needs no token.
pub(crate) async fn regions(State(engine): State<Arc<Engine>>) -> Reply {
    let (pascal, nearest) = engine.read(|world, _| (world.knobs.pascal_case_platform, world.knobs.nearest.clone()));
    let rows: Vec<Value> = REGIONS
        .iter()
        .map(|region| {
            json!({
                "code": region.code,
                "name": region.name,
                "latitude": region.latitude,
                "longitude": region.longitude,
                "gateway_available": region.gateway,
                "requires_paid_plan": false,
                "deprecated": false,
                "geo_region": region.geo,
                "mpg_available": false,
            })
        })
        .collect();
    Reply::ok(&match pascal {
        true => json!({ "Regions": rows, "Nearest": nearest }),
        false => json!({ "regions": rows, "nearest": nearest }),
    })
}

pub(crate) async fn placements(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.getPlacementsRequest")?;
    let body = Object::new(&body, "getPlacementsRequest", "");
    let org = body.string("org_slug")?.unwrap_or_default();
    if org.is_empty() {
        return Err(Refusal::invalid("org_slug is required"));
    }
    call.caller.may_use_org(org)?;
    let empty = Map::new();
    let guest = body.object("compute", "fly.MachineGuest")?;
    let guest = Object::new(guest.unwrap_or(&empty), "getPlacementsRequest", "compute");
    let kind = guest.string("cpu_kind")?.unwrap_or("performance");
    let guest = guest_rules(kind, guest.unsigned("cpus")?.unwrap_or(1), guest.unsigned("memory_mb")?)?;
    let need = Room {
        cpus: guest.cpus,
        memory_mb: guest.memory_mb,
        volume_gb: body.unsigned("volume_size_bytes")?.unwrap_or(0).div_ceil(1 << 30),
    };
    let count = body.unsigned("count")?.unwrap_or(0);
    let expression = body.string("region")?.filter(|region| !region.is_empty()).unwrap_or("any").to_owned();
    let (found, pascal) = call.placed(|world, _| {
        world.placements(&expression, need, count).map(|found| (found, world.knobs.pascal_case_platform))
    })?;
    let row = |(region, count): &(String, u64)| match pascal {
        true => json!({ "Region": region, "Count": count, "Concurrency": count }),
        false => json!({ "region": region, "count": count, "concurrency": count }),
    };
    let rows: Vec<Value> = found.iter().map(row).collect();
    Ok(Reply::ok(&match pascal {
        true => json!({ "Regions": rows }),
        false => json!({ "regions": rows }),
    }))
}

/// The parameters both org-wide lists share.
struct OrgQuery {
    page: Page,
    since: Option<Millis>,
    states: Option<Vec<String>>,
    region: Option<String>,
    deleted: bool,
    summary: bool,
}

impl OrgQuery {
    fn of(call: &Call) -> Result<Self, Refusal> {
        let since = call
            .query("updated_after")
            .map(|text| Millis::parse(text).ok_or_else(|| Refusal::invalid("updated_after must be an RFC 3339 time")));
        let page = Page::asked(call.query("limit").or(Some("1000")), call.query("cursor"), 1000, call.engine.now())?;
        Ok(Self {
            page: page.ok_or_else(|| Refusal::invalid("limit is required"))?,
            // The cursor wins.
            since: since.transpose()?.filter(|_| call.query("cursor").is_none()),
            states: call.query("state").map(|states| states.split(',').map(|state| state.trim().to_owned()).collect()),
            region: call.query("region").map(str::to_owned),
            deleted: call.flag("include_deleted"),
            summary: call.flag("summary"),
        })
    }

    fn wants(&self, region: &str, state: &str, updated: Millis) -> bool {
        self.region.as_deref().is_none_or(|wanted| wanted == region)
            && self.states.as_ref().is_none_or(|states| states.iter().any(|wanted| wanted == state))
            && self.since.is_none_or(|since| updated > since)
    }
}

fn apps_of_org(call: &Call) -> Result<Vec<crate::world::shared::Shared<crate::world::app::App>>, Refusal> {
    let org = call.path("org");
    call.caller.may_use_org(org)?;
    if call.bent.empty_list {
        return Ok(Vec::new());
    }
    let now =
        call.engine.read(|world, _| -> Vec<_> { world.apps.values().filter(|app| app.org == org).cloned().collect() });
    match call.lag_of_lists() {
        0 => Ok(now),
        lag => Ok(now.iter().filter_map(|app| call.engine.app_at(&app.name, lag).ok()).collect()),
    }
}

/// Sorts by time of change and id, which is also the cursor.
fn order(updated: Millis, id: &str) -> String {
    format!("{:020} {id}", updated.0)
}

pub(crate) async fn org_machines(call: Call) -> Result<Reply, Refusal> {
    let query = OrgQuery::of(&call)?;
    let apps = apps_of_org(&call)?;
    let mut found = Vec::new();
    for app in &apps {
        for machine in app.machines.values() {
            let shown = query.deleted || machine.state != MachineState::Destroyed && app.gone_at.is_none();
            if shown && query.wants(&machine.region, machine.state.word(), machine.updated_at) {
                found.push((app, machine));
            }
        }
    }
    found.sort_by(|(_, a), (_, b)| (a.updated_at, &a.id).cmp(&(b.updated_at, &b.id)));
    let (found, next) = query.page.cut(found, |(_, machine)| order(machine.updated_at, &machine.id));
    let rows: Vec<Value> = found.iter().map(|(app, m)| views::org_machine(&app.name, m, query.summary)).collect();
    let last = found.last();
    Ok(Reply::ok(&json!({
        "machines": rows,
        "next_cursor": next.unwrap_or_default(),
        "last_machine_id": last.map_or("", |(_, machine)| &machine.id),
        "last_updated_at": last.map_or_else(String::new, |(_, machine)| machine.updated_at.rfc3339()),
        "error_regions": [],
    })))
}

pub(crate) async fn org_volumes(call: Call) -> Result<Reply, Refusal> {
    let query = OrgQuery::of(&call)?;
    let apps = apps_of_org(&call)?;
    let mut found = Vec::new();
    for app in &apps {
        for volume in app.volumes.values() {
            let shown = query.deleted || volume.state != VolumeState::Destroyed && app.gone_at.is_none();
            if shown && query.wants(&volume.region, volume.state.word(), volume.updated_at) {
                found.push((app, volume));
            }
        }
    }
    found.sort_by(|(_, a), (_, b)| (a.updated_at, &a.id).cmp(&(b.updated_at, &b.id)));
    let (found, next) = query.page.cut(found, |(_, volume)| order(volume.updated_at, &volume.id));
    let look = call.look();
    let row = |app: &str, volume: &crate::world::volume::Volume| {
        let mut body = views::volume(volume, &look);
        body["app_name"] = json!(app);
        body["updated_at"] = json!(volume.updated_at.rfc3339());
        body
    };
    let last = found.last();
    Ok(Reply::ok(&json!({
        "volumes": found.iter().map(|(app, volume)| row(&app.name, volume)).collect::<Vec<_>>(),
        "next_cursor": next.unwrap_or_default(),
        "last_volume_id": last.map_or("", |(_, volume)| &volume.id),
        "last_updated_at": last.map_or_else(String::new, |(_, volume)| volume.updated_at.rfc3339()),
    })))
}

pub(crate) async fn current_token(call: Call) -> Result<Reply, Refusal> {
    let apps: Vec<&str> = call.caller.app.as_deref().into_iter().collect();
    Ok(Reply::ok(&json!({ "tokens": [{
        "token_id": call.caller.owner.split('@').next(),
        "organization": call.caller.org.as_deref().unwrap_or_default(),
        "apps": apps,
    }] })))
}
