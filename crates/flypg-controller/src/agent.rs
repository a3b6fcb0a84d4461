//! The agents' API, from the controller's side: one agent per node, on its private address, or through the Machines
//! API's `exec` where that address cannot be reached.

mod exec;

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use flypg_core::failover::lease::Grant;
use flypg_core::keys::Key;
use flypg_core::ledger::Caller;
use flypg_core::names::ClusterName;
use flypg_core::observed::Missed;
use flypg_core::protocol::{Assignment, NodeReport, ports};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

/// A Machine that stopped does not refuse, it stays silent.
const CONNECT: Duration = Duration::from_secs(1);
/// An agent answers from memory; one that takes longer is not well.
const REPORT: Duration = Duration::from_secs(2);
/// An assignment is flushed to disk before it is answered, a grant is not even that. Neither is asked for twice: the next
/// turn says the same, or something newer.
const TELL: Duration = Duration::from_secs(1);
/// Postgres is restarted before the answer: shutdown checkpoint and all.
const RESTART: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nothing was sent.
    #[error("no agent can be reached at {at}")]
    Unreachable {
        at: SocketAddr,
        #[source]
        source: reqwest::Error,
    },
    /// It was sent, and may have been carried out.
    #[error("the agent at {at} did not answer")]
    NoAnswer {
        at: SocketAddr,
        #[source]
        source: reqwest::Error,
    },
    /// It has another key: another cluster's agent, or one made with another master key.
    #[error("the agent at {at} does not accept this cluster's key")]
    WrongKey { at: SocketAddr },
    /// It says no, and has changed nothing.
    #[error("the agent at {at} refuses: {text}")]
    Refused { at: String, text: String },
    /// Something went wrong on its side; it may have been carried out.
    #[error("the agent at {at} answers {status}: {text}")]
    Failed { at: String, status: StatusCode, text: String },
    /// The Machines API did not run the command, or does not say whether it did.
    #[error("the agent on Machine {machine} cannot be called through the Machines API")]
    Exec {
        machine: String,
        #[source]
        source: Box<flypg_machines::Error>,
    },
    /// The command ran, and brought no answer of the agent.
    #[error("the agent on Machine {machine}: {text}")]
    NotCalled { machine: String, text: String, may_have_happened: bool },
    #[error("the HTTP client cannot be set up")]
    Setup {
        #[source]
        source: reqwest::Error,
    },
}

impl AgentError {
    /// Whether what was asked for may have been carried out.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::WrongKey { .. } | Self::Refused { .. } | Self::Setup { .. } => false,
            Self::NoAnswer { .. } | Self::Failed { .. } => true,
            Self::Exec { source, .. } => source.may_have_happened(),
            Self::NotCalled { may_have_happened, .. } => *may_have_happened,
        }
    }

    /// What it says about whether the agent lives.
    pub fn missed(&self) -> Missed {
        let broken = match self {
            Self::Unreachable { source, .. } | Self::NoAnswer { source, .. } => {
                !source.is_timeout() && io_kind(source).is_some_and(is_refusal)
            }
            _ => false,
        };
        if broken { Missed::Refused } else { Missed::Silent }
    }

    /// No way leads from here to that address. Somebody who refuses is there.
    fn is_no_route(&self) -> bool {
        let Self::Unreachable { source, .. } = self else { return false };
        use ErrorKind as Kind;
        match io_kind(source) {
            Some(kind) => matches!(
                kind,
                Kind::NetworkUnreachable | Kind::HostUnreachable | Kind::AddrNotAvailable | Kind::TimedOut
            ),
            None => source.is_timeout(),
        }
    }
}

/// What the operating system said of it, if it was that.
fn io_kind(error: &(dyn Error + 'static)) -> Option<ErrorKind> {
    let mut below = Some(error);
    while let Some(error) = below {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        below = error.source();
    }
    None
}

/// Somebody who is there says that no agent listens, or broke off.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
    )
}

/// The agent of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    pub app: ClusterName,
    /// Fly's id.
    pub machine: String,
    pub address: IpAddr,
}

/// How agents are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Route {
    /// At their private addresses only.
    #[default]
    Direct,
    /// Through the Machines API only: `flypg-agent call`, run by its `exec`.
    Exec,
    /// At their private addresses, and through the Machines API where no way leads there.
    Auto,
}

/// Speaks to agents. Cheap to clone; connections are kept.
#[derive(Debug, Clone)]
pub struct AgentClient {
    http: reqwest::Client,
    route: Route,
    exec: Option<exec::Exec>,
}

/// One call.
struct Call {
    method: Method,
    path: String,
    body: Option<serde_json::Value>,
    timeout: Duration,
}

impl AgentClient {
    /// # Errors
    /// If the platform lacks what an HTTP client needs.
    pub fn new() -> Result<Self, AgentError> {
        // Plain HTTP inside the private network: no proxy stands between, and no certificates are loaded.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("flypg/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|source| AgentError::Setup { source })?;
        Ok(Self { http, route: Route::Direct, exec: None })
    }

    /// Calls agents through `fly` as `route` says.
    pub fn with_route(mut self, route: Route, fly: flypg_machines::Client) -> Self {
        self.route = route;
        self.exec = Some(exec::Exec::new(fly));
        self
    }

