//! The node's own loop: look, decide, act, wait. What to do is decided by [`flypg_core::node::next`] alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::decree::Epoch;
use flypg_core::failover::History;
use flypg_core::ledger::Ledger;
use flypg_core::node::{CRASH_WINDOW, DataDir, Local, NodeStep, Position, Postmaster as Seen, PrimarySeen, next};
use flypg_core::protocol::{Assignment, Disk, End, Lsn, PgRole, Task};
use nix::sys::statvfs::statvfs;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::conf::Conf;
use crate::data_dir;
use crate::end::EndError;
use crate::marker;
use crate::postmaster::Postmaster;
use crate::processes;
use crate::reign::Reign;
use crate::shared::Shared;
use crate::sql::{Identity, Look, Session, SqlError};
use crate::store::Store;
use crate::wal;

/// How often a Postgres that is well is looked at.
const AT_REST: Duration = Duration::from_secs(1);
/// The same while something is wrong or changing.
const UNEASY: Duration = Duration::from_millis(250);
/// How often a starting Postgres is asked whether it answers yet.
const STARTING: Duration = Duration::from_millis(15);
/// The same for one that is on its way to leading, or to a handover, unless that takes longer than [`SOON`].
const ON_THE_WAY: Duration = Duration::from_millis(10);
const SOON: Duration = Duration::from_secs(5);

/// How often it is brought to disk how far the data are (protocol §2.3, "flushed_hi").
const MARK_EACH: Duration = Duration::from_secs(5);

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
    pub(crate) stuck: Option<String>,
    /// Since when it waits for what it has begun.
    under_way: Option<Instant>,
    pub(crate) roles_ensured: bool,
    /// The roles that clients come with are there, as far as this agent knows.
    pub(crate) roles_there: bool,
    /// The person's parameters that Postgres was started with.
    pub(crate) started_with: BTreeMap<String, String>,
    /// The person's parameters that the running Postgres has read.
    pub(crate) in_force: BTreeMap<String, String>,
    /// Which of those a standby keeps higher than asked.
    pub(crate) withheld: Vec<String>,
    pub(crate) pending_restart: Vec<String>,
    pub(crate) identity: Option<Identity>,
    pub(crate) sight: Option<Look>,
    /// What it has done as a primary.
    pub(crate) reign: Reign,
    /// What the files and markers of the running Postgres say of its past; absent until they were read.
    pub(crate) history: Option<History>,
    /// Somebody may have written a marker since they were read.
    pub(crate) markers_may_differ: bool,
    /// The markers that were last seen in these data.
    pub(crate) markers: Vec<(Epoch, String)>,
    /// When it was last begun to bring to disk how far the data are.
    marked: Instant,
    marking: Option<JoinHandle<()>>,
    /// Postgres was last started as a primary, and where its recovery ended is not compared yet with how far its data had
    /// come.
    pub(crate) recovers: bool,
    /// Where the first checkpoint of such a Postgres begins, behind all that recovery found.
    recovered_to: Option<Lsn>,
    /// Where its data end, once nothing can be added.
    pub(crate) found: Option<Found>,
    /// These data lack what they once had: an older state of them was put back, or the disk lost it.
    pub(crate) lost_wal: Option<String>,
    /// Why the data cannot be rewound.
    pub(crate) rewind_failed: Option<String>,
    /// The data were just made whole again.
    pub(crate) remade: bool,
    /// When Postgres last answered.
    pub(crate) answered: Instant,
    pub(crate) disk: Option<Disk>,
}

