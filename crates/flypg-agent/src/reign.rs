//! What a node knows of the Postgres with which it leads, and the steps that bring it to an open gate and, at the end,
//! to a clean handover. None of them makes the node's loop wait for a standby or for a checkpoint.

use std::collections::BTreeSet;
use std::time::Duration;

use flypg_core::decree::Epoch;
use flypg_core::failover::Rule;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::names::NodeName;
use flypg_core::node::ReignSeen;
use flypg_core::protocol::{Leading, Lsn, PgRole, Task};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::act::{StepError, Stop};
use crate::marker::{self, MarkerError};
use crate::node::Node;
use crate::probe::WriteProbe;
use crate::rule::{self, Proof};
use crate::sql::{Session, SqlError};
use crate::{roles, wal, words};

/// How long a switchover waits for transactions that run (protocol §2.6, "Pause").
const DRAIN: Duration = Duration::from_secs(2);
/// Nobody hands over to a standby that is further behind (protocol §2.6, "Check").
const CLOSE: u64 = 16 << 20;
/// A Postgres that has not ended recovery in this time is told again.
const PROMOTION: Duration = Duration::from_secs(10);
/// What a checkpoint that nobody waits for may take.
const CHECKPOINT: Duration = Duration::from_secs(600);

/// Ends with the Postgres that it is about.
#[derive(Debug, Default)]
pub struct Reign {
    proof: Option<Proof>,
    confirming: Option<Confirming>,
    checkpoint: Option<AbortOnDropHandle<Result<(), SqlError>>>,
    handing_over: HandingOver,
    /// Slots that are made or dropped on a standby.
    slots: Option<AbortOnDropHandle<()>>,
    /// When it was last told to end recovery.
    promoting: Option<Instant>,
    probe: Option<WriteProbe>,
}

#[derive(Debug)]
struct Confirming {
    epoch: Epoch,
    life: u64,
    task: AbortOnDropHandle<Result<(), MarkerError>>,
}

/// How far a handover has come.
#[derive(Debug, Default)]
enum HandingOver {
    #[default]
    No,
    /// A checkpoint while clients go on, so that the one of the stop is short.
    Warming(AbortOnDropHandle<Result<(), SqlError>>),
    Warm,
    Draining {
        since: Instant,
    },
    Drained,
}

impl Reign {
    /// The probe's last word, for the report.
    pub fn probe(&self) -> Option<flypg_core::protocol::Probe> {
        self.probe.as_ref().and_then(WriteProbe::report)
    }

    /// The rule that is in effect, and whether it is met by all that came before it.
    fn rule(&self) -> (Option<Rule>, bool) {
        self.proof.as_ref().map_or((None, false), |proof| (Some(proof.rule.clone()), proof.covered))
    }

    /// This agent told Postgres to read its files, which it had read last at `before`, and which name `waits_for` now.
    pub fn has_reloaded(&mut self, before: &str, now: String, waits_for: &str) {
        match &mut self.proof {
            // Nobody else told it to since the proof, so this is the one reload there was.
            Some(proof)
                if proof.loaded_at.as_deref() == Some(before)
                    && proof.rule.synchronous_standby_names() == waits_for =>
            {
                proof.loaded_at = Some(now);
            }
            _ => self.proof = None,
        }
    }

    /// The agent has another session, which has read the files at a time of its own.
    pub fn has_reconnected(&mut self) {
        self.proof.iter_mut().for_each(|proof| proof.loaded_at = None);
    }
}

impl Node {
    /// What is seen of the way to an open gate.
    pub(crate) fn reign_seen(&self) -> ReignSeen {
        let (rule, covered) = self.reign.rule();
        let sight = self.sight.as_ref();
        ReignSeen {
            in_recovery: sight.is_some_and(|sight| matches!(sight.role, PgRole::Standby { .. })),
            timeline: sight.map(|sight| sight.timeline),
            confirmed: self.shared.is_confirmed(),
            rule,
            covered,
            checkpointed: self.is_checkpointed(),
            drained: matches!(self.reign.handing_over, HandingOver::Drained),
        }
    }

    fn is_checkpointed(&self) -> bool {
        self.sight.as_ref().is_some_and(|sight| sight.checkpointed == sight.timeline)
    }

