//! What can go wrong, in one enum: each kind knows its exit code and what to type next.

use std::io;
use std::path::PathBuf;

use flypg_controller::agent::AgentError;
use flypg_controller::lines::LineError;
use flypg_controller::orders::OrderError;
use flypg_controller::source::SourceError;
use flypg_controller::store::{LockError, MasterKeyError, StoreError};
use flypg_core::keys::BadKey;
use flypg_core::names::BadName;
use flypg_machines::ConfigError;

/// How a command ended. The numbers are an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// The input is wrong.
    Input = 1,
    /// `--dry-run --exit-code`: there is something to do.
    Pending = 2,
    /// A protection or a wait stops progress.
    Held = 3,
    /// Our fault, or the computer's.
    Fault = 70,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Source(SourceError),
    #[error("{} holds no *.yaml or *.yml file", list(.paths))]
    NoFiles { paths: Vec<PathBuf> },
    #[error("the Machines API cannot be used")]
    Api {
        #[source]
        source: ConfigError,
    },
    #[error("the Machines API at {api} cannot be read")]
    Unseen {
        api: String,
        #[source]
        source: Words,
    },
    #[error("FLY_API_TOKEN is not set")]
    NoToken,
    #[error("there is no place to keep keys and records: neither XDG_STATE_HOME nor HOME is set")]
    NoStateDir,
    #[error("the state directory cannot be used")]
    Store {
        #[source]
        source: StoreError,
    },
    #[error("the clusters are in somebody else's hands")]
    Locked {
        #[source]
        source: LockError,
    },
    #[error("the master key cannot be used")]
    MasterKey {
        #[source]
        source: MasterKeyError,
    },
    #[error("{} is missing, and the passwords of {} follow from it", .path.display(), .clusters.join(", "))]
    MasterKeyLost { path: PathBuf, clusters: Vec<String> },
    #[error("FLYPG_MASTER_KEY cannot be used")]
    MasterKeyVariable {
        #[source]
        source: BadKey,
    },
    #[error("there is no master key yet, so there is no password to connect with")]
    NoMasterKey,
    #[error("no cluster can have this name")]
    Name {
        #[source]
        source: BadName,
    },
    #[error("no cluster `{name}` is known here")]
    UnknownCluster { name: String, known: Vec<String> },
    #[error("this order is not taken")]
    Order {
        #[source]
        source: OrderError,
    },
    #[error("the controller at {at} does not take the order: {text}")]
    NotTaken { at: std::net::SocketAddr, text: String },
    #[error("the controller at {at} does not answer")]
    NoController {
        at: std::net::SocketAddr,
        #[source]
        source: reqwest::Error,
    },
    #[error("{} cannot be read", .path.display())]
    Lines {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("what happened cannot be read")]
    Events {
        #[source]
        source: LineError,
    },
    #[error("{} holds nothing to plan again: {why}", .path.display())]
    NoJournal { path: PathBuf, why: &'static str },
    #[error("`{cluster}` has no {door} endpoint now: {state}")]
    NoEndpoint { cluster: String, door: &'static str, state: String },
    #[error("psql is not installed")]
    NoPsql,
    #[error("psql cannot be started")]
    Psql {
        #[source]
        source: io::Error,
    },
    #[error("{} is not installed beside flypg", .path.display())]
    NoAgent { path: PathBuf },
    #[error("{what} cannot be listened on")]
    Listen {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{at} can be reached from elsewhere, and FLYPG_CONTROLLER_TOKEN is not set")]
    OpenDoor { at: std::net::SocketAddr },
    #[error("the emulator cannot be started")]
    Emulator {
        #[source]
        source: flypg_emulator::StartError,
    },
    #[error("agents cannot be called")]
    Agents {
        #[source]
        source: AgentError,
    },
    #[error("{what}")]
    Failed {
        what: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Whoever read our output has read enough.
    #[error("the output was closed")]
    OutputClosed,
    #[error("the output cannot be written")]
    Output {
        #[source]
        source: io::Error,
    },
}

/// An error of which only the words are left: an observation keeps no more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Words(pub(crate) String);

impl CliError {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::OutputClosed => Exit::Done,
            Self::Source(_)
            | Self::NoFiles { .. }
            | Self::Api { .. }
            | Self::NoToken
            | Self::NoStateDir
            | Self::Store {
                source:
                    StoreError::File { .. } | StoreError::Newer { .. } | StoreError::Older { .. } | StoreError::Bound { .. },
            }
            | Self::MasterKey { .. }
            | Self::MasterKeyLost { .. }
            | Self::MasterKeyVariable { .. }
            | Self::NoMasterKey
            | Self::Name { .. }
            | Self::UnknownCluster { .. }
            | Self::Order { .. }
            | Self::NotTaken { .. }
            | Self::Lines { .. }
            | Self::NoJournal { .. }
            | Self::NoPsql
            | Self::NoAgent { .. }
            | Self::Emulator { .. }
            | Self::OpenDoor { .. }
            | Self::Listen { .. } => Exit::Input,
            Self::Unseen { .. } | Self::Locked { .. } | Self::NoEndpoint { .. } | Self::NoController { .. } => {
                Exit::Held
            }
            Self::Store { .. }
            | Self::Events { .. }
            | Self::Agents { .. }
            | Self::Psql { .. }
            | Self::Failed { .. }
            | Self::Output { .. } => Exit::Fault,
        }
    }

    /// What to type next.
    pub(crate) fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Source(SourceError::Missing { .. } | SourceError::NotAFile { .. }) => {
                "name a cluster file, or a directory of them, with -f".to_owned()
            }
            Self::Source(SourceError::Unreadable { .. }) => "check the path, and who may read it".to_owned(),
            Self::Source(SourceError::Circular { .. }) => "remove the link".to_owned(),
            Self::NoFiles { .. } => {
                "name a cluster file, or a directory of them, with -f; if the clusters it held are to \
                 go, leave an empty .yaml file there"
                    .to_owned()
            }
            Self::Api { source: ConfigError::Tls(_) } => {
                "install the system's CA certificates, or name a file of them in SSL_CERT_FILE".to_owned()
            }
            Self::Api { source: ConfigError::Token(_) } => {
                "pass the token as `fly tokens create` printed it, in FLY_API_TOKEN".to_owned()
            }
            Self::Api { .. } => "give the API's address with --api, such as http://127.0.0.1:4280".to_owned(),
            Self::Unseen { .. } => {
                "check its address (--api, FLY_FLAPS_BASE_URL) and the token (FLY_API_TOKEN), then try again".to_owned()
            }
            Self::NoToken => "make one with `fly tokens create org`, or use a local API: `flypg emulator`, then --api \
                 http://127.0.0.1:4280"
                .to_owned(),
            Self::NoStateDir => "give a directory with --state".to_owned(),
            Self::Store { source } => source.suggestion()?.to_owned(),
            Self::MasterKeyLost { .. } => "put the file back, or set FLYPG_MASTER_KEY to what it held".to_owned(),
            Self::Locked { source: LockError::Held { holder, .. } } if holder.command.contains("controller") => {
                let status = holder.listen.map(|at| format!(", and answers on http://{at}/v1/clusters"));
                format!(
                    "that controller takes up the files it watches by itself{}; preview with --dry-run, follow with \
                     `flypg status --watch`",
                    status.unwrap_or_default()
                )
            }
            Self::Locked { .. } => "wait until it has ended, or use another --state".to_owned(),
            Self::MasterKey { .. } | Self::MasterKeyVariable { .. } => {
                "put back the key the clusters were made with: 64 hexadecimal digits".to_owned()
            }
            Self::NoMasterKey => {
                "give the state directory the cluster was made with (--state), or set FLYPG_MASTER_KEY".to_owned()
            }
            Self::UnknownCluster { known, .. } if known.is_empty() => {
                "make one with `flypg reconcile -f cluster.yaml`, or give its state directory with --state".to_owned()
            }
            Self::UnknownCluster { known, .. } => format!("known are: {}", known.join(", ")),
            Self::Order { source: OrderError::LossNotAccepted { .. } } => "say so with --accept-data-loss".to_owned(),
            Self::NoController { .. } => {
                "it may have taken the order all the same: see `flypg status` and `flypg events`".to_owned()
            }
            Self::NotTaken { .. } => "see `flypg status`; the token is FLYPG_CONTROLLER_TOKEN".to_owned(),
            Self::NoJournal { .. } => "give a file below journal/ in a state directory".to_owned(),
            Self::Order { .. } | Self::Lines { .. } | Self::Events { .. } => return None,
            Self::NoEndpoint { cluster, .. } => format!("see `flypg status {cluster}`"),
            Self::NoPsql => "install it (Debian: `apt-get install postgresql-client`)".to_owned(),
            Self::NoAgent { .. } => {
                "build or install flypg-agent there, or use --runtime model, which runs no processes".to_owned()
            }
            Self::Emulator { .. } => "give another directory with --data".to_owned(),
            Self::OpenDoor { .. } => {
                "set FLYPG_CONTROLLER_TOKEN to what callers of /v1 must send, or listen on 127.0.0.1".to_owned()
            }
            Self::Listen { .. } => "give another address with --listen".to_owned(),
            Self::Name { .. }
            | Self::Psql { .. }
            | Self::Agents { .. }
            | Self::Failed { .. }
            | Self::OutputClosed
            | Self::Output { .. } => return None,
        })
    }
}

impl From<SourceError> for CliError {
    fn from(source: SourceError) -> Self {
        Self::Source(source)
    }
}

/// What cannot be locked is not in anybody's hands.
impl From<LockError> for CliError {
    fn from(source: LockError) -> Self {
        match source {
            LockError::Store { source } => Self::Store { source },
            source => Self::Locked { source },
        }
    }
}

/// A key that cannot be read may well be the right one.
impl From<MasterKeyError> for CliError {
    fn from(source: MasterKeyError) -> Self {
        match source {
            MasterKeyError::Store { source } => Self::Store { source },
            source => Self::MasterKey { source },
        }
    }
}

impl From<StoreError> for CliError {
    fn from(source: StoreError) -> Self {
        Self::Store { source }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
