//! What `GET …/wait` waits for.

use super::machine::{Machine, MachineState};

/// The parameters of a wait.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `started`, `stopped`, `suspended`, `destroyed`, `failed`, `settled`; any of them will do.
    pub states: Vec<String>,
    pub version: Option<String>,
    pub from_event: Option<String>,
}

/// How far the machine is from what is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    Reached,
    NotYet,
    /// It rests, and not there.
    Hopeless,
}

/// The states one can wait for.
pub const WAITABLE: [&str; 6] = ["started", "stopped", "suspended", "destroyed", "failed", "settled"];

impl Wanted {
    /// Compares a machine with what is wanted.
    #[must_use]
    pub fn progress(&self, machine: &Machine) -> Progress {
        let prepared = machine.state != MachineState::Created || !machine.timers.is_empty() || machine.then_start;
        let rests = machine.state.resting() && (machine.state != MachineState::Created || !prepared);
        let version_ok = self.version.as_ref().is_none_or(|version| *version == machine.version);
        let event_ok = self.from_event.as_ref().is_none_or(|from| machine.events.front().is_some_and(|e| e.id > *from));
        let state_ok = self.states.iter().any(|state| match state.as_str() {
            "settled" => rests,
            state => state == machine.state.word(),
        });
        // A version that was replaced has run its course, whatever the machine does now.
        let outdated = !version_ok
            && self.states.iter().any(|state| matches!(state.as_str(), "stopped" | "destroyed" | "settled"));
        if (state_ok && version_ok && event_ok) || (outdated && event_ok && rests) {
            Progress::Reached
        } else if rests && machine.state != MachineState::Started {
            Progress::Hopeless
        } else {
            Progress::NotYet
        }
    }
}
