//! Volumes: their size, how they grow, their snapshots. That a volume never shrinks is for the planner, which knows
//! how large it is.

use super::Checker;
use crate::spec::diagnostics::Code;
use crate::spec::preset::Fill;
use crate::spec::raw;
use crate::spec::text;
use crate::spec::types::{Grow, SnapshotPolicy, StorageSpec};

/// The largest volume Fly makes.
const LARGEST_GB: u32 = 500;

impl Checker<'_> {
    pub(super) fn storage(&mut self, given: Option<&raw::Storage>, fill: &Fill) -> Option<StorageSpec> {
        let size = given.and_then(|storage| storage.size.as_ref()).and_then(|size| text::gigabytes(&size.0));
        let size = size.or(fill.size_gb);
        match (given, size) {
            (None, None) => self.missing("spec", "storage", "{ size: 40GB }"),
            (Some(_), None) => self.missing("spec.storage", "size", "40GB"),
            _ => {}
        }
        let size_gb = size.filter(|size| self.within_fly("spec.storage.size", *size));
        let grow = match given.and_then(|storage| storage.grow.as_ref()) {
            Some(grow) => Some(self.grow(grow, size_gb)?),
            None => None,
        };
        let snapshots = given.and_then(|storage| storage.snapshots.as_ref());
        let snapshots = SnapshotPolicy {
            daily: snapshots.and_then(|snapshots| snapshots.daily).unwrap_or(true),
            retention_days: snapshots.and_then(|snapshots| snapshots.retention_days).unwrap_or(7),
        };
        Some(StorageSpec { size_gb: size_gb?, grow, snapshots })
    }

    fn within_fly(&mut self, path: &str, size_gb: u32) -> bool {
        let within = size_gb <= LARGEST_GB;
        if !within {
            let message = format!("{size_gb}GB is more than a volume can have");
            self.error(Code::BadValue, path, message, format!("expected 1GB to {LARGEST_GB}GB"), &[]);
        }
        within
    }

    fn grow(&mut self, given: &raw::Grow, size_gb: Option<u32>) -> Option<Grow> {
        let percent = |given: &Option<text::Percentage>, default| match given {
            Some(percentage) => text::percent(&percentage.0),
            None => Some(default),
        };
        let (at, by) = (percent(&given.at, 80)?, percent(&given.by, 25)?);
        let max = text::gigabytes(&given.max.0)?;
        let mut good = true;
        if !(50..=95).contains(&at) {
            let message = format!("volumes cannot grow at {at}%");
            let help = match at > 95 {
                true => "above 95% the disk may be full before the volume has grown",
                false => "below 50% every volume would grow long before it has to",
            };
            self.error(Code::BadValue, "spec.storage.grow.at", message, "expected 50% to 95%", &[help.to_owned()]);
            good = false;
        }
        if !(1..=100).contains(&by) {
            let message = format!("volumes cannot grow by {by}%");
            let help = "a volume that has grown can never shrink again".to_owned();
            self.error(Code::BadValue, "spec.storage.grow.by", message, "expected 1% to 100%", &[help]);
            good = false;
        }
        good &= self.within_fly("spec.storage.grow.max", max);
        if let Some(size) = size_gb.filter(|size| *size > max) {
            let message = format!("volumes cannot grow to {max}GB: they are {size}GB from the start");
            let label = format!("expected at least {size}GB");
            self.error(Code::Conflict, "spec.storage.grow.max", message, label, &[]);
            good = false;
        }
        good.then_some(Grow { at_percent: at, by_percent: by, max_gb: max })
    }
}
