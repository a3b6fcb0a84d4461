//! `/v1/apps/{app}/machines/{machine}/…`: start, stop, wait, exec.

use std::time::Duration;

use http::Method;

use super::{Idempotence, Path, Received, Request, json, json_or_empty};
use crate::bucket::BucketKey;
use crate::error::Reason;
use crate::types::{
    Ack, ExecRequest, ExecResponse, GoDuration, MachineState, Signal, SignalMachine, StartResponse, StopMachine,
    WaitResponse, WaitState,
};

/// What a client allows on top of the time that the server may take by design.
const MARGIN: Duration = Duration::from_secs(10);

/// What a start came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Started {
    Accepted(StartResponse),
    /// It was starting or running before.
    Already,
}

/// Starts a stopped or suspended Machine. Refused while it is `created` (image on its way), `replacing`,
/// `stopping`, and for a moment after it stopped.
pub fn start(app: &str, machine: &str) -> Request<Started> {
    fn read(received: &Received<'_>) -> Result<Started, serde_json::Error> {
        json_or_empty(received).map(Started::Accepted)
    }
    post(app, machine, "start", "machines.start", Idempotence::Repeatable, read)
        .settling(|reason| matches!(reason, Reason::AlreadyStarting).then_some(Started::Already))
}

/// Asks a Machine to stop; the answer only means that it was asked. Under somebody else's lease it hangs until that
/// ends.
pub fn stop(app: &str, machine: &str, stop: &StopMachine) -> Request<Ack> {
    let request = post(app, machine, "stop", "machines.stop", Idempotence::Repeatable, json_or_empty);
    if *stop == StopMachine::default() { request } else { request.with_body(stop) }
}

/// How to restart a Machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartMachine {
    /// How long it may take to stop.
    pub timeout: Option<GoDuration>,
    pub signal: Option<Signal>,
    pub force_stop: bool,
}

/// Stops and starts a Machine without changing its configuration.
pub fn restart(app: &str, machine: &str, restart: &RestartMachine) -> Request<Ack> {
    post(app, machine, "restart", "machines.restart", Idempotence::Once, json_or_empty)
        .with_query_if("timeout", restart.timeout)
        .with_query_if("signal", restart.signal.as_ref())
        .with_flag("force_stop", restart.force_stop)
}

/// Signals the Machine's main process.
pub fn signal(app: &str, machine: &str, signal: Signal) -> Request<()> {
    post(app, machine, "signal", "machines.signal", Idempotence::Once, super::nothing)
        .with_body(&SignalMachine { signal })
}

/// Takes the Machine out of Fly's proxy; it keeps running.
pub fn cordon(app: &str, machine: &str) -> Request<Ack> {
    post(app, machine, "cordon", "machines.cordon", Idempotence::Repeatable, json_or_empty)
}

/// Undoes [`cordon`].
pub fn uncordon(app: &str, machine: &str) -> Request<Ack> {
    post(app, machine, "uncordon", "machines.uncordon", Idempotence::Repeatable, json_or_empty)
}

/// What to wait for, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Wait {
    /// Any of these; `started` if empty.
    pub states: Vec<WaitState>,
    /// The server takes 1 to 60 seconds and refuses anything else: it is brought into that range.
    pub timeout: Duration,
    pub version: Option<String>,
    /// Only what happens after this event.
    pub from_event_id: Option<String>,
}

impl Wait {
    pub fn until(state: WaitState, timeout: Duration) -> Self {
        Self { states: vec![state], timeout, version: None, from_event_id: None }
    }
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Waited {
    Reached(WaitResponse),
    /// Waited for `destroyed`, and the Machine is no more.
    Gone,
    /// Not within the timeout; `currently` is where it was instead.
    NotYet {
        currently: Option<MachineState>,
    },
}

/// Waits until a Machine is in one of the wanted states (a long poll). `started` means that its processes run, not
/// that they are ready.
pub fn wait(app: &str, machine: &str, wait: &Wait) -> Request<Waited> {
    fn read(received: &Received<'_>) -> Result<Waited, serde_json::Error> {
        json(received).map(Waited::Reached)
    }
    fn not_yet(reason: &Reason) -> Option<Waited> {
        match reason {
            Reason::WaitTimedOut { currently, .. } => Some(Waited::NotYet { currently: currently.clone() }),
            _ => None,
        }
    }
    fn not_yet_or_gone(reason: &Reason) -> Option<Waited> {
        if reason.is_not_found() { Some(Waited::Gone) } else { not_yet(reason) }
    }

    let seconds = wait.timeout.as_secs().clamp(1, 60);
    let states: Vec<&str> = wait.states.iter().map(WaitState::as_str).collect();
    let settle = if wait.states == [WaitState::Destroyed] { not_yet_or_gone } else { not_yet };
    Request::new(
        Method::GET,
        Path::machine(app, machine).then("wait"),
        Idempotence::Read,
        BucketKey::new("machines.wait", machine),
        read,
    )
    .with_query_if("state", (!states.is_empty()).then(|| states.join(",")))
    .with_query("timeout", seconds)
    .with_query_if("version", wait.version.as_ref())
    .with_query_if("from_event_id", wait.from_event_id.as_ref())
    .with_min_timeout(Duration::from_secs(seconds) + MARGIN)
    .settling(settle)
}

/// Runs a command in a started Machine. The call succeeds whether or not the command does: look at `exit_code`.
/// A command that only reads may be made [`Request::idempotent`].
pub fn exec(app: &str, machine: &str, exec: &ExecRequest) -> Request<ExecResponse> {
    let request = post(app, machine, "exec", "machines.exec", Idempotence::Once, json).with_body(exec);
    match exec.timeout {
        Some(seconds) => request.with_min_timeout(Duration::from_secs(seconds) + MARGIN),
        None => request,
    }
}

fn post<T>(
    app: &str,
    machine: &str,
    verb: &str,
    action: &'static str,
    idempotence: Idempotence,
    read: fn(&Received<'_>) -> Result<T, serde_json::Error>,
) -> Request<T> {
    let path = Path::machine(app, machine).then(verb);
    Request::new(Method::POST, path, idempotence, BucketKey::new(action, machine), read)
}
