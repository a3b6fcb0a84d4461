//! The steps, each as thin as it can be.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::names::NodeName;
use flypg_core::node::{DataDir, HOPEFUL_CLONES, Local, NodeStep, Origin, REMAKE_WINDOW, next};
use flypg_core::protocol::{Phase, Task};
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::conf::{Conf, ConfError};
use crate::data_dir::{self, ControlError};
use crate::end::{self, EndError};
use crate::make::{self, MakeError, Progress};
use crate::marker::MarkerError;
use crate::node::{Found, Node};
use crate::postmaster::Postmaster;
use crate::primary;
use crate::processes;
use crate::rewind::{self, RewindError};
use crate::roles;
use crate::shared::Shared;
use crate::sql::SqlError;
use crate::store::{Store, StoreError};
use crate::wal::{self, StubError};

/// What a checkpoint before a stop may take; the stop makes another one anyway, shorter by what this one wrote.
const CHECKPOINT: Duration = Duration::from_secs(120);
/// A reload that Postgres has not heard of in this time is tried again.
const RELOAD: Duration = Duration::from_secs(5);

/// A node that answers nobody any more stops within this time, or is killed (protocol §2.7, "soft end").
const BUDGET: Duration = Duration::from_secs(8);

/// How Postgres is stopped. In both ways its clients were cut off, or are by it, before anything is killed (rule R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A checkpoint first, and then however long it takes.
    Warm,
    /// At once, within [`BUDGET`].
    Quick,
}

