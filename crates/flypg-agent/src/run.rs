//! `flypg-agent run`: everything of one node, from start to end.

use std::net::IpAddr;
use std::sync::Arc;

use flypg_core::decree::Epoch;
use flypg_core::failover::lease::BootTime;
use flypg_core::keys::Role;
use flypg_core::ledger::Ledger;
use flypg_core::node::Tenure;
use flypg_core::protocol::{NodeReport, Phase, Standing, ports};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::node::Node;
use crate::pumps::Pumps;
use crate::server_log::ServerLog;
use crate::shared::Shared;
use crate::startup::Door;
use crate::store::{Store, StoreError};
use crate::{api, clock, data_dir, doors, lease, metrics, processes, server_log};

/// The node could not begin. Nothing was changed on the volume.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{what} cannot be prepared")]
    Prepare { what: &'static str, source: std::io::Error },
    #[error("port {port} of {address} cannot be listened on")]
    Listen { address: IpAddr, port: u16, source: std::io::Error },
}

/// Runs the node until it is told to end by SIGTERM, SIGINT or SIGQUIT.
pub async fn run(config: Config) -> Result<(), RunError> {
    let prepare = |what| move |source| RunError::Prepare { what, source };
    processes::adopt_orphans();
    let password = config.key.password(Role::Replication);
    data_dir::prepare_runtime(&config, &format!("*:*:*:{}:{password}\n", Role::Replication.name()))
        .map_err(prepare("the runtime directory"))?;

    let address = config.listen;
    let bind = |port| doors::bind(address, port).map_err(|source| RunError::Listen { address, port, source });
    let doors = Door::ALL.map(|door| bind(doors::port(door)).map(|listener| (door, listener)));
    let (api, numbers) = (bind(ports::API)?, bind(ports::METRICS)?);

    let store = open_ledger(&config)?;
    if !processes::leftovers(&config.paths.pgdata)
        && let Err(error) = data_dir::take_over(&config)
    {
        tracing::warn!(%error, "the data directory could not be given to PostgreSQL's account");
    }
    let data = data_dir::look(&config).await.map_err(prepare("the volume"))?;
    let report = first_report(&config);
    let ledger = store.as_ref().map_or_else(|_| blank(&config), Store::current);
    let boot = clock::boot(ledger.incarnation).map_err(prepare("the name of this boot"))?;
    let tenure = Tenure::begin(&boot, &ledger, clock::now());
    let log = ServerLog::new().map_err(prepare("the pipe for PostgreSQL's log"))?;
    let shared = Arc::new(Shared::new(config, store, report, data, tenure, log));
    let upstream = doors::bind_upstream(&shared).map_err(prepare("the way to the upstream"))?;

    let rooms = doors::Rooms::within(raise_file_limit());
    let pumps = Arc::new(Pumps::start().map_err(prepare("the threads that pass bytes"))?);
    for door in doors {
        let (door, listener) = door?;
        tokio::spawn(doors::serve(door, listener, rooms.of(door), pumps.clone(), shared.clone()));
    }
    tokio::spawn(follow_log(shared.log.clone()));
    tokio::spawn(doors::serve_upstream(upstream, pumps, shared.clone()));
    tokio::spawn(lease::watch(shared.clone()));
    tokio::spawn(lease::gather(shared.clone()));
    serve_http(api, numbers, &shared);
    end_on_signals(&shared).map_err(prepare("signals"))?;
    tracing::info!(
        cluster = %shared.config.cluster, node = %shared.config.node, major = shared.config.major, %address,
        "the node is here"
    );
    Node::new(shared).run().await;
    tracing::info!("the node has ended");
    Ok(())
}

async fn follow_log(log: Arc<ServerLog>) {
    if let Err(error) = server_log::follow(log).await {
        tracing::error!(%error, "PostgreSQL's log is not passed on any more");
    }
}

/// A ledger that is damaged or foreign quarantines the node; one that the disk does not give ends it, to begin again;
/// one that only cannot be written to is tried again by the node.
fn open_ledger(config: &Config) -> Result<Result<Store, StoreError>, RunError> {
    match Store::open(config) {
        Err(StoreError::Io { source, .. }) => Err(RunError::Prepare { what: "the ledger", source }),
        Err(error) => {
            tracing::error!(error = crate::words(&error), "the node is quarantined");
            Ok(Err(error))
        }
        Ok(store) => Ok(Ok(store)),
    }
}

/// Lets this process open as many files as it may at all, and returns how many that is. Postgres inherits it.
fn raise_file_limit() -> u64 {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        // More than this is never needed, and some programs walk through all they may have.
        let most = hard.min(65_536).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, most, hard).map(|()| most)
    });
    raised.unwrap_or_else(|error| {
        tracing::warn!(%error, "the limit of open files could not be raised");
        1024
    })
}

fn first_report(config: &Config) -> NodeReport {
    NodeReport {
        cluster: config.cluster.clone(),
        node: config.node.clone(),
        machine: config.machine.clone(),
        incarnation: 0,
        version: 1,
        boot: String::new(),
        sent: BootTime::default(),
        promised: Epoch::default(),
        assignment: None,
        revision: 0,
        standing: Standing::Unbound,
        pledged_for: None,
        primary_heard: None,
        phase: Phase::Starting,
        postgres: None,
        disk: None,
        crashes: 0,
    }
}

/// What a node that cannot read its ledger knows.
fn blank(config: &Config) -> Ledger {
    let ledger = Ledger::blank(config.cluster.clone(), config.node.clone(), config.machine.clone());
    Ledger { incarnation: 0, ..ledger }
}

fn serve_http(api: TcpListener, numbers: TcpListener, shared: &Arc<Shared>) {
    let (for_api, for_metrics) = (shared.clone(), shared.clone());
    tokio::spawn(api::serve(api, for_api));
    tokio::spawn(metrics::serve(numbers, for_metrics));
}

/// SIGTERM and SIGINT end the node cleanly, SIGQUIT without a checkpoint.
fn end_on_signals(shared: &Arc<Shared>) -> std::io::Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()] {
        let mut signals = signal(kind)?;
        let shared = shared.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                tracing::info!(signal = kind.as_raw_value(), "the node is to end");
                if kind == SignalKind::quit() {
                    shared.at_once.cancel();
                }
                shared.ending.cancel();
            }
        });
    }
    Ok(())
}
