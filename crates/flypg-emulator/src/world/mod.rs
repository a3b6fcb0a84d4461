//! The world as a pure state machine: commands and reports in, answers and [`Effect`]s out.
//!
//! Nothing here knows a clock, a socket or a process. `now` is an argument, ids come from a seeded [`ids::IdSource`],
//! and whatever has to happen outside is an [`Effect`], whose outcome comes back as a [`Report`]. Windows such as
//! `created` or `destroying` are timers: [`World::next_due`] says when [`World::advance`] has something to do.

pub mod app;
mod boot;
pub mod config;
pub mod decode;
pub mod faults;
pub mod hosts;
pub mod ids;
pub mod ips;
pub mod knobs;
pub mod lease;
mod lifecycle;
pub mod links;
pub mod machine;
mod placement;
pub mod refusal;
pub mod regions;
pub mod report;
pub mod secrets;
pub mod shared;
pub mod snapshot;
pub mod time;
pub mod volume;
pub mod wait;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use app::App;
pub use boot::Boot;
use hosts::{HostStatus, Hosts, Room};
use ids::IdSource;
use ips::{AddressPlan, Addresses};
use knobs::Knobs;
pub use lifecycle::{CreateMachine, UpdateMachine};
use links::Links;
use machine::{Machine, MachineState, MachineTimer};
use refusal::Refusal;
use report::Report;
use shared::Shared;
use time::Millis;
use volume::Volume;

/// Everything the platform remembers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct World {
    #[serde(skip)]
    pub knobs: Knobs,
    pub(crate) ids: IdSource,
    pub(crate) counter: u64,
    pub hosts: Hosts,
    pub(crate) addresses: Addresses,
    pub apps: BTreeMap<String, Shared<App>>,
    /// Images that exist, by reference or repository; `None`: every image does.
    #[serde(skip)]
    pub known_images: Option<BTreeSet<String>>,
    /// Links between machines that are not good. A new emulator begins with good ones.
    #[serde(skip_deserializing)]
    pub links: Links,
    #[serde(skip)]
    agenda: BTreeSet<(Millis, Due)>,
    #[serde(skip)]
    pub(crate) effects: Vec<Effect>,
    #[serde(skip)]
    touched: Touched,
}

/// The parts of the world that are not apps, as they are saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Foundation {
    ids: IdSource,
    counter: u64,
    hosts: Hosts,
    addresses: Addresses,
}

/// What changed since the last [`World::take_touched`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    pub apps: BTreeSet<String>,
    pub machines: BTreeSet<String>,
}

/// Something that is due at a moment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    App(String),
    Machine(String, String, MachineTimer),
    Volume(String, String),
    Snapshot(String, String, String),
}

/// What has to happen outside. Effects about one machine, or one volume, are to be performed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Launch the machine's processes; answer with `Started` or `BootFailed`, later `Exited`.
    Boot(Box<Boot>),
    /// Take over processes that an earlier emulator left running, if they still do; same answers.
    Adopt(Box<Boot>),
    /// Send the signal, after the timeout kill everything; answer with `Exited`.
    Halt {
        app: String,
        machine: String,
        run: u64,
        signal: String,
        timeout_ms: u64,
    },
    /// Kill everything at once; answer with `Exited`.
    Kill {
        app: String,
        machine: String,
        run: u64,
    },
    /// Send a signal to some processes.
    Signal {
        machine: String,
        to: Processes,
        signal: String,
    },
    /// From now on these links are bad, and all others good.
    Links(Links),
    /// Stop and continue scheduling of everything in the machine.
    Freeze {
        machine: String,
    },
    Thaw {
        machine: String,
    },
    /// The machine is gone: its root directory may go.
    Discard {
        machine: String,
    },
    MakeVolume {
        volume: String,
    },
    /// Fill a new volume; answer with `VolumeFilled`.
    FillVolume {
        app: String,
        volume: String,
        from: Source,
    },
    DropVolume {
        volume: String,
    },
    /// Empty the volume: its data is lost.
    WipeVolume {
        volume: String,
    },
    /// The volume has a new id (migration).
    RenameVolume {
        from: String,
        to: String,
    },
    /// Copy the volume; answer with `SnapshotTaken`.
    TakeSnapshot {
        app: String,
        volume: String,
        snapshot: String,
    },
    DropSnapshot {
        snapshot: String,
    },
}

