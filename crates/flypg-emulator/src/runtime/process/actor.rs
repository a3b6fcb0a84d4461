//! One task per machine: everything about its processes happens in order here.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::machine::{Exit, MachineState};
use crate::world::report::Report;
use crate::world::{Boot, Processes};

use super::launch::{self, RunFile};
use super::tree::{self, Known};
use super::{Inner, checks, exit_of};

/// What a machine is told to do.
#[derive(Debug)]
pub(super) enum Order {
    Boot(Box<Boot>),
    Adopt(Box<Boot>),
    Halt {
        app: String,
        run: u64,
        signal: String,
        timeout_ms: u64,
    },
    Kill {
        app: String,
        run: u64,
    },
    Signal {
        to: Processes,
        signal: String,
    },
    /// SIGSTOP or SIGCONT.
    Freeze(bool),
    Discard,
    /// Halt without a report.
    Shutdown(oneshot::Sender<()>),
    /// Let go without touching anything.
    Abandon,
}

/// The main processes of a run.
#[derive(Debug)]
enum Main {
    Children(Vec<Child>),
    /// Left by an earlier emulator: not our children, so they are looked at now and then.
    Adopted(Vec<Known>),
}

/// A run under way.
#[derive(Debug)]
struct Live {
    boot: Box<Boot>,
    main: Main,
    processes: Vec<Known>,
    /// When patience with a halt ends.
    kill_at: Option<Instant>,
    checks: CancellationToken,
}

pub(super) struct Actor {
    inner: Arc<Inner>,
    id: String,
    orders: mpsc::UnboundedReceiver<Order>,
    live: Option<Live>,
    /// Who waits for the end of a shutdown.
    shutdown: Option<oneshot::Sender<()>>,
}

/// How often adopted processes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

impl Actor {
    pub(super) const fn new(inner: Arc<Inner>, id: String, orders: mpsc::UnboundedReceiver<Order>) -> Self {
        Self { inner, id, orders, live: None, shutdown: None }
    }

    pub(super) async fn run(mut self) {
        loop {
            let kill_at = self.live.as_ref().and_then(|live| live.kill_at);
            tokio::select! {
                order = self.orders.recv(), if self.shutdown.is_none() => match order {
                    Some(order) => if !self.obey(order).await { return },
                    // The runtime was dropped: as if killed.
                    None => return self.let_go(),
                },
                exit = end_of(self.live.as_mut()) => {
                    self.ended(exit).await;
                    if let Some(done) = self.shutdown.take() {
                        // Nobody may be waiting any more.
                        let _ = done.send(());
                        return;
                    }
                }
                () = at(kill_at) => {
                    if let Some(live) = &mut self.live {
                        live.kill_at = None;
                    }
                    self.kill().await;
                }
            }
        }
    }

