//! What is meant by what was typed: flags first, then the environment, then defaults.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flypg_controller::act::LiveActuator;
use flypg_controller::agent::{AgentClient, Route};
use flypg_controller::events::Chronicle;
use flypg_controller::observe::{LiveObserver, PATIENCE};
use flypg_controller::store::{Home, Store, load_master_key, load_or_create_master_key};
use flypg_controller::turn::Witness;
use flypg_controller::words::chain;
use flypg_core::Timestamp;
use flypg_core::keys::Key;
use flypg_core::names::ClusterName;
use flypg_machines::{Client, ClientConfig, Limits, PUBLIC_API};
use jiff::SignedDuration;
use reqwest::Url;

use crate::cli::{AgentRoute, Global, PlatformProof};
use crate::error::CliError;

/// An emulator on this computer lets any token in.
const LOCAL_TOKEN: &str = "flypg-local";

/// The same API from inside Fly's private network.
const INTERNAL_API: &str = "http://_api.internal:4280";

/// How long a call is repeated while somebody looks at a prompt. One answer may take longer than that.
const IMPATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) api: String,
    pub(crate) state: PathBuf,
    settle: Duration,
    route: Route,
    proof: PlatformProof,
    adopt: bool,
}

impl Settings {
    pub(crate) fn resolve(global: &Global) -> Result<Self, CliError> {
        let route = match global.agents {
            AgentRoute::Direct => Route::Direct,
            AgentRoute::Exec => Route::Exec,
            AgentRoute::Auto => Route::Auto,
        };
        let (proof, adopt) = (global.platform_proof, global.adopt_state);
        Ok(Self { api: api(global), state: state(global)?, settle: global.settle, route, proof, adopt })
    }

    /// # Errors
    /// If the address or the token cannot be used.
    pub(crate) fn client(&self) -> Result<Client, CliError> {
        Client::new(self.config()?).map_err(|source| CliError::Api { source })
    }

    fn config(&self) -> Result<ClientConfig, CliError> {
        let local = is_local(&self.api);
        let token = match variable("FLY_API_TOKEN") {
            Some(token) => token,
            None if local => LOCAL_TOKEN.to_owned(),
            None => return Err(CliError::NoToken),
        };
        let mut config = ClientConfig::new(&self.api).with_token(token);
        if local {
            config.limits = Limits::none();
        }
        Ok(config)
    }

    /// The master key, if there is one.
    pub(crate) fn master(&self) -> Result<Option<Key>, CliError> {
        match master_variable()? {
            Some(key) => Ok(Some(key)),
            None => Ok(load_master_key(&self.state)?),
        }
    }

    /// The master key, made and kept on first use; another is not made for clusters that had one.
    ///
    /// # Errors
    /// If it cannot be read or made, or has been lost.
    pub(crate) async fn master_or_new(&self, store: &Store) -> Result<Key, CliError> {
        if let Some(key) = self.master()? {
            return Ok(key);
        }
        let clusters: Vec<String> = store.specs().await?.iter().map(|known| known.spec.name.to_string()).collect();
        if !clusters.is_empty() {
            return Err(CliError::MasterKeyLost { path: self.state.join("master.key"), clusters });
        }
        Ok(load_or_create_master_key(&self.state)?)
    }

    /// The store with the right to decide and grant, bound to this computer.
    ///
    /// # Errors
    /// If it belongs to another computer, or cannot be written.
    pub(crate) async fn lead(&self, store: &Store) -> Result<Store, CliError> {
        let home = Home::here(variable("FLY_MACHINE_ID").as_deref());
        Ok(store.lead(&home, self.adopt).await?)
    }

    /// The directory of the event logs.
    pub(crate) fn events(&self) -> PathBuf {
        self.state.join("events")
    }

    /// Whoever follows what is done, and the log of what happened.
    pub(crate) fn chronicle(&self, cluster: &ClusterName, next: impl Witness + 'static) -> Arc<dyn Witness> {
        let next = Arc::new(next);
        match Chronicle::open(&self.events(), cluster, Timestamp::now, Arc::clone(&next)) {
            Ok(chronicle) => Arc::new(chronicle),
            Err(error) => {
                tracing::warn!(%cluster, error = chain(&error), "what happens is not written down");
                next
            }
        }
    }

