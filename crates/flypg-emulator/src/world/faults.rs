//! Things that befall the world: hosts out of sight, data lost, machines that die, get stuck, or move.

use serde::{Deserialize, Serialize};

use super::hosts::HostStatus;
use super::ips::AddressPlan;
use super::links::{Link, Links, Loss, OUTSIDE};
use super::machine::MachineState;
use super::refusal::Refusal;
use super::time::Millis;
use super::{Effect, Processes, World};

/// A fault that happens at once. Machines are named by id, and found in any app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The platform loses sight of a machine's host; with `processes: false` the host is dead, too.
    HostUnreachable {
        machine: String,
        #[serde(default = "yes")]
        processes: bool,
    },
    /// The host is back; what was lost starts again.
    HostBack {
        machine: String,
    },
    /// The host takes nothing new (or does again).
    HostFull {
        machine: String,
        #[serde(default = "yes")]
        full: bool,
    },
    /// A region takes nothing new (or does again).
    RegionFull {
        region: String,
        #[serde(default = "yes")]
        full: bool,
    },
    /// Everything on the volume is lost.
    VolumeLost {
        volume: String,
    },
    /// SIGKILL for everything in the machine; its restart policy applies.
    MachineDies {
        machine: String,
    },
    /// SIGSTOP and SIGCONT for everything in the machine.
    Freeze {
        machine: String,
    },
    Thaw {
        machine: String,
    },
    /// Later starts of the machine take this much longer; 0 ends it.
    SlowStart {
        machine: String,
        ms: u64,
    },
    /// The machine never leaves its present state by itself (or does again).
    Stuck {
        machine: String,
        #[serde(default = "yes")]
        stuck: bool,
    },
    /// Fly moves the machine to another host: new volume id, new private address, same machine id.
    Migrate {
        machine: String,
    },
    /// Fly destroys the machine on its own account.
    Destroyed {
        machine: String,
    },
    /// A signal (`SIGKILL`, `SIGSTOP`, …) for some processes of the machine.
    Signal {
        machine: String,
        #[serde(default)]
        to: Processes,
        signal: String,
    },
    /// Cuts the network between groups of machines, both ways. `outside` stands for everything that is no machine.
    Partition {
        machines: Vec<Vec<String>>,
    },
    /// Cuts the network from these to those, one way; or loses a share of the packets on it. Replies to what came the
    /// other way are on it, too.
    Cut {
        from: Vec<String>,
        to: Vec<String>,
        /// From 0 (none) to 1 (all).
        #[serde(default = "all")]
        loss: f64,
    },
    /// Ends cuts and losses: all of them, or those to and from some machines.
    Heal {
        #[serde(default)]
        machines: Vec<String>,
    },
}

const fn all() -> f64 {
    1.0
}

const fn yes() -> bool {
    true
}

fn set_link(links: &mut Links, from: &str, to: &str, loss: Loss) {
    if from != to {
        links.set(Link { from: from.to_owned(), to: to.to_owned() }, loss);
    }
}

impl World {
    /// The app of a machine, by id or by `app/name`.
    fn find_machine(&self, wanted: &str) -> Result<(String, String), Refusal> {
        if let Some((app, name)) = wanted.split_once('/') {
            let found = self.apps.get(app).and_then(|app| app.machine_named(name).or_else(|| app.machines.get(name)));
            return found.map(|m| (app.to_owned(), m.id.clone())).ok_or_else(Refusal::machine_not_found);
        }
        let holder = self.apps.values().find(|app| app.machines.contains_key(wanted));
        holder.map(|app| (app.name.clone(), wanted.to_owned())).ok_or_else(Refusal::machine_not_found)
    }

