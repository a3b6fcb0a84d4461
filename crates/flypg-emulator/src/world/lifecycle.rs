//! What clients do to machines: create, update, start, stop, restart, suspend, destroy, metadata.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value};

use super::config::Config;
use super::hosts;
use super::lease::Gated;
use super::machine::{ImageRef, Machine, MachineState, MachineTimer, OldVersion, Run, VERSIONS_KEPT};
use super::refusal::{Gate, Refusal};
use super::shared::Shared;
use super::time::Millis;
use super::{Effect, Processes, World};

/// The body of `POST …/machines`.
#[derive(Clone, Debug, Default)]
pub struct CreateMachine {
    pub name: Option<String>,
    pub region: Option<String>,
    pub config: Map<String, Value>,
    pub skip_launch: bool,
    pub skip_service_registration: bool,
    pub skip_secrets: bool,
    pub min_secrets_version: Option<u64>,
    pub lease_ttl_s: Option<i64>,
    /// Who asks, as a lease names its owner.
    pub owner: String,
}

/// The body of `POST …/machines/{id}`.
#[derive(Clone, Debug, Default)]
pub struct UpdateMachine {
    pub config: Map<String, Value>,
    pub current_version: Option<String>,
    pub skip_launch: bool,
    pub skip_secrets: bool,
    pub min_secrets_version: Option<u64>,
    pub lease_ttl_s: Option<i64>,
    pub owner: String,
}

fn machine_name_ok(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=63).contains(&name.len()) && name.chars().all(allowed)
}

impl World {
    /// Creates a machine in state `created`; it is launched later unless told otherwise.
    ///
    /// # Errors
    /// 400 for the config, 404 for app or volume, 409 for the name, 412 for volume or secrets, 422 for capacity.
    pub fn create_machine(
        &mut self,
        now: Millis,
        app: &str,
        create: CreateMachine,
    ) -> Result<Shared<Machine>, Refusal> {
        let config = Config::check(&create.config, &self.knobs)?;
        let record = self.app(app)?.clone();
        record.secrets.at_least(create.min_secrets_version)?;
        self.check_image(&config.image)?;
        let name = create.name.filter(|name| !name.is_empty()).unwrap_or_else(|| self.ids.name());
        if !machine_name_ok(&name) {
            return Err(Refusal::invalid(&format!("invalid machine name '{name}'")));
        }
        if let Some(twin) = record.machine_named(&name) {
            return Err(Refusal::duplicate_name(&twin.id, &name));
        }
        self.check_machine_limit(&record.org)?;
        let expression = create.region.unwrap_or_default();
        let (region, host) = match &config.mount {
            Some(mount) => self.claimable(now, app, &mount.volume, &expression, config.room())?,
            None => self.place_machine(&expression, config.room())?,
        };
        let id = loop {
            let id = self.ids.machine();
            if !record.machines.contains_key(&id) {
                break id;
            }
        };
        let network = format!("{}/{}", record.org, record.network);
        // Holding on to the record would make the edits below copy the whole app.
        drop(record);
        let lease = create.lease_ttl_s.map(|ttl| self.new_lease(now, Some(ttl), &create.owner, ""));
        let mut machine = Machine {
            id: id.clone(),
            name,
            region,
            host: host.clone(),
            state: MachineState::Created,
            version: self.ids.ulid(now),
            image: ImageRef::parse(&config.image),
            address: self.addresses.take(&network, &host),
            created_at: now,
            updated_at: now,
            cordoned: create.skip_service_registration,
            skip_secrets: create.skip_secrets,
            then_start: !create.skip_launch,
            volume: config.mount.clone(),
            lease,
            run: Run::default(),
            stopped_at: None,
            destroy_when_reachable: false,
            stuck: false,
            slow_start_ms: 0,
            checks: Vec::new(),
            events: VecDeque::new(),
            older: VecDeque::new(),
            timers: BTreeMap::new(),
            memory_limit_mb: None,
            config,
        };
        machine.push_event(self.ids.ulid(now), now, "launch", "created", "user", None);
        self.hosts.take(&host, machine.config.room());
        if let Some(mount) = &machine.volume {
            self.edit_volume(app, &mount.volume)?.claim = Some(id.clone());
        }
        self.edit_app(app)?.machines.insert(id.clone(), Shared::new(machine));
        // Even without a preparation time the machine is answered as `created`.
        self.set_timer(now.after(self.knobs.prepare_ms), app, &id, MachineTimer::Prepared);
        self.peek(app, &id).cloned().ok_or_else(Refusal::machine_not_found)
    }