    /// False when there is nothing left to do.
    async fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Boot(boot) => self.boot(boot).await,
            Order::Adopt(boot) => self.adopt(boot).await,
            Order::Halt { app, run, signal, timeout_ms } => {
                if !self.is_live(run) {
                    self.nothing_there(app, run);
                } else {
                    self.halt(&signal, timeout_ms);
                }
            }
            Order::Kill { app, run } => {
                if self.is_live(run) {
                    self.kill().await;
                } else {
                    self.nothing_there(app, run);
                }
            }
            Order::Signal { to: Processes::Main, signal } => self.signal_main(&signal),
            Order::Signal { to, signal } => {
                let places = self.inner.places(&self.id);
                if let Ok(signal) = signal.parse::<Signal>() {
                    blocking(move || tree::signal_some(&places, &to, signal)).await;
                }
            }
            Order::Freeze(stop) => {
                let signal = if stop { Signal::SIGSTOP } else { Signal::SIGCONT };
                let (inner, id, places) = (Arc::clone(&self.inner), self.id.clone(), self.inner.places(&self.id));
                blocking(move || {
                    // A machine that stands still does not even acknowledge a packet.
                    match (inner.network(), stop) {
                        (Some(network), true) => network.darken(&id),
                        (Some(network), false) => network.lighten(&id),
                        (None, _) => {}
                    }
                    tree::signal_all(&places, signal)
                })
                .await;
            }
            Order::Discard => {
                self.kill().await;
                let (inner, id) = (Arc::clone(&self.inner), self.id.clone());
                blocking(move || inner.network().iter().for_each(|network| network.discard(&id))).await;
                self.inner.remove(&self.inner.root(&self.id));
                // They may never have been there.
                let _ = std::fs::remove_file(self.inner.run_file(&self.id));
                let _ = std::fs::remove_file(self.inner.log_file(&self.id));
                self.inner.machines().remove(&self.id);
                return false;
            }
            Order::Shutdown(done) => {
                let Some(live) = &self.live else {
                    let _ = done.send(());
                    return false;
                };
                let stop = live.boot.machine.config.stop.clone();
                self.shutdown = Some(done);
                // What is frozen could not end by itself.
                let places = self.inner.places(&self.id);
                blocking(move || tree::signal_all(&places, Signal::SIGCONT)).await;
                self.halt(&stop.signal, stop.timeout_ms);
            }
            Order::Abandon => {
                self.let_go();
                return false;
            }
        }
        true
    }

    fn is_live(&self, run: u64) -> bool {
        self.live.as_ref().is_some_and(|live| live.boot.run == run)
    }

    /// A run that is to end but is not here has ended.
    fn nothing_there(&self, app: String, run: u64) {
        self.inner.report(Report::Exited { app, machine: self.id.clone(), run, exit: Exit::UNSEEN });
    }

    async fn boot(&mut self, boot: Box<Boot>) {
        // Nothing of an earlier run may be left: it would share the volume.
        self.kill_leftovers().await;
        let inner = Arc::clone(&self.inner);
        let (app, machine, run) = (boot.app.clone(), self.id.clone(), boot.run);
        let prepared = {
            let boot = boot.clone();
            let inner = Arc::clone(&inner);
            blocking(move || launch::prepare(&inner, &boot))
                .await
                .unwrap_or_else(|| Err(std::io::Error::other("interrupted")))
        };
        match prepared.and_then(|()| launch::spawn(&inner, &boot)) {
            Ok(children) => {
                let processes = children.iter().filter_map(|child| Known::find(child.id()?.cast_signed())).collect();
                self.begin(boot, Main::Children(children), processes);
            }
            Err(error) => {
                tracing::warn!(%error, machine, "the machine's processes could not be started");
                self.kill_leftovers().await;
                inner.report(Report::BootFailed { app, machine, run, reason: error.to_string() });
            }
        }
    }

    async fn adopt(&mut self, boot: Box<Boot>) {
        let path = self.inner.run_file(&self.id);
        let file = RunFile::read(&path).filter(|file| file.run == boot.run);
        match file {
            Some(file) if !file.processes.is_empty() && file.processes.iter().all(|process| process.alive()) => {
                tracing::info!(machine = self.id, "taking over the processes of an earlier emulator");
                if boot.machine.state != MachineState::Suspended {
                    // It may have been killed while it held them still for a snapshot.
                    let places = self.inner.places(&self.id);
                    blocking(move || tree::signal_all(&places, Signal::SIGCONT)).await;
                }
                self.begin(boot, Main::Adopted(file.processes.clone()), file.processes);
            }
            file => {
                self.kill_leftovers().await;
                let (app, machine, run) = (boot.app.clone(), self.id.clone(), boot.run);
                self.inner.report(match file {
                    Some(_) => Report::Exited { app, machine, run, exit: Exit::UNSEEN },
                    // A shutdown in order removes the file.
                    None => Report::Gone { app, machine, run },
                });
            }
        }
    }

    fn begin(&mut self, boot: Box<Boot>, main: Main, processes: Vec<Known>) {
        let checks = checks::watch(&self.inner, &boot);
        let (app, machine, run) = (boot.app.clone(), self.id.clone(), boot.run);
        self.live = Some(Live { boot, main, processes, kill_at: None, checks });
        self.inner.report(Report::Started { app, machine, run });
    }

    async fn ended(&mut self, exit: Exit) {
        let Some(live) = self.live.take() else { return };
        live.checks.cancel();
        drop(live.main);
        self.kill_leftovers().await;
        let _ = std::fs::remove_file(self.inner.run_file(&self.id));
        let (app, machine, run) = (live.boot.app.clone(), self.id.clone(), live.boot.run);
        self.inner.report(Report::Exited { app, machine, run, exit });
    }

    fn signal_main(&self, signal: &str) {
        let Ok(signal) = signal.parse::<Signal>() else { return };
        let processes = self.live.iter().flat_map(|live| &live.processes);
        processes.for_each(|process| process.signal(signal));
    }

    fn halt(&mut self, signal: &str, timeout_ms: u64) {
        self.signal_main(signal);
        if let Some(live) = &mut self.live {
            let at = Instant::now() + Duration::from_millis(timeout_ms);
            live.kill_at = Some(live.kill_at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Kills everything; the end of the main process is then noticed as usual.
    async fn kill(&self) {
        self.kill_leftovers().await;
    }

    async fn kill_leftovers(&self) {
        let (inner, id, places) = (Arc::clone(&self.inner), self.id.clone(), self.inner.places(&self.id));
        let kill = move || {
            // First, so that nobody is told of it by a kernel that would be gone, too.
            if let Some(network) = inner.network() {
                network.darken(&id);
            }
            tree::kill_all(&places)
        };
        if blocking(kill).await == Some(false) {
            tracing::error!(machine = self.id, "some processes would not die");
        }
    }

    fn let_go(&mut self) {
        if let Some(live) = self.live.take() {
            live.checks.cancel();
        }
    }
}

/// Resolves when the first main process ends.
async fn end_of(live: Option<&mut Live>) -> Exit {
    match live.map(|live| &mut live.main) {
        None => pending().await,
        Some(Main::Children(children)) => {
            let waits = children.iter_mut().map(|child| Box::pin(child.wait()));
            let (status, ..) = futures::future::select_all(waits).await;
            status.map_or(Exit::UNSEEN, exit_of)
        }
        Some(Main::Adopted(processes)) => {
            while processes.iter().all(|process| process.alive()) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Exit::UNSEEN
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// `None` if the runtime is being torn down.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    tokio::task::spawn_blocking(work).await.ok()
}
