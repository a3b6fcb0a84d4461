//! The long-lived controller: a task per cluster, and one that follows the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::keys::Key;
use flypg_core::names::ClusterName;
use flypg_core::observed::Observed;
use flypg_core::plan::{Action, Step, Until};
use flypg_core::render;
use flypg_core::spec::Level;
use flypg_core::status::generation;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::act::{ActError, LiveActuator};
use crate::board::{Board, Posted};
use crate::events::Chronicle;
use crate::journal::Journal;
use crate::keeper::Keeper;
use crate::lead::Heart;
use crate::metrics::Metrics;
use crate::observe::LiveObserver;
use crate::source::{Files, SourceError, Watch};
use crate::status::status_of;
use crate::store::{Store, StoreError};
use crate::turn::{Part, Turn, Wanted, Witness};
use crate::vigil::Vigils;
use crate::words::{chain, gist};

/// Before files that could not be read are read again.
const UNREADABLE: Duration = Duration::from_secs(1);
/// How long a cluster must have been in no file before it has left: editors, git and copying tools write a file, and
/// replace a directory, in several steps.
pub const GONE_AFTER: Duration = Duration::from_secs(10);
/// Turns under way have this long to end when the controller stops. What is cut off is looked at again by the next.
const FAREWELL: Duration = Duration::from_secs(20);

/// Keeps every cluster of a source.
#[derive(Debug)]
pub struct Controller {
    pub observer: LiveObserver,
    pub actuator: LiveActuator,
    pub store: Store,
    pub master: Key,
    /// The directory of the journals: one file per cluster.
    pub journals: PathBuf,
    /// The directory of the event logs: one file per cluster.
    pub events: PathBuf,
    /// [`GONE_AFTER`], but for tests.
    pub gone_after: Duration,
    pub board: Arc<Board>,
    pub vigils: Arc<Vigils>,
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// At the start; later it is reported, and what was read before stays in force.
    #[error(transparent)]
    Source(SourceError),
    #[error("the controller has lost its memory")]
    Store {
        #[source]
        source: StoreError,
    },
}

impl From<StoreError> for ControllerError {
    fn from(source: StoreError) -> Self {
        Self::Store { source }
    }
}

/// A running task, and the way to tell it that the file changed.
struct Kept {
    wish: watch::Sender<Wanted>,
    task: AbortHandle,
}

/// What is followed.
#[derive(Default)]
struct Followed {
    files: Files,
    kept: BTreeMap<ClusterName, Kept>,
    /// Clusters that are in no file, and since when.
    missing: BTreeMap<ClusterName, Instant>,
    /// When the first of those will have left.
    due: Option<Instant>,
}

/// Why a task ended.
#[derive(Debug)]
enum Ended {
    /// Nothing is left of the cluster.
    Gone(ClusterName),
    Stopped,
}

impl Controller {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// If the files cannot be read at the start, or the memory at any time.
    pub async fn run(self, mut source: Watch, stop: CancellationToken) -> Result<(), ControllerError> {
        let mut tasks = JoinSet::new();
        let files = source.changed().await.map_err(ControllerError::Source)?;
        let mut followed = Followed { files, ..Followed::default() };
        self.follow(&mut followed, &mut tasks, &stop).await?;
        loop {
            let due = followed.due;
            let read = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next_with_id(), if !tasks.is_empty() => {
                    self.after(ended, &mut followed.kept);
                    // A cluster that is gone may be wanted again by now, and one whose task broke still is.
                    self.follow(&mut followed, &mut tasks, &stop).await?;
                    continue;
                }
                changed = source.changed() => changed,
                // A cluster goes by what its files say at that moment.
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => source.read(),
            };
            match read {
                Ok(files) => {
                    followed.files = files;
                    self.follow(&mut followed, &mut tasks, &stop).await?;
                }
                Err(error) => {
                    let error = chain(&error);
                    if self.board.source() != Some(vec![error.clone()]) {
                        tracing::error!(error, "the files cannot be read; what they said last stays in force");
                    }
                    self.board.post_source(vec![error]);
                    // Nothing has left that was not seen to be missing.
                    followed.missing.clear();
                    followed.due = None;
                    tokio::time::sleep(UNREADABLE).await;
                }
            }
        }
        tracing::info!("ending the turns that are under way");
        if tokio::time::timeout(FAREWELL, async { while tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::warn!("cut off; the next controller looks at what became of it");
        }
        Ok(())
    }