    /// The same for the report; the gate is filled in by whoever knows it.
    pub(crate) fn leading(&self) -> Leading {
        let (rule, covered) = self.reign.rule();
        let primary = self.sight.as_ref().filter(|sight| matches!(sight.role, PgRole::Primary { .. }));
        let start = primary.and_then(|sight| match sight.timeline {
            1 => Some(Lsn(0)),
            timeline => {
                let switches = self.history.as_ref().filter(|history| history.timeline == timeline);
                switches.and_then(|history| history.switches.last()).map(|switch| switch.at)
            }
        });
        let checkpointed = primary.is_some() && self.is_checkpointed();
        Leading { rule, covered, start, checkpointed, ..Leading::default() }
    }

    /// What follows from a new look: proofs that do not hold any more, and what has come to its end meanwhile.
    pub(crate) fn follow_reign(&mut self, ledger: &Ledger) -> Result<(), StepError> {
        let Some(sight) = &self.sight else { return Ok(()) };
        let PgRole::Primary { lsn, replicas, .. } = &sight.role else {
            self.follow_recruitment(ledger);
            return Ok(());
        };
        if let Some(proof) = &mut self.reign.proof {
            let loaded_at = proof.loaded_at.get_or_insert_with(|| sight.loaded_at.clone());
            if *loaded_at != sight.loaded_at || proof.rule.synchronous_standby_names() != sight.waits_for {
                // Walsenders may have acknowledged by whatever it was meanwhile.
                tracing::warn!(waits_for = sight.waits_for, "somebody else changed Postgres' configuration");
                self.reign.proof = None;
            } else {
                proof.covered |= proof.is_met_by(replicas);
            }
        }
        if self.reign.probe.is_none() && self.shared.is_confirmed() {
            self.reign.probe = Some(WriteProbe::begin(self.shared.clone()));
        }
        let to = match ledger.assignment.as_ref().map(|told| &told.task) {
            Some(Task::HandOver { to, .. }) => Some(to),
            _ => None,
        };
        match (&self.reign.handing_over, to) {
            (HandingOver::No, _) => {}
            (_, None) => {
                tracing::info!("the handover was called off");
                self.reign.handing_over = HandingOver::No;
                self.shared.hold(false);
                self.shared.feed_only(None);
            }
            (HandingOver::Warming(checkpoint), Some(_)) if checkpoint.is_finished() => {
                self.reign.handing_over = HandingOver::Warm;
            }
            (HandingOver::Warm, Some(to)) => {
                let close = replicas.iter().any(|replica| {
                    let behind = replica.flushed.map(|flushed| lsn.bytes_since(flushed));
                    replica.node == *to && replica.state == "streaming" && behind.is_some_and(|bytes| bytes < CLOSE)
                });
                if close {
                    tracing::info!(%to, "new transactions wait for the handover");
                    self.shared.hold(true);
                    self.reign.handing_over = HandingOver::Draining { since: Instant::now() };
                }
            }
            (HandingOver::Draining { since }, Some(_)) if self.shared.drained() || since.elapsed() >= DRAIN => {
                self.reign.handing_over = HandingOver::Drained;
            }
            (HandingOver::Warming(_) | HandingOver::Draining { .. } | HandingOver::Drained, Some(_)) => {}
        }
        self.take_confirmation()
    }

