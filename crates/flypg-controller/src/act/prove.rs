//! Proof that a Machine has stopped (fence F3, protocol §2.4): the only thing that the platform is believed about an old
//! primary.

use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_machines::types::{EventType, GoDuration, HostStatus, Machine, MachineState, Signal, StopMachine, WaitState};
use flypg_machines::{lifecycle, machines};

use super::{ActError, LiveActuator, Trouble};
use crate::clock;

/// For each call. A host that answers does so at once; one that does not proves nothing however long it is asked.
const PATIENCE: Duration = Duration::from_secs(4);
/// What the Machine's init has to end everything before the host does.
const STOP_TIMEOUT_MS: i64 = 500;
/// For the Machine to have stopped.
const STOPPING: Duration = Duration::from_secs(5);
/// How far the clocks of a host and of this computer may be apart (protocol §2.4).
const SKEW_MS: i64 = 2_000;
/// Between two reads that must agree.
const APART: Duration = Duration::from_secs(1);

/// Why what was seen is no proof.
type Lacks = &'static str;

impl LiveActuator {
    /// Stops `machine` at once and proves that what ran in it when this was called has ended.
    ///
    /// What counts is an end that the platform tells of after the newest event before our own order: neither a state that
    /// a list shows, nor an order that was accepted, nor a Machine that is not found.
    pub(super) async fn prove_stopped(&self, app: &ClusterName, machine: &str) -> Result<(), ActError> {
        let proof = self.vigil.prove(machine);
        let at = clock::mono();
        let before = self.look_at(app, machine).await?;
        let unproven = |lacks| ActError::MaybeDone(Trouble::Unproven { machine: machine.to_owned(), lacks });
        let noted = newest(&before).ok_or_else(|| unproven("it has no events to go by"))?.to_owned();
        if !host_answers(&before) {
            return Err(unproven("its host does not answer"));
        }
        if before.state == MachineState::Stopped {
            let heard = self.vigil.first_heard(machine).ok_or_else(|| unproven("it was never heard"))?;
            let end = ended_later_than(&before, heard).map_err(unproven)?;
            tokio::time::sleep(APART).await;
            if ended_later_than(&self.look_at(app, machine).await?, heard).map_err(unproven)? != end {
                return Err(unproven("two reads of it differ"));
            }
            proof.succeeded(at);
            return Ok(());
        }
        let at_once = StopMachine {
            signal: Some(Signal::Kill),
            timeout: Some(GoDuration::from_millis(STOP_TIMEOUT_MS)),
            ..StopMachine::default()
        };
        self.under_lease(app, machine, lifecycle::stop(app.as_str(), machine, &at_once)).await?;
        let mut wait = lifecycle::Wait::until(WaitState::Stopped, STOPPING);
        wait.from_event_id = Some(noted.clone());
        let waited = self.fly.send_within(lifecycle::wait(app.as_str(), machine, &wait), STOPPING + PATIENCE).await?;
        if !matches!(waited, lifecycle::Waited::Reached(_)) {
            return Err(unproven("it does not stop"));
        }
        let end = ended_after(&self.look_at(app, machine).await?, &noted).map_err(unproven)?;
        tokio::time::sleep(APART).await;
        if ended_after(&self.look_at(app, machine).await?, &noted).map_err(unproven)? != end {
            return Err(unproven("two reads of it differ"));
        }
        proof.succeeded(at);
        Ok(())
    }

    async fn look_at(&self, app: &ClusterName, machine: &str) -> Result<Machine, ActError> {
        Ok(self.fly.send_within(machines::get(app.as_str(), machine), PATIENCE).await?)
    }
}

/// Events are listed newest first.
fn newest(machine: &Machine) -> Option<&str> {
    machine.events.first()?.id.as_deref()
}

fn host_answers(machine: &Machine) -> bool {
    machine.host_status == Some(HostStatus::Ok)
}