    /// Lets a fault happen.
    ///
    /// # Errors
    /// 404 for an unknown machine or volume, 400 for what is no signal or share, 412 where it makes no sense, 501 for cuts where
    /// machines share a network.
    pub fn befall(&mut self, now: Millis, fault: &Fault) -> Result<(), Refusal> {
        match fault {
            Fault::HostUnreachable { machine, processes } => self.lose_host(machine, *processes),
            Fault::HostBack { machine } => self.regain_host(now, machine),
            Fault::HostFull { machine, full } => {
                let host = self.host_of(machine)?;
                if let Some(host) = self.hosts.get_mut(&host) {
                    host.full = *full;
                }
                Ok(())
            }
            Fault::RegionFull { region, full } => {
                super::regions::find(region).ok_or_else(|| Refusal::unknown_region(region))?;
                match full {
                    true => drop(self.knobs.full_regions.insert(region.clone())),
                    false => drop(self.knobs.full_regions.remove(region)),
                }
                Ok(())
            }
            Fault::VolumeLost { volume } => {
                let known = self.apps.values().any(|app| app.volumes.contains_key(volume));
                if !known {
                    return Err(Refusal::volume_not_found());
                }
                self.effects.push(Effect::WipeVolume { volume: volume.clone() });
                Ok(())
            }
            Fault::MachineDies { machine } => {
                self.with_run(machine, |app, id, run| Effect::Kill { app, machine: id, run })
            }
            Fault::Freeze { machine } => self.with_run(machine, |_, id, _| Effect::Freeze { machine: id }),
            Fault::Thaw { machine } => self.with_run(machine, |_, id, _| Effect::Thaw { machine: id }),
            Fault::SlowStart { machine, ms } => {
                let (app, id) = self.find_machine(machine)?;
                self.edit_machine(&app, &id)?.slow_start_ms = *ms;
                Ok(())
            }
            Fault::Stuck { machine, stuck } => {
                let (app, id) = self.find_machine(machine)?;
                self.edit_machine(&app, &id)?.stuck = *stuck;
                self.settle(now, &app, &id);
                Ok(())
            }
            Fault::Migrate { machine } => self.migrate(now, machine),
            Fault::Destroyed { machine } => {
                let (app, id) = self.find_machine(machine)?;
                self.tear_down(now, &app, &id);
                Ok(())
            }
            Fault::Signal { machine, to, signal } => {
                if signal.parse::<nix::sys::signal::Signal>().is_err() {
                    return Err(Refusal::bad_request(&format!("{signal} is no signal")));
                }
                let (to, signal) = (to.clone(), signal.clone());
                self.with_run(machine, |_, id, _| Effect::Signal { machine: id, to, signal })
            }
            Fault::Partition { machines } => {
                let groups: Vec<Vec<String>> =
                    machines.iter().map(|group| self.ends(group)).collect::<Result<_, _>>()?;
                let mut links = self.links.clone();
                for (n, group) in groups.iter().enumerate() {
                    let others = groups.iter().enumerate().filter(|(m, _)| *m != n).flat_map(|(_, other)| other);
                    for to in others {
                        group.iter().for_each(|from| set_link(&mut links, from, to, Loss::ALL));
                    }
                }
                self.bend(links);
                Ok(())
            }
            Fault::Cut { from, to, loss } => {
                let loss = Loss::of(*loss).ok_or_else(|| Refusal::bad_request("a loss is between 0 and 1"))?;
                let (from, to) = (self.ends(from)?, self.ends(to)?);
                let mut links = self.links.clone();
                for from in &from {
                    to.iter().for_each(|to| set_link(&mut links, from, to, loss));
                }
                self.bend(links);
                Ok(())
            }
            Fault::Heal { machines } => {
                let ends = self.ends(machines)?;
                let mut links = self.links.clone();
                links.heal(&ends);
                self.bend(links);
                Ok(())
            }
        }
    }

    /// What links lead to and from, by their names.
    ///
    /// # Errors
    /// 501 where links cannot be changed, 404 for an unknown machine.
    fn ends(&self, names: &[String]) -> Result<Vec<String>, Refusal> {
        if !matches!(self.address_plan(), AddressPlan::Namespaces { .. }) {
            let error = "unimplemented: only machines in network namespaces can be cut off from each other; \
                         here they can be frozen and signalled";
            return Err(Refusal { status: 501, error: error.to_owned(), code: None });
        }
        let end = |name: &String| match name.as_str() {
            OUTSIDE => Ok(name.clone()),
            machine => self.find_machine(machine).map(|(_, id)| id),
        };
        names.iter().map(end).collect()
    }

    fn bend(&mut self, links: Links) {
        self.links = links.clone();
        self.effects.push(Effect::Links(links));
    }

    fn host_of(&self, machine: &str) -> Result<String, Refusal> {
        let (app, id) = self.find_machine(machine)?;
        self.peek(&app, &id).map(|machine| machine.host.clone()).ok_or_else(Refusal::machine_not_found)
    }

    fn with_run(&mut self, machine: &str, effect: impl FnOnce(String, String, u64) -> Effect) -> Result<(), Refusal> {
        let (app, id) = self.find_machine(machine)?;
        let run = self.peek(&app, &id).filter(|machine| machine.run.live).map(|machine| machine.run.number);
        let run = run.ok_or_else(|| Refusal::not_allowed("harm", "not running"))?;
        self.effects.push(effect(app, id, run));
        Ok(())
    }

