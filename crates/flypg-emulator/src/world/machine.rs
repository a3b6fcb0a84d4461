//! One machine as the platform remembers it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::config::{Config, Mount};
use super::time::Millis;

/// The states a machine can be in here. Fly knows more (`creating`, `updating`, `launch_failed`, …); none of them has
/// been seen on its API in the situations the emulator plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    Created,
    Starting,
    Started,
    Stopping,
    Stopped,
    Restarting,
    Suspending,
    Suspended,
    Replacing,
    Failed,
    Destroying,
    Destroyed,
}

impl MachineState {
    /// As `state` says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Starting => "starting",
            Self::Started => "started",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Restarting => "restarting",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Replacing => "replacing",
            Self::Failed => "failed",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }

    /// Whether it stays so until somebody acts.
    #[must_use]
    pub const fn resting(self) -> bool {
        matches!(self, Self::Created | Self::Started | Self::Stopped | Self::Suspended | Self::Failed | Self::Destroyed)
    }
}

/// What is due on a machine by the clock alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineTimer {
    /// `created` ends.
    Prepared,
    /// The process may be launched (slow starts, restart back-off).
    Launch,
    /// The least time in `stopping`, `replacing`, `destroying` is over.
    Stopped,
    Replaced,
    Destroyed,
    /// A destroyed machine leaves the world.
    Forget,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub id: String,
    pub name: String,
    pub region: String,
    pub host: String,
    pub state: MachineState,
    /// ULID of the current version; only grows.
    pub version: String,
    pub config: Config,
    pub image: ImageRef,
    /// What `private_ip` says.
    pub address: String,
    pub created_at: Millis,
    pub updated_at: Millis,
    pub cordoned: bool,
    pub skip_secrets: bool,
    /// Start once the present transition is over.
    pub then_start: bool,
    /// The claimed volume; kept until the machine is gone, even if an update dropped the mount from the config.
    pub volume: Option<Mount>,
    pub lease: Option<Lease>,
    pub run: Run,
    /// When the present `stopped` began.
    pub stopped_at: Option<Millis>,
    /// Asked to be destroyed while its host does not answer.
    pub destroy_when_reachable: bool,
    /// Fault: never leaves its present state by itself.
    pub stuck: bool,
    /// Fault: extra time in `starting`.
    pub slow_start_ms: u64,
    pub checks: Vec<CheckStatus>,
    /// Newest first, at most [`EVENTS_KEPT`].
    pub events: VecDeque<Event>,
    /// Newest first, without the current one, at most [`VERSIONS_KEPT`].
    pub older: VecDeque<OldVersion>,
    pub timers: BTreeMap<MachineTimer, Millis>,
    /// Balloon target in MiB, if set.
    pub memory_limit_mb: Option<u64>,
}

/// Fly answers at most 50 events.
pub const EVENTS_KEPT: usize = 50;
pub const VERSIONS_KEPT: usize = 50;

/// One boot of a machine's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Counts boots; reports about an earlier run are ignored.
    pub number: u64,
    /// Something of it may be running.
    pub live: bool,
    /// A stop was asked for.
    pub stop_requested: bool,
    /// Restarts by policy since somebody last started it.
    pub restarts: u32,
    /// When the policy did so in the last five minutes.
    pub recent_restarts: Vec<Millis>,
}

