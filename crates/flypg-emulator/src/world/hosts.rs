//! The servers under the machines: where things are placed, and which server does not answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::knobs::Knobs;
use super::refusal::Refusal;
use super::regions::REGIONS;

/// One server. Its `zone` is what Fly calls a hardware zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub id: String,
    pub region: String,
    /// Four hexadecimal digits.
    pub zone: String,
    pub status: HostStatus,
    /// Refuses new machines and volumes whatever is free.
    pub full: bool,
    /// What is in use.
    pub used: Room,
}

/// What a host has or something takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    pub cpus: u64,
    pub memory_mb: u64,
    pub volume_gb: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    Ok,
    /// The platform cannot reach it; what runs on it may still run.
    Unreachable,
}

impl HostStatus {
    /// As `host_status` says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
        }
    }
}

/// All hosts, by id (`ord-84d3`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hosts(BTreeMap<String, Host>);

impl Hosts {
    /// `knobs.hosts_per_region` hosts in every region.
    #[must_use]
    pub fn new(knobs: &Knobs) -> Self {
        let mut hosts = BTreeMap::new();
        for (r, region) in REGIONS.iter().enumerate() {
            for n in 0..knobs.hosts_per_region {
                // An odd multiplier permutes the 16-bit numbers, so zones look arbitrary and never repeat.
                let number = (r as u16) << 8 | (n & 0xff);
                let zone = format!("{:04x}", number.wrapping_mul(0x9e37).wrapping_add(0x4d3));
                let id = format!("{}-{zone}", region.code);
                let host = Host {
                    id: id.clone(),
                    region: region.code.to_owned(),
                    zone,
                    status: HostStatus::Ok,
                    full: false,
                    used: Room::default(),
                };
                hosts.insert(id, host);
            }
        }
        Self(hosts)
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Host> {
        self.0.get(id)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Host> {
        self.0.get_mut(id)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Host> {
        self.0.values()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Host> {
        self.0.values_mut()
    }

    /// Whether the platform reaches this host; an unknown host counts as reachable.
    #[must_use]
    pub fn reachable(&self, id: &str) -> bool {
        self.status(id) == HostStatus::Ok
    }

    #[must_use]
    pub fn status(&self, id: &str) -> HostStatus {
        self.get(id).map_or(HostStatus::Ok, |host| host.status)
    }

    pub(crate) fn take(&mut self, id: &str, room: Room) {
        if let Some(host) = self.0.get_mut(id) {
            host.used.cpus += room.cpus;
            host.used.memory_mb += room.memory_mb;
            host.used.volume_gb += room.volume_gb;
        }
    }

    pub(crate) fn give_back(&mut self, id: &str, room: Room) {
        if let Some(host) = self.0.get_mut(id) {
            host.used.cpus = host.used.cpus.saturating_sub(room.cpus);
            host.used.memory_mb = host.used.memory_mb.saturating_sub(room.memory_mb);
            host.used.volume_gb = host.used.volume_gb.saturating_sub(room.volume_gb);
        }
    }

    /// Hosts of `region` that can take `need`, emptiest first.
    pub fn candidates(&self, knobs: &Knobs, region: &str, need: Room) -> Vec<&Host> {
        if knobs.full_regions.contains(region) {
            return Vec::new();
        }
        let prefix = format!("{region}-");
        let mut fitting: Vec<&Host> = self
            .0
            .range(prefix.clone()..)
            .take_while(|(id, _)| id.starts_with(&prefix))
            .map(|(_, host)| host)
            .filter(|host| fits(knobs, host, need).is_ok())
            .collect();
        fitting.sort_by_key(|host| (host.used.memory_mb + 64 * host.used.volume_gb, host.id.clone()));
        fitting
    }
}

/// Whether `host` has room for `need`.
///
/// # Errors
/// 409, naming what is short.
pub fn fits(knobs: &Knobs, host: &Host, need: Room) -> Result<(), Refusal> {
    let short = |limit: Option<u64>, used: u64, need: u64| limit.is_some_and(|limit| used.saturating_add(need) > limit);
    if host.full || host.status != HostStatus::Ok || knobs.full_regions.contains(&host.region) {
        return Err(Refusal::no_host_capacity("resources"));
    }
    if short(knobs.host_cpus, host.used.cpus, need.cpus) {
        return Err(Refusal::no_host_capacity("CPUs"));
    }
    if short(knobs.host_memory_mb, host.used.memory_mb, need.memory_mb) {
        return Err(Refusal::no_host_capacity("memory"));
    }
    if short(knobs.host_volume_gb, host.used.volume_gb, need.volume_gb) {
        return Err(Refusal::no_host_capacity("resources"));
    }
    Ok(())
}

impl Hosts {
    pub(crate) fn insert(&mut self, host: Host) {
        self.0.insert(host.id.clone(), host);
    }
}
