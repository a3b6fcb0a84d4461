//! What a node tells others of itself.

use std::time::Duration;

use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::node::{DataDir, Local, NodeStep, Origin, Postmaster as Seen};
use flypg_core::protocol::{PgReport, PgRole, Phase, Standing};
use flypg_core::settings;

use crate::node::Node;
use crate::routes::Here;

/// A Postgres that answers nothing for so long is reported as failing.
const SILENCE: Duration = Duration::from_secs(5);

impl Node {
    /// Tells everybody what was seen and what is about to be done.
    pub(crate) fn publish(&self, step: &NodeStep, local: &Local, ledger: &Ledger) {
        let phase = self.phase(step, local, ledger);
        let follows = matches!(ledger.role, LedgerRole::Replica { .. });
        let standby = follows || matches!(ledger.role, LedgerRole::Recruited { .. });
        // A Postgres that is too busy to answer the agent may still answer others: it shuts the door itself.
        let open = local.postmaster == Seen::Up && (standby || self.roles_there);
        let streams = follows && self.sight.as_ref().is_some_and(|sight| sight.streams);
        let here = Here { open, streams };
        let postgres = self.postgres();
        self.shared.publish(|report| {
            report.phase = phase;
            report.postgres = postgres;
            report.disk = self.disk;
            report.crashes = self.crash_count;
        });
        self.shared.publish_standing(ledger, self.standing(local, ledger));
        // After the report: whoever is let in because of this may rely on what it says.
        self.shared.here.send_if_modified(|now| std::mem::replace(now, here) != here);
    }

    /// Where it stands towards its epoch. Whether the gate is open is filled in by whoever knows.
    fn standing(&self, local: &Local, ledger: &Ledger) -> Standing {
        // Where data end that lack something is not where they ended.
        let end = || local.end.clone().filter(|_| local.lost_wal.is_none());
        match &ledger.role {
            LedgerRole::Recruited { .. } => Standing::Recruited { end: end() },
            LedgerRole::Relinquished { .. } => Standing::Relinquished { clean: local.clean, end: end() },
            LedgerRole::Primary { .. } | LedgerRole::Promoting { .. } => Standing::Leading(self.leading()),
            LedgerRole::Blank
            | LedgerRole::Initialising { .. }
            | LedgerRole::Cloning { .. }
            | LedgerRole::Replica { .. }
            | LedgerRole::Rejoining { .. } => Standing::Unbound,
        }
    }

    pub(crate) fn postgres(&self) -> Option<PgReport> {
        let (identity, sight) = (self.identity.as_ref()?, self.sight.as_ref()?);
        let mut role = sight.role.clone();
        match &mut role {
            // The receiver knows the agent only; where that connects it to is the agent's own knowledge.
            PgRole::Standby { streaming_from, .. } if sight.streams => {
                *streaming_from = self.shared.routes.borrow().upstream.as_ref().map(|(node, _)| node.clone());
            }
            PgRole::Standby { .. } => {}
            PgRole::Primary { probe, .. } => *probe = self.reign.probe(),
        }
        Some(PgReport {
            version: identity.version.clone(),
            system_id: identity.system_id.clone(),
            timeline: sight.timeline,
            history: self.history.clone().filter(|history| history.timeline == sight.timeline),
            started_at: identity.started_at,
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