/// Where data end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The epoch for which a standby was recruited; absent for what was read from the files of a stopped Postgres.
    pub recruited_in: Option<Epoch>,
    /// It was shut down cleanly.
    pub clean: bool,
    pub end: End,
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
            under_way: None,
            roles_ensured: false,
            roles_there: false,
            started_with: BTreeMap::new(),
            in_force: BTreeMap::new(),
            withheld: Vec::new(),
            pending_restart: Vec::new(),
            identity: None,
            sight: None,
            reign: Reign::default(),
            history: None,
            markers_may_differ: true,
            markers: Vec::new(),
            marked: Instant::now(),
            marking: None,
            recovers: false,
            recovered_to: None,
            found: None,
            lost_wal: None,
            rewind_failed: None,
            remade: false,
            answered: Instant::now(),
            disk: None,
        }
    }

    /// Runs until the agent is asked to end and Postgres has ended.
    ///
    /// It begins with the last durable assignment, without asking anybody, and fenced (F4): a Postgres that could accept
    /// writes does not start before it is known to have a lease, or to need none.
    pub async fn run(mut self) {
        self.shared.follow_ledger();
        loop {
            self.look().await;
            let ledger = self.shared.ledger();
            if self.told != ledger.assignment {
                // What failed under another assignment may succeed under this one.
                self.told.clone_from(&ledger.assignment);
                self.failed_makes.clear();
                self.markers_may_differ = true;
            }
            let pending = self.follow_reign(&ledger);
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
                    let waits = is_under_way(&step);
                    let done = match pending {
                        Ok(()) => self.act(step, &ledger).await,
                        failed => failed,
                    };
                    self.stuck = done.err().map(|error| crate::words(&error));
                    if let Some(error) = &self.stuck {
                        tracing::warn!(error, "a step failed");
                        self.rest(UNEASY).await;
                        self.under_way = None;
                    } else if waits {
                        let since = *self.under_way.get_or_insert_with(Instant::now);
                        let pace = if since.elapsed() < SOON { ON_THE_WAY } else { UNEASY };
                        self.rest(pace).await;
                    } else {
                        self.under_way = None;
                    }
                }
            }
        }
        if let Some(Err(error)) = self.shared.store.as_ref().ok().map(Store::flush_high_water) {
            tracing::warn!(error = crate::words(&error), "how far the data are could not be remembered");
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
        let Some(postmaster) = self.postmaster.take() else { return };
        // At once: whoever waits for the report decides by it.
        self.shared.postgres_ended();
        postmaster.log.flush();
        (self.session, self.sight, self.identity, self.history) = (None, None, None, None);
        self.reign = Reign::default();
        // What failed because of this says less than what it was.
        self.stuck = None;
        self.roles_ensured = false;
        self.pending_restart.clear();
        self.conf.has_ended();
        self.data_changed = true;
        if postmaster.asked_to_end {
            tracing::info!("Postgres has stopped");
            return;
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
        self.look_at_data().await;
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
                    self.conf.check(&sight.waits_for);
                    let promoted = matches!(sight.role, PgRole::Primary { .. });
                    if promoted && matches!(self.data, DataDir::Complete { standby_signal: true, .. }) {
                        // Postgres removes the signal with its promotion, and who decides goes by both.
                        self.data_changed = true;
                        self.look_at_data().await;
                    }
                    self.sight = Some(sight);
                    self.answered = Instant::now();
                    if let Err(error) = self.read_history().await {
                        tracing::warn!(error = crate::words(&error), "the history of these data cannot be read");
                    }
                    self.mark();
                }
                Err(error) => {
                    tracing::warn!(error = crate::words(&error), "Postgres does not answer");
                    (self.session, self.sight) = (None, None);
                }
            }
        }
    }

    async fn look_at_data(&mut self) {
        if !self.data_changed {
            return;
        }
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

    async fn ask(&mut self) -> Result<Look, SqlError> {
        if self.session.as_ref().is_none_or(Session::is_closed) {
            let session = Session::connect(&self.shared.config).await?;
            let identity = session.identity().await?;
            self.shared.seats.limit(identity.max_connections);
            self.identity = Some(identity);
            self.pending_restart = session.pending_restart().await?;
            self.session = Some(session);
            self.reign.has_reconnected();
            self.has_come_up();
        }
        let (Some(session), Some(identity)) = (&self.session, &self.identity) else {
            unreachable!("there is a session: it was made above")
        };
        let (pgdata, segment) = (&self.shared.config.paths.pgdata, identity.segment);
        session.look(|lsn| wal::timeline_at(pgdata, lsn, segment).ok().flatten()).await
    }

    /// What the running Postgres' past is, read again where it may differ from what is known.
    async fn read_history(&mut self) -> Result<(), EndError> {
        let (Some(session), Some(sight)) = (&self.session, &self.sight) else { return Ok(()) };
        let promised = self.shared.ledger().promised;
        // On a standby a marker appears when it is replayed, which nobody tells.
        let awaits_marker = self.markers.last().is_none_or(|(epoch, _)| *epoch < promised);
        let standby = matches!(sight.role, PgRole::Standby { .. });
        let known = self.history.as_ref().is_some_and(|history| history.timeline == sight.timeline);
        if known && !self.markers_may_differ && !(standby && awaits_marker) {
            return Ok(());
        }
        let switches = wal::switches(&self.shared.config.paths.pgdata, sight.timeline)?;
        let switches = switches.ok_or(EndError::NoHistory(sight.timeline))?;
        self.markers = if sight.has_markers { marker::read(session).await? } else { Vec::new() };
        self.markers_may_differ = false;
        self.history = Some(History { timeline: sight.timeline, switches, markers: self.markers.clone() });
        Ok(())
    }

    /// Takes note of how far the data are, and of whether they have all that they once had (rules R11, R17).
    fn mark(&mut self) {
        let (Some(sight), Ok(store)) = (&self.sight, &self.shared.store) else { return };
        let Some(history) = self.history.as_ref().filter(|history| history.timeline == sight.timeline) else { return };
        let (timeline, high_water) = (sight.timeline, store.high_water());
        let at = match &sight.role {
            PgRole::Primary { lsn, .. } => {
                // What it has written since says nothing.
                if let Some(lack) = self.recovered_to.and_then(|found| high_water.lack_of(history, found)) {
                    // Others may have been told of what is gone: it answers nobody before another epoch.
                    tracing::error!(lack, "these data are not what they were");
                    self.lost_wal = Some(lack);
                    self.shared.fence();
                }
                self.recovers = false;
                self.lost_wal.is_none().then_some(*lsn)
            }
            PgRole::Standby { received, replayed, .. } => {
                let at = received.unwrap_or_default().max(*replayed);
                let ledger = self.shared.ledger();
                let moved_on = match ledger.assignment.as_ref().map(|told| &told.task) {
                    Some(Task::Follow { lineage, .. }) => high_water.is_left_behind(lineage, history, at),
                    _ => false,
                };
                // One that is not there yet may not have replayed all that it has, or gets the rest from its primary.
                (moved_on || high_water.is_in(history, at)).then_some(at)
            }
        };
        if let Some(lsn) = at {
            self.lost_wal = None;
            store.reach(Position { timeline, lsn });
        }
        self.recovered_to = None;
        // That of data that were made anew at once: what was known of those before them is forgotten.
        let due = self.marked.elapsed() >= MARK_EACH || high_water.reached.is_none();
        if due && self.marking.as_ref().is_none_or(JoinHandle::is_finished) {
            self.marked = Instant::now();
            let shared = self.shared.clone();
            self.marking = Some(tokio::task::spawn_blocking(move || {
                if let Some(Err(error)) = shared.store.as_ref().ok().map(Store::flush_high_water) {
                    tracing::warn!(error = crate::words(&error), "how far the data are could not be remembered");
                }
            }));
        }
    }

    /// Postgres answers for the first time since it was started.
    fn has_come_up(&mut self) {
        let Some(postmaster) = self.postmaster.as_mut().filter(|postmaster| !postmaster.up) else { return };
        postmaster.up = true;
        self.why = None;
        self.recovered_to = self.identity.as_ref().filter(|_| self.recovers).map(|identity| identity.checkpoint);
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
}

/// Whether a step only begins, or waits for, what comes to its end by itself.
fn is_under_way(step: &NodeStep) -> bool {
    matches!(
        step,
        NodeStep::Confirm { .. }
            | NodeStep::EnsureRule { .. }
            | NodeStep::Checkpoint
            | NodeStep::Drain
            | NodeStep::Promote { .. }
    )
}

/// Whether a look at Postgres shows something that is not as it should stay.
fn is_uneasy(sight: &Look) -> bool {
    match &sight.role {
        PgRole::Primary { .. } => false,
        PgRole::Standby { .. } => !sight.streams,
    }
}