    /// A recruit whose end is known has slots for the others (rule R18): they come before it is promoted, and would come
    /// again only after a while. One that follows again has none, as nobody would move them on.
    fn follow_recruitment(&mut self, ledger: &Ledger) {
        let Some(have) = self.sight.as_ref().map(|sight| &sight.slots) else { return };
        let (create, drop): (BTreeSet<String>, BTreeSet<String>) = match &ledger.role {
            LedgerRole::Recruited { .. } if self.found(ledger).is_some() => {
                let peers = ledger.assignment.iter().flat_map(|told| &told.peers);
                let others = peers.filter(|peer| peer.node != ledger.node).map(|peer| peer.node.slot());
                (others.filter(|slot| !have.contains_key(slot)).collect(), BTreeSet::new())
            }
            LedgerRole::Replica { .. } => {
                let ours = have.keys().filter(|slot| NodeName::of_slot(slot).is_some());
                (BTreeSet::new(), ours.cloned().collect())
            }
            _ => return,
        };
        let under_way = self.reign.slots.as_ref().is_some_and(|task| !task.is_finished());
        if under_way || create.is_empty() && drop.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        self.reign.slots = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let done = async { roles::ensure_slots(&Session::connect(&shared.config).await?, &create, &drop).await };
            if let Err(error) = done.await {
                tracing::warn!(error = words(&error), "the slots of this standby stay as they are for now");
            }
        })));
    }

    /// Begins a handover; [`Node::follow_reign`] sees it through.
    pub(crate) fn drain(&mut self) {
        if matches!(self.reign.handing_over, HandingOver::No) {
            self.reign.handing_over = HandingOver::Warming(self.checkpoint_aside());
        }
    }

    /// Cuts off whoever could keep Postgres from stopping and is not needed for what comes next: a standby that does
    /// not read is waited for until `wal_sender_timeout` (protocol, experiment E22).
    pub(crate) fn feed_only_needed(&self, ledger: &Ledger) {
        let Some(Task::HandOver { to, terms, .. }) = ledger.assignment.as_ref().map(|told| &told.task) else { return };
        let needed = terms.rule.members().iter().chain([to]).cloned().collect::<BTreeSet<NodeName>>();
        self.shared.feed_only(Some(&needed));
    }

    /// Begins to write the marker, if that is not under way. Its end wakes the loop.
    pub(crate) fn confirm(&mut self, epoch: Epoch, nonce: &str) {
        let life = self.shared.life();
        let under_way = |confirming: &Confirming| (confirming.epoch, confirming.life) == (epoch, life);
        let Some(timeline) = self.sight.as_ref().map(|sight| sight.timeline) else { return };
        if self.reign.confirming.as_ref().is_some_and(under_way) {
            return;
        }
        let (shared, nonce) = (self.shared.clone(), nonce.to_owned());
        let task = tokio::spawn(async move {
            let written = marker::write(&shared.config, epoch, timeline, &nonce).await;
            shared.wake.notify_one();
            written
        });
        self.reign.confirming = Some(Confirming { epoch, life, task: AbortOnDropHandle::new(task) });
    }

    fn take_confirmation(&mut self) -> Result<(), StepError> {
        let Some(confirming) = self.reign.confirming.take_if(|confirming| confirming.task.is_finished()) else {
            return Ok(());
        };
        let written = futures::FutureExt::now_or_never(confirming.task);
        match written {
            Some(Ok(written)) => written?,
            // It was aborted, or panicked: it is begun anew.
            Some(Err(_)) | None => return Ok(()),
        }
        if self.shared.confirm(confirming.epoch, confirming.life) {
            tracing::info!(epoch = %confirming.epoch, "the marker is as safe as the rule makes it");
        }
        self.markers_may_differ = true;
        Ok(())
    }

    /// Brings `rule` into effect, as far as that goes without waiting.
    pub(crate) async fn ensure_rule(&mut self, rule: &Rule) -> Result<(), StepError> {
        let in_effect = self.reign.proof.as_ref().is_some_and(|proof| proof.rule == *rule);
        if !in_effect {
            self.reign.proof = rule::prove(&self.shared.config, rule).await?;
            if let Some(proof) = &self.reign.proof {
                tracing::info!(waits_for = rule.synchronous_standby_names(), at = %proof.at, "the rule is in effect");
            }
        }
        Ok(())
    }

    /// Begins a checkpoint, if none is under way.
    pub(crate) fn checkpoint(&mut self) {
        if self.reign.checkpoint.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
            self.reign.checkpoint = Some(self.checkpoint_aside());
        }
    }

    fn checkpoint_aside(&self) -> AbortOnDropHandle<Result<(), SqlError>> {
        let shared = self.shared.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let done = async { Session::connect(&shared.config).await?.checkpoint(CHECKPOINT).await }.await;
            if let Err(error) = &done {
                tracing::warn!(error = words(error), "no checkpoint");
            }
            shared.wake.notify_one();
            done
        }))
    }

    /// Leaves stubs for burnt timelines and promotes (rule R8). What came of it shows at a later look.
    pub(crate) async fn promote(&mut self, timeline: u32, burnt: &[u32]) -> Result<(), StepError> {
        let (Some(session), Some(sight)) = (&self.session, &self.sight) else { return Ok(()) };
        let (config, own) = (&self.shared.config, sight.timeline);
        match self.reign.promoting {
            Some(since) if since.elapsed() < PROMOTION => return Ok(()),
            // Its history may be written by now.
            Some(_) => tracing::warn!("Postgres was told to end recovery and has not; it is told again"),
            None => {
                let pgdata = &config.paths.pgdata;
                if wal::forsake_later_histories(pgdata, own, config.account)? {
                    tracing::warn!(
                        own,
                        "this standby knew of a later timeline that it never followed; starting it anew"
                    );
                    self.stop(Stop::Quick).await;
                    return Ok(());
                }
                wal::leave_stubs(pgdata, own, timeline, burnt, config.account)?;
                tracing::info!(own, timeline, "promoting");
            }
        }
        session.promote().await?;
        self.reign.promoting = Some(Instant::now());
        Ok(())
    }
}
