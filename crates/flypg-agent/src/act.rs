//! The steps, each as thin as it can be.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::node::{DataDir, HOPEFUL_CLONES, Local, NodeStep, Origin, REMAKE_WINDOW, next};
use flypg_core::protocol::Phase;
use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::conf::{Conf, ConfError};
use crate::data_dir;
use crate::make::{self, MakeError, Progress};
use crate::node::Node;
use crate::postmaster::Postmaster;
use crate::primary;
use crate::processes;
use crate::roles;
use crate::sql::SqlError;
use crate::store::StoreError;

/// What a checkpoint before a stop may take; the stop makes another one anyway, shorter by what this one wrote.
const CHECKPOINT: Duration = Duration::from_secs(120);
/// A reload that Postgres has not heard of in this time is tried again.
const RELOAD: Duration = Duration::from_secs(5);

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
    #[error("this agent cannot do this yet: {0:?}")]
    CannotYet(NodeStep),
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
                if let Ok(store) = &shared.store {
                    store.update(Ledger::given_up)?;
                    shared.follow_ledger();
                }
                data_dir::set_aside(&shared.config, &Origin::Clone { from }).map_err(StepError::SetAside)
            }
            NodeStep::RemoveUnfinished => {
                tracing::info!("removing a data directory that was not finished");
                self.remove_unfinished().await
            }
            NodeStep::RecordMade { system_id } => {
                if let Ok(store) = &shared.store {
                    store.update(|ledger| ledger.made(&system_id))?;
                    shared.follow_ledger();
                }
                Ok(())
            }
            NodeStep::EndLeftover => {
                processes::end_leftovers(&shared.config.paths.pgdata).await;
                // They may have changed it while they ended.
                self.data_changed = true;
                Ok(())
            }
            NodeStep::WriteSettings => Ok(self.conf.write(&shared.config, ledger, self.disk_mb()).await?),
            NodeStep::StartPostgres { standby } => self.start(standby),
            NodeStep::Reload => self.reload().await,
            NodeStep::EnsureRoles => {
                if let Some(session) = &self.session {
                    roles::ensure_roles(&shared.config, session).await?;
                    self.roles_ensured = true;
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
                self.stop().await;
                Ok(())
            }
            NodeStep::StopFast => {
                self.stop().await;
                Ok(())
            }
            step @ (NodeStep::FindEnd
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
            | NodeStep::RecordUnpromoted) => Err(StepError::CannotYet(step)),
        }
    }

    fn start(&mut self, standby: bool) -> Result<(), StepError> {
        let config = &self.shared.config;
        processes::forget_stale_pid_file(&config.paths.pgdata);
        tracing::info!(standby, "starting Postgres");
        let postmaster = Postmaster::start(config).map_err(StepError::Start)?;
        self.postmaster = Some(postmaster);
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
        // Together with what is pending, so that no report shows one of them without the other.
        self.in_force = asked;
        self.withheld = self.conf.withheld.clone();
        tracing::info!(pending_restart = ?self.pending_restart, "Postgres has read its settings");
        Ok(())
    }

    /// Ends all sessions and stops cleanly, however long that takes: Postgres is never killed while it shuts down.
    pub(crate) async fn stop(&mut self) {
        let shared = self.shared.clone();
        shared.publish(|report| report.phase = Phase::Stopping);
        if let Some(session) = &self.session {
            // Clients go on meanwhile, so that the pause they see is short.
            tokio::select! {
                done = session.checkpoint(CHECKPOINT) => if let Err(error) = done {
                    tracing::warn!(error = crate::words(&error), "no checkpoint before the stop");
                },
                () = shared.at_once.cancelled() => {}
            }
        }
        shared.here.send_replace(crate::routes::Here::default());
        let mut asked = None;
        while let Some(postmaster) = &mut self.postmaster {
            let ask = if shared.at_once.is_cancelled() { Signal::SIGQUIT } else { Signal::SIGINT };
            if asked != Some(ask) {
                postmaster.signal(ask);
                asked = Some(ask);
            }
            let patience = Duration::from_millis(250);
            if let Ok(status) = tokio::time::timeout(patience, postmaster.ended()).await {
                self.has_ended(status).await;
            }
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
        self.stop().await;
        self.remove_unfinished().await?;
        Ok(!self.shared.ending.is_cancelled())
    }

    async fn ask_primary(&mut self) {
        let shared = self.shared.clone();
        let timeline = self.sight.as_ref().map_or(0, |sight| sight.timeline);
        let measuring = shared.clone();
        let size = tokio::task::spawn_blocking(move || data_dir::size(&measuring.config));
        let asked = tokio::select! {
            asked = primary::ask(&shared.config, timeline) => asked.map_err(|error| crate::words(&error)),
            () = shared.ending.cancelled() => return,
        };
        // A copy whose size is not known has no room for another.
        self.copy_size = size.await.unwrap_or(u64::MAX);
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
                self.failed_makes.clear();
                // The files in a new data directory are not those that were written into another.
                self.conf = Conf::default();
                self.why = None;
            }
            Err(error) => {
                let words = crate::words(&error);
                tracing::warn!(error = words, "not made");
                if progress.is_none_or(|progress| progress.borrow().0 == 0) {
                    // It cost nobody anything, so it is tried again soon.
                    self.failed_makes.truncate(HOPEFUL_CLONES - 2);
                }
                self.failed_makes.push(Timestamp::now());
                self.no_room |= matches!(step, NodeStep::CloneBeside { .. }) && error.needs_room();
                self.why = Some(words);
            }
        }
        Ok(())
    }
}

/// Whether what `step` makes is still what the ledger asks for.
fn is_wanted(step: &NodeStep, ledger: &Ledger, major: u32) -> bool {
    match step {
        NodeStep::CloneBeside { from } => {
            matches!(&ledger.role, LedgerRole::Replica { upstream, .. } if upstream == from)
        }
        step => next(ledger, &Local::fresh(major, DataDir::Blank), Timestamp::now()) == *step,
    }
}
