//! The agents' API, from the controller's side: one agent per node, on its private address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use flypg_core::keys::Key;
use flypg_core::protocol::{Assignment, NodeReport, ports};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;

/// A Machine that stopped does not refuse, it stays silent.
const CONNECT: Duration = Duration::from_secs(1);
/// An agent answers from memory; one that takes longer is not well.
const REPORT: Duration = Duration::from_secs(2);
/// An assignment is flushed to disk before it is answered.
const ASSIGN: Duration = Duration::from_secs(10);
/// Postgres is restarted before the answer: shutdown checkpoint and all.
const RESTART: Duration = Duration::from_secs(60);
/// What a long poll is given beyond the time it asked for.
const GRACE: Duration = Duration::from_secs(5);

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
    Refused { at: SocketAddr, text: String },
    /// Something went wrong on its side; it may have been carried out.
    #[error("the agent at {at} answers {status}: {text}")]
    Failed { at: SocketAddr, status: StatusCode, text: String },
    #[error("the HTTP client cannot be set up")]
    Setup {
        #[source]
        source: reqwest::Error,
    },
}

/// Speaks to agents. Cheap to clone; connections are kept.
#[derive(Debug, Clone)]
pub struct AgentClient {
    http: reqwest::Client,
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
        Ok(Self { http })
    }

    /// What the node says now.
    ///
    /// # Errors
    /// See [`AgentError`]; asking changes nothing.
    pub async fn report(&self, at: IpAddr, key: &Key) -> Result<NodeReport, AgentError> {
        self.call(at, key, Method::GET, "/v1/report", None, REPORT).await
    }

    /// What the node says as soon as its report's version is above `after`, or after `wait` in any case.
    ///
    /// # Errors
    /// See [`AgentError`]; asking changes nothing.
    pub async fn report_after(
        &self,
        at: IpAddr,
        key: &Key,
        after: u64,
        wait: Duration,
    ) -> Result<NodeReport, AgentError> {
        let path = format!("/v1/report?after={after}&wait={}", wait.as_secs());
        self.call(at, key, Method::GET, &path, None, wait + GRACE).await
    }

    /// Tells the node what to be; on its disk before this returns.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn assign(&self, at: IpAddr, key: &Key, assignment: &Assignment) -> Result<(), AgentError> {
        let body = serde_json::to_value(assignment).expect("an assignment has string keys only");
        let _: serde::de::IgnoredAny = self.call(at, key, Method::PUT, "/v1/assignment", Some(body), ASSIGN).await?;
        Ok(())
    }

    /// Restarts Postgres if a parameter waits for it.
    ///
    /// # Errors
    /// See [`AgentError`].
    pub async fn restart(&self, at: IpAddr, key: &Key) -> Result<(), AgentError> {
        let _: serde::de::IgnoredAny =
            self.call(at, key, Method::POST, "/v1/restart", Some(json!({})), RESTART).await?;
        Ok(())
    }

    async fn call<T: serde::de::DeserializeOwned>(
        &self,
        at: IpAddr,
        key: &Key,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
        timeout: Duration,
    ) -> Result<T, AgentError> {
        let at = SocketAddr::new(at, ports::API);
        let mut request =
            self.http.request(method, format!("http://{at}{path}")).bearer_auth(key.expose()).timeout(timeout);
        if let Some(body) = &body {
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
                    Err(AgentError::Refused { at, text })
                } else {
                    Err(AgentError::Failed { at, status, text })
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