/// A step did not succeed; it is taken again if it is still due at the next look.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error(transparent)]
    Conf(#[from] ConfError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Postgres could not be started")]
    Start(#[source] std::io::Error),
    #[error("what was not finished could not be removed")]
    Remove(#[source] std::io::Error),
    #[error("the copy that is of no use any more could not be set aside")]
    SetAside(#[source] std::io::Error),
    #[error(transparent)]
    End(#[from] EndError),
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error("the promotion was not begun")]
    Stubs(#[from] StubError),
    #[error("pg_wal cannot be read or written")]
    Wal(#[from] std::io::Error),
    #[error(transparent)]
    Rewind(RewindError),
    #[error("what pg_controldata says cannot be read")]
    Control(#[source] ControlError),
    #[error("the data directory could not be made a standby's")]
    BecomeStandby(#[source] std::io::Error),
    #[error("Postgres has not read its files {0:?} after it was told to")]
    Reload(Duration),
}

impl Node {
    pub(crate) async fn act(&mut self, step: NodeStep, ledger: &Ledger) -> Result<(), StepError> {
        let shared = self.shared.clone();
        match step {
            NodeStep::Nothing | NodeStep::Wait { .. } | NodeStep::Hold { .. } | NodeStep::Quarantine { .. } => Ok(()),
            NodeStep::Initdb { ref nonce } => {
                tracing::info!("initialising a new database system");
                self.forget_reached()?;
                let made = make::initdb(&shared.config, nonce);
                self.make(made, &step, None).await
            }
            NodeStep::AskPrimary { ref primary } => {
                tracing::warn!(%primary, "the primary cannot give this standby the WAL it needs, and is asked where it stands");
                self.ask_primary().await;
                Ok(())
            }
            NodeStep::Clone { ref from } => {
                tracing::info!(%from, "cloning");
                self.forget_reached()?;
                let (progress, seen) = watch::channel((0, None));
                let made = make::clone(&shared.config, from, false, &progress);
                self.make(made, &step, Some(seen)).await
            }
            NodeStep::CloneBeside { ref from } => {
                tracing::warn!(%from, "this standby can never stream again; cloning beside it");
                if !self.begin_again().await? {
                    return Ok(());
                }
                let (progress, seen) = watch::channel((0, None));
                let made = make::clone(&shared.config, from, true, &progress);
                self.make(made, &step, Some(seen)).await
            }
            NodeStep::GiveUpCopy { from } => {
                tracing::warn!(%from, "this standby can never stream again, and there is no room for another copy beside it");
                if !self.begin_again().await? {
                    return Ok(());
                }
                self.record(Ledger::given_up)?;
                self.forget_reached()?;
                (self.rewind_failed, self.found) = (None, None);
                data_dir::set_aside(&shared.config, &Origin::Clone { from }).map_err(StepError::SetAside)?;
                data_dir::unmark_rewind(&shared.config).map_err(StepError::SetAside)
            }
            NodeStep::RemoveUnfinished => {
                tracing::info!("removing a data directory that was not finished");
                self.remove_unfinished().await
            }
            NodeStep::RecordMade { system_id } => self.record(|ledger| ledger.made(&system_id)),
            NodeStep::EndLeftover => {
                processes::end_leftovers(&shared.config.paths.pgdata).await;
                // They may have changed it while they ended.
                self.data_changed = true;
                Ok(())
            }
            NodeStep::WriteSettings => Ok(self.conf.write(&shared.config, ledger, self.disk_mb()).await?),
            NodeStep::StartPostgres { standby } => {
                if standby {
                    wal::forget_lonely_stubs(&shared.config.paths.pgdata)?;
                }
                self.start(standby)
            }
            NodeStep::Reload => self.reload().await,
            NodeStep::EnsureRoles => {
                if let Some(session) = &self.session {
                    roles::ensure_roles(&shared.config, session).await?;
                    (self.roles_ensured, self.roles_there) = (true, true);
                }
                Ok(())
            }
            NodeStep::EnsureSlots { create, drop } => {
                if let Some(session) = &self.session {
                    roles::ensure_slots(session, &create, &drop).await?;
                }
                Ok(())
            }
            NodeStep::RestartPostgres => {
                tracing::info!("restarting Postgres, as ordered");
                shared.restart_ordered.store(false, Ordering::Relaxed);
                self.stop(Stop::Warm).await;
                Ok(())
            }
            NodeStep::StopFast => {
                self.feed_only_needed(ledger);
                self.stop(self.way_to_stop(ledger)).await;
                Ok(())
            }
            NodeStep::FindEnd => {
                let (Some(session), Some(identity)) = (&self.session, &self.identity) else { return Ok(()) };
                let found = end::find(&shared.config, session, identity.segment).await?;
                if let LedgerRole::Recruited { epoch } = ledger.role {
                    tracing::info!(%epoch, timeline = found.history.timeline, at = %found.lsn, "this standby's WAL ends");
                    self.found = Some(Found { recruited_in: Some(epoch), clean: true, end: found });
                }
                Ok(())
            }
            NodeStep::InspectStopped => {
                let (clean, end) = end::inspect(&shared.config, &self.markers).await?;
                tracing::info!(clean, timeline = end.history.timeline, at = %end.lsn, "the WAL of the stopped Postgres ends");
                self.found = Some(Found { recruited_in: None, clean, end });
                Ok(())
            }
            NodeStep::Promote { timeline, burnt } => self.promote(timeline, &burnt).await,
            NodeStep::RecordPromoted => {
                // They came with the data. Whether they are as they should be is seen to once the gate is open.
                self.roles_there = true;
                self.record(Ledger::promoted)
            }
            NodeStep::EnsureRule { rule } => self.ensure_rule(&rule).await,
            NodeStep::Confirm { epoch, nonce } => {
                self.confirm(epoch, &nonce);
                Ok(())
            }
            NodeStep::Checkpoint => {
                self.checkpoint();
                Ok(())
            }
            NodeStep::Drain => {
                self.drain();
                Ok(())
            }
            NodeStep::RecordRelinquished => {
                tracing::info!("this node gives up leading");
                self.record(Ledger::relinquished)
            }
            NodeStep::RecordUnpromoted => {
                self.found = None;
                self.record(Ledger::unpromoted)
            }
            NodeStep::BecomeStandby => {
                data_dir::remove_slots(&shared.config).map_err(StepError::BecomeStandby)?;
                data_dir::leave_standby_signal(&shared.config).map_err(StepError::BecomeStandby)?;
                self.data_changed = true;
                (self.found, self.rewind_failed) = (None, None);
                tracing::info!("what was a primary's data is a copy");
                self.record(Ledger::rejoined)
            }
            NodeStep::RecordRewinding => {
                self.remade = false;
                self.record(Ledger::rewinding)
            }
            NodeStep::Rewind { from } => self.rewind(&from, ledger).await,
        }
    }

    /// Changes the ledger, durably, and puts it in force.
    fn record(&self, next: impl FnOnce(&Ledger) -> Option<Ledger>) -> Result<(), StepError> {
        if let Ok(store) = &self.shared.store {
            store.update(next)?;
            self.shared.follow_ledger();
        }
        Ok(())
    }

    async fn rewind(&mut self, from: &NodeName, ledger: &Ledger) -> Result<(), StepError> {
        let shared = self.shared.clone();
        let config = &shared.config;
        if self.found(ledger).is_none() {
            // Without knowing where the data end nobody knows what only they have, which is all this is for.
            match end::inspect(config, &self.markers).await {
                Ok((clean, end)) => self.found = Some(Found { recruited_in: None, clean, end }),
                Err(error) => tracing::warn!(error = crate::words(&error), "where these data end is not known"),
            }
        }
        let mut astray = false;
        if let (Some(Task::Follow { lineage, .. }), Some(found)) =
            (ledger.assignment.as_ref().map(|told| &told.task), self.found(ledger))
        {
            astray = lineage.place(&found.end.history, found.end.lsn).is_err();
            if let Some(left) = rewind::left_at(lineage, &found.end).filter(|left| *left < found.end.lsn) {
                let segment = data_dir::control_data(config).await.map_err(StepError::Control)?.segment;
                if let Err(error) = rewind::set_aside(config, &found.end.history, left, ledger.promised, segment) {
                    tracing::warn!(%error, "the WAL that only this node has could not be set aside");
                }
            }
        }
        tracing::warn!(%from, "rewinding");
        self.forget_reached()?;
        self.data_changed = true;
        let rewound = tokio::select! {
            rewound = rewind::rewind(config, from, astray) => rewound,
            () = shared.ending.cancelled() => return Ok(()),
        };
        match rewound {
            Ok(()) => {
                tracing::info!(%from, "rewound");
                self.is_remade()?;
            }
            Err(error @ (RewindError::NotYet(_) | RewindError::Io { .. })) => {
                self.delay_making();
                return Err(StepError::Rewind(error));
            }
            Err(RewindError::Failed(words)) => {
                tracing::error!(words, "the rewind failed; only another copy helps");
                self.why = Some(words.clone());
                self.rewind_failed = Some(words);
                self.measure_copy().await;
            }
        }
        Ok(())
    }

    /// How far the data had come says nothing of those that take their place.
    fn forget_reached(&self) -> Result<(), StepError> {
        Ok(self.shared.store.as_ref().map_or(Ok(()), Store::forget_reached)?)
    }

    /// The data are whole again, and another's.
    fn is_remade(&mut self) -> Result<(), StepError> {
        self.forget_reached()?;
        self.remade = true;
        (self.found, self.rewind_failed, self.why) = (None, None, None);
        self.lost_wal = None;
        self.markers.clear();
        self.failed_makes.clear();
        // The files that came with them are not those that were written here.
        self.conf = Conf::default();
        Ok(())
    }

    /// An attempt that cost nobody anything is made again soon.
    fn delay_making(&mut self) {
        self.failed_makes.truncate(HOPEFUL_CLONES - 2);
        self.failed_makes.push(Timestamp::now());
    }

    async fn measure_copy(&mut self) {
        let shared = self.shared.clone();
        let size = tokio::task::spawn_blocking(move || data_dir::size(&shared.config));
        // A copy whose size is not known has no room for another.
        self.copy_size = size.await.unwrap_or(u64::MAX);
    }

    fn start(&mut self, standby: bool) -> Result<(), StepError> {
        let config = &self.shared.config;
        processes::forget_stale_pid_file(&config.paths.pgdata);
        tracing::info!(standby, "starting Postgres");
        let postmaster = Postmaster::start(config, self.shared.log.clone()).map_err(StepError::Start)?;
        self.postmaster = Some(postmaster);
        (self.found, self.remade) = (None, false);
        // That of a standby goes on, and has no end to be compared with.
        self.recovers = !standby;
        self.shared.starts.fetch_add(1, Ordering::Relaxed);
        // An order that came while it was down is carried out by this.
        self.shared.restart_ordered.store(false, Ordering::Relaxed);
        self.started_with = self.conf.accepted();
        self.conf.has_loaded();
        self.in_force = self.conf.asked();
        self.withheld = self.conf.withheld.clone();
        Ok(())
    }

    async fn reload(&mut self) -> Result<(), StepError> {
        let (Some(session), Some(postmaster)) = (&self.session, &mut self.postmaster) else { return Ok(()) };
        let before = session.conf_load_time().await?;
        postmaster.signal(Signal::SIGHUP);
        let deadline = Instant::now() + RELOAD;
        while session.conf_load_time().await? == before {
            if Instant::now() > deadline {
                return Err(StepError::Reload(RELOAD));
            }
            sleep(Duration::from_millis(10)).await;
        }
        // A backend takes its new settings before its next statement, so the answers are those after the reload.
        self.pending_restart = session.pending_restart().await?;
        let asked = self.conf.asked();
        for (name, words) in session.file_errors().await? {
            if let Some(given) = asked.keys().find(|given| given.eq_ignore_ascii_case(&name)) {
                self.conf.rejected.insert(given.clone(), words);
            }
        }
        self.conf.has_loaded();
        self.reign.has_reloaded(&before, session.conf_load_time().await?, self.conf.waits_for());
        // Together with what is pending, so that no report shows one of them without the other.
        self.in_force = asked;
        self.withheld = self.conf.withheld.clone();
        tracing::info!(pending_restart = ?self.pending_restart, "Postgres has read its settings");
        Ok(())
    }

    /// Ends all sessions and stops. What was begun of a fast shutdown is seen through, unless this one has a budget or
    /// the agent is to end at once.
    pub(crate) async fn stop(&mut self, how: Stop) {
        let shared = self.shared.clone();
        shared.publish(|report| report.phase = Phase::Stopping);
        if how == Stop::Warm
            && let Some(session) = &self.session
        {
            // Clients go on meanwhile, so that the pause they see is short.
            tokio::select! {
                done = session.checkpoint(CHECKPOINT) => if let Err(error) = done {
                    tracing::warn!(error = crate::words(&error), "no checkpoint before the stop");
                },
                () = shared.at_once.cancelled() => {}
                () = answers_no_more(&shared) => {}
            }
        }
        shared.here.send_replace(crate::routes::Here::default());
        let begun = Instant::now();
        let mut asked = None;
        while let Some(postmaster) = &mut self.postmaster {
            let ask = if shared.at_once.is_cancelled() { Signal::SIGQUIT } else { Signal::SIGINT };
            if asked != Some(ask) {
                postmaster.signal(ask);
                asked = Some(ask);
            }
            let hurried = how == Stop::Quick || matches!(shared.ledger().role, LedgerRole::Relinquished { .. });
            if hurried && begun.elapsed() >= BUDGET {
                tracing::warn!("Postgres does not stop within {BUDGET:?}; it is killed, with all of its processes");
                processes::kill_all(&shared.config.paths.pgdata).await;
            }
            let patience = Duration::from_millis(250);
            if let Ok(status) = tokio::time::timeout(patience, postmaster.ended()).await {
                self.has_ended(status).await;
            }
        }
    }

    /// How Postgres stops in this role: a node that still answers its clients spares them, any other is quick.
    fn way_to_stop(&self, ledger: &Ledger) -> Stop {
        match &ledger.role {
            _ if self.shared.ending.is_cancelled() => Stop::Warm,
            LedgerRole::Replica { .. } => Stop::Warm,
            LedgerRole::Primary { .. }
            | LedgerRole::Promoting { .. }
            | LedgerRole::Recruited { .. }
            | LedgerRole::Relinquished { .. }
            | LedgerRole::Rejoining { .. }
            | LedgerRole::Blank
            | LedgerRole::Initialising { .. }
            | LedgerRole::Cloning { .. } => Stop::Quick,
        }
    }

    pub(crate) async fn remove_unfinished(&mut self) -> Result<(), StepError> {
        self.data_changed = true;
        processes::kill_below(&self.shared.config.paths.making).await;
        data_dir::remove_unfinished(&self.shared.config).map_err(StepError::Remove)
    }

    /// Stops Postgres and makes place for another copy; false if the agent is to end meanwhile.
    async fn begin_again(&mut self) -> Result<bool, StepError> {
        self.remakes.retain(|at| Timestamp::now().duration_since(*at).unsigned_abs() < REMAKE_WINDOW);
        self.remakes.push(Timestamp::now());
        self.stop(Stop::Warm).await;
        self.remove_unfinished().await?;
        Ok(!self.shared.ending.is_cancelled())
    }

    async fn ask_primary(&mut self) {
        let shared = self.shared.clone();
        let timeline = self.sight.as_ref().map_or(0, |sight| sight.timeline);
        let asked = tokio::select! {
            asked = primary::ask(&shared.config, timeline) => asked.map_err(|error| crate::words(&error)),
            () = shared.ending.cancelled() => return,
        };
        self.measure_copy().await;
        self.asked = Some((Timestamp::now(), asked));
    }

    /// Sees a making through, unless it is not wanted any more.
    async fn make(
        &mut self,
        made: impl Future<Output = Result<(), MakeError>>,
        step: &NodeStep,
        mut progress: Option<watch::Receiver<Progress>>,
    ) -> Result<(), StepError> {
        let shared = self.shared.clone();
        tokio::pin!(made);
        self.data_changed = true;
        let result = loop {
            let moved = async {
                if let Some(progress) = &mut progress
                    && progress.changed().await.is_ok()
                {
                    return *progress.borrow_and_update();
                }
                std::future::pending().await
            };
            tokio::select! {
                result = &mut made => break result,
                (done, total) = moved => shared.publish(|report| report.phase = Phase::Cloning { done, total }),
                () = shared.ending.cancelled() => return Ok(()),
                () = shared.wake.notified() => {
                    if !is_wanted(step, &shared.ledger(), shared.config.major) {
                        tracing::info!("what is being made is not wanted any more");
                        return Ok(());
                    }
                }
            }
        };
        match result {
            Ok(()) => {
                self.is_remade()?;
                data_dir::unmark_rewind(&shared.config).map_err(StepError::SetAside)?;
            }
            Err(error) => {
                let words = crate::words(&error);
                tracing::warn!(error = words, "not made");
                if progress.is_none_or(|progress| progress.borrow().0 == 0) {
                    self.delay_making();
                } else {
                    self.failed_makes.push(Timestamp::now());
                }
                self.no_room |= matches!(step, NodeStep::CloneBeside { .. }) && error.needs_room();
                self.why = Some(words);
            }
        }
        Ok(())
    }
}

/// Returns once this node has given up what it was: nobody is spared any more by a slow stop, and somebody waits for it.
async fn answers_no_more(shared: &Shared) {
    while !matches!(shared.ledger().role, LedgerRole::Relinquished { .. }) {
        shared.wake.notified().await;
    }
}

/// Whether what `step` makes is still what the ledger asks for.
fn is_wanted(step: &NodeStep, ledger: &Ledger, major: u32) -> bool {
    match step {
        NodeStep::CloneBeside { from } => {
            matches!(&ledger.role, LedgerRole::Replica { upstream, .. } | LedgerRole::Rejoining { upstream, .. } if upstream == from)
        }
        step => next(ledger, &Local::fresh(major, DataDir::Blank), Timestamp::now()) == *step,
    }
}