    /// Takes the files as what is wanted from now on.
    async fn follow(
        &self,
        followed: &mut Followed,
        tasks: &mut JoinSet<Ended>,
        stop: &CancellationToken,
    ) -> Result<(), ControllerError> {
        let wishes = followed.files.wishes();
        let errors = wishes.diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Error);
        let mut mistakes: Vec<String> = errors
            .map(|mistake| match &mistake.place {
                Some(place) => format!("{}:{}:{}: {}", place.file, place.line, place.column, mistake.message),
                None => format!("{}: {}", mistake.file, mistake.message),
            })
            .collect();
        let known = self.store.specs().await?;
        for root in wishes.barren.iter().filter(|root| known.iter().any(|known| known.is_below(root))) {
            let root = root.display();
            mistakes.push(format!(
                "{root} holds no *.yaml file any more; if its clusters are to go, leave an empty file there"
            ));
        }
        if self.board.source().as_ref() != Some(&mistakes) {
            for mistake in &mistakes {
                tracing::error!("{mistake}");
            }
            if !mistakes.is_empty() {
                tracing::error!("the last good files stay in force");
            }
        }
        self.board.post_source(mistakes);
        self.store.note_specs(wishes.clusters.clone()).await?;
        let mut wanted = wishes.wanted(&self.store.specs().await?);
        self.wait_for_the_missing(followed, &mut wanted);

        let kept = &mut followed.kept;
        kept.retain(|cluster, kept| {
            let Some(wish) = wanted.remove(cluster) else {
                // The files that asked for it are not ours to follow any more.
                kept.task.abort();
                self.board.remove(cluster);
                return false;
            };
            kept.wish.send_if_modified(|old| {
                let changed = *old != wish;
                *old = wish;
                changed
            });
            true
        });
        for (cluster, wish) in wanted {
            self.board.expect(&cluster);
            let (sender, receiver) = watch::channel(wish);
            let task = tasks.spawn(self.task(&cluster, receiver, stop.clone()));
            kept.insert(cluster, Kept { wish: sender, task });
        }
        Ok(())
    }

    /// Until they have been missing for long enough, those that are in no file are kept as they were; at the start they
    /// are left alone, as they may be half taken down.
    fn wait_for_the_missing(&self, followed: &mut Followed, wanted: &mut BTreeMap<ClusterName, Wanted>) {
        let now = Instant::now();
        followed.missing.retain(|cluster, _| matches!(wanted.get(cluster), Some(Wanted::Removed(_))));
        followed.due = None;
        wanted.retain(|cluster, wish| {
            let Wanted::Removed(spec) = wish else { return true };
            let since = *followed.missing.entry(cluster.clone()).or_insert_with(|| {
                tracing::warn!(%cluster, "in no file any more; unless that changes, it has left in {:?}", self.gone_after);
                now
            });
            let due = since + self.gone_after;
            if now >= due {
                return true;
            }
            *wish = Wanted::Kept(spec.clone());
            followed.due = Some(followed.due.map_or(due, |first| first.min(due)));
            followed.kept.contains_key(cluster)
        });
    }

    fn task(
        &self,
        cluster: &ClusterName,
        mut wish: watch::Receiver<Wanted>,
        stop: CancellationToken,
    ) -> impl Future<Output = Ended> + Send + 'static {
        let log = Arc::new(Log::new(Arc::clone(&self.metrics)));
        let log: Arc<dyn Witness> = match Chronicle::open(&self.events, cluster, Timestamp::now, Arc::clone(&log)) {
            Ok(chronicle) => Arc::new(chronicle),
            Err(error) => {
                tracing::warn!(%cluster, error = chain(&error), "what happens is not written down");
                log
            }
        };
        let wanted = wish.borrow_and_update().clone();
        let vigil = self.vigils.of(cluster);
        let observer = self.observer.of(Arc::clone(&vigil));
        let actuator = LiveActuator { vigil, ..self.actuator.clone() };
        let journal = Journal::open(&self.journals, cluster)
            .inspect_err(|error| tracing::warn!(%cluster, error = chain(error), "turns are not written down"));
        let journal = journal.ok().map(|journal| Arc::new(Mutex::new(journal)));
        let heart = Heart::start(
            wanted.clone(),
            observer.clone(),
            actuator.clone(),
            &self.master,
            Arc::clone(&log),
            journal.clone(),
        );
        let mut keeper = Keeper::new(wanted, observer, actuator, log, Timestamp::now).with_heart(heart);
        if let Some(journal) = journal {
            keeper = keeper.with_journal(journal);
        }
        let last = self.vigils.of(cluster);
        let (store, board, metrics) = (self.store.clone(), Arc::clone(&self.board), Arc::clone(&self.metrics));
        async move {
            loop {
                let timer = metrics.turn_seconds.start_timer();
                let turn = keeper.turn().await;
                timer.observe_duration();
                metrics.turns.inc();
                match conclude(&keeper.wanted, &turn, last.last_seen(), keeper.stuck(), &store, &board).await {
                    Ok(false) => {}
                    Ok(true) => return Ended::Gone(keeper.wanted.name().clone()),
                    Err(error) => tracing::error!(cluster = %keeper.wanted.name(), error = chain(&error), "forgotten"),
                }
                tokio::select! {
                    () = stop.cancelled() => return Ended::Stopped,
                    _ = keeper.rest() => {}
                    changed = wish.changed() => match changed {
                        Ok(()) => keeper.want(wish.borrow_and_update().clone()),
                        Err(_) => return Ended::Stopped,
                    },
                }
            }
        }
    }

    fn after(
        &self,
        ended: Result<(tokio::task::Id, Ended), tokio::task::JoinError>,
        kept: &mut BTreeMap<ClusterName, Kept>,
    ) {
        match ended {
            Ok((_, Ended::Gone(cluster))) => {
                tracing::info!(%cluster, "gone");
                self.board.remove(&cluster);
                kept.remove(&cluster);
            }
            Ok((_, Ended::Stopped)) => {}
            Err(error) if error.is_cancelled() => {}
            Err(error) => {
                let id = error.id();
                let broken: BTreeSet<ClusterName> =
                    kept.iter().filter(|(_, kept)| kept.task.id() == id).map(|(name, _)| name.clone()).collect();
                for cluster in broken {
                    tracing::error!(%cluster, %error, "its task broke and is started again");
                    kept.remove(&cluster);
                }
            }
        }
    }
}

