//! PostgreSQL's configuration files on this node: what they should say, writing them, and leaving out what Postgres
//! refuses, so that a bad parameter never keeps it from starting.

use std::collections::BTreeMap;
use std::io;
use std::time::SystemTime;

use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::node::SettingsSeen;
use flypg_core::protocol::{Task, ports};
use flypg_core::settings::{self, Ownership, derive, effective_for_standby, layered, owned, refused};

use crate::account::command;
use crate::config::Config;
use crate::data_dir::control_data;
use crate::files;
use crate::libraries;
use crate::processes::output;
use crate::server_log;

/// Everything comes through the one socket, so there is nothing else to allow; who may come at all, and as whom, the
/// gate decides first.
const HBA: &str = "# Written by flypg-agent; changes made here are overwritten.\n\
                   local all all scram-sha-256\n\
                   local replication flypg_replication scram-sha-256\n";

/// The configuration of this node's Postgres.
#[derive(Debug, Default)]
pub struct Conf {
    /// What the last text was made from, and the text.
    wanted: Option<(Inputs, String)>,
    /// The text that was last written here in this life.
    written: Option<String>,
    /// The text that the running Postgres has read.
    loaded: Option<String>,
    /// Parameters of the person that were left out, with Postgres' words.
    pub rejected: BTreeMap<String, String>,
    /// The parameters that `rejected` was found among; other ones are tried afresh.
    judged: Option<BTreeMap<String, String>>,
    /// Whether `judged` went through `postgres -C`.
    tried: bool,
    /// On a standby whose primary had more of something than is wanted: when the control file said so. It says
    /// otherwise once the primary has restarted with less.
    raised: Option<SystemTime>,
    /// What is raised so.
    pub withheld: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inputs {
    parameters: BTreeMap<String, String>,
    /// It starts as a standby, so it may not have less of some things than its primary had.
    standby: bool,
    /// It has an upstream.
    follows: bool,
    /// The value of `synchronous_standby_names`.
    waits_for: String,
    disk_mb: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    #[error("PostgreSQL's configuration could not be written")]
    Io(#[from] io::Error),
    #[error("PostgreSQL refuses a configuration without any parameter of yours: {0}")]
    Unusable(String),
}

impl Conf {
    /// How the files compare with what `ledger` asks for. A superuser's `ALTER SYSTEM` counts as a difference.
    pub fn seen(&self, config: &Config, ledger: &Ledger, disk_mb: Option<u64>) -> SettingsSeen {
        let inputs = inputs(ledger, disk_mb, self.inputs());
        let Some((from, text)) = &self.wanted else { return SettingsSeen::Stale };
        let raised_before = self.raised.is_some() && self.raised != control_changed(config);
        if *from != inputs || self.written.as_ref() != Some(text) || altered_by_system(config) || raised_before {
            SettingsSeen::Stale
        } else if self.loaded.as_ref() != Some(text) {
            SettingsSeen::Written
        } else {
            SettingsSeen::Loaded
        }
    }

    /// Brings the files up to date, leaving out what Postgres refuses.
    pub async fn write(&mut self, config: &Config, ledger: &Ledger, disk_mb: Option<u64>) -> Result<(), ConfError> {
        let inputs = inputs(ledger, disk_mb, self.inputs());
        if self.judged.as_ref() != Some(&inputs.parameters) {
            self.judged = Some(inputs.parameters.clone());
            self.rejected = libraries::missing(config, &inputs.parameters);
            self.rejected.extend(refused_by_us(&inputs.parameters));
            self.tried = false;
        }
        let changed = control_changed(config); // before it is read, so that no change is missed
        let base = self.base(config, &inputs).await;
        let (mut text, mut withheld) = self.text(&base, &inputs)?;
        // Nothing of the person's, nothing to try: what we write ourselves is tested.
        while !self.tried && !inputs.parameters.is_empty() {
            match self.try_out(config, &inputs.parameters, &text).await? {
                Verdict::Good => self.tried = true,
                Verdict::Bad(found) => {
                    self.rejected.extend(found);
                    (text, withheld) = self.text(&base, &inputs)?;
                }
            }
        }
        // A control file that changed without changing the text is no reason to reload; ALTER SYSTEM is.
        if self.written.as_ref() != Some(&text) || altered_by_system(config) {
            let pgdata = &config.paths.pgdata;
            neutralise_alter_system(config)?;
            files::bring(&pgdata.join("pg_hba.conf"), HBA.as_bytes(), config.account)?;
            files::bring(&pgdata.join("postgresql.conf"), text.as_bytes(), config.account)?;
            self.loaded = None;
        }
        self.raised = changed.filter(|_| !withheld.is_empty());
        self.withheld = withheld;
        self.written = Some(text.clone());
        self.wanted = Some((inputs, text));
        Ok(())
    }

    /// Derived settings and ours.
    async fn base(&self, config: &Config, inputs: &Inputs) -> Base {
        let conninfo = inputs.follows.then(|| conninfo(config, Purpose::Stream));
        let of = Ownership {
            cluster: &config.cluster,
            node: &config.node,
            major: config.major,
            disk_mb: inputs.disk_mb,
            socket_directory: &config.paths.socket.display().to_string(),
            primary_conninfo: conninfo.as_deref(),
            synchronous_standby_names: &inputs.waits_for,
        };
        let limits = match inputs.standby {
            true => control_data(config).await.map(|control| control.limits).unwrap_or_default(),
            false => BTreeMap::new(),
        };
        Base { derived: derive(config.guest, inputs.disk_mb, config.major), owned: owned(&of), limits }
    }

    /// The text, and what had to be raised above what is wanted, as this is a standby.
    fn text(&self, base: &Base, inputs: &Inputs) -> Result<(String, Vec<String>), ConfError> {
        let person = inputs.parameters.iter().filter(|(name, _)| !self.rejected.contains_key(*name));
        let person = person.map(|(name, value)| (name.clone(), value.clone())).collect();
        let mut all = layered(base.derived.clone(), &person, base.owned.clone());
        let prefix = all.entry("log_line_prefix".to_owned()).or_default();
        *prefix = server_log::marked(prefix);
        let wanted = all.clone();
        effective_for_standby(&mut all, &base.limits);
        let text = settings::render(&all).map_err(|error| ConfError::Unusable(error.to_string()))?;
        let withheld = all.iter().filter(|(name, value)| wanted.get(*name) != Some(value));
        let withheld = withheld.map(|(name, _)| name.clone()).collect();
        Ok((text, withheld))
    }

    /// Lets `postgres -C` read the text, which checks every value and starts nothing.
    async fn try_out(
        &self,
        config: &Config,
        parameters: &BTreeMap<String, String>,
        text: &str,
    ) -> Result<Verdict, ConfError> {
        let candidate = config.paths.run.join("candidate.conf");
        files::replace(&candidate, text.as_bytes(), config.account)?;
        let mut postgres = command(&config.program("postgres"), config.account);
        postgres.arg("-C").arg("port").arg("-D").arg(&config.paths.pgdata);
        postgres.arg("-c").arg(format!("config_file={}", candidate.display()));
        let output = output(&mut postgres).await?;
        if output.status.success() {
            return Ok(Verdict::Good);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let mut found = blamed(&words, text, parameters);
        found.retain(|name, _| !self.rejected.contains_key(name));
        if found.is_empty() {
            // Postgres named none of them, so all are left out rather than any let through.
            let why = server_log::errors_in(words.lines()).unwrap_or_else(|| words.trim().to_owned());
            found = parameters.keys().map(|name| (name.clone(), why.clone())).collect();
            found.retain(|name, _| !self.rejected.contains_key(name));
            if found.is_empty() {
                return Err(ConfError::Unusable(why));
            }
        }
        tracing::warn!(?found, "PostgreSQL refuses parameters; they are left out");
        Ok(Verdict::Bad(found))
    }

    /// Postgres did not come up with what is written. Leaves out what has not been proven, and says whether that
    /// changes anything.
    pub fn fall_back(&mut self, proven: &BTreeMap<String, String>, words: &str) -> bool {
        let Some(judged) = &self.judged else { return false };
        let fresh: Vec<_> = judged
            .iter()
            .filter(|(name, value)| proven.get(*name) != Some(*value) && !self.rejected.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        let changed = !fresh.is_empty();
        self.rejected.extend(fresh.into_iter().map(|name| (name, words.to_owned())));
        if changed {
            self.wanted = None;
        }
        changed
    }

    /// The running Postgres has read what is written.
    pub fn has_loaded(&mut self) {
        self.loaded.clone_from(&self.written);
    }

    /// Postgres ended: what it had read is gone with it.
    pub fn has_ended(&mut self) {
        self.loaded = None;
        // The control file may ask for more now.
        if self.wanted.as_ref().is_some_and(|(inputs, _)| inputs.standby) {
            self.wanted = None;
        }
    }

    fn inputs(&self) -> Option<&Inputs> {
        self.wanted.as_ref().map(|(inputs, _)| inputs)
    }

    /// Whom the files say that a primary waits for.
    pub fn waits_for(&self) -> &str {
        self.inputs().map_or("", |inputs| &inputs.waits_for)
    }

    /// What Postgres shows to be in force, after it has read the files. Somebody else may have changed them, and told it
    /// to read them.
    pub fn check(&mut self, waits_for: &str) {
        let loaded = self.loaded.is_some() && self.loaded == self.written;
        if loaded && self.inputs().is_some_and(|inputs| inputs.waits_for != waits_for) {
            tracing::warn!(waits_for, "somebody else wrote Postgres' configuration; it is put right");
            (self.written, self.loaded) = (None, None);
        }
    }

    /// The parameters of the person that are written, without the rejected ones.
    pub fn accepted(&self) -> BTreeMap<String, String> {
        let Some((inputs, _)) = &self.wanted else { return BTreeMap::new() };
        let kept = inputs.parameters.iter().filter(|(name, _)| !self.rejected.contains_key(*name));
        kept.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The parameters of the person that this configuration was made for.
    pub fn asked(&self) -> BTreeMap<String, String> {
        self.wanted.as_ref().map(|(inputs, _)| inputs.parameters.clone()).unwrap_or_default()
    }
}

struct Base {
    derived: BTreeMap<String, String>,
    owned: BTreeMap<String, String>,
    limits: BTreeMap<String, u64>,
}

enum Verdict {
    Good,
    Bad(BTreeMap<String, String>),
}

/// When the control file was last written; Postgres writes it with every restartpoint and change of these settings.
fn control_changed(config: &Config) -> Option<SystemTime> {
    std::fs::metadata(config.paths.pgdata.join("global/pg_control")).and_then(|m| m.modified()).ok()
}

/// A standby that nobody is called: a primary that was not told whom to wait for acknowledges nothing.
const NOBODY: &str = r#"ANY 1 ("flypg_nobody")"#;

fn inputs(ledger: &Ledger, disk_mb: Option<u64>, before: Option<&Inputs>) -> Inputs {
    let told = ledger.assignment.as_ref();
    let waits_for = || match told.map(|told| &told.task) {
        Some(Task::Bootstrap { .. }) => String::new(),
        // Emptied it would let everybody go who waits (protocol, experiment E3).
        task => task.and_then(Task::terms).map(|terms| terms.rule.synchronous_standby_names()).unwrap_or_else(|| {
            before.map(|before| before.waits_for.clone()).filter(|names| !names.is_empty()).unwrap_or(NOBODY.to_owned())
        }),
    };
    let (standby, follows, waits_for) = match &ledger.role {
        LedgerRole::Primary { .. } => (false, false, waits_for()),
        // Before it is promoted: the first commit waits already.
        LedgerRole::Promoting { .. } => (true, false, waits_for()),
        LedgerRole::Replica { .. } => (true, true, String::new()),
        LedgerRole::Recruited { .. } | LedgerRole::Rejoining { .. } => (true, false, String::new()),
        LedgerRole::Blank
        | LedgerRole::Initialising { .. }
        | LedgerRole::Cloning { .. }
        | LedgerRole::Relinquished { .. } => (false, false, NOBODY.to_owned()),
    };
    let parameters = told.map(|told| told.parameters.clone()).unwrap_or_default();
    Inputs { parameters, standby, follows, waits_for, disk_mb }
}

/// What somebody connects to the upstream for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Stream,
    Clone,
    Rewind,
    Ask,
}

/// How this node reaches its upstream: through the agent, which knows the address and may cut it.
///
/// Only its Postgres comes under the name by which a primary waits for it: what a clone has flushed is not part of what
/// this node would be recruited with.
pub fn conninfo(config: &Config, purpose: Purpose) -> String {
    let name = match purpose {
        Purpose::Stream => config.node.slot(),
        Purpose::Clone => format!("clone of {}", config.node),
        Purpose::Rewind => format!("rewind of {}", config.node),
        Purpose::Ask => format!("agent of {}", config.node),
    };
    format!(
        "host={} port={} user=flypg_replication passfile={} application_name={} sslmode=disable",
        quoted(&config.paths.upstream.display().to_string()),
        ports::REPLICATION,
        quoted(&config.paths.passfile.display().to_string()),
        quoted(&name),
    )
}

/// A value in a libpq connection string.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'"))
}

/// What the spec refuses is refused here too: the file may have been written by an older flypg.
fn refused_by_us(parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let words = |name: &str, value: &str| {
        settings::check_name(name)
            .map_err(|error| error.to_string())
            .err()
            .or_else(|| refused(name).map(str::to_owned))
            .or_else(|| settings::refused_value(name, value).map(str::to_owned))
            .or_else(|| settings::check_value(name, value).map_err(|error| error.to_string()).err())
    };
    parameters.iter().filter_map(|(name, value)| Some((name.clone(), words(name, value)?))).collect()
}

/// Which parameters Postgres complains about: by name, or by the line of the file.
fn blamed(stderr: &str, text: &str, parameters: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in stderr.lines() {
        if let Some((_, hint)) = line.split_once("HINT:  ")
            && let Some(words) = last.as_ref().and_then(|name| found.get_mut(name))
        {
            words.push_str("; ");
            words.push_str(hint.trim());
            continue;
        }
        let Some((_, words)) = line.split_once("LOG:  ").or_else(|| line.split_once("FATAL:  ")) else { continue };
        let by_name = words
            .split('"')
            .skip(1)
            .step_by(2)
            .find_map(|quoted| parameters.keys().find(|name| name.eq_ignore_ascii_case(quoted)));
        let by_line = words.rsplit_once(" line ").and_then(|(_, rest)| {
            let number: usize = rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
            let name = text.lines().nth(number.checked_sub(1)?)?.split_once(" = ")?.0;
            parameters.keys().find(|given| given.eq_ignore_ascii_case(name))
        });
        if let Some(name) = by_name.or(by_line) {
            // The file's name is of no use to the person.
            let words = words.split(" in file \"").next().unwrap_or(words);
            found.insert(name.clone(), words.trim().to_owned());
            last = Some(name.clone());
        }
    }
    found
}

const AUTO_CONF: &str = "postgresql.auto.conf";
const AUTO_CONF_EMPTY: &[u8] = b"# ALTER SYSTEM has no effect here: set `postgres.parameters` in cluster.yaml.\n";

/// Whether somebody used `ALTER SYSTEM`. One `stat` per look: everything else has another length.
fn altered_by_system(config: &Config) -> bool {
    std::fs::metadata(config.paths.pgdata.join(AUTO_CONF)).is_ok_and(|file| file.len() != AUTO_CONF_EMPTY.len() as u64)
}

/// The file decides, not `ALTER SYSTEM`: from 17 on Postgres refuses it, before that it is undone.
fn neutralise_alter_system(config: &Config) -> io::Result<()> {
    let path = config.paths.pgdata.join(AUTO_CONF);
    if let Some(bytes) = files::read_if_there(&path)? {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
        let names: Vec<_> = names.map(|(name, _)| name).collect();
        if !names.is_empty() {
            tracing::warn!(?names, "undoing ALTER SYSTEM; set postgres.parameters in cluster.yaml instead");
        }
    }
    files::bring(&path, AUTO_CONF_EMPTY, config.account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_traced_to_parameters() {
        let parameters: BTreeMap<_, _> =
            ["work_mem", "Max_Connections", "nonsense"].map(|name| (name.to_owned(), "x".to_owned())).into();
        let text = "# header\nwork_mem = 'x'\nnonsense = 'x'\n";
        let stderr = "2026-11-22 17:00:00 UTC [1] LOG:  invalid value for parameter \"work_mem\": \"x\"\n\
                      2026-11-22 17:00:00 UTC [1] HINT:  Valid units are kB, MB.\n\
                      2026-11-22 17:00:00 UTC [1] LOG:  parameter \"max_connections\" requires a numeric value\n\
                      2026-11-22 17:00:00 UTC [1] LOG:  unrecognized configuration parameter \"nonsense\" in file \"/x/c\" line 3\n\
                      2026-11-22 17:00:00 UTC [1] FATAL:  configuration file \"/x/c\" contains errors\n";
        let found = blamed(stderr, text, &parameters);
        assert_eq!(found["work_mem"], "invalid value for parameter \"work_mem\": \"x\"; Valid units are kB, MB.");
        assert_eq!(found["Max_Connections"], "parameter \"max_connections\" requires a numeric value");
        assert_eq!(found["nonsense"], "unrecognized configuration parameter \"nonsense\"");
        assert_eq!(found.len(), 3);
        let syntax = "LOG:  syntax error in file \"/x/c\" line 2, near token \"x\"";
        assert_eq!(blamed(syntax, text, &parameters).into_keys().collect::<Vec<_>>(), ["work_mem"]);
    }
}