    fn check_image(&self, reference: &str) -> Result<(), Refusal> {
        let Some(known) = &self.known_images else { return Ok(()) };
        let image = ImageRef::parse(reference);
        let full = format!("{}/{}", image.registry, image.repository);
        match known.contains(reference) || known.contains(&image.repository) || known.contains(&full) {
            true => Ok(()),
            false => Err(Refusal::image_unknown(reference)),
        }
    }

    fn check_machine_limit(&self, org: &str) -> Result<(), Refusal> {
        let Some(limit) = self.knobs.machine_limit else { return Ok(()) };
        let count: usize = self.apps.values().filter(|app| app.org == org).map(|app| app.living().count()).sum();
        if count as u64 >= limit { Err(Refusal::machine_limit()) } else { Ok(()) }
    }

    /// Replaces the whole config; a running machine reboots, another one starts, unless `skip_launch`.
    ///
    /// # Errors
    /// 400 for the config, 404, 408 for a host that does not answer, 409 for lease, version, a running update or
    /// capacity, 412 for states that cannot be updated.
    pub fn update_machine(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        update: UpdateMachine,
    ) -> Result<Shared<Machine>, Gate> {
        let machine = self.usable(now, app, id, nonce, Gated::Refuse)?;
        let config = Config::check(&update.config, &self.knobs)?;
        self.app(app)?.secrets.at_least(update.min_secrets_version)?;
        if let Some(wanted) =
            update.current_version.filter(|version| !version.is_empty() && *version != machine.version)
        {
            tracing::debug!(app, id, wanted, "update against a stale version");
            return Err(Refusal::stale_version(&machine.version).into());
        }
        match machine.state {
            MachineState::Replacing => return Err(Refusal::concurrent_update().into()),
            MachineState::Created | MachineState::Started | MachineState::Stopped => {}
            MachineState::Suspended | MachineState::Failed => {}
            _ if machine.backing_off() => {}
            state => return Err(Refusal::not_allowed("update", state.word()).into()),
        }
        self.check_image(&config.image)?;
        if let Some(mount) = &config.mount {
            let claimed = machine.volume.as_ref().map(|mount| mount.volume.as_str());
            if claimed != Some(mount.volume.as_str()) {
                let text = "the volume of a machine cannot be changed by an update";
                return Err(Refusal::invalid(text).into());
            }
        }
        self.resize(&machine, &config)?;
        let (version, event) = (self.ids.ulid(now), self.ids.ulid(now));
        let lease = update.lease_ttl_s.map(|ttl| self.new_lease(now, Some(ttl), &update.owner, ""));
        let replace_ms = self.knobs.replace_ms;
        let run = machine.run.clone();
        let edit = self.edit_machine(app, id)?;
        let old = OldVersion {
            version: std::mem::replace(&mut edit.version, version),
            config: edit.config.raw.clone(),
            image: edit.image.clone(),
        };
        edit.older.push_front(old);
        edit.older.truncate(VERSIONS_KEPT);
        // The platform resolves a reference once: the same text keeps the same digest.
        if config.image != edit.config.image {
            edit.image = ImageRef::parse(&config.image);
        }
        let stop = edit.config.stop.clone();
        edit.config = config;
        if let (Some(mount), Some(held)) = (&edit.config.mount, &mut edit.volume) {
            held.path.clone_from(&mount.path);
        }
        edit.skip_secrets = update.skip_secrets;
        edit.state = MachineState::Replacing;
        edit.then_start = !update.skip_launch;
        edit.run.count_anew();
        edit.timers.clear();
        if lease.is_some() {
            edit.lease = lease;
        }
        edit.push_event(event, now, "update", "replacing", "user", None);
        let answer = self.peek(app, id).cloned().ok_or_else(Refusal::machine_not_found)?;
        self.set_timer(now.after(replace_ms), app, id, MachineTimer::Replaced);
        if run.live {
            if machine.state == MachineState::Suspended {
                self.effects.push(Effect::Kill { app: app.to_owned(), machine: id.to_owned(), run: run.number });
            } else {
                let (app, machine) = (app.to_owned(), id.to_owned());
                let halt =
                    Effect::Halt { app, machine, run: run.number, signal: stop.signal, timeout_ms: stop.timeout_ms };
                self.effects.push(halt);
            }
        }
        Ok(answer)
    }

    /// Makes the machine's place on its host fit the new config.
    fn resize(&mut self, machine: &Machine, config: &Config) -> Result<(), Refusal> {
        self.hosts.give_back(&machine.host, machine.config.room());
        let fits = self.hosts.get(&machine.host).map_or(Ok(()), |host| {
            let grows = config.guest.memory_mb > machine.config.guest.memory_mb
                || config.guest.cpus > machine.config.guest.cpus;
            if grows { hosts::fits(&self.knobs, host, config.room()) } else { Ok(()) }
        });
        self.hosts.take(&machine.host, if fits.is_ok() { config.room() } else { machine.config.room() });
        fits
    }

