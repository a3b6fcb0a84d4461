//! Volumes and their snapshots.

use serde_json::json;

use crate::world::decode::{self, Object};
use crate::world::hosts::Room;
use crate::world::refusal::Refusal;
use crate::world::shared::Shared;
use crate::world::volume::{CreateVolume, Volume, VolumeState};

use super::call::Call;
use super::paging::Page;
use super::reply::Reply;
use super::views;

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    let page = Page::asked(call.query("limit"), call.query("cursor"), 1000, call.engine.now())?;
    let app = call.engine.app_at(call.app(), call.lag_of_lists())?;
    let young = |volume: &Volume| page.as_ref().is_some_and(|page| volume.created_at > page.begun());
    let volumes: Vec<&Shared<Volume>> = match call.bent.empty_list {
        true => Vec::new(),
        false => app.volumes.values().filter(|v| v.state != VolumeState::Destroyed && !young(v)).collect(),
    };
    let (volumes, next) = match &page {
        Some(page) => page.cut(volumes, |volume| volume.id.clone()),
        None => (volumes, None),
    };
    let look = call.look();
    let reply = Reply::ok(&volumes.into_iter().map(|volume| views::volume(volume, &look)).collect::<Vec<_>>());
    Ok(match next {
        Some(next) => reply.header("fly-next-cursor", &next),
        None => reply,
    })
}

pub(crate) async fn create(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.CreateVolumeRequest")?;
    let body = Object::new(&body, "CreateVolumeRequest", "");
    let text = |key: &str| body.string(key).map(|text| text.map(str::to_owned));
    let compute = match body.object("compute", "fly.MachineGuest")? {
        None => Room::default(),
        Some(guest) => {
            let guest = Object::new(guest, "CreateVolumeRequest", "compute");
            let number = |key: &str| guest.unsigned(key).map(|number| number.unwrap_or(0));
            Room { cpus: number("cpus")?, memory_mb: number("memory_mb")?, volume_gb: 0 }
        }
    };
    let create = CreateVolume {
        name: text("name")?.unwrap_or_default(),
        region: text("region")?,
        size_gb: body.unsigned("size_gb")?,
        encrypted: body.boolean("encrypted")?,
        fstype: text("fstype")?,
        require_unique_zone: body.boolean("require_unique_zone")?,
        unique_zone_app_wide: body.boolean("unique_zone_app_wide")?,
        snapshot_retention: body.unsigned("snapshot_retention")?,
        auto_backup: body.boolean("auto_backup_enabled")?,
        snapshot_id: text("snapshot_id")?,
        source_volume_id: text("source_volume_id")?,
        compute,
    };
    let volume = call.placed(|world, now| world.create_volume(now, call.app(), create))?;
    Ok(Reply::ok(&views::volume(&volume, &call.look())))
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    let app = call.engine.app_at(call.app(), call.lag_of_reads())?;
    let volume = app.volumes.get(call.id()).filter(|volume| volume.state != VolumeState::Destroyed);
    let volume = volume.ok_or_else(Refusal::volume_not_found)?;
    Ok(Reply::ok(&views::volume(volume, &call.look())))
}

pub(crate) async fn update(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.UpdateVolumeRequest")?;
    let body = Object::new(&body, "UpdateVolumeRequest", "");
    let (retention, auto_backup) = (body.unsigned("snapshot_retention")?, body.boolean("auto_backup_enabled")?);
    let volume =
        call.engine.write(|world, now| world.update_volume(now, call.app(), call.id(), retention, auto_backup))?;
    Ok(Reply::ok(&views::volume(&volume, &call.look())))
}

pub(crate) async fn destroy(call: Call) -> Result<Reply, Refusal> {
    let volume = call.engine.write(|world, now| world.delete_volume(now, call.app(), call.id()))?;
    let mut body = views::volume(&volume, &call.look());
    // The answer runs ahead of the soft delete.
    body["state"] = json!("destroyed");
    Ok(Reply::ok(&body))
}

pub(crate) async fn extend(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.ExtendVolumeRequest")?;
    let size_gb = Object::new(&body, "ExtendVolumeRequest", "").unsigned("size_gb")?.unwrap_or(0);
    if size_gb == 0 {
        return Err(Refusal::invalid("size_gb is required"));
    }
    let (volume, needs_restart) =
        call.engine.write(|world, now| world.extend_volume(now, call.app(), call.id(), size_gb))?;
    Ok(Reply::ok(&json!({ "volume": views::volume(&volume, &call.look()), "needs_restart": needs_restart })))
}

pub(crate) async fn snapshots(call: Call) -> Result<Reply, Refusal> {
    let snapshots = call.engine.read(|world, _| world.snapshots(call.app(), call.id()))?;
    Ok(Reply::ok(&snapshots.iter().map(views::snapshot).collect::<Vec<_>>()))
}

pub(crate) async fn snapshot(call: Call) -> Result<Reply, Refusal> {
    let (snapshot, app) = call.engine.write(|world, now| {
        let snapshot = world.take_snapshot(now, call.app(), call.id())?;
        Ok::<_, Refusal>((snapshot, world.app(call.app())?.clone()))
    })?;
    Ok(Reply::ok(&views::backup_job(&snapshot, &app, call.id())))
}