impl Run {
    /// Somebody acted on the machine: the restart policy has all its tries again.
    pub(crate) fn count_anew(&mut self) {
        self.restarts = 0;
        self.recent_restarts.clear();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub nonce: String,
    pub expires_at: Millis,
    pub owner: String,
    pub description: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    /// `user` or `flyd`.
    pub source: String,
    pub timestamp: Millis,
    pub request: Option<Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OldVersion {
    pub version: String,
    pub config: Map<String, Value>,
    pub image: ImageRef,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStatus {
    pub name: String,
    /// `passing`, `warning` or `critical`.
    pub status: String,
    pub output: String,
    /// The last change, not the last run.
    pub updated_at: Millis,
}

/// A resolved image reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    pub registry: String,
    pub repository: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    pub digest: String,
    pub labels: BTreeMap<String, String>,
}

impl ImageRef {
    /// Splits a reference as Docker does. Without a digest of its own, one is derived from the text, so that it stays
    /// the same for the same reference.
    #[must_use]
    pub fn parse(reference: &str) -> Self {
        let (name, digest) = match reference.split_once('@') {
            Some((name, digest)) => (name, Some(digest.to_owned())),
            None => (reference, None),
        };
        let (path, tag) = match name.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag.to_owned())),
            _ => (name, None),
        };
        let (registry, repository) = match path.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
            _ => ("registry-1.docker.io", path),
        };
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            tag,
            digest: digest.unwrap_or_else(|| format!("sha256:{}", hex(&Sha256::digest(reference.as_bytes())))),
            labels: BTreeMap::new(),
        }
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// -1 when it could not be learned.
    pub code: i32,
    /// -1 for none.
    pub signal: i32,
    pub oom_killed: bool,
}

impl Exit {
    /// Exit code 0.
    pub const CLEAN: Self = Self { code: 0, signal: -1, oom_killed: false };
    /// Killed by SIGKILL.
    pub const KILLED: Self = Self { code: 137, signal: 9, oom_killed: false };
    /// Nobody was there to see it.
    pub const UNSEEN: Self = Self { code: -1, signal: -1, oom_killed: false };

    #[must_use]
    pub const fn clean(self) -> bool {
        self.code == 0
    }
}

impl Machine {
    /// The lease, if it is still in force.
    #[must_use]
    pub fn lease_at(&self, now: Millis) -> Option<&Lease> {
        self.lease.as_ref().filter(|lease| lease.expires_at > now)
    }

    /// In `starting` only because the restart policy waits; nothing runs.
    #[must_use]
    pub fn backing_off(&self) -> bool {
        self.state == MachineState::Starting && !self.run.live && self.timers.contains_key(&MachineTimer::Launch)
    }

    pub(crate) fn push_event(
        &mut self,
        id: String,
        now: Millis,
        kind: &str,
        status: &str,
        source: &str,
        request: Option<Value>,
    ) {
        let event = Event {
            id,
            kind: kind.to_owned(),
            status: status.to_owned(),
            source: source.to_owned(),
            timestamp: now,
            request,
        };
        self.events.push_front(event);
        self.events.truncate(EVENTS_KEPT);
        self.updated_at = now;
    }
}

/// The `request` of an exit event.
#[must_use]
pub fn exit_request(exit: Exit, at: Millis, requested: bool, restarting: bool, restart_count: u32) -> Value {
    json!({
        "exit_event": {
            "exit_code": exit.code,
            "exited_at": at.0,
            "guest_exit_code": exit.code,
            "guest_signal": exit.signal,
            "oom_killed": exit.oom_killed,
            "requested_stop": requested,
            "restarting": restarting,
            "signal": exit.signal,
        },
        "restart_count": restart_count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references() {
        let parts = |text: &str| {
            let image = ImageRef::parse(text);
            (image.registry, image.repository, image.tag)
        };
        let docker = || "registry-1.docker.io".to_owned();
        assert_eq!(parts("flypg/postgres:15"), (docker(), "flypg/postgres".into(), Some("15".into())));
        assert_eq!(parts("nginx"), (docker(), "nginx".into(), Some("latest".into())));
        assert_eq!(
            parts("registry.fly.io/orders-db:1"),
            ("registry.fly.io".into(), "orders-db".into(), Some("1".into()))
        );
        let pinned = ImageRef::parse("localhost:5000/a/b@sha256:c9cf");
        assert_eq!((pinned.repository.as_str(), pinned.tag, pinned.digest.as_str()), ("a/b", None, "sha256:c9cf"));
    }
}
