//! The node's own loop: look, decide, act, wait. What to do is decided by [`flypg_core::node::next`] alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::decree::SystemId;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::node::{
    CRASH_WINDOW, DataDir, Local, NodeStep, Origin, Position, Postmaster as Seen, PrimarySeen, ReignSeen, Stranded,
    next,
};
use flypg_core::protocol::{Assignment, Disk, PgReport, PgRole, Phase};
use flypg_core::settings;
use nix::sys::statvfs::statvfs;
use tokio::time::Instant;

use crate::conf::Conf;
use crate::data_dir;
use crate::postmaster::Postmaster;
use crate::processes;
use crate::routes::Here;
use crate::shared::Shared;
use crate::sql::{Look, Session, SqlError};

/// How often a Postgres that is well is looked at.
const AT_REST: Duration = Duration::from_secs(1);
/// The same while something is wrong or changing.
const UNEASY: Duration = Duration::from_millis(250);
/// How often a starting Postgres is asked whether it answers yet.
const STARTING: Duration = Duration::from_millis(15);
/// A Postgres that answers nothing for so long is reported as failing.
const SILENCE: Duration = Duration::from_secs(5);

/// What this agent knows of its Postgres. Whatever is not in the ledger is found out again after a restart.
#[derive(Debug)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) postmaster: Option<Postmaster>,
    pub(crate) session: Option<Session>,
    pub(crate) conf: Conf,
    /// The data directory may have changed since it was looked at.
    pub(crate) data_changed: bool,
    pub(crate) data: DataDir,
    pub(crate) crashes: Vec<Timestamp>,
    pub(crate) crash_count: u32,
    pub(crate) failed_makes: Vec<Timestamp>,
    /// The assignment under which those failed.
    told: Option<Assignment>,
    /// When another copy was begun for a standby that could not go on.
    pub(crate) remakes: Vec<Timestamp>,
    /// When the primary of a standby that cannot go on was last asked, and its answer.
    pub(crate) asked: Option<(Timestamp, Result<PrimarySeen, String>)>,
    /// Bytes of the data directory, as measured then.
    pub(crate) copy_size: u64,
    /// Another copy did not fit beside the one that is here.
    pub(crate) no_room: bool,
    /// What went wrong last, in words.
    pub(crate) why: Option<String>,
    /// Why the last step failed, if it did.
    stuck: Option<String>,
    pub(crate) roles_ensured: bool,
    /// The person's parameters that Postgres was started with.
    pub(crate) started_with: BTreeMap<String, String>,
    /// The person's parameters that the running Postgres has read.
    pub(crate) in_force: BTreeMap<String, String>,
    /// Which of those a standby keeps higher than asked.
    pub(crate) withheld: Vec<String>,
    pub(crate) pending_restart: Vec<String>,
    identity: Option<(String, SystemId, i64)>,
    pub(crate) sight: Option<Look>,
    /// When Postgres last answered.
    answered: Instant,
    disk: Option<Disk>,
}

impl Node {
    pub fn new(shared: Arc<Shared>) -> Self {
        let data = shared.data.lock().expect("no holder of this lock panics").clone();
        Self {
            shared,
            postmaster: None,
            session: None,
            conf: Conf::default(),
            data_changed: true,
            data,
            crashes: Vec::new(),
            crash_count: 0,
            failed_makes: Vec::new(),
            told: None,
            remakes: Vec::new(),
            asked: None,
            copy_size: u64::MAX,
            no_room: false,
            why: None,
            stuck: None,
            roles_ensured: false,
            started_with: BTreeMap::new(),
            in_force: BTreeMap::new(),
            withheld: Vec::new(),
            pending_restart: Vec::new(),
            identity: None,
            sight: None,
            answered: Instant::now(),
            disk: None,
        }
    }

