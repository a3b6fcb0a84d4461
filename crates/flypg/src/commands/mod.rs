//! One room per command.

pub(crate) mod connect;
pub(crate) mod controller;
pub(crate) mod emulator;
pub(crate) mod events;
mod files;
pub(crate) mod generate;
mod keeper;
pub(crate) mod order;
pub(crate) mod reconcile;
pub(crate) mod replay;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod validate;

use flypg_controller::turn::Wanted;
use flypg_core::observed::{Observed, Unknown};

use crate::terminal::Terminal;

/// Why the platform could not be seen.
pub(crate) fn unseen(observed: &Observed) -> Option<String> {
    let apart = [observed.app.why_unknown(), observed.machines.why_unknown(), observed.volumes.why_unknown()];
    apart.into_iter().flatten().find_map(|why| match why {
        Unknown::NoAnswer { error } | Unknown::Forbidden { error } => Some(error.clone()),
        Unknown::NotLooked | Unknown::Changing => None,
    })
}

/// Says of clusters that could fail over that nobody is left to see to it.
pub(crate) fn unwatched<'a>(wanted: impl Iterator<Item = &'a Wanted>, terminal: &Terminal) {
    let several = |wanted: &&Wanted| matches!(wanted, Wanted::Kept(spec) if spec.total_nodes() > 1);
    let names: Vec<String> = wanted.filter(several).map(|wanted| wanted.name().to_string()).collect();
    if !names.is_empty() {
        terminal.say(&format!(
            "{}: no controller watches {} now: a primary that is lost is not replaced until one does (`flypg controller`)\n",
            terminal.bold_cyan("note"),
            names.join(", ")
        ));
    }
}
