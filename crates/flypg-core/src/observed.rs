//! What was seen, when, and what could not be seen.

mod watch;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::decree::Decree;
use crate::names::{ClusterName, NodeName};
use crate::protocol::NodeReport;
use crate::spec::{Guest, SnapshotPolicy};

pub use watch::{Heard, LastKnown, Missed, Order, Pulse, Stopped, Watch};

/// A fact with the time it was seen, or the reason why it is not known. Absence is a value (`Seen<Option<T>>` with
/// `None`), never the lack of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen<T> {
    At { at: Timestamp, value: T },
    Unknown { why: Unknown },
}

/// Why something is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Unknown {
    /// Nobody has looked yet.
    NotLooked,
    /// Something was asked for that may have changed it, and it was not read since.
    Changing,
    /// The question got no answer that counts.
    NoAnswer { error: String },
    /// The answer was a refusal: the token may not see it.
    Forbidden { error: String },
}

impl<T> Seen<T> {
    pub fn at(at: Timestamp, value: T) -> Self {
        Seen::At { at, value }
    }

    pub fn known(&self) -> Option<&T> {
        match self {
            Seen::At { value, .. } => Some(value),
            Seen::Unknown { .. } => None,
        }
    }

    pub fn known_mut(&mut self) -> Option<&mut T> {
        match self {
            Seen::At { value, .. } => Some(value),
            Seen::Unknown { .. } => None,
        }
    }

    pub fn why_unknown(&self) -> Option<&Unknown> {
        match self {
            Seen::At { .. } => None,
            Seen::Unknown { why } => Some(why),
        }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Seen::At { at, value } => Seen::At { at, value: f(value) },
            Seen::Unknown { why } => Seen::Unknown { why },
        }
    }
}

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Seen::Unknown { why: Unknown::NotLooked }
    }
}

/// Everything that is known about one cluster at one time. `Default` knows nothing.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Observed {
    /// The decree on record; `None` means that nobody was ever told to lead.
    pub record: Seen<Option<Decree>>,
    /// Whether the app exists, confirmed by a second read where a list said no.
    pub app: Seen<Option<App>>,
    /// Names of the app's secrets, with Fly's digests of their values.
    pub secrets: Seen<BTreeMap<String, String>>,
    /// The app's IP assignments.
    pub addresses: Seen<Vec<Address>>,
    /// Every Machine of the app that is not gone, ours or not.
    pub machines: Seen<Vec<Machine>>,
    /// Every volume of the app that is not on its way out, ours or not.
    pub volumes: Seen<Vec<Volume>>,
    /// What the agents said, by Machine id. No entry: not asked, because the Machine does not run.
    pub reports: BTreeMap<String, Seen<NodeReport>>,
    /// What this controller knows about who is heard, and what it granted.
    #[serde(default)]
    pub watch: Watch,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Slug of the organisation it belongs to, where the answer said so.
    pub organization: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub ip: String,
    /// A private address of Fly's proxy (`private_v6`).
    pub flycast: bool,
}

/// A Machine as its list entry shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub id: String,
    pub name: String,
    pub region: String,
    pub power: Power,
    /// False while Fly's host does not answer: then nothing else here is fresh.
    pub host_ok: bool,
    /// Private address.
    pub address: Option<IpAddr>,
    /// Absent where Fly did not know it (`host_status` not ok).
    pub config: Option<MachineConfig>,
}

/// Fly's Machine states, as far as they mean different things to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Power {
    /// `created`: placed, perhaps still being prepared.
    Created,
    Started,
    Stopped,
    Suspended,
    Failed,
    /// Any state that Fly leaves by itself: starting, stopping, replacing, …
    Changing,
    /// On its way out. Its node name stays taken until it is gone.
    Destroying,
}

/// The part of a Machine's configuration that we decide about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    pub image: String,
    pub guest: Option<Guest>,
    pub env: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
    /// Id of the mounted volume.
    pub volume: Option<String>,
}

/// The keys of Machine metadata that make a Machine ours. DNS answers
/// `<value>.<key>.kv._metadata.<app>.internal`, so `flypg_role` resolves to the primary.
pub mod metadata {
    pub const CLUSTER: &str = "flypg_cluster";
    pub const NODE: &str = "flypg_node";
    pub const ROLE: &str = "flypg_role";
    pub const EPOCH: &str = "flypg_epoch";
}

impl Machine {
    /// The node this Machine is, if it is one of `cluster`'s: by its metadata, or, where the host hides the
    /// configuration, by its name.
    pub fn node_of(&self, cluster: &ClusterName) -> Option<NodeName> {
        match &self.config {
            Some(config) => {
                let ours = config.metadata.get(metadata::CLUSTER).is_some_and(|c| c == cluster.as_str());
                ours.then(|| config.metadata.get(metadata::NODE)?.parse().ok()).flatten()
            }
            None => self.name.parse().ok(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub id: String,
    pub name: String,
    pub region: String,
    pub size_gb: u32,
    /// Id of the Machine that claims it.
    pub attached_to: Option<String>,
    pub snapshots: SnapshotPolicy,
    pub host_ok: bool,
    /// RFC 3339, as Fly wrote it.
    pub created_at: String,
}

impl Volume {
    /// The node whose data this holds, by its name; a name in the wrong region is somebody else's.
    pub fn node(&self) -> Option<NodeName> {
        NodeName::of_volume(&self.name).filter(|node| node.region.as_str() == self.region)
    }
}