    /// A visible machine whose lease lets this caller through and whose host answers.
    fn usable(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        gated: Gated,
    ) -> Result<Shared<Machine>, Gate> {
        let machine = self.machine(now, app, id)?.clone();
        if machine.state == MachineState::Destroyed {
            return Err(Refusal::machine_not_found().into());
        }
        if !self.knobs.lease_blocks_stop_and_destroy {
            machine.gate(now, nonce, Gated::Refuse)?;
        }
        machine.gate(now, nonce, gated)?;
        match self.hosts.reachable(&machine.host) {
            true => Ok(machine),
            false => Err(Refusal::host_unreachable().into()),
        }
    }

    /// Starts a stopped, suspended or failed machine; returns the state it was in.
    ///
    /// # Errors
    /// 404, 408, 409 for a lease or a running machine, 412 for states that cannot start.
    pub fn start_machine(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
    ) -> Result<MachineState, Gate> {
        let machine = self.usable(now, app, id, nonce, Gated::Refuse)?;
        let active = machine.stopped_at.is_some_and(|at| now.since(at) < self.knobs.still_active_ms);
        match machine.state {
            MachineState::Stopped if active => return Err(Refusal::still_active().into()),
            MachineState::Stopped | MachineState::Suspended | MachineState::Failed => {}
            MachineState::Created if !machine.timers.contains_key(&MachineTimer::Prepared) && !machine.stuck => {}
            MachineState::Starting | MachineState::Started => return Err(Refusal::already_starting().into()),
            MachineState::Replacing => return Err(Refusal::replacing_no_start().into()),
            state => return Err(Refusal::not_startable(state.word()).into()),
        }
        self.edit_machine(app, id)?.run.count_anew();
        if machine.state == MachineState::Suspended && machine.run.live {
            self.effects.push(Effect::Thaw { machine: id.to_owned() });
            let event = self.ids.ulid(now);
            let edit = self.edit_machine(app, id)?;
            edit.state = MachineState::Started;
            edit.push_event(event, now, "start", "started", "flyd", None);
        } else {
            self.launch(now, app, id, 0);
        }
        Ok(machine.state)
    }

    /// Stops a machine; a stopped one stays stopped.
    ///
    /// # Errors
    /// 404, 408, 412 for states that cannot stop; [`Gate::Leased`] while someone else holds the lease.
    pub fn stop_machine(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        signal: Option<&str>,
        timeout_ms: Option<u64>,
    ) -> Result<(), Gate> {
        let machine = self.usable(now, app, id, nonce, Gated::Wait)?;
        match machine.state {
            MachineState::Stopped | MachineState::Stopping => return Ok(()),
            MachineState::Created | MachineState::Failed | MachineState::Suspended | MachineState::Started => {}
            _ if machine.backing_off() => {}
            state => return Err(Refusal::not_allowed("stop", state.word()).into()),
        }
        let stop_ms = self.knobs.stop_ms;
        let edit = self.edit_machine(app, id)?;
        edit.state = MachineState::Stopping;
        edit.run.stop_requested = true;
        edit.then_start = false;
        edit.timers.clear();
        edit.updated_at = now;
        if stop_ms > 0 {
            self.set_timer(now.after(stop_ms), app, id, MachineTimer::Stopped);
        }
        if machine.run.live {
            let (app, id, run) = (app.to_owned(), id.to_owned(), machine.run.number);
            self.effects.push(match machine.state {
                MachineState::Suspended => Effect::Kill { app, machine: id, run },
                _ => {
                    let stop = &machine.config.stop;
                    let signal = signal.unwrap_or(&stop.signal).to_owned();
                    Effect::Halt { app, machine: id, run, signal, timeout_ms: timeout_ms.unwrap_or(stop.timeout_ms) }
                }
            });
        }
        self.settle(now, app, id);
        Ok(())
    }

    /// Stops and starts a machine in one go; one that does not run is started.
    ///
    /// # Errors
    /// 404, 408, 409 for a lease, 412 for states between.
    pub fn restart_machine(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        signal: Option<&str>,
        timeout_ms: Option<u64>,
    ) -> Result<(), Gate> {
        let machine = self.usable(now, app, id, nonce, Gated::Refuse)?;
        match machine.state {
            MachineState::Started => {}
            MachineState::Stopped | MachineState::Suspended | MachineState::Failed => {
                return self.start_machine(now, app, id, nonce).map(drop);
            }
            state => return Err(Refusal::not_allowed("restart", state.word()).into()),
        }
        let event = self.ids.ulid(now);
        let edit = self.edit_machine(app, id)?;
        edit.state = MachineState::Restarting;
        edit.run.stop_requested = true;
        edit.run.count_anew();
        edit.push_event(event, now, "restart", "restarting", "user", None);
        let stop = &machine.config.stop;
        self.effects.push(Effect::Halt {
            app: app.to_owned(),
            machine: id.to_owned(),
            run: machine.run.number,
            signal: signal.unwrap_or(&stop.signal).to_owned(),
            timeout_ms: timeout_ms.unwrap_or(stop.timeout_ms),
        });
        Ok(())
    }

