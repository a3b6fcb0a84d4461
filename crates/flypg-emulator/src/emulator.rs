//! Starting and stopping an emulator.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::engine::Engine;
use crate::faults::{Rule, Rules};
use crate::http::auth::{Auth, Token};
use crate::http::wire::{Conn, Door};
use crate::runtime::process::Processes;
use crate::runtime::process::network::Network;
use crate::runtime::{ImageTable, Model, Reporter, Runtime};
use crate::store::{Store, StoreError};
use crate::world::World;
use crate::world::faults::Fault;
use crate::world::ips::AddressPlan;
use crate::world::knobs::Knobs;
use crate::world::refusal::Refusal;

/// What an emulator is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where the world is kept. Required by the process runtime; without it the model forgets everything.
    pub data: Option<PathBuf>,
    pub runtime: RuntimeKind,
    /// What the process runtime connects machines by. The model has nothing to connect.
    pub network: NetworkKind,
    /// Images of the process runtime; others are refused. The model takes every image.
    pub images: ImageTable,
    pub knobs: Knobs,
    /// Fault rules in force from the start.
    pub faults: Vec<Rule>,
    /// Tokens let in; `None` lets every token in.
    pub tokens: Option<Vec<Token>>,
    /// Seed of the chances of fault rules, and of the ids of a new world; by default the time.
    pub seed: Option<u64>,
}

/// What machines are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuntimeKind {
    /// Real processes, each machine on an address of its own.
    #[default]
    Process,
    /// Nothing but records.
    Model,
}

/// What real machines are connected by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkKind {
    /// Addresses in `127.0.0.0/8`: every machine sees all of them, and nothing can be cut.
    #[default]
    Loopback,
    /// A network namespace for each machine, with an address as on Fly. Needs root, and `ip`, `nft` and `nsenter`.
    Namespaces,
}

impl NetworkKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Namespaces => "namespaces",
        }
    }

    const fn of(plan: &AddressPlan) -> Self {
        match plan {
            AddressPlan::Namespaces { .. } => Self::Namespaces,
            AddressPlan::Loopback { .. } | AddressPlan::SixPn => Self::Loopback,
        }
    }
}

impl RuntimeKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Model => "model",
        }
    }

    /// By which runtime this world was made: only one of them gives addresses where something can listen.
    const fn of(world: &World) -> Self {
        match world.address_plan() {
            AddressPlan::Loopback { .. } | AddressPlan::Namespaces { .. } => Self::Process,
            AddressPlan::SixPn => Self::Model,
        }
    }
}

impl Default for Config {
    /// The model on a free port of 127.0.0.1, forgetting everything.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data: None,
            runtime: RuntimeKind::Model,
            network: NetworkKind::Loopback,
            images: ImageTable::new(),
            knobs: Knobs::default(),
            faults: Vec::new(),
            tokens: None,
            seed: None,
        }
    }
}

