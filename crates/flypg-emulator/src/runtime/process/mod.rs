//! Machines as real processes on this computer (Linux).

mod actor;
mod checks;
mod exec;
mod launch;
mod namespaces;
pub(crate) mod network;
pub(crate) mod octet;
mod tree;
mod volumes;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::emulator::StartError;
use crate::world::machine::{Exit, Machine};
use crate::world::report::Report;
use crate::world::shared::Shared;
use crate::world::{Boot, Effect};

use self::actor::{Actor, Order};
use self::network::Network;
use super::{ExecCommand, ExecError, ExecOutput, ImageTable, ProcessStat, Reporter, Runtime};

/// The process runtime of one emulator.
#[derive(Debug)]
pub struct Processes {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    data: PathBuf,
    images: ImageTable,
    reporter: Reporter,
    machines: Mutex<HashMap<String, mpsc::UnboundedSender<Order>>>,
    /// Volume → machine and app of the boot that mounts it.
    mounted: Mutex<HashMap<String, (String, String)>>,
    /// Copies of volumes under way at once.
    copies: Semaphore,
    closing: AtomicBool,
    /// `None` once the emulator ended: another one may have it.
    network: Mutex<Option<Arc<Network>>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("data", &self.data).finish_non_exhaustive()
    }
}

/// Leaves room for `/m/<14>/` and some 30 more bytes within the 107 of a Unix socket's path.
const LONGEST_DATA_PATH: usize = 60;
/// A Machine that floods its output fills some hundred MB a second.
const TRIM_EVERY: Duration = Duration::from_secs(1);
/// Volumes are measured once in so many rounds.
const MEASURE_ROUNDS: u64 = 10;

