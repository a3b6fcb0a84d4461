//! Agents called through the Machines API: `flypg-agent call` on the node, which knows its own address and key. For
//! where the private network cannot be reached: a laptop, a CI runner.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flypg_machines::types::{ExecRequest, ExecResponse};
use flypg_machines::{Client, lifecycle};
use reqwest::StatusCode;
use tokio::time::Instant;

use super::{AgentError, Call, Seat, words_of};

/// Between two reports of a node: what would be one long poll is a call of the Machines API each time.
pub(super) const BETWEEN_REPORTS: Duration = Duration::from_secs(3);
/// What starting a command in a Machine takes beyond the call itself.
const START: Duration = Duration::from_secs(8);
/// For so long no other way is looked for.
const ONLY_WAY: Duration = Duration::from_secs(60);

/// Nor this one, after it led nowhere.
const NO_WAY: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub(super) struct Exec {
    fly: Client,
    only_way_until: Arc<Mutex<Option<Instant>>>,
    /// By Machine id.
    no_way_until: Arc<Mutex<BTreeMap<String, Instant>>>,
}

impl Exec {
    pub(super) fn new(fly: Client) -> Self {
        Self { fly, only_way_until: Arc::default(), no_way_until: Arc::default() }
    }

    /// It led somewhere a moment ago, when no other way did.
    pub(super) fn is_the_only_way(&self) -> bool {
        let until = self.only_way_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn found_the_only_way(&self) {
        *self.only_way_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + ONLY_WAY);
    }

    /// It led nowhere a moment ago.
    pub(super) fn is_no_way(&self, seat: &Seat) -> bool {
        let mut until = self.no_way_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, until| Instant::now() < *until);
        until.contains_key(&seat.machine)
    }

    pub(super) fn found_no_way(&self, seat: &Seat) {
        let mut until = self.no_way_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.insert(seat.machine.clone(), Instant::now() + NO_WAY);
    }

    pub(super) async fn call<T: serde::de::DeserializeOwned>(&self, seat: &Seat, call: &Call) -> Result<T, AgentError> {
        let timeout = call.timeout + START;
        let mut command = vec!["flypg-agent".to_owned(), "call".to_owned(), call.method.to_string(), call.path.clone()];
        // As an argument: `exec` has been seen not to pass its `stdin` on to a `command`.
        command.extend(call.body.as_ref().map(ToString::to_string));
        let body = ExecRequest { command, timeout: Some(timeout.as_secs()), ..ExecRequest::default() };
        // Not even a report is asked for again at once: the next turn does.
        let request = lifecycle::exec(seat.app.as_str(), &seat.machine, &body);
        let ran = self.fly.send_within(request, timeout).await;
        let machine = || seat.machine.clone();
        let ran = ran.map_err(|source| AgentError::Exec { machine: machine(), source: Box::new(source) })?;
        match answer(&ran) {
            Answer::Done => serde_json::from_str(&ran.stdout).map_err(|error| AgentError::NotCalled {
                machine: machine(),
                text: format!("its answer cannot be read: {error}"),
                may_have_happened: true,
            }),
            Answer::Said(status) if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT => {
                Err(AgentError::Refused { at: machine(), text: words_of(ran.stdout.as_bytes()) })
            }
            Answer::Said(status) => {
                Err(AgentError::Failed { at: machine(), status, text: words_of(ran.stdout.as_bytes()) })
            }
            Answer::None { may_have_happened } => {
                let text = ran.stderr.trim().chars().take(200).collect();
                Err(AgentError::NotCalled { machine: machine(), text, may_have_happened })
            }
        }
    }
}

/// What `flypg-agent call` tells of the call.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    /// The agent's answer, which is not a success.
    Said(StatusCode),
    None {
        may_have_happened: bool,
    },
}

fn answer(ran: &ExecResponse) -> Answer {
    if ran.exit_code == 0 && ran.exit_signal.unwrap_or(0) == 0 {
        return Answer::Done;
    }
    let status = ran.stderr.split("the agent answered ").nth(1).and_then(|rest| rest.get(..3));
    match status.and_then(|status| status.parse().ok()) {
        Some(status) => Answer::Said(status),
        // Bad input, or nobody there: it says so itself. A command that cannot be started ends with 126 or 127.
        None => Answer::None {
            may_have_happened: !(matches!(ran.exit_code, 1 | 126 | 127) || ran.stderr.contains("nothing was done")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_command_tells_what_became_of_the_call() {
        let ran = |exit_code, stderr: &str| ExecResponse { exit_code, stderr: stderr.to_owned(), ..Default::default() };
        assert_eq!(answer(&ran(0, "")), Answer::Done);
        assert_eq!(answer(&ran(1, "flypg-agent: the agent answered 409\n")), Answer::Said(StatusCode::CONFLICT));
        assert_eq!(
            answer(&ran(70, "flypg-agent: the agent answered 500\n")),
            Answer::Said(StatusCode::INTERNAL_SERVER_ERROR)
        );
        let nobody = "flypg-agent: the agent of this machine cannot be reached; nothing was done: refused";
        assert_eq!(answer(&ran(70, nobody)), Answer::None { may_have_happened: false });
        assert_eq!(answer(&ran(127, "not found")), Answer::None { may_have_happened: false });
        let late = "flypg-agent: the agent did not answer in time; the call may have been carried out";
        assert_eq!(answer(&ran(70, late)), Answer::None { may_have_happened: true });
        let killed = ExecResponse { exit_signal: Some(9), ..Default::default() };
        assert_eq!(answer(&killed), Answer::None { may_have_happened: true });
    }
}