/// Some of the processes of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Processes {
    /// The main processes: what the machine was booted with.
    #[default]
    Main,
    /// Every process of the program with this name, as `ps -o comm` has it.
    Program(String),
    /// Of those the ones that no other of them started.
    Eldest(String),
}

/// Where the content of a new volume comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Snapshot(String),
    Volume(String),
}

impl World {
    /// An empty Fly.
    #[must_use]
    pub fn new(seed: u64, knobs: Knobs, plan: AddressPlan) -> Self {
        Self {
            hosts: Hosts::new(&knobs),
            knobs,
            ids: IdSource::new(seed),
            counter: 0,
            addresses: Addresses::new(plan),
            apps: BTreeMap::new(),
            known_images: None,
            links: Links::default(),
            agenda: BTreeSet::new(),
            effects: Vec::new(),
            touched: Touched::default(),
        }
    }

    pub(crate) fn foundation(&self) -> Foundation {
        Foundation {
            ids: self.ids.clone(),
            counter: self.counter,
            hosts: self.hosts.clone(),
            addresses: self.addresses.bare(),
        }
    }

    /// Puts a saved world together; [`World::resume`] makes it usable.
    pub(crate) fn from_parts(foundation: Foundation, apps: Vec<App>) -> Self {
        let mut world = Self::new(0, Knobs::default(), foundation.addresses.plan.clone());
        world.ids = foundation.ids;
        world.counter = foundation.counter;
        world.hosts = foundation.hosts;
        world.addresses = foundation.addresses;
        world.apps = apps.into_iter().map(|app| (app.name.clone(), Shared::new(app))).collect();
        world
    }

    /// Makes a deserialised world usable again: derived parts are computed anew, and for every run that was alive an
    /// [`Effect::Adopt`] asks what became of it.
    pub fn resume(&mut self, knobs: Knobs) {
        self.knobs = knobs;
        self.ids.skip_ahead();
        let fresh = Hosts::new(&self.knobs);
        for host in fresh.iter() {
            if self.hosts.get(&host.id).is_none() {
                self.hosts.insert(host.clone());
            }
        }
        self.hosts.iter_mut().for_each(|host| host.used = Room::default());
        self.agenda.clear();
        let apps: Vec<Shared<App>> = self.apps.values().cloned().collect();
        for app in apps {
            self.counter = self.counter.max(app.number - 1_700_000);
            if app.gone_at.is_some() {
                self.agenda.insert((Millis(0), Due::App(app.name.clone())));
            }
            for volume in app.volumes.values() {
                self.resume_volume(&app.name, volume);
            }
            for machine in app.machines.values() {
                self.resume_machine(&app.name, machine);
            }
        }
    }

    fn resume_machine(&mut self, app: &str, machine: &Shared<Machine>) {
        for (timer, at) in &machine.timers {
            self.agenda.insert((*at, Due::Machine(app.to_owned(), machine.id.clone(), *timer)));
        }
        if machine.state == MachineState::Destroyed {
            return;
        }
        self.addresses.reclaim(&machine.address);
        self.hosts.take(&machine.host, machine.config.room());
        if !machine.run.live {
            return;
        }
        if let Some(boot) = self.boot_of(app, machine) {
            self.effects.push(Effect::Adopt(Box::new(boot)));
        }
        let (id, run) = (machine.id.clone(), machine.run.number);
        match machine.state {
            MachineState::Stopping | MachineState::Replacing | MachineState::Restarting => {
                let (signal, timeout_ms) = (machine.config.stop.signal.clone(), machine.config.stop.timeout_ms);
                self.effects.push(Effect::Halt { app: app.to_owned(), machine: id, run, signal, timeout_ms });
            }
            MachineState::Destroying if self.hosts.reachable(&machine.host) => {
                self.effects.push(Effect::Kill { app: app.to_owned(), machine: id, run });
            }
            _ => {}
        }
    }

