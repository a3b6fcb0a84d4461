//! What the agent knows itself; also there while Postgres is not.

use std::sync::atomic::Ordering;

use flypg_core::protocol::Phase;

use super::{Kind, Page};
use crate::shared::Shared;
use crate::startup::Door;

pub(super) fn add(page: &mut Page, shared: &Shared) -> prometheus::Result<()> {
    let report = shared.report.borrow().clone();
    let now = report.phase.name();
    let is = |phase: &str| (vec![phase.to_owned()], f64::from(u8::from(phase == now)));
    page.add(
        Kind::Gauge,
        "flypg_agent_phase",
        "1 for what the node is doing, 0 for the rest.",
        &["phase"],
        Phase::NAMES.map(is),
    )?;
    let version = vec![env!("CARGO_PKG_VERSION").to_owned(), report.cluster.to_string(), report.node.to_string()];
    page.add(
        Kind::Gauge,
        "flypg_agent_info",
        "Always 1; says which agent this is.",
        &["version", "cluster", "node"],
        [(version, 1.0)],
    )?;
    page.one(
        Kind::Gauge,
        "flypg_agent_epoch",
        "The highest epoch this node has promised to obey.",
        report.promised.0 as f64,
    )?;
    page.one(
        Kind::Gauge,
        "flypg_agent_route_epoch",
        "The epoch that the routers of this node follow.",
        shared.routes.borrow().epoch.0 as f64,
    )?;
    page.one(
        Kind::Gauge,
        "flypg_agent_incarnation",
        "How often the agent was started on this volume.",
        report.incarnation as f64,
    )?;
    page.one(
        Kind::Gauge,
        "flypg_agent_uptime_seconds",
        "Seconds since this agent was started.",
        shared.begun.elapsed().as_secs_f64(),
    )?;
    page.one(
        Kind::Counter,
        "flypg_agent_postgres_crashes_total",
        "How often Postgres ended without being asked.",
        f64::from(report.crashes),
    )?;
    let starts = shared.starts.load(Ordering::Relaxed);
    page.one(Kind::Counter, "flypg_agent_postgres_starts_total", "How often Postgres was started.", starts as f64)?;

    if let Phase::Cloning { done, total } = report.phase {
        page.one(
            Kind::Gauge,
            "flypg_agent_clone_copied_bytes",
            "Bytes that the running clone has copied.",
            done as f64,
        )?;
        if let Some(total) = total {
            page.one(
                Kind::Gauge,
                "flypg_agent_clone_size_bytes",
                "Bytes that the running clone is to copy.",
                total as f64,
            )?;
        }
    }
    if let Some(disk) = report.disk {
        page.one(Kind::Gauge, "flypg_agent_disk_size_bytes", "Size of the volume.", disk.total as f64)?;
        page.one(Kind::Gauge, "flypg_agent_disk_used_bytes", "Bytes of the volume in use.", disk.used as f64)?;
    }
    let doors = |count: fn(&crate::doors::DoorCount) -> u64| {
        Door::ALL.map(|door| (vec![door.name().to_owned()], count(&shared.doors[door as usize]) as f64))
    };
    page.add(
        Kind::Gauge,
        "flypg_agent_connections",
        "Connections that are open, by the door they came in at.",
        &["door"],
        doors(|door| door.open.load(Ordering::Relaxed)),
    )?;
    page.add(
        Kind::Counter,
        "flypg_agent_connections_total",
        "Connections that came in, by door.",
        &["door"],
        doors(|door| door.total.load(Ordering::Relaxed)),
    )?;
    page.add(
        Kind::Counter,
        "flypg_agent_connections_refused_total",
        "Connections that were not let in, by door.",
        &["door"],
        doors(|door| door.refused.load(Ordering::Relaxed)),
    )
}