    /// # Errors
    /// 404, 408, 409 for a lease, 412 unless it is started, or when its config cannot be suspended.
    pub fn suspend_machine(&mut self, now: Millis, app: &str, id: &str, nonce: Option<&str>) -> Result<(), Gate> {
        let machine = self.usable(now, app, id, nonce, Gated::Refuse)?;
        match machine.state {
            MachineState::Suspended => return Ok(()),
            MachineState::Started => {}
            state => return Err(Refusal::not_allowed("suspend", state.word()).into()),
        }
        if machine.config.guest.memory_mb > 2048 || machine.config.raw.contains_key("schedule") {
            let text = "failed_precondition: machine is not suitable for suspension";
            return Err(Refusal { status: 412, error: text.to_owned(), code: None }.into());
        }
        let event = self.ids.ulid(now);
        let edit = self.edit_machine(app, id)?;
        edit.state = MachineState::Suspended;
        edit.push_event(event, now, "suspend", "suspended", "flyd", None);
        self.effects.push(Effect::Freeze { machine: id.to_owned() });
        Ok(())
    }

    /// # Errors
    /// 404, 408, 412 unless it is started.
    pub fn signal_machine(&mut self, now: Millis, app: &str, id: &str, signal: &str) -> Result<(), Gate> {
        let machine = self.machine(now, app, id)?;
        if machine.state != MachineState::Started {
            return Err(Refusal::not_allowed("signal", machine.state.word()).into());
        }
        if !self.hosts.reachable(&machine.host) {
            return Err(Refusal::host_unreachable().into());
        }
        self.effects.push(Effect::Signal { machine: id.to_owned(), to: Processes::Main, signal: signal.to_owned() });
        Ok(())
    }

    /// # Errors
    /// 404, 408, 409 for a lease.
    pub fn cordon_machine(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        cordoned: bool,
    ) -> Result<(), Gate> {
        let machine = self.usable(now, app, id, nonce, Gated::Refuse)?;
        if machine.cordoned != cordoned {
            self.edit_machine(app, id)?.cordoned = cordoned;
        }
        Ok(())
    }

    /// Accepts the destruction of a machine; on a host that does not answer it is only noted down.
    ///
    /// # Errors
    /// 404, 412 unless it rests (or `force`); [`Gate::Leased`] while someone else holds the lease.
    pub fn destroy_machine(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        force: bool,
    ) -> Result<(), Gate> {
        let machine = self.machine(now, app, id)?.clone();
        if machine.state == MachineState::Destroyed {
            return Err(Refusal::machine_not_found().into());
        }
        let gated = if self.knobs.lease_blocks_stop_and_destroy { Gated::Wait } else { Gated::Refuse };
        machine.gate(now, nonce, gated)?;
        let resting = matches!(
            machine.state,
            MachineState::Stopped | MachineState::Suspended | MachineState::Failed | MachineState::Created
        );
        if !force && !resting {
            return Err(Refusal::not_destroyable().into());
        }
        self.tear_down(now, app, id);
        Ok(())
    }

    /// Merges metadata: `None` and `""` remove a key. No new version.
    ///
    /// # Errors
    /// 404, 412 when `version` is given and stale.
    pub fn merge_metadata(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        values: &BTreeMap<String, Option<String>>,
        version: Option<&str>,
    ) -> Result<(), Refusal> {
        let machine = self.machine(now, app, id)?;
        if version.is_some_and(|version| !version.is_empty() && version != machine.version) {
            return Err(Refusal::stale_metadata_version(&machine.version));
        }
        let edit = self.edit_machine(app, id)?;
        for (key, value) in values {
            edit.config.set_metadata(key, value.as_deref());
        }
        edit.updated_at = now;
        Ok(())
    }

    /// Sets the balloon target in MiB; returns `(limit, available)`.
    ///
    /// # Errors
    /// 400 above the guest's memory, 404.
    pub fn set_memory_limit(&mut self, now: Millis, app: &str, id: &str, limit_mb: u64) -> Result<(u64, u64), Refusal> {
        let most = self.machine(now, app, id)?.config.guest.memory_mb;
        if limit_mb == 0 || limit_mb > most {
            return Err(Refusal::invalid(&format!("limit_mb must be inside range [1, {most}]")));
        }
        self.edit_machine(app, id)?.memory_limit_mb = Some(limit_mb);
        Ok((limit_mb, limit_mb))
    }
}
