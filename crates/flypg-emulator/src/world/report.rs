//! What happens to machines by themselves: time passes, processes come and go.

use serde::{Deserialize, Serialize};

use super::config::Restart;
use super::lease::Gated;
use super::machine::{CheckStatus, Exit, MachineState, MachineTimer, exit_request};
use super::refusal::{Gate, Refusal};
use super::shared::Shared;
use super::time::Millis;
use super::{Due, Effect, World};

/// What the runtime has to tell. Reports about a run that is over are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The processes of this run are up.
    Started { app: String, machine: String, run: u64 },
    /// They could not be launched at all.
    BootFailed { app: String, machine: String, run: u64, reason: String },
    /// The main process ended and nothing of the run is left.
    Exited { app: String, machine: String, run: u64, exit: Exit },
    /// An adopted run was shut down in order when the emulator stopped: boot it again, this is not a crash.
    Gone { app: String, machine: String, run: u64 },
    /// Health checks changed.
    Checked { app: String, machine: String, run: u64, checks: Vec<CheckStatus> },
    /// A new volume has its content.
    VolumeFilled { app: String, volume: String },
    /// Bytes in use on a volume.
    Measured { app: String, volume: String, bytes_used: u64 },
    /// A snapshot is written.
    SnapshotTaken { app: String, volume: String, snapshot: String, size: u64 },
}

/// Restarts by policy are counted within this window.
const RESTART_WINDOW_MS: u64 = 5 * 60 * 1000;

impl World {
    pub(crate) fn set_timer(&mut self, at: Millis, app: &str, id: &str, timer: MachineTimer) {
        if let Ok(machine) = self.edit_machine(app, id) {
            machine.timers.insert(timer, at);
        }
        self.set_due(at, Due::Machine(app.to_owned(), id.to_owned(), timer));
    }

    pub(crate) fn machine_due(&mut self, now: Millis, at: Millis, app: &str, id: &str, timer: MachineTimer) {
        // A timer that was cleared or set anew leaves its old entry on the agenda.
        if self.peek(app, id).and_then(|machine| machine.timers.get(&timer)) != Some(&at) {
            return;
        }
        if timer == MachineTimer::Forget {
            self.touch_app(app);
            if let Some(app) = self.apps.get_mut(app) {
                app.edit().machines.remove(id);
            }
            return;
        }
        if let Ok(machine) = self.edit_machine(app, id) {
            machine.timers.remove(&timer);
        }
        self.settle(now, app, id);
    }

    /// Moves a machine on as far as it can go by itself. Safe to call at any time.
    pub(crate) fn settle(&mut self, now: Millis, app: &str, id: &str) {
        let Some(machine) = self.peek(app, id).cloned() else { return };
        if machine.stuck {
            return;
        }
        let waits = |timer: MachineTimer| machine.timers.contains_key(&timer);
        let reachable = self.hosts.reachable(&machine.host);
        match machine.state {
            MachineState::Created if !waits(MachineTimer::Prepared) => {
                if machine.then_start {
                    self.launch(now, app, id, 0);
                } else if !self.knobs.rest_at_created {
                    self.come_to_rest(now, app, id, MachineState::Stopped);
                }
            }
            MachineState::Starting if !machine.run.live && !waits(MachineTimer::Launch) => self.emit_boot(app, id),
            // Lost while the host was out of sight.
            MachineState::Started if !machine.run.live && reachable => self.launch(now, app, id, 0),
            MachineState::Stopping if !machine.run.live && !waits(MachineTimer::Stopped) => {
                self.come_to_rest(now, app, id, MachineState::Stopped);
            }
            MachineState::Restarting if !machine.run.live => self.launch(now, app, id, 0),
            MachineState::Replacing if !machine.run.live && !waits(MachineTimer::Replaced) => {
                if machine.then_start {
                    self.launch(now, app, id, 0);
                } else {
                    self.come_to_rest(now, app, id, MachineState::Stopped);
                }
            }
            MachineState::Destroying if !machine.run.live && !waits(MachineTimer::Destroyed) && reachable => {
                self.bury(now, app, id);
            }
            _ => {}
        }
    }

    fn come_to_rest(&mut self, now: Millis, app: &str, id: &str, state: MachineState) {
        let Ok(machine) = self.edit_machine(app, id) else { return };
        machine.state = state;
        machine.stopped_at = Some(now);
        machine.updated_at = now;
        machine.checks.clear();
        if machine.config.auto_destroy && state == MachineState::Stopped && machine.run.number > 0 {
            self.tear_down(now, app, id);
        }
    }

