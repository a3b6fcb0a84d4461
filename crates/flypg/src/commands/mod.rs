//! One room per command.

pub(crate) mod connect;
pub(crate) mod controller;
pub(crate) mod emulator;
mod files;
pub(crate) mod generate;
pub(crate) mod reconcile;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod validate;

use flypg_core::observed::{Observed, Unknown};

/// Why the platform could not be seen.
pub(crate) fn unseen(observed: &Observed) -> Option<String> {
    let apart = [observed.app.why_unknown(), observed.machines.why_unknown(), observed.volumes.why_unknown()];
    apart.into_iter().flatten().find_map(|why| match why {
        Unknown::NoAnswer { error } | Unknown::Forbidden { error } => Some(error.clone()),
        Unknown::NotLooked | Unknown::Changing => None,
    })
}