/// Remembers and shows what a turn came to. True if nothing is left of the cluster.
async fn conclude(
    wanted: &Wanted,
    turn: &Turn,
    last: Observed,
    stuck: Option<u32>,
    store: &Store,
    board: &Board,
) -> Result<bool, StoreError> {
    if turn.plan.is_quiet() {
        if wanted.is_gone(&turn.observed) {
            store.forget(wanted.name()).await?;
            return Ok(true);
        }
        store.note_generation(wanted.name(), &generation(wanted.spec())).await?;
    }
    let status = status_of(store, wanted, &turn.observed, &last, &turn.plan, stuck, turn.at).await?;
    board.post(Posted { at: turn.at, wanted: wanted.clone(), observed: turn.observed.clone(), status });
    Ok(false)
}

/// The log: a line per step that was taken, and per hold that is new; not per turn, and not per lease.
#[derive(Debug)]
struct Log {
    metrics: Arc<Metrics>,
    /// The gist of the holds of the last turn, of leadership and of the rest.
    told: Mutex<BTreeMap<Part, BTreeSet<String>>>,
    /// By step, in words: how it failed when it was last tried.
    failed: Mutex<BTreeMap<String, String>>,
}

impl Log {
    fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, told: Mutex::default(), failed: Mutex::default() }
    }

    /// Whether this is another outcome than the step had when it was last tried.
    fn is_news(&self, step: &str, result: &Result<(), ActError>) -> bool {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(()) => failed.remove(step).is_some(),
            Err(error) => {
                let error = gist(&chain(error));
                failed.insert(step.to_owned(), error.clone()) != Some(error)
            }
        }
    }
}

impl Witness for Log {
    fn ended(&self, cluster: &ClusterName, step: &Step, result: &Result<(), ActError>, took: Duration) {
        let outcome = result.as_ref().map_or_else(ActError::kind, |()| "done");
        self.metrics.steps.with_label_values(&[outcome]).inc();
        let (text, took_ms) = (render::step(step), took.as_millis());
        let is_news = self.is_news(&text, result);
        match result {
            Ok(()) if matches!(step.action, Action::Renew { .. }) && !is_news => {
                tracing::trace!(%cluster, took_ms, "{text}");
            }
            Ok(()) => tracing::info!(%cluster, took_ms, "{text}"),
            Err(error) if !is_news => tracing::debug!(%cluster, took_ms, error = chain(error), "{text}: {outcome}"),
            Err(error) if error.is_passing() => {
                tracing::info!(%cluster, took_ms, error = chain(error), "{text}: {outcome}, and tried again");
            }
            Err(error) => tracing::warn!(%cluster, took_ms, error = chain(error), "{text}: {outcome}"),
        }
    }

    fn planned(&self, turn: &Turn) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.entry(turn.part).or_default();
        let cluster = &turn.plan.cluster;
        let mut gists = BTreeSet::new();
        for hold in turn.holds() {
            let text = render::hold(hold);
            let gist = gist(&text);
            if !told.contains(&gist) {
                match &hold.until {
                    Until::Readable { .. } => tracing::warn!(%cluster, "{text}"),
                    until if until.is_wait() => tracing::info!(%cluster, "{text}"),
                    _ => tracing::warn!(%cluster, "held: {text}"),
                }
            }
            gists.insert(gist);
        }
        *told = gists;
    }
}
