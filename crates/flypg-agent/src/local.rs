//! What is known on this machine, as [`flypg_core::node::next`] wants it.

use std::sync::atomic::Ordering;

use flypg_core::failover::Astray;
use flypg_core::ledger::{Ledger, LedgerRole};
use flypg_core::node::{DataDir, Local, Position, Postmaster as Seen, Stranded};
use flypg_core::protocol::{PgRole, Task};

use crate::data_dir;
use crate::node::{Found, Node};
use crate::processes;

impl Node {
    /// Everything that a decision needs.
    pub(crate) fn local(&self, ledger: &Ledger) -> Local {
        let config = &self.shared.config;
        let found = self.found(ledger);
        let postmaster = match &self.postmaster {
            Some(postmaster) if postmaster.up && !self.recovers => Seen::Up,
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
            reign: self.reign_seen(),
            end: found.map(|found| found.end.clone()),
            astray: self.astray(ledger),
            lost_wal: self.lost_wal.clone().or_else(|| self.lack(found)),
            rewind_failed: self.rewind_failed(),
            stopping: self.shared.ending.is_cancelled(),
            clean: found.is_some_and(|found| found.clean),
            room: self.has_room(),
            remade: self.remade,
        }
    }

    /// Where the data end, if what was found still holds under this ledger.
    pub(crate) fn found(&self, ledger: &Ledger) -> Option<&Found> {
        let recruited_in = match &ledger.role {
            LedgerRole::Recruited { epoch } => Some(*epoch),
            _ => None,
        };
        self.found.as_ref().filter(|found| found.recruited_in == recruited_in)
    }

    /// What is missing in data of which it is known where they end.
    fn lack(&self, found: Option<&Found>) -> Option<String> {
        let (end, store) = (&found?.end, self.shared.store.as_ref().ok()?);
        store.high_water().lack_of(&end.history, end.lsn)
    }

    /// Whether its data fit the lineage that it was told, as far as that can be said.
    fn astray(&self, ledger: &Ledger) -> Option<Astray> {
        let Task::Follow { lineage, remake, .. } = &ledger.assignment.as_ref()?.task else { return None };
        if let LedgerRole::Rejoining { .. } = &ledger.role {
            let end = &self.found(ledger)?.end;
            return lineage.place(&end.history, end.lsn).err();
        }
        let LedgerRole::Replica { .. } = &ledger.role else { return None };
        let (history, at) = match &self.sight {
            Some(sight) => {
                let PgRole::Standby { received, replayed, .. } = &sight.role else { return None };
                let history = self.history.as_ref().filter(|history| history.timeline == sight.timeline)?;
                (history, received.unwrap_or_default().max(*replayed))
            }
            // Stopped: its files say how far it has come at least.
            None if self.postmaster.is_none() => {
                let end = &self.found(ledger)?.end;
                (&end.history, end.lsn)
            }
            None => return None,
        };
        let last = lineage.branches().last()?;
        lineage.place(history, at).err().filter(|astray| match astray {
            // It may follow a promotion that the lineage does not tell of yet.
            Astray::Timeline { timeline } => *remake || *timeline < last.timeline,
            Astray::Switch { .. } | Astray::Beyond { .. } | Astray::Marker { .. } => true,
        })
    }

    fn rewind_failed(&self) -> Option<String> {
        let cut_short = || "an earlier rewind did not come to its end".to_owned();
        let marked = || data_dir::is_rewind_marked(&self.shared.config).then(cut_short);
        self.rewind_failed.clone().or_else(marked)
    }

    /// Whether another copy fits beside this one: a tenth, and what Postgres writes while it starts, more than is here.
    fn has_room(&self) -> bool {
        let needed = self.copy_size.saturating_add(self.copy_size / 10).saturating_add(64 * 1024 * 1024);
        !self.no_room && self.disk.map_or(0, |disk| disk.total.saturating_sub(disk.used)) >= needed
    }

    /// What is known of a standby that does not stream because its primary cannot give it the WAL it needs.
    fn stranded(&self, ledger: &Ledger) -> Option<Stranded> {
        let (sight, postmaster) = (self.sight.as_ref()?, self.postmaster.as_ref()?);
        let PgRole::Standby { received, replayed, .. } = &sight.role else { return None };
        if sight.streams || !postmaster.log.is_stranded() || !matches!(ledger.role, LedgerRole::Replica { .. }) {
            return None;
        }
        let lsn = received.unwrap_or_default().max(*replayed);
        Some(Stranded {
            own: Position { timeline: sight.timeline, lsn },
            room: self.has_room(),
            asked: self.asked.clone(),
        })
    }

    pub(crate) fn disk_mb(&self) -> Option<u64> {
        self.disk.map(|disk| disk.total / (1024 * 1024))
    }
}