    /// `(app, machine)` of everything on a host.
    fn on_host(&self, host: &str) -> Vec<(String, String)> {
        let machines = self.apps.values().flat_map(|app| app.living().map(move |machine| (app, machine)));
        machines.filter(|(_, machine)| machine.host == host).map(|(app, m)| (app.name.clone(), m.id.clone())).collect()
    }

    fn lose_host(&mut self, machine: &str, processes: bool) -> Result<(), Refusal> {
        let host = self.host_of(machine)?;
        if let Some(host) = self.hosts.get_mut(&host) {
            host.status = HostStatus::Unreachable;
        }
        for (app, id) in self.on_host(&host) {
            let run = self.edit_machine(&app, &id)?.run.clone();
            if !processes && run.live {
                self.effects.push(Effect::Kill { app: app.clone(), machine: id, run: run.number });
            }
        }
        Ok(())
    }

    fn regain_host(&mut self, now: Millis, machine: &str) -> Result<(), Refusal> {
        let host = self.host_of(machine)?;
        if let Some(host) = self.hosts.get_mut(&host) {
            host.status = HostStatus::Ok;
        }
        for (app, id) in self.on_host(&host) {
            let edit = self.edit_machine(&app, &id)?;
            let (run, noted) = (edit.run.clone(), std::mem::take(&mut edit.destroy_when_reachable));
            if noted && run.live {
                self.effects.push(Effect::Kill { app: app.clone(), machine: id.clone(), run: run.number });
            }
            self.settle(now, &app, &id);
        }
        Ok(())
    }

    fn migrate(&mut self, now: Millis, machine: &str) -> Result<(), Refusal> {
        let (app, id) = self.find_machine(machine)?;
        let record = self.peek(&app, &id).cloned().ok_or_else(Refusal::machine_not_found)?;
        if !matches!(record.state, MachineState::Started | MachineState::Stopped) {
            return Err(Refusal::not_allowed("migrate", record.state.word()));
        }
        let need = super::hosts::Room {
            volume_gb: record
                .volume
                .as_ref()
                .and_then(|mount| self.apps.get(&app)?.volumes.get(&mount.volume))
                .map_or(0, |volume| volume.size_gb),
            ..record.config.room()
        };
        let (_, host) = self.place_volume(&record.region, need, &[record.host.as_str()])?;
        let network = self.apps.get(&app).map_or_else(String::new, |app| format!("{}/{}", app.org, app.network));
        let address = self.addresses.take(&network, &host);
        self.addresses.give_back(&record.address);
        self.hosts.give_back(&record.host, need);
        self.hosts.take(&host, need);
        if let Some(mount) = &record.volume {
            self.move_volume(now, &app, &id, &mount.volume, &host)?;
        }
        let event = self.ids.ulid(now);
        let edit = self.edit_machine(&app, &id)?;
        edit.host = host;
        edit.address = address;
        edit.push_event(event, now, "launch", "created", "flyd", Some(serde_json::json!({ "migrated": true })));
        if record.run.live {
            edit.state = MachineState::Restarting;
            edit.run.stop_requested = true;
            let stop = &record.config.stop;
            let (signal, timeout_ms) = (stop.signal.clone(), stop.timeout_ms);
            self.effects.push(Effect::Halt { app, machine: id, run: record.run.number, signal, timeout_ms });
        }
        Ok(())
    }

    /// Gives a volume a new id on another host, and the machine's config the new id.
    fn move_volume(&mut self, now: Millis, app: &str, machine: &str, old: &str, host: &str) -> Result<(), Refusal> {
        let new = self.ids.volume();
        let zone = self.hosts.get(host).map_or_else(String::new, |host| host.zone.clone());
        let app_record = self.edit_app(app)?;
        let mut volume = app_record.volumes.remove(old).ok_or_else(Refusal::volume_not_found)?;
        let edit = volume.edit();
        edit.id.clone_from(&new);
        host.clone_into(&mut edit.host);
        edit.zone = zone;
        edit.updated_at = now;
        app_record.volumes.insert(new.clone(), volume);
        let edit = self.edit_machine(app, machine)?;
        for mount in edit.volume.iter_mut().chain(edit.config.mount.iter_mut()) {
            mount.volume.clone_from(&new);
        }
        if let Some(mounts) = edit.config.raw.get_mut("mounts").and_then(serde_json::Value::as_array_mut) {
            for mount in mounts {
                mount["volume"] = serde_json::json!(new);
            }
        }
        self.effects.push(Effect::RenameVolume { from: old.to_owned(), to: new.clone() });
        self.remind_volume(app, &new);
        Ok(())
    }
}
