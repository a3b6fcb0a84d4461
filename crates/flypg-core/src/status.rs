//! The status of one cluster, as `flypg status -o json` prints it.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::observed::Observed;
use crate::plan::Plan;
use crate::protocol::Lsn;
use crate::spec::ClusterSpec;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub cluster: String,
    pub app: String,
    /// A digest of the spec that is wanted now.
    pub generation: String,
    /// The digest of the spec for which nothing was left to do; absent until then.
    pub observed_generation: Option<String>,
    pub ready: bool,
    pub epoch: Option<u64>,
    pub primary: Option<String>,
    pub endpoints: Endpoints,
    pub nodes: Vec<NodeStatus>,
    pub conditions: Vec<Condition>,
}

/// `host:port` each; absent while there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Endpoints {
    pub read_write: Option<String>,
    pub read_only: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub node: String,
    pub machine: Option<String>,
    pub region: String,
    /// `primary`, `replica` or `unknown`.
    pub role: String,
    /// A word a person understands: `running`, `streaming`, `cloning`, `stopped`, `unreachable`, …
    pub state: String,
    pub lsn: Option<Lsn>,
    pub lag_bytes: Option<u64>,
    pub lag_seconds: Option<f64>,
    pub volume: Option<String>,
    /// PostgreSQL's version.
    pub version: Option<String>,
    /// When Postgres started, RFC 3339.
    pub since: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Condition {
    /// `Ready`, `Progressing`, `Held`, `Degraded`.
    #[serde(rename = "type")]
    pub kind: String,
    pub status: bool,
    pub reason: String,
    pub message: String,
    /// When this status was first seen, RFC 3339; whoever remembers fills it in.
    pub since: Option<String>,
}

/// What there is to say about a cluster, from one look at it and the plan that followed.
pub fn status(spec: &ClusterSpec, _observed: &Observed, _plan: &Plan, _now: Timestamp) -> ClusterStatus {
    ClusterStatus {
        cluster: spec.name.to_string(),
        app: spec.name.to_string(),
        generation: generation(spec),
        observed_generation: None,
        ready: false,
        epoch: None,
        primary: None,
        endpoints: Endpoints { read_write: None, read_only: None },
        nodes: Vec::new(),
        conditions: Vec::new(),
    }
}

/// A digest of a spec, to tell whether what was done is what is wanted now.
pub fn generation(spec: &ClusterSpec) -> String {
    crate::digest::short(&serde_json::to_vec(spec).expect("a spec has string keys only"))
}