    /// Begins a boot; `delay_ms` comes on top of the knob and of a slow start.
    pub(crate) fn launch(&mut self, now: Millis, app: &str, id: &str, delay_ms: u64) {
        let start_ms = self.knobs.start_ms;
        let Ok(machine) = self.edit_machine(app, id) else { return };
        machine.state = MachineState::Starting;
        machine.then_start = false;
        machine.stopped_at = None;
        machine.run.number += 1;
        machine.run.live = false;
        machine.run.stop_requested = false;
        machine.updated_at = now;
        let delay = delay_ms + start_ms + machine.slow_start_ms;
        if delay > 0 {
            self.set_timer(now.after(delay), app, id, MachineTimer::Launch);
        } else {
            self.settle(now, app, id);
        }
    }

    /// Hands the boot to the runtime, unless the volume is still being filled.
    fn emit_boot(&mut self, app: &str, id: &str) {
        let Some(machine) = self.peek(app, id) else { return };
        let mount = machine.config.mount.as_ref();
        let volume = mount.and_then(|mount| self.apps.get(app)?.volumes.get(&mount.volume));
        if volume.is_some_and(|volume| volume.filling.is_some()) {
            return;
        }
        if let Ok(machine) = self.edit_machine(app, id) {
            machine.run.live = true;
        }
        let machine = self.peek(app, id).cloned();
        if let Some(boot) = machine.and_then(|machine| self.boot_of(app, &machine)) {
            self.effects.push(Effect::Boot(Box::new(boot)));
        }
    }

    /// Destroys a machine in whatever state it is. On a host that does not answer this is only noted down.
    pub(crate) fn tear_down(&mut self, now: Millis, app: &str, id: &str) {
        let Some(machine) = self.peek(app, id).cloned() else { return };
        if matches!(machine.state, MachineState::Destroying | MachineState::Destroyed) {
            return;
        }
        let reachable = self.hosts.reachable(&machine.host);
        let (event, destroy_ms) = (self.ids.ulid(now), self.knobs.destroy_ms);
        let Ok(edit) = self.edit_machine(app, id) else { return };
        edit.state = MachineState::Destroying;
        edit.then_start = false;
        edit.run.stop_requested = true;
        edit.timers.clear();
        edit.lease = None;
        edit.destroy_when_reachable = !reachable;
        edit.push_event(event, now, "destroy", "destroying", "user", None);
        self.set_timer(now.after(destroy_ms), app, id, MachineTimer::Destroyed);
        if machine.run.live && reachable {
            self.effects.push(Effect::Kill { app: app.to_owned(), machine: id.to_owned(), run: machine.run.number });
        }
    }

    /// The machine is gone: its name, address, room and volume are free.
    fn bury(&mut self, now: Millis, app: &str, id: &str) {
        let (event, kept_ms) = (self.ids.ulid(now), self.knobs.destroyed_kept_ms);
        let Ok(machine) = self.edit_machine(app, id) else { return };
        machine.state = MachineState::Destroyed;
        machine.checks.clear();
        machine.push_event(event, now, "destroy", "destroyed", "flyd", None);
        let (host, room, address) = (machine.host.clone(), machine.config.room(), machine.address.clone());
        let volume = machine.volume.take();
        self.hosts.give_back(&host, room);
        self.addresses.give_back(&address);
        if let Some(mount) = volume {
            let lingers_until = now.after(self.knobs.claim_lingers_ms);
            if let Ok(volume) = self.edit_volume(app, &mount.volume)
                && volume.claim.as_deref() == Some(id)
            {
                volume.claim = None;
                volume.claim_lingers_until = Some(lingers_until);
            }
        }
        self.effects.push(Effect::Discard { machine: id.to_owned() });
        self.set_timer(now.after(kept_ms), app, id, MachineTimer::Forget);
    }

    pub(crate) fn take_report(&mut self, now: Millis, report: Report) {
        match report {
            Report::Started { app, machine, run } => self.on_started(now, &app, &machine, run),
            Report::BootFailed { app, machine, run, reason } => self.on_boot_failed(now, &app, &machine, run, &reason),
            Report::Exited { app, machine, run, exit } => self.on_exited(now, &app, &machine, run, exit),
            Report::Gone { app, machine, run } => self.on_gone(now, &app, &machine, run),
            Report::Checked { app, machine, run, checks } => {
                let current = self.peek(&app, &machine).filter(|m| m.run.number == run && m.checks != checks);
                if current.is_some_and(|machine| self.hosts.reachable(&machine.host))
                    && let Ok(machine) = self.edit_machine(&app, &machine)
                {
                    machine.checks = checks;
                }
            }
            Report::VolumeFilled { app, volume } => self.on_volume_filled(now, &app, &volume),
            Report::Measured { app, volume, bytes_used } => {
                if self
                    .apps
                    .get(&app)
                    .and_then(|app| app.volumes.get(&volume))
                    .is_some_and(|v| v.bytes_used != bytes_used)
                    && let Ok(volume) = self.edit_volume(&app, &volume)
                {
                    volume.bytes_used = bytes_used;
                }
            }
            Report::SnapshotTaken { app, volume, snapshot, size } => {
                self.on_snapshot_taken(now, &app, &volume, &snapshot, size);
            }
        }
    }