impl Processes {
    pub(crate) fn new(
        data: PathBuf,
        images: ImageTable,
        network: Network,
        reporter: Reporter,
    ) -> Result<Self, StartError> {
        if data.as_os_str().len() > LONGEST_DATA_PATH {
            return Err(StartError::LongPath(data));
        }
        for part in ["m", "v", "s", "log", "run"] {
            launch::make_dir(&data.join(part)).map_err(StartError::Prepare)?;
        }
        // Unprivileged children have to get through.
        launch::open_up(&data).map_err(StartError::Prepare)?;
        if let Some(shut) = launch::shut_to_others(&data).filter(|_| nix::unistd::geteuid().is_root()) {
            let shut = shut.display();
            tracing::warn!(%shut, "machines that give up root will not get into their directories below this one");
        }
        let inner = Arc::new(Inner {
            data,
            images,
            reporter,
            machines: Mutex::default(),
            mounted: Mutex::default(),
            copies: Semaphore::new(2),
            closing: AtomicBool::new(false),
            network: Mutex::new(Some(Arc::new(network))),
        });
        tokio::spawn(housekeeping(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Ends what an emulator began and was killed before it could write down, and removes what it could not remove any
    /// more. Volumes that nobody knows stay where they are: they are data.
    pub(crate) async fn forget_strangers(&self, machines: BTreeSet<String>) {
        let inner = Arc::clone(&self.inner);
        // A panic inside is a bug that was reported; the strangers stay then.
        let _ = tokio::task::spawn_blocking(move || {
            if let Some(network) = inner.network() {
                network.connected().iter().filter(|id| !machines.contains(*id)).for_each(|id| network.discard(id));
            }
            for machine in names_in(&inner.data.join("m")).filter(|name| !machines.contains(name)) {
                if !tree::kill_all(&inner.places(&machine)) {
                    tracing::error!(machine, "some processes would not die");
                }
                remove_dir(&inner.root(&machine));
                for file in [inner.run_file(&machine), inner.log_file(&machine)] {
                    // They may never have been there.
                    let _ = std::fs::remove_file(file);
                }
            }
            for part in ["v", "s"] {
                let dir = inner.data.join(part);
                names_in(&dir).filter(|name| name.contains(".gone")).for_each(|name| remove_dir(&dir.join(name)));
            }
        })
        .await;
    }
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok())
}

fn remove_dir(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(%error, dir = %dir.display(), "could not be removed");
    }
}

/// Keeps logs short and tells how full volumes are.
async fn housekeeping(inner: std::sync::Weak<Inner>) {
    for round in 1_u64.. {
        tokio::time::sleep(TRIM_EVERY).await;
        let Some(inner) = inner.upgrade().filter(|inner| !inner.closing()) else { return };
        // A panic inside is a bug that was reported; the next round tries again.
        let _ = tokio::task::spawn_blocking(move || {
            launch::trim_logs(&inner.data.join("log"));
            if !round.is_multiple_of(MEASURE_ROUNDS) {
                return;
            }
            let mounted: Vec<_> = inner.mounted().clone().into_iter().collect();
            for (volume, (app, _)) in mounted {
                let bytes_used = volumes::bytes_used(&inner.volume_dir(&volume));
                inner.report(Report::Measured { app, volume, bytes_used });
            }
        })
        .await;
    }
}

impl Inner {
    fn machines(&self) -> MutexGuard<'_, HashMap<String, mpsc::UnboundedSender<Order>>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mounted(&self) -> MutexGuard<'_, HashMap<String, (String, String)>> {
        self.mounted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn report(&self, report: Report) {
        if !self.closing() {
            (self.reporter)(report);
        }
    }

    fn network(&self) -> Option<Arc<Network>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets another emulator have the network, with all that is in it.
    fn release(&self) -> Option<Arc<Network>> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn root(&self, machine: &str) -> PathBuf {
        self.data.join("m").join(machine)
    }

    fn volume_dir(&self, volume: &str) -> PathBuf {
        self.data.join("v").join(volume)
    }

    fn snapshot_dir(&self, snapshot: &str) -> PathBuf {
        self.data.join("s").join(snapshot)
    }

    fn run_file(&self, machine: &str) -> PathBuf {
        self.data.join("run").join(format!("{machine}.json"))
    }

    fn log_file(&self, machine: &str) -> PathBuf {
        self.data.join("log").join(format!("{machine}.log"))
    }

    /// The directories by which processes of this machine are recognised.
    fn places(&self, machine: &str) -> tree::Places {
        let mounted = self.mounted();
        let volumes = mounted.iter().filter(|(_, (_, id))| id == machine).map(|(volume, _)| self.volume_dir(volume));
        tree::Places { root: self.root(machine), volumes: volumes.collect() }
    }

    /// Hands an order to a machine's actor, which is made at the first one.
    fn order(self: &Arc<Self>, machine: &str, order: Order) {
        let mut machines = self.machines();
        let mut order = order;
        if let Some(actor) = machines.get(machine) {
            match actor.send(order) {
                Ok(()) => return,
                Err(mpsc::error::SendError(back)) => order = back,
            }
        }
        let (sender, orders) = mpsc::unbounded_channel();
        // The receiver is alive: it was made in the line before.
        let _ = sender.send(order);
        machines.insert(machine.to_owned(), sender);
        tokio::spawn(Actor::new(Arc::clone(self), machine.to_owned(), orders).run());
    }

    fn mount(&self, boot: &Boot) {
        if let Some(mount) = &boot.machine.config.mount {
            self.mounted().insert(mount.volume.clone(), (boot.app.clone(), boot.machine.id.clone()));
        }
    }

    /// Removes a directory in the background, at once out of the way.
    fn remove(&self, dir: &Path) {
        let doomed = dir.with_extension(format!("gone{}", std::process::id()));
        if std::fs::rename(dir, &doomed).is_ok() {
            tokio::task::spawn_blocking(move || remove_dir(&doomed));
        } else {
            // A link left by a migration.
            let _ = std::fs::remove_file(dir);
        }
    }
}

impl Runtime for Processes {
    fn perform(&self, effect: Effect) -> Vec<Report> {
        let inner = &self.inner;
        if inner.closing() {
            return Vec::new();
        }
        match effect {
            Effect::Boot(boot) => {
                inner.mount(&boot);
                inner.order(&boot.machine.id.clone(), Order::Boot(boot));
            }
            Effect::Adopt(boot) => {
                inner.mount(&boot);
                inner.order(&boot.machine.id.clone(), Order::Adopt(boot));
            }
            Effect::Halt { app, machine, run, signal, timeout_ms } => {
                inner.order(&machine, Order::Halt { app, run, signal, timeout_ms });
            }
            Effect::Kill { app, machine, run } => inner.order(&machine, Order::Kill { app, run }),
            Effect::Signal { machine, to, signal } => inner.order(&machine, Order::Signal { to, signal }),
            Effect::Links(links) => {
                if let Some(network) = inner.network() {
                    network.want_links(links);
                    tokio::task::spawn_blocking(move || network.apply());
                }
            }
            Effect::Freeze { machine } => inner.order(&machine, Order::Freeze(true)),
            Effect::Thaw { machine } => inner.order(&machine, Order::Freeze(false)),
            Effect::Discard { machine } => {
                inner.mounted().retain(|_, (_, id)| *id != machine);
                inner.order(&machine, Order::Discard);
            }
            Effect::MakeVolume { volume } => {
                if let Err(error) = launch::make_dir(&inner.volume_dir(&volume)) {
                    tracing::error!(%error, volume, "the volume's directory could not be made");
                }
            }
            Effect::FillVolume { app, volume, from } => {
                tokio::spawn(volumes::fill(Arc::clone(inner), app, volume, from));
            }
            Effect::TakeSnapshot { app, volume, snapshot } => {
                tokio::spawn(volumes::snapshot(Arc::clone(inner), app, volume, snapshot));
            }
            Effect::DropVolume { volume } => inner.remove(&inner.volume_dir(&volume)),
            Effect::DropSnapshot { snapshot } => inner.remove(&inner.snapshot_dir(&snapshot)),
            Effect::WipeVolume { volume } => {
                let dir = inner.volume_dir(&volume);
                tokio::task::spawn_blocking(move || volumes::wipe(&dir));
            }
            Effect::RenameVolume { from, to } => {
                volumes::rename(&inner.volume_dir(&from), &inner.volume_dir(&to));
                let mut mounted = inner.mounted();
                if let Some(machine) = mounted.remove(&from) {
                    mounted.insert(to, machine);
                }
            }
        }
        Vec::new()
    }