/// The id of the event by which a Machine that was found stopped has ended, if that was after its agent was first heard
/// in its last boot: an end from before says nothing of that boot. Clocks of two computers are compared here, and
/// [`SKEW_MS`] is what they may differ by.
fn ended_later_than(machine: &Machine, heard: Timestamp) -> Result<String, Lacks> {
    if !host_answers(machine) {
        return Err("its host does not answer");
    }
    if machine.state != MachineState::Stopped {
        return Err("it does not stay stopped");
    }
    match machine.events.iter().find(|event| lives(&event.event_type)) {
        Some(event) if event.event_type == EventType::Exit => {
            let late = heard.as_millisecond() + SKEW_MS;
            if event.timestamp <= late {
                return Err("its last end may be of an earlier boot");
            }
            event.id.clone().ok_or("its last event has no id")
        }
        Some(_) => Err("it has begun to run again"),
        None => Err("nothing tells of its end"),
    }
}

/// Tells of a Machine's life; configuration and the like may change at any time.
fn lives(event: &EventType) -> bool {
    matches!(event, EventType::Launch | EventType::Start | EventType::Exit)
}

/// The id of the event by which what ran at `noted` has ended, if nothing has begun since.
fn ended_after(machine: &Machine, noted: &str) -> Result<String, Lacks> {
    if !host_answers(machine) {
        return Err("its host does not answer");
    }
    if machine.state != MachineState::Stopped {
        return Err("it does not stay stopped");
    }
    let since: Vec<_> = machine.events.iter().take_while(|event| event.id.as_deref() != Some(noted)).collect();
    if since.len() == machine.events.len() {
        return Err("what was noted of it before is not among its events");
    }
    match since.into_iter().find(|event| lives(&event.event_type)) {
        Some(event) if event.event_type == EventType::Exit => event.id.clone().ok_or("its last event has no id"),
        Some(_) => Err("it has begun to run again"),
        None => Err("nothing tells of its end"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn machine(state: &str, host: &str, events: &[(&str, &str)]) -> Machine {
        let event = |(id, kind): &(&str, &str)| json!({ "id": id, "type": kind, "status": "x", "timestamp": 1 });
        let events: Vec<_> = events.iter().map(event).collect();
        serde_json::from_value(json!({
            "id": "m1", "name": "ord-1", "state": state, "region": "ord", "host_status": host, "events": events
        }))
        .unwrap()
    }

    #[test]
    fn a_machine_that_was_found_stopped_has_ended_if_that_was_in_its_last_boot() {
        let heard = Timestamp::from_millisecond(10_000).unwrap();
        let stopped = |at: i64| {
            let mut machine = machine("stopped", "ok", &[("3", "exit"), ("2", "start")]);
            machine.events[0].timestamp = at;
            machine
        };
        assert!(ended_later_than(&stopped(12_000), heard).is_err());
        assert_eq!(ended_later_than(&stopped(12_001), heard), Ok("3".to_owned()));
        let mut elsewhere = stopped(60_000);
        elsewhere.host_status = Some(HostStatus::Unreachable);
        assert!(ended_later_than(&elsewhere, heard).is_err());
    }

    #[test]
    fn only_an_end_after_what_was_noted_proves_it() {
        let proven = machine("stopped", "ok", &[("3", "exit"), ("2", "start"), ("1", "launch")]);
        assert_eq!(ended_after(&proven, "2"), Ok("3".to_owned()));
        let with_more = machine("stopped", "ok", &[("4", "update"), ("3", "exit"), ("2", "start")]);
        assert_eq!(ended_after(&with_more, "2"), Ok("3".to_owned()));
        for (what, machine) in [
            ("an end of an earlier run", machine("stopped", "ok", &[("3", "start"), ("2", "start"), ("1", "exit")])),
            ("no event since", machine("stopped", "ok", &[("2", "start"), ("1", "launch")])),
            ("a start since its end", machine("stopped", "ok", &[("4", "start"), ("3", "exit"), ("2", "start")])),
            ("a host that is silent", machine("stopped", "unreachable", &[("3", "exit"), ("2", "start")])),
            ("a host that nobody knows of", machine("stopped", "unknown", &[("3", "exit"), ("2", "start")])),
            ("a state that is not stopped", machine("stopping", "ok", &[("3", "exit"), ("2", "start")])),
            ("one that is on its way out", machine("destroying", "ok", &[("3", "exit"), ("2", "start")])),
            ("events that do not reach back", machine("stopped", "ok", &[("4", "exit"), ("3", "start")])),
            ("no events", machine("stopped", "ok", &[])),
        ] {
            assert!(ended_after(&machine, "2").is_err(), "{what} is no proof");
        }
    }
}