    /// Whether the platform's word that a Machine has stopped is believed: what the public API's events mean is not
    /// verified.
    pub(crate) fn believes_platform(&self) -> bool {
        match self.proof {
            PlatformProof::On => true,
            PlatformProof::Off => false,
            PlatformProof::Auto => !same_api(&self.api, PUBLIC_API) && !same_api(&self.api, INTERNAL_API),
        }
    }

    /// Eyes for a loop.
    pub(crate) fn observer(&self, fly: Client, store: Store, master: Option<Key>) -> Result<LiveObserver, CliError> {
        let agents = AgentClient::new().map_err(|source| CliError::Agents { source })?;
        let agents = agents.with_route(self.route, fly.clone());
        let settle = SignedDuration::try_from(self.settle).unwrap_or(SignedDuration::MAX);
        Ok(LiveObserver { fly, agents, store, master, patience: PATIENCE, settle, vigil: Arc::default() })
    }

    /// Eyes for one look, while somebody waits at a prompt.
    pub(crate) fn impatient_observer(&self, store: Store, master: Option<Key>) -> Result<LiveObserver, CliError> {
        let config = ClientConfig { patience: IMPATIENCE, ..self.config()? };
        self.observer(Client::new(config).map_err(|source| CliError::Api { source })?, store, master)
    }
}

/// The actuator that goes with an observer: the same client, agents, memory and key.
pub(crate) fn actuator(observer: &LiveObserver) -> LiveActuator {
    LiveActuator {
        fly: observer.fly.clone(),
        agents: observer.agents.clone(),
        store: observer.store.clone(),
        master: observer.master.clone(),
        clock: Timestamp::now,
        secrets_versions: Default::default(),
        vigil: Arc::clone(&observer.vigil),
    }
}

/// What callers of the controller's `/v1` must send.
pub(crate) fn controller_token() -> Option<String> {
    variable("FLYPG_CONTROLLER_TOKEN")
}

/// A variable that is set and not empty.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn master_variable() -> Result<Option<Key>, CliError> {
    variable("FLYPG_MASTER_KEY")
        .map(|text| text.parse().map_err(|source| CliError::MasterKeyVariable { source }))
        .transpose()
}

fn api(global: &Global) -> String {
    let given = global.api.clone().or_else(|| variable("FLY_FLAPS_BASE_URL")).or_else(|| variable("FLY_API_HOSTNAME"));
    match given {
        // FLY_API_HOSTNAME is a URL in Fly's documentation, and a host name by its own name.
        Some(url) if url.contains("://") => url,
        Some(host) => format!("https://{host}"),
        None => PUBLIC_API.to_owned(),
    }
}

fn same_api(one: &str, other: &str) -> bool {
    let host = |url: &str| Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host(one).is_some() && host(one) == host(other)
}

fn is_local(api: &str) -> bool {
    let Ok(url) = Url::parse(api) else { return false };
    let Some(host) = url.host_str() else { return false };
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn state(global: &Global) -> Result<PathBuf, CliError> {
    if let Some(dir) = &global.state {
        return Ok(dir.clone());
    }
    let xdg = variable("XDG_STATE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || variable("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    xdg.or_else(home).map(|dir| dir.join("flypg")).ok_or(CliError::NoStateDir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_api_is_not_believed_about_stopped_machines_by_itself() {
        let believes = |api: &str, proof| {
            let settings = Settings {
                api: api.to_owned(),
                state: PathBuf::new(),
                settle: Duration::ZERO,
                route: Route::Direct,
                proof,
                adopt: false,
            };
            settings.believes_platform()
        };
        for api in ["https://api.machines.dev", "https://api.machines.dev/", "http://_api.internal:4280"] {
            assert!(!believes(api, PlatformProof::Auto) && believes(api, PlatformProof::On), "{api}");
        }
        assert!(believes("http://127.0.0.1:4280", PlatformProof::Auto));
        assert!(!believes("http://127.0.0.1:4280", PlatformProof::Off));
    }

    #[test]
    fn only_this_computer_is_local() {
        for local in ["http://127.0.0.1:4280", "http://127.9.9.9", "http://[::1]:4280/x", "http://localhost:4280"] {
            assert!(is_local(local), "{local}");
        }
        for far in ["https://api.machines.dev", "http://127.0.0.1.example.com", "http://_api.internal:4280", "x"] {
            assert!(!is_local(far), "{far}");
        }
    }
}