    fn exec(&self, boot: Boot, command: ExecCommand) -> BoxFuture<'_, Result<ExecOutput, ExecError>> {
        Box::pin(exec::run(Arc::clone(&self.inner), boot, command))
    }

    fn ps(&self, machine: &Shared<Machine>) -> BoxFuture<'_, Vec<ProcessStat>> {
        let places = self.inner.places(&machine.id);
        Box::pin(async move { tokio::task::spawn_blocking(move || tree::stats(&places)).await.unwrap_or_default() })
    }

    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(network) = self.inner.network() {
                // A panic inside is a bug that was reported.
                let _ = tokio::task::spawn_blocking(move || network.apply()).await;
            }
        })
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.inner.closing.store(true, Ordering::Release);
            let actors: Vec<_> = self.inner.machines().drain().collect();
            let mut ends = Vec::new();
            for (_, actor) in actors {
                let (sender, end) = oneshot::channel();
                if actor.send(Order::Shutdown(sender)).is_ok() {
                    ends.push(end);
                }
            }
            futures::future::join_all(ends).await;
            if let Some(network) = self.inner.release() {
                // A panic inside is a bug that was reported; the next emulator takes over what is left.
                let _ = tokio::task::spawn_blocking(move || network.remove()).await;
            }
        })
    }

    fn abandon(&self) {
        self.inner.closing.store(true, Ordering::Release);
        for (_, actor) in self.inner.machines().drain() {
            // An actor that already ended has nothing to let go of.
            let _ = actor.send(Order::Abandon);
        }
        drop(self.inner.release());
    }
}

/// The exit of a process that was a child.
fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit { code, signal: -1, oom_killed: false },
        (None, Some(signal)) => Exit { code: 128 + signal, signal, oom_killed: false },
        (None, None) => Exit::UNSEEN,
    }
}