/// Why an emulator did not start. Nothing was started then.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}; is something else there?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the world on disk cannot be used")]
    Store(#[from] StoreError),
    #[error("the process runtime needs a data directory")]
    NoData,
    #[error("the data directory {} is too long a path: Unix sockets below it would not fit into 107 bytes", .0.display())]
    LongPath(PathBuf),
    #[error("the world in {} was made with the {} runtime; start that, or give another data directory", dir.display(), made.word())]
    OtherRuntime { dir: PathBuf, made: RuntimeKind },
    #[error("no free loopback network for the machines: {0}")]
    Octet(String, #[source] io::Error),
    #[error("the world in {} was made with the {} network; start that, or give another data directory", dir.display(), made.word())]
    OtherNetwork { dir: PathBuf, made: NetworkKind },
    #[error("network namespaces need root; start it as root, or without them")]
    NotRoot,
    #[error("network namespaces need the program `{name}`; on Debian, `apt install iproute2 nftables util-linux`")]
    NoProgram { name: &'static str },
    #[error("the network namespaces of the machines could not be made")]
    Network(#[source] io::Error),
    #[error("the data directory cannot be prepared")]
    Prepare(#[source] io::Error),
}

/// Starts emulators.
#[derive(Clone, Copy, Debug)]
pub struct Emulator;

impl Emulator {
    /// Starts an emulator inside this process. What was started before in the same data directory goes on: processes
    /// that still run are taken over, others are started again.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config) -> Result<EmulatorHandle, StartError> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address = listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let data = match config.data {
            None if config.runtime == RuntimeKind::Process => return Err(StartError::NoData),
            data => data.map(|dir| std::path::absolute(&dir).unwrap_or(dir)),
        };
        let (store, saved) = match &data {
            None => (None, None),
            Some(dir) => {
                let (store, world) = Store::open(dir)?;
                let made = world.as_ref().map_or(config.runtime, RuntimeKind::of);
                if made != config.runtime {
                    return Err(StartError::OtherRuntime { dir: dir.clone(), made });
                }
                (Some(store), world)
            }
        };
        let seed = config.seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            now.as_nanos() as u64
        });
        let engine_cell: Arc<OnceLock<Weak<Engine>>> = Arc::default();
        let reporter: Reporter = {
            let cell = Arc::clone(&engine_cell);
            Arc::new(move |report| {
                if let Some(engine) = cell.get().and_then(Weak::upgrade) {
                    engine.report(report);
                }
            })
        };
        let (mut world, runtime): (World, Arc<dyn Runtime>) = match (config.runtime, data) {
            (RuntimeKind::Process, Some(dir)) => {
                // As `/proc` tells it, by which processes are found again.
                let dir = dir.canonicalize().map_err(StartError::Prepare)?;
                let kept = saved.as_ref().map(|world| world.address_plan().clone());
                if let Some(made) = kept.as_ref().map(NetworkKind::of).filter(|made| *made != config.network) {
                    return Err(StartError::OtherNetwork { dir, made });
                }
                let network = Network::claim(config.network, kept.as_ref(), seed)?;
                let world = saved.unwrap_or_else(|| World::new(seed, config.knobs.clone(), network.plan()));
                let known = world.apps.values().flat_map(|app| app.machines.keys().cloned()).collect();
                let processes = Processes::new(dir, config.images.clone(), network, reporter)?;
                processes.forget_strangers(known).await;
                (world, Arc::new(processes))
            }
            _ => (saved.unwrap_or_else(|| World::new(seed, config.knobs.clone(), AddressPlan::SixPn)), Arc::new(Model)),
        };
        world.resume(config.knobs);
        if config.runtime == RuntimeKind::Process {
            world.known_images = Some(config.images.names().map(str::to_owned).collect());
        }
        let mut rules = Rules::new(seed);
        for rule in config.faults {
            rules.add(rule);
        }
        let engine = Engine::new(world, runtime, store, Auth::new(config.tokens), rules);
        // Set once, right here.
        let _ = engine_cell.set(Arc::downgrade(&engine));
        // Adoptions of the resumed world, and whatever became due while nobody was there.
        engine.write(|_, _| ());
        if let Some(store) = engine.store() {
            store.dirty(&std::collections::BTreeSet::new());
        }
        let tasks = vec![tokio::spawn(Arc::clone(&engine).run_agenda()), tokio::spawn(Arc::clone(&engine).run_store())];
        let router = crate::http::router(Arc::clone(&engine));
        let closing = engine.closing.clone();
        let server = tokio::spawn(async move {
            let service = router.into_make_service_with_connect_info::<Conn>();
            let served = axum::serve(Door(listener), service).with_graceful_shutdown(closing.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "the API server ended");
            }
        });
        Ok(EmulatorHandle { address, engine, tasks, server })
    }
}

/// A running emulator. Dropping it ends the API and leaves the processes running, as if the emulator had been killed.
#[derive(Debug)]
pub struct EmulatorHandle {
    address: SocketAddr,
    engine: Arc<Engine>,
    tasks: Vec<JoinHandle<()>>,
    server: JoinHandle<()>,
}

/// How long answers under way may take at a shutdown.
const GRACE: Duration = Duration::from_secs(1);

impl EmulatorHandle {
    /// The base URL of the API, without `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The world as it is now, for tests. A copy that nothing changes any more.
    #[must_use]
    pub fn world(&self) -> World {
        self.engine.read(|world, _| world.clone())
    }

    /// Lets a fault happen, as `POST /_faults` does.
    ///
    /// # Errors
    /// [`World::befall`].
    pub fn befall(&self, fault: &Fault) -> Result<(), Refusal> {
        self.engine.write(|world, now| world.befall(now, fault))
    }

    /// Adds a fault rule, as `POST /_faults` does, and returns it with its id.
    pub fn add_rule(&self, rule: Rule) -> Rule {
        self.engine.rules(|rules| rules.add(rule))
    }

    /// Stops all machines in order (their stop signal and timeout) and then the API. The world still wants them to run:
    /// the next emulator in the same data directory starts them again.
    pub async fn shutdown(mut self) {
        self.engine.closing.cancel();
        self.engine.runtime().shutdown().await;
        if tokio::time::timeout(GRACE, &mut self.server).await.is_err() {
            self.server.abort();
        }
        for task in std::mem::take(&mut self.tasks) {
            // They end because `closing` is cancelled; a panic in one was reported when it happened.
            let _ = task.await;
        }
        self.engine.flush().await;
        self.release();
    }

    /// Ends the API at once and leaves the processes alone, as `kill -9` of the emulator would.
    pub async fn abandon(mut self) {
        self.server.abort();
        self.engine.closing.cancel();
        let _ = (&mut self.server).await;
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
        self.engine.runtime().abandon();
        self.release();
    }

    fn release(&self) {
        if let Some(store) = self.engine.store() {
            store.release();
        }
    }
}

impl Drop for EmulatorHandle {
    fn drop(&mut self) {
        // After `shutdown` or `abandon` there is nothing left to end.
        self.server.abort();
        self.engine.closing.cancel();
        self.engine.runtime().abandon();
        self.release();
    }
}