    /// Runs until the agent is asked to end and Postgres has ended.
    ///
    /// It begins with the last durable assignment, without asking anybody. A node that holds a lease will have to
    /// begin fenced here instead: with the gate shut, and no Postgres that could accept writes (fence F4).
    pub async fn run(mut self) {
        self.shared.follow_ledger();
        loop {
            self.look().await;
            let ledger = self.shared.ledger();
            if self.told != ledger.assignment {
                // What failed under another assignment may succeed under this one.
                self.told.clone_from(&ledger.assignment);
                self.failed_makes.clear();
            }
            let local = self.local(&ledger);
            let now = Timestamp::now();
            let step = match &self.shared.store {
                Ok(store) => match store.begin() {
                    Ok(()) => next(&ledger, &local, now),
                    Err(_) if local.postmaster == Seen::Leftover => NodeStep::EndLeftover,
                    Err(error) => {
                        NodeStep::Hold { why: crate::words(&error), until: now.checked_add(AT_REST).unwrap_or(now) }
                    }
                },
                // Whatever an earlier agent left running, nobody would look after it.
                Err(_) if local.postmaster == Seen::Leftover => NodeStep::EndLeftover,
                Err(error) => NodeStep::Quarantine { why: crate::words(error) },
            };
            self.publish(&step, &local, &ledger);
            if local.stopping && local.postmaster == Seen::Down {
                break;
            }
            tracing::trace!(?step);
            match step {
                NodeStep::Nothing | NodeStep::Quarantine { .. } => self.rest(self.pace(&local)).await,
                NodeStep::Wait { until } | NodeStep::Hold { until, .. } => {
                    let left = until.duration_since(now).unsigned_abs();
                    self.rest(left.min(AT_REST)).await;
                }
                step => {
                    self.stuck = self.act(step, &ledger).await.err().map(|error| crate::words(&error));
                    if let Some(error) = &self.stuck {
                        tracing::warn!(error, "a step failed");
                        self.rest(UNEASY).await;
                    }
                }
            }
        }
        self.shared.ended.cancel();
    }

    fn pace(&self, local: &Local) -> Duration {
        match local.postmaster {
            Seen::Starting => STARTING,
            Seen::Up if self.sight.as_ref().is_none_or(is_uneasy) => UNEASY,
            Seen::Leftover | Seen::Up | Seen::Down => AT_REST,
        }
    }