    /// The machine, if this report is about its present run.
    fn current(&self, app: &str, id: &str, run: u64) -> Option<Shared<super::machine::Machine>> {
        self.peek(app, id).filter(|machine| machine.run.number == run).cloned()
    }

    fn on_started(&mut self, now: Millis, app: &str, id: &str, run: u64) {
        let Some(machine) = self.current(app, id, run) else { return };
        if machine.state != MachineState::Starting || machine.stuck {
            return;
        }
        let event = self.ids.ulid(now);
        let Ok(machine) = self.edit_machine(app, id) else { return };
        machine.state = MachineState::Started;
        machine.push_event(event, now, "start", "started", "flyd", None);
        let mount = machine.config.mount.clone();
        if let Some(mount) = mount
            && self.apps.get(app).and_then(|app| app.volumes.get(&mount.volume)).is_some_and(|v| !v.mounted_once)
            && let Ok(volume) = self.edit_volume(app, &mount.volume)
        {
            volume.mounted_once = true;
        }
    }

    fn on_boot_failed(&mut self, now: Millis, app: &str, id: &str, run: u64, reason: &str) {
        let Some(machine) = self.current(app, id, run) else { return };
        tracing::warn!(app, id, reason, "machine could not be launched");
        let event = self.ids.ulid(now);
        let Ok(edit) = self.edit_machine(app, id) else { return };
        edit.run.live = false;
        if machine.state == MachineState::Starting {
            edit.state = MachineState::Failed;
            let request = serde_json::json!({ "error": reason });
            edit.push_event(event, now, "launch", "failed", "flyd", Some(request));
        }
        self.settle(now, app, id);
    }

    fn on_gone(&mut self, now: Millis, app: &str, id: &str, run: u64) {
        let Some(machine) = self.current(app, id, run) else { return };
        if let Ok(edit) = self.edit_machine(app, id) {
            edit.run.live = false;
        }
        match machine.state {
            MachineState::Starting | MachineState::Started => self.launch(now, app, id, 0),
            MachineState::Suspended => {}
            _ => self.settle(now, app, id),
        }
    }

    fn on_exited(&mut self, now: Millis, app: &str, id: &str, run: u64, exit: Exit) {
        let Some(machine) = self.current(app, id, run) else { return };
        let reachable = self.hosts.reachable(&machine.host);
        let unasked = matches!(machine.state, MachineState::Starting | MachineState::Started | MachineState::Suspended);
        let Ok(edit) = self.edit_machine(app, id) else { return };
        edit.run.live = false;
        if !reachable {
            return;
        }
        let backoff = if unasked { self.restart_by_policy(now, app, id, exit) } else { None };
        let event = self.ids.ulid(now);
        let Ok(edit) = self.edit_machine(app, id) else { return };
        let requested =
            matches!(edit.state, MachineState::Stopping | MachineState::Restarting | MachineState::Destroying);
        let request = exit_request(exit, now, requested, backoff.is_some(), edit.run.restarts);
        edit.checks.clear();
        edit.push_event(event, now, "exit", "stopped", "flyd", Some(request));
        match backoff {
            Some(delay) => self.launch(now, app, id, delay),
            None if unasked => self.come_to_rest(now, app, id, MachineState::Stopped),
            None => self.settle(now, app, id),
        }
    }

    /// Whether the restart policy restarts, and after how long.
    fn restart_by_policy(&mut self, now: Millis, app: &str, id: &str, exit: Exit) -> Option<u64> {
        let backoff = self.knobs.restart_backoff_ms;
        let machine = self.edit_machine(app, id).ok()?;
        if machine.stuck {
            return None;
        }
        machine.run.recent_restarts.retain(|at| now.since(*at) < RESTART_WINDOW_MS);
        let recent = machine.run.recent_restarts.len();
        let again = match machine.config.restart {
            Restart::No => false,
            Restart::Always => true,
            Restart::OnFailure { retries } => !exit.clean() && recent < retries as usize,
        };
        if !again {
            return None;
        }
        machine.run.restarts += 1;
        machine.run.recent_restarts.push(now);
        Some(backoff << recent.min(5))
    }

    /// Whether `exec` and `ps` may run now.
    ///
    /// # Errors
    /// 404, 408, 409 for a lease, 412 unless it is started.
    pub fn may_exec(
        &self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        gated: bool,
    ) -> Result<Shared<super::machine::Machine>, Gate> {
        let machine = self.machine(now, app, id)?;
        if gated {
            machine.gate(now, nonce, Gated::Refuse)?;
        }
        if machine.state != MachineState::Started {
            return Err(Refusal::not_allowed("exec on", machine.state.word()).into());
        }
        if !self.hosts.reachable(&machine.host) {
            return Err(Refusal::host_unreachable().into());
        }
        Ok(machine.clone())
    }
}