    /// When [`World::advance`] next has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Millis> {
        self.agenda.first().map(|(at, _)| *at)
    }

    /// Does everything that is due by `now`.
    pub fn advance(&mut self, now: Millis) {
        while let Some((at, due)) = self.agenda.pop_first() {
            if at > now {
                self.agenda.insert((at, due));
                return;
            }
            match due {
                Due::App(app) => self.finish_app(now, &app),
                Due::Machine(app, id, timer) => self.machine_due(now, at, &app, &id, timer),
                Due::Volume(app, id) => self.volume_due(now, &app, &id),
                Due::Snapshot(app, volume, id) => self.snapshot_due(now, &app, &volume, &id),
            }
        }
    }

    /// What has to happen outside now.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    #[must_use]
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Whether anything changed since the last [`World::take_touched`].
    #[must_use]
    pub fn is_touched(&self) -> bool {
        !self.touched.apps.is_empty()
    }

    pub(crate) fn set_due(&mut self, at: Millis, due: Due) {
        self.agenda.insert((at, due));
    }

    pub(crate) fn touch_app(&mut self, app: &str) {
        if !self.touched.apps.contains(app) {
            self.touched.apps.insert(app.to_owned());
        }
    }

    /// The app to change, visible or not.
    pub(crate) fn edit_app(&mut self, name: &str) -> Result<&mut App, Refusal> {
        self.touch_app(name);
        self.apps.get_mut(name).map(Shared::edit).ok_or_else(Refusal::app_not_found)
    }

    /// The machine to change, visible or not.
    pub(crate) fn edit_machine(&mut self, app: &str, id: &str) -> Result<&mut Machine, Refusal> {
        self.touch_app(app);
        if !self.touched.machines.contains(id) {
            self.touched.machines.insert(id.to_owned());
        }
        let app = self.apps.get_mut(app).ok_or_else(Refusal::app_not_found)?;
        app.edit().machines.get_mut(id).map(Shared::edit).ok_or_else(Refusal::machine_not_found)
    }

    pub(crate) fn edit_volume(&mut self, app: &str, id: &str) -> Result<&mut Volume, Refusal> {
        self.touch_app(app);
        let app = self.apps.get_mut(app).ok_or_else(Refusal::app_not_found)?;
        app.edit().volumes.get_mut(id).map(Shared::edit).ok_or_else(Refusal::volume_not_found)
    }

    /// The machine as a client may see it.
    ///
    /// # Errors
    /// 404 for an unknown app or machine, or one destroyed a while ago.
    pub fn machine(&self, now: Millis, app: &str, id: &str) -> Result<&Shared<Machine>, Refusal> {
        let app = self.app(app)?;
        match app.machines.get(id).filter(|machine| self.visible(now, machine)) {
            Some(machine) => Ok(machine),
            None if id.len() == 14 && id.bytes().all(|b| b.is_ascii_alphanumeric()) => {
                Err(Refusal::machine_not_found())
            }
            None => Err(Refusal {
                status: 404,
                error: format!("not_found: machine not found: invalid machine ID, '{id}'"),
                code: None,
            }),
        }
    }

    /// Whether `GET` still answers for this machine.
    #[must_use]
    pub fn visible(&self, now: Millis, machine: &Machine) -> bool {
        machine.state != MachineState::Destroyed || now.since(machine.updated_at) <= self.knobs.destroyed_visible_ms
    }

    /// The machine for the platform's own ends; `None` once it left the world.
    pub(crate) fn peek(&self, app: &str, id: &str) -> Option<&Shared<Machine>> {
        self.apps.get(app)?.machines.get(id)
    }

    /// What the platform knows of the machine's host.
    #[must_use]
    pub fn host_status(&self, host: &str) -> HostStatus {
        self.hosts.status(host)
    }

    /// The address plan, which stays the same for the life of a data directory.
    #[must_use]
    pub const fn address_plan(&self) -> &AddressPlan {
        &self.addresses.plan
    }

    /// A new id for an HTTP request (`01JN…-yyz`).
    pub fn request_id(&mut self, now: Millis) -> String {
        format!("{}-{}", self.ids.ulid(now), self.knobs.nearest)
    }

    /// A random number.
    pub fn draw(&mut self) -> u64 {
        self.ids.bits()
    }

    /// Takes in what happened outside.
    pub fn report(&mut self, now: Millis, report: Report) {
        self.take_report(now, report);
    }
}

#[cfg(test)]
mod tests;