    /// Waits until something happens, at most for `limit`.
    pub(crate) async fn rest(&mut self, limit: Duration) {
        let shared = self.shared.clone();
        let already_ending = shared.ending.is_cancelled();
        let ended = async {
            match &mut self.postmaster {
                Some(postmaster) => postmaster.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            status = ended => self.has_ended(status).await,
            () = shared.wake.notified() => {}
            () = shared.ending.cancelled(), if !already_ending => {}
            () = tokio::time::sleep(limit) => {}
        }
    }

    /// The postmaster ended, asked or unasked.
    pub(crate) async fn has_ended(&mut self, status: std::io::Result<std::process::ExitStatus>) {
        let Some(mut postmaster) = self.postmaster.take() else { return };
        self.shared.here.send_replace(Here::default());
        (self.session, self.sight, self.identity) = (None, None, None);
        self.roles_ensured = false;
        self.pending_restart.clear();
        self.conf.has_ended();
        self.data_changed = true;
        if postmaster.asked_to_end {
            tracing::info!("Postgres has stopped");
            return;
        }
        if !postmaster.up {
            postmaster.log.settle().await;
        }
        let words = postmaster.log.words();
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::error!(how, words, "Postgres ended without being asked");
        self.why = Some(if words.is_empty() { how.clone() } else { format!("{how}: {words}") });
        // It never came up: if parameters are new since it last did, they are the first suspects.
        let proven = self.shared.ledger().proven.unwrap_or_default();
        if !postmaster.up && self.conf.fall_back(&proven, &words) {
            tracing::warn!("starting with the parameters that Postgres last came up with");
            return;
        }
        let now = Timestamp::now();
        self.crashes.retain(|at| now.duration_since(*at).unsigned_abs() < CRASH_WINDOW);
        self.crashes.push(now);
        self.crash_count += 1;
    }

    /// Finds out what is so now.
    async fn look(&mut self) {
        processes::reap_orphans();
        if self.data_changed {
            match data_dir::look(&self.shared.config).await {
                Ok(data) => self.data = data,
                Err(error) => self.data = DataDir::Unusable { why: format!("the volume cannot be read: {error}") },
            }
            *self.shared.data.lock().expect("no holder of this lock panics") = self.data.clone();
            // What could not be read may be readable the next time.
            self.data_changed = matches!(self.data, DataDir::Unusable { .. });
            if matches!(self.data, DataDir::Complete { .. })
                && data_dir::is_making(&self.shared.config)
                && let Err(error) = self.remove_unfinished().await
            {
                tracing::warn!(error = crate::words(&error), "what lies beside the data directory stays for now");
            }
        }
        self.disk = statvfs(&self.shared.config.paths.volume).ok().map(|volume| {
            let unit = volume.fragment_size();
            Disk {
                total: volume.blocks().saturating_mul(unit),
                // Blocks that only root may use count as used.
                used: (volume.blocks().saturating_sub(volume.blocks_available())).saturating_mul(unit),
            }
        });
        let pgdata = &self.shared.config.paths.pgdata;
        if self.postmaster.as_ref().is_some_and(|postmaster| postmaster.up || postmaster.is_ready(pgdata)) {
            match self.ask().await {
                Ok(sight) => {
                    if sight.streams {
                        // Whatever was missing is not missing now.
                        self.postmaster.iter().for_each(|postmaster| postmaster.log.forget_stranded());
                        (self.asked, self.no_room) = (None, false);
                    }
                    self.sight = Some(sight);
                    self.answered = Instant::now();
                }
                Err(error) => {
                    tracing::warn!(error = crate::words(&error), "Postgres does not answer");
                    (self.session, self.sight) = (None, None);
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<Look, SqlError> {
        if self.session.as_ref().is_none_or(Session::is_closed) {
            let session = Session::connect(&self.shared.config).await?;
            self.identity = Some(session.identity().await?);
            self.pending_restart = session.pending_restart().await?;
            self.session = Some(session);
            self.has_come_up();
        }
        match &self.session {
            Some(session) => session.look().await,
            None => unreachable!("there is a session: it was made above"),
        }
    }

    /// Postgres answers for the first time since it was started.
    fn has_come_up(&mut self) {
        let Some(postmaster) = self.postmaster.as_mut().filter(|postmaster| !postmaster.up) else { return };
        postmaster.up = true;
        self.why = None;
        tracing::info!("Postgres answers");
        if let Ok(store) = &self.shared.store {
            let proven = Some(self.started_with.clone());
            let remember = |ledger: &Ledger| {
                (ledger.proven != proven).then(|| Ledger { proven: proven.clone(), ..ledger.clone() })
            };
            if let Err(error) = store.update(remember) {
                tracing::warn!(error = crate::words(&error), "the working parameters could not be remembered");
            }
        }
    }

    fn local(&self, ledger: &Ledger) -> Local {
        let config = &self.shared.config;
        let postmaster = match &self.postmaster {
            Some(postmaster) if postmaster.up => Seen::Up,
            Some(_) => Seen::Starting,
            None if matches!(self.data, DataDir::Complete { .. } | DataDir::Unusable { .. })
                && processes::leftovers(&config.paths.pgdata) =>
            {
                Seen::Leftover
            }
            None => Seen::Down,
        };
        Local {
            major: config.major,
            data: self.data.clone(),
            postmaster,
            crashes: self.crashes.clone(),
            failed_makes: self.failed_makes.clone(),
            settings: self.conf.seen(config, ledger, self.disk_mb()),
            roles_ensured: self.roles_ensured,
            slots: self.sight.as_ref().map(|sight| sight.slots.clone()),
            stranded: self.stranded(ledger),
            remakes: self.remakes.clone(),
            restart_ordered: self.shared.restart_ordered.load(Ordering::Relaxed),
            may_lead: self.shared.may_lead(),
            grace_over: self.shared.grace_over(),
            reign: ReignSeen::default(),
            end: None,
            astray: None,
            rewind_failed: None,
            stopping: self.shared.ending.is_cancelled(),
            clean: false,
            room: false,
            remade: false,
        }
    }

    /// What is known of a standby that does not stream because its primary cannot give it the WAL it needs.
    fn stranded(&self, ledger: &Ledger) -> Option<Stranded> {
        let (sight, postmaster) = (self.sight.as_ref()?, self.postmaster.as_ref()?);
        let PgRole::Standby { received, replayed, .. } = &sight.role else { return None };
        if sight.streams || !postmaster.log.is_stranded() || !matches!(ledger.role, LedgerRole::Replica { .. }) {
            return None;
        }
        let lsn = received.unwrap_or_default().max(*replayed);
        // A tenth, and what Postgres writes while it starts, more than what is here now.
        let needed = self.copy_size.saturating_add(self.copy_size / 10).saturating_add(64 * 1024 * 1024);
        let free = self.disk.map_or(0, |disk| disk.total.saturating_sub(disk.used));
        Some(Stranded {
            own: Position { timeline: sight.timeline, lsn },
            room: !self.no_room && free >= needed,
            asked: self.asked.clone(),
        })
    }

    pub(crate) fn disk_mb(&self) -> Option<u64> {
        self.disk.map(|disk| disk.total / (1024 * 1024))
    }

    /// Tells everybody what was seen and what is about to be done.
    fn publish(&self, step: &NodeStep, local: &Local, ledger: &Ledger) {
        let phase = self.phase(step, local, ledger);
        let standby = matches!(ledger.role, LedgerRole::Replica { .. });
        // A Postgres that is too busy to answer the agent may still answer others: it shuts the door itself.
        let open = local.postmaster == Seen::Up && (standby || self.roles_ensured);
        let streams = standby && self.sight.as_ref().is_some_and(|sight| sight.streams);
        let here = Here { open, streams };
        let postgres = self.postgres();
        self.shared.publish(|report| {
            report.phase = phase;
            report.postgres = postgres;
            report.disk = self.disk;
            report.crashes = self.crash_count;
        });
        // After the report: whoever is let in because of this may rely on what it says.
        self.shared.here.send_if_modified(|now| std::mem::replace(now, here) != here);
    }

    pub(crate) fn postgres(&self) -> Option<PgReport> {
        let ((version, system_id, started_at), sight) = (self.identity.as_ref()?, self.sight.as_ref()?);
        let mut role = sight.role.clone();
        if let PgRole::Standby { streaming_from, .. } = &mut role
            && sight.streams
        {
            // The receiver knows the agent only; where that connects it to is the agent's own knowledge.
            *streaming_from = self.shared.routes.borrow().upstream.as_ref().map(|(node, _)| node.clone());
        }
        Some(PgReport {
            version: version.clone(),
            system_id: system_id.clone(),
            timeline: sight.timeline,
            history: None,
            started_at: *started_at,
            role,
            settings: settings::digest(&self.in_force),
            parameters: self.in_force.clone(),
            pending_restart: self.pending_restart.clone(),
            withheld: self.withheld.clone(),
            rejected: self.conf.rejected.clone(),
        })
    }

    fn phase(&self, step: &NodeStep, local: &Local, ledger: &Ledger) -> Phase {
        let why = || self.why.clone().unwrap_or_else(|| "Postgres ended several times".to_owned());
        // While Postgres runs, one step that fails does not make it any worse.
        if let (Some(why), Seen::Down) = (&self.stuck, local.postmaster)
            && !matches!(step, NodeStep::Quarantine { .. } | NodeStep::Hold { .. } | NodeStep::Nothing)
        {
            return Phase::Failing { why: why.clone() };
        }
        match step {
            NodeStep::Quarantine { why } => Phase::Quarantined { why: why.clone() },
            NodeStep::StopFast | NodeStep::RestartPostgres => Phase::Stopping,
            NodeStep::Wait { .. } => Phase::Failing { why: why() },
            NodeStep::Hold { why, .. } => Phase::Failing { why: why.clone() },
            NodeStep::AskPrimary { .. } => {
                Phase::Failing { why: "its primary cannot give this standby the WAL it needs".to_owned() }
            }
            NodeStep::Initdb { .. } => Phase::Initialising,
            NodeStep::Clone { .. } | NodeStep::CloneBeside { .. } | NodeStep::GiveUpCopy { .. } => {
                Phase::Cloning { done: 0, total: None }
            }
            NodeStep::RemoveUnfinished => match &local.data {
                DataDir::Unfinished(Some(Origin::Initdb { .. })) => Phase::Initialising,
                _ => Phase::Cloning { done: 0, total: None },
            },
            NodeStep::RecordMade { .. } | NodeStep::EndLeftover | NodeStep::StartPostgres { .. } => Phase::Starting,
            NodeStep::Nothing
            | NodeStep::WriteSettings
            | NodeStep::Reload
            | NodeStep::EnsureRoles
            | NodeStep::EnsureSlots { .. }
            | NodeStep::FindEnd
            | NodeStep::InspectStopped
            | NodeStep::Promote { .. }
            | NodeStep::RecordPromoted
            | NodeStep::EnsureRule { .. }
            | NodeStep::Confirm { .. }
            | NodeStep::Checkpoint
            | NodeStep::Drain
            | NodeStep::RecordRelinquished
            | NodeStep::BecomeStandby
            | NodeStep::RecordRewinding
            | NodeStep::Rewind { .. }
            | NodeStep::RecordUnpromoted => match local.postmaster {
                Seen::Up if self.answered.elapsed() > SILENCE => {
                    Phase::Failing { why: "Postgres runs and does not answer".to_owned() }
                }
                Seen::Up if matches!(step, NodeStep::EnsureRoles) => Phase::Starting,
                Seen::Up => Phase::Running,
                Seen::Starting | Seen::Leftover => Phase::Starting,
                Seen::Down if local.stopping => Phase::Stopping,
                Seen::Down if matches!(step, NodeStep::WriteSettings) => Phase::Starting,
                Seen::Down if local.data == DataDir::Blank && ledger.role == LedgerRole::Blank => Phase::Blank,
                Seen::Down => Phase::Idle,
            },
        }
    }
}

/// Whether a look at Postgres shows something that is not as it should stay.
fn is_uneasy(sight: &Look) -> bool {
    match &sight.role {
        PgRole::Primary { .. } => false,
        PgRole::Standby { .. } => !sight.streams,
    }
}
