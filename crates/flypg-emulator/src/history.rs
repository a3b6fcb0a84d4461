//! A little of the past, for reads that lag behind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::world::World;
use crate::world::app::App;
use crate::world::shared::Shared;
use crate::world::time::Millis;

/// Since when an app looked like this; `None`: it did not exist.
type Entry = (Millis, Option<Shared<App>>);

/// What each app looked like lately. Empty while nothing lags.
#[derive(Debug)]
pub(crate) struct History {
    keep_ms: u64,
    apps: BTreeMap<String, VecDeque<Entry>>,
}

impl History {
    pub(crate) fn new(world: &World, stale_ms: u64) -> Self {
        let mut history = Self { keep_ms: 0, apps: BTreeMap::new() };
        history.keep(world, stale_ms);
        history
    }

    /// Keeps as much as the knobs and `stale_ms` (of fault rules) need.
    pub(crate) fn keep(&mut self, world: &World, stale_ms: u64) {
        let needed = stale_ms.max(world.knobs.list_lag_ms).max(world.knobs.read_lag_ms);
        if self.keep_ms == 0 && needed > 0 {
            let entry = |app: &Shared<App>| VecDeque::from([(Millis(0), Some(app.clone()))]);
            self.apps = world.apps.iter().map(|(name, app)| (name.clone(), entry(app))).collect();
        }
        if needed == 0 {
            self.apps.clear();
        }
        self.keep_ms = needed;
    }

    pub(crate) fn record(&mut self, world: &World, now: Millis, touched: &BTreeSet<String>) {
        if self.keep_ms == 0 {
            return;
        }
        let horizon = Millis(now.0.saturating_sub(self.keep_ms));
        for name in touched {
            let entries = self.apps.entry(name.clone()).or_insert_with(|| VecDeque::from([(Millis(0), None)]));
            entries.push_back((now, world.apps.get(name).cloned()));
            // One entry from before the horizon stays: it was still valid at the horizon.
            while entries.len() > 1 && entries[1].0 <= horizon {
                entries.pop_front();
            }
        }
    }

    /// The app as of `at`: `None` if nothing is known of it, `Some(None)` if it did not exist.
    pub(crate) fn app(&self, name: &str, at: Millis) -> Option<Option<Shared<App>>> {
        let entries = self.apps.get(name)?;
        entries.iter().rev().find(|(since, _)| *since <= at).map(|(_, app)| app.clone())
    }
}
