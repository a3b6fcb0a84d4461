use std::sync::{Arc, Mutex};

use flypg_controller::act::LiveActuator;
use flypg_controller::journal::Journal;
use flypg_controller::keeper::Keeper;
use flypg_controller::lead::Heart;
use flypg_controller::observe::LiveObserver;
use flypg_controller::turn::{Wanted, Witness};
use flypg_controller::words::chain;
use flypg_core::Timestamp;
use flypg_core::keys::Key;

use crate::progress::Progress;
use crate::settings::{Settings, actuator};

pub(crate) type CliKeeper = Keeper<LiveObserver, LiveActuator, Arc<dyn Witness>>;

/// Keeps one cluster for as long as a command runs: its leadership and the rest, written down, and told as it happens.
pub(crate) fn keeper(
    settings: &Settings,
    master: &Key,
    wanted: Wanted,
    observer: LiveObserver,
    progress: &Arc<Progress>,
) -> CliKeeper {
    let journal = Journal::open(&settings.state.join("journal"), wanted.name())
        .inspect_err(|error| tracing::warn!(error = chain(error), "turns are not written down"));
    let journal = journal.ok().map(|journal| Arc::new(Mutex::new(journal)));
    let witness = settings.chronicle(wanted.name(), Arc::clone(progress));
    let heart = Heart::start(
        wanted.clone(),
        observer.clone(),
        actuator(&observer),
        master,
        Arc::clone(&witness),
        journal.clone(),
    );
    let hands = actuator(&observer);
    let keeper = Keeper::new(wanted, observer, hands, witness, Timestamp::now).with_heart(heart);
    match journal {
        Some(journal) => keeper.with_journal(journal),
        None => keeper,
    }
}
