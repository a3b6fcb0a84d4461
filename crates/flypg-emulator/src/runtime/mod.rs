//! What stands below the world: nothing ([`Model`]), or real processes ([`process::Processes`]).

pub mod process;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::world::config::Check;
use crate::world::machine::{CheckStatus, Exit, ImageRef, Machine};
use crate::world::report::Report;
use crate::world::shared::Shared;
use crate::world::{Boot, Effect};

/// Performs effects.
pub trait Runtime: std::fmt::Debug + Send + Sync {
    /// Performs an effect, or begins to; returns what can be reported at once. Must not block. The rest is reported
    /// through the [`Reporter`] the runtime was made with.
    fn perform(&self, effect: Effect) -> Vec<Report>;

    /// Runs a command in a machine.
    fn exec(&self, boot: Boot, command: ExecCommand) -> BoxFuture<'_, Result<ExecOutput, ExecError>>;

    /// The processes of a machine.
    fn ps(&self, machine: &Shared<Machine>) -> BoxFuture<'_, Vec<ProcessStat>>;

    /// Resolves when the links between machines are as the last [`Effect::Links`] wants them.
    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Stops everything in order, without reporting any of it: the world still wants it to run.
    fn shutdown(&self) -> BoxFuture<'_, ()>;

    /// Forgets everything without touching it, as if this process were killed.
    fn abandon(&self) {}
}

/// Takes reports at any time.
pub type Reporter = Arc<dyn Fn(Report) + Send + Sync>;

/// Where images come from: a reference (`flypg/postgres:15`), or a repository (`flypg/postgres`), to a command line. The
/// first word counts as the image's entrypoint, the rest as its cmd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageTable(BTreeMap<String, Vec<String>>);

impl ImageTable {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image.
    #[must_use]
    pub fn with<W: Into<String>>(mut self, name: &str, command: impl IntoIterator<Item = W>) -> Self {
        self.0.insert(name.to_owned(), command.into_iter().map(Into::into).collect());
        self
    }

    /// The command of a reference: by its full text, then by repository, with and without the registry.
    #[must_use]
    pub fn find(&self, reference: &str) -> Option<&[String]> {
        let image = ImageRef::parse(reference);
        let tagged = image.tag.as_ref().map(|tag| format!("{}:{tag}", image.repository));
        let full = format!("{}/{}", image.registry, image.repository);
        let names = [Some(reference), tagged.as_deref(), Some(full.as_str()), Some(image.repository.as_str())];
        names.into_iter().flatten().find_map(|name| self.0.get(name)).map(Vec::as_slice)
    }

    /// The names that were given.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// The body of `POST …/exec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCommand {
    pub argv: Vec<String>,
    pub stdin: String,
    pub timeout_ms: u64,
}

/// Its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub exit_signal: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Why a command did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("the command could not be started")]
    NotStarted(#[source] std::io::Error),
    #[error("the command was killed after {0} ms")]
    TimedOut(u64),
    #[error("this runtime runs no commands")]
    Unsupported,
}

/// One row of `GET …/ps`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessStat {
    pub pid: i32,
    /// CPU time in the kernel, ms.
    pub stime: u64,
    /// Time since its start, ms.
    pub rtime: u64,
    pub command: String,
    pub directory: String,
    pub cpu: u64,
    /// Bytes.
    pub rss: u64,
    pub listen_sockets: Vec<serde_json::Value>,
}

/// No processes: what is asked for happens at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model;

impl Model {
    /// What an effect leads to. A pure function, so that simulations can use it without an emulator around it.
    #[must_use]
    pub fn outcome(effect: Effect) -> Vec<Report> {
        match effect {
            Effect::Boot(boot) => {
                let Boot { app, machine, run, .. } = *boot;
                let passing = |check: &Check| CheckStatus {
                    name: check.name.clone(),
                    status: "passing".to_owned(),
                    output: String::new(),
                    updated_at: machine.updated_at,
                };
                let checks: Vec<CheckStatus> = machine.config.checks.iter().map(passing).collect();
                let id = machine.id.clone();
                let mut reports = vec![Report::Started { app: app.clone(), machine: id.clone(), run }];
                if !checks.is_empty() {
                    reports.push(Report::Checked { app, machine: id, run, checks });
                }
                reports
            }
            Effect::Halt { app, machine, run, .. } => vec![Report::Exited { app, machine, run, exit: Exit::CLEAN }],
            Effect::Kill { app, machine, run } => vec![Report::Exited { app, machine, run, exit: Exit::KILLED }],
            Effect::FillVolume { app, volume, .. } => vec![Report::VolumeFilled { app, volume }],
            Effect::TakeSnapshot { app, volume, snapshot } => {
                vec![Report::SnapshotTaken { app, volume, snapshot, size: 1 << 20 }]
            }
            _ => Vec::new(),
        }
    }
}

impl Runtime for Model {
    fn perform(&self, effect: Effect) -> Vec<Report> {
        Self::outcome(effect)
    }

    fn exec(&self, _: Boot, _: ExecCommand) -> BoxFuture<'_, Result<ExecOutput, ExecError>> {
        Box::pin(async { Err(ExecError::Unsupported) })
    }

    fn ps(&self, _: &Shared<Machine>) -> BoxFuture<'_, Vec<ProcessStat>> {
        Box::pin(async { Vec::new() })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}
