//! Where machines and volumes go.

use super::World;
use super::hosts::{self, Room};
use super::refusal::Refusal;
use super::regions;

impl World {
    /// The regions an expression means, in order of preference.
    ///
    /// # Errors
    /// 400 for an unknown region.
    pub fn regions_of(&self, expression: &str) -> Result<Vec<&'static str>, Refusal> {
        regions::resolve(expression, &self.knobs.nearest)
    }

    /// A host for a machine without a volume.
    ///
    /// # Errors
    /// 400 for an unknown region, 422 when no host has room.
    pub(crate) fn place_machine(&self, expression: &str, need: Room) -> Result<(String, String), Refusal> {
        for region in self.regions_of(expression)? {
            if let Some(host) = self.hosts.candidates(&self.knobs, region, need).first() {
                return Ok((region.to_owned(), host.id.clone()));
            }
        }
        Err(Refusal::no_region_capacity())
    }

    /// A host for a volume that will carry `need`, avoiding the hosts in `taken`.
    ///
    /// # Errors
    /// 400 for an unknown region, 409 when no host will do.
    pub(crate) fn place_volume(
        &self,
        expression: &str,
        need: Room,
        taken: &[&str],
    ) -> Result<(String, String), Refusal> {
        for region in self.regions_of(expression)? {
            let candidates = self.hosts.candidates(&self.knobs, region, need);
            if let Some(host) = candidates.iter().find(|host| !taken.contains(&host.id.as_str())) {
                return Ok((region.to_owned(), host.id.clone()));
            }
        }
        Err(Refusal::no_volume_capacity())
    }

    /// How many machines of this size each region of the expression could take, as `POST /v1/platform/placements`
    /// tells: `(region, count)`; regions without room are left out.
    ///
    /// # Errors
    /// 400 for an unknown region.
    pub fn placements(&self, expression: &str, need: Room, count: u64) -> Result<Vec<(String, u64)>, Refusal> {
        /// Stands for "the limit of the organisation", which the emulator does not have.
        const PLENTY: u64 = 100;
        // Room is found by trying, one Machine at a time.
        const MOST: u64 = 10_000;
        let mut wanted = if count == 0 { PLENTY } else { count.min(MOST) };
        let mut found = Vec::new();
        for region in self.regions_of(expression)? {
            let mut room = 0;
            for host in self.hosts.candidates(&self.knobs, region, need) {
                let mut imagined = host.clone();
                while room < wanted && hosts::fits(&self.knobs, &imagined, need).is_ok() {
                    imagined.used.cpus += need.cpus;
                    imagined.used.memory_mb += need.memory_mb;
                    imagined.used.volume_gb += need.volume_gb;
                    room += 1;
                }
            }
            if room > 0 {
                found.push((region.to_owned(), room));
            }
            if count > 0 {
                wanted -= room;
                if wanted == 0 {
                    break;
                }
            }
        }
        Ok(found)
    }
}
