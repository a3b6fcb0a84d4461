//! Snapshots: one at a time per volume, kept for some days, restored into new volumes.

use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::shared::Shared;
use super::time::Millis;
use super::volume::Volume;
use super::{Due, Effect, World};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub id: String,
    /// Number of the backup job.
    pub job: u64,
    pub status: SnapshotStatus,
    pub asked_at: Millis,
    pub created_at: Option<Millis>,
    /// Stored bytes.
    pub size: u64,
    /// Size of the volume at that time.
    pub volume_gb: u64,
    pub retention_days: u64,
    /// The next step: `running`, done, or expired.
    pub due: Millis,
    /// Content is written.
    pub written: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStatus {
    Waiting,
    Running,
    Created,
}

impl SnapshotStatus {
    /// As `status` says it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Created => "created",
        }
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

impl World {
    /// Asks for a snapshot.
    ///
    /// # Errors
    /// 404, 408, 412 while another one is unfinished.
    pub fn take_snapshot(&mut self, now: Millis, app: &str, id: &str) -> Result<Snapshot, Refusal> {
        let volume = self.volume(app, id)?;
        if volume.state.leaving() {
            return Err(Refusal::volume_going(id));
        }
        if let Some(other) = volume.snapshots.values().find(|snapshot| snapshot.status != SnapshotStatus::Created) {
            return Err(Refusal::snapshot_scheduled(&other.asked_at.rfc3339_seconds()));
        }
        if !self.hosts.reachable(&volume.host) {
            return Err(Refusal::host_unreachable());
        }
        let (volume_gb, retention_days) = (volume.size_gb, volume.snapshot_retention);
        self.counter += 1;
        let snapshot = Snapshot {
            id: self.ids.snapshot(),
            job: 85_000 + self.counter,
            status: SnapshotStatus::Waiting,
            asked_at: now,
            created_at: None,
            size: 0,
            volume_gb,
            retention_days,
            due: now.after(self.knobs.snapshot_wait_ms),
            written: false,
        };
        self.set_due(snapshot.due, Due::Snapshot(app.to_owned(), id.to_owned(), snapshot.id.clone()));
        self.edit_volume(app, id)?.snapshots.insert(snapshot.id.clone(), snapshot.clone());
        Ok(snapshot)
    }

    /// The snapshots of a volume, deleted or not, while any is kept. Oldest first.
    ///
    /// # Errors
    /// 404.
    pub fn snapshots(&self, app: &str, volume: &str) -> Result<Vec<Snapshot>, Refusal> {
        let volume: &Shared<Volume> = self.app(app)?.volumes.get(volume).ok_or_else(Refusal::volume_not_found)?;
        let mut snapshots: Vec<Snapshot> = volume.snapshots.values().cloned().collect();
        snapshots.sort_by_key(|snapshot| (snapshot.asked_at, snapshot.job));
        Ok(snapshots)
    }

    pub(crate) fn resume_snapshot(&mut self, app: &str, volume: &str, snapshot: &Snapshot) {
        let due = Due::Snapshot(app.to_owned(), volume.to_owned(), snapshot.id.clone());
        self.set_due(snapshot.due, due);
        if snapshot.status == SnapshotStatus::Running && !snapshot.written {
            let (app, volume, snapshot) = (app.to_owned(), volume.to_owned(), snapshot.id.clone());
            self.effects.push(Effect::TakeSnapshot { app, volume, snapshot });
        }
    }

    pub(crate) fn snapshot_due(&mut self, now: Millis, app: &str, volume: &str, id: &str) {
        let run_ms = self.knobs.snapshot_run_ms;
        let Ok(record) = self.edit_volume(app, volume) else { return };
        let Some(snapshot) = record.snapshots.get_mut(id).filter(|snapshot| snapshot.due <= now) else { return };
        match snapshot.status {
            SnapshotStatus::Waiting => {
                snapshot.status = SnapshotStatus::Running;
                snapshot.due = now.after(run_ms);
                let (due, id) = (snapshot.due, id.to_owned());
                let effect =
                    Effect::TakeSnapshot { app: app.to_owned(), volume: volume.to_owned(), snapshot: id.clone() };
                self.effects.push(effect);
                self.set_due(due, Due::Snapshot(app.to_owned(), volume.to_owned(), id));
            }
            SnapshotStatus::Running if snapshot.written => self.finish_snapshot(now, app, volume, id),
            SnapshotStatus::Running => {}
            SnapshotStatus::Created => {
                record.snapshots.remove(id);
                self.effects.push(Effect::DropSnapshot { snapshot: id.to_owned() });
                self.forget_empty_volume(app, volume);
            }
        }
    }

    pub(crate) fn on_snapshot_taken(&mut self, now: Millis, app: &str, volume: &str, id: &str, size: u64) {
        let Ok(record) = self.edit_volume(app, volume) else { return };
        let Some(snapshot) = record.snapshots.get_mut(id) else { return };
        snapshot.written = true;
        snapshot.size = size;
        if snapshot.status == SnapshotStatus::Running && snapshot.due <= now {
            self.finish_snapshot(now, app, volume, id);
        }
    }

    fn finish_snapshot(&mut self, now: Millis, app: &str, volume: &str, id: &str) {
        let Ok(record) = self.edit_volume(app, volume) else { return };
        let Some(snapshot) = record.snapshots.get_mut(id) else { return };
        snapshot.status = SnapshotStatus::Created;
        snapshot.created_at = Some(now);
        snapshot.due = now.after(snapshot.retention_days * DAY_MS);
        let due = snapshot.due;
        self.set_due(due, Due::Snapshot(app.to_owned(), volume.to_owned(), id.to_owned()));
    }
}
