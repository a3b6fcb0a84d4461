//! What the controller knows now, for whoever asks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::observed::Observed;
use flypg_core::status::ClusterStatus;

use crate::turn::Wanted;

/// The last turn of one cluster.
#[derive(Debug, Clone)]
pub struct Posted {
    pub at: Timestamp,
    pub wanted: Wanted,
    pub observed: Observed,
    pub status: ClusterStatus,
}

#[derive(Debug, Default)]
struct Notes {
    /// `None`: wanted, and not looked at yet.
    clusters: BTreeMap<ClusterName, Option<Arc<Posted>>>,
    /// What is wrong with the files; `None` until they were read.
    source: Option<Vec<String>>,
}

/// Written by the loops, read by the HTTP endpoints.
#[derive(Debug, Default)]
pub struct Board(RwLock<Notes>);

impl Board {
    pub fn expect(&self, cluster: &ClusterName) {
        self.write(|notes| {
            notes.clusters.entry(cluster.clone()).or_default();
        });
    }

    pub fn post(&self, posted: Posted) {
        self.write(|notes| {
            notes.clusters.insert(posted.wanted.name().clone(), Some(Arc::new(posted)));
        });
    }

    pub fn remove(&self, cluster: &ClusterName) {
        self.write(|notes| {
            notes.clusters.remove(cluster);
        });
    }

    pub fn post_source(&self, mistakes: Vec<String>) {
        self.write(|notes| notes.source = Some(mistakes));
    }

    pub fn cluster(&self, name: &str) -> Option<Arc<Posted>> {
        self.read(|notes| notes.clusters.iter().find(|(cluster, _)| cluster.as_str() == name)?.1.clone())
    }

    pub fn clusters(&self) -> Vec<Arc<Posted>> {
        self.read(|notes| notes.clusters.values().flatten().cloned().collect())
    }

    /// What is wrong with the files; `None` until they were read.
    pub fn source(&self) -> Option<Vec<String>> {
        self.read(|notes| notes.source.clone())
    }

    /// The files were read, and every cluster was looked at since.
    pub fn is_complete(&self) -> bool {
        self.read(|notes| notes.source.is_some() && notes.clusters.values().all(Option::is_some))
    }

    fn read<T>(&self, look: impl FnOnce(&Notes) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}