    /// What the node says now.
    ///
    /// # Errors
    /// See [`AgentError`]; asking changes nothing.
    pub async fn report(&self, seat: &Seat, key: &Key) -> Result<NodeReport, AgentError> {
        self.call(seat, key, Call { method: Method::GET, path: "/v1/report".to_owned(), body: None, timeout: REPORT })
            .await
    }

    /// What the node says as soon as its report's version is above `after`, or after `hold` in any case; no answer after
    /// `patience` more is none. Through the Machines API nothing is held back: there it is what the node says after a
    /// short while.
    ///
    /// # Errors
    /// See [`AgentError`]; asking changes nothing.
    pub async fn report_after(
        &self,
        seat: &Seat,
        key: &Key,
        after: u64,
        hold: Duration,
        patience: Duration,
    ) -> Result<NodeReport, AgentError> {
        if self.by_exec().is_some() {
            tokio::time::sleep(exec::BETWEEN_REPORTS).await;
            return self.report(seat, key).await;
        }
        let path = format!("/v1/report?after={after}&wait={}", hold.as_secs_f64());
        let call = Call { method: Method::GET, path, body: None, timeout: hold + patience };
        self.call(seat, key, call).await
    }

    /// Tells the node what to be; on its disk before this returns. Gives what the node says then: of this assignment, or
    /// of a later one.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn assign(
        &self,
        seat: &Seat,
        key: &Key,
        caller: &Caller,
        assignment: &Assignment,
    ) -> Result<NodeReport, AgentError> {
        self.tell(seat, key, "/v1/assignment", json!({ "caller": caller, "assignment": assignment })).await
    }

    /// Gives the primary a lease in answer to its report.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn grant(&self, seat: &Seat, key: &Key, caller: &Caller, grant: &Grant) -> Result<(), AgentError> {
        let body = json!({ "caller": caller, "grant": grant });
        let _: serde::de::IgnoredAny = self.tell(seat, key, "/v1/lease", body).await?;
        Ok(())
    }

    async fn tell<T: serde::de::DeserializeOwned>(
        &self,
        seat: &Seat,
        key: &Key,
        path: &str,
        body: serde_json::Value,
    ) -> Result<T, AgentError> {
        self.call(seat, key, Call { method: Method::PUT, path: path.to_owned(), body: Some(body), timeout: TELL }).await
    }

    /// Restarts Postgres if a parameter waits for it.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn restart(&self, seat: &Seat, key: &Key) -> Result<(), AgentError> {
        let path = "/v1/restart".to_owned();
        let call = Call { method: Method::POST, path, body: Some(json!({})), timeout: RESTART };
        let _: serde::de::IgnoredAny = self.call(seat, key, call).await?;
        Ok(())
    }

    /// The way through the Machines API, if it is the one to take now.
    fn by_exec(&self) -> Option<&exec::Exec> {
        let exec = self.exec.as_ref()?;
        (self.route == Route::Exec || self.route == Route::Auto && exec.is_the_only_way()).then_some(exec)
    }

    async fn call<T: serde::de::DeserializeOwned>(&self, seat: &Seat, key: &Key, call: Call) -> Result<T, AgentError> {
        if let Some(exec) = self.by_exec() {
            return exec.call(seat, &call).await;
        }
        match (self.direct(seat, key, &call).await, &self.exec) {
            // Nothing was sent, so that it may be sent another way.
            (Err(error), Some(exec)) if self.route == Route::Auto && error.is_no_route() && !exec.is_no_way(seat) => {
                let answer = exec.call(seat, &call).await;
                match answer {
                    Ok(answer) => {
                        exec.found_the_only_way();
                        Ok(answer)
                    }
                    // Why there is no way is what a person can mend, unless the call may have been carried out.
                    Err(other) if call.method != Method::GET && other.may_have_happened() => Err(other),
                    Err(_) => {
                        exec.found_no_way(seat);
                        Err(error)
                    }
                }
            }
            (answer, _) => answer,
        }
    }

    async fn direct<T: serde::de::DeserializeOwned>(
        &self,
        seat: &Seat,
        key: &Key,
        call: &Call,
    ) -> Result<T, AgentError> {
        let Call { method, path, body, timeout } = call;
        let at = SocketAddr::new(seat.address, ports::API);
        let request = self.http.request(method.clone(), format!("http://{at}{path}"));
        let mut request = request.bearer_auth(key.expose()).timeout(*timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|source| {
            let source = source.without_url();
            if source.is_connect() {
                AgentError::Unreachable { at, source }
            } else {
                AgentError::NoAnswer { at, source }
            }
        })?;
        let no_answer = |source: reqwest::Error| AgentError::NoAnswer { at, source: source.without_url() };
        match answer.status() {
            status if status.is_success() => answer.json().await.map_err(no_answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(AgentError::WrongKey { at }),
            status => {
                let text = words_of(&answer.bytes().await.map_err(no_answer)?);
                if status.is_client_error() && status != StatusCode::REQUEST_TIMEOUT {
                    Err(AgentError::Refused { at: at.to_string(), text })
                } else {
                    Err(AgentError::Failed { at: at.to_string(), status, text })
                }
            }
        }
    }
}

/// The text of `{"error": …}`, or the start of whatever else it is.
fn words_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.error,
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}
