use std::net::SocketAddr;
use std::sync::Arc;

use flypg_controller::board::Board;
use flypg_controller::controller::{Controller, ControllerError, GONE_AFTER};
use flypg_controller::http::{Shown, serve};
use flypg_controller::metrics::Metrics;
use flypg_controller::source::Watch;
use flypg_controller::store::{Holder, StateLock, Store};
use flypg_controller::vigil::Vigils;
use flypg_core::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::cli;
use crate::error::{CliError, Exit};
use crate::settings::{Settings, actuator, controller_token};
use crate::signals;
use crate::terminal::Terminal;

pub(crate) fn run(args: &cli::Controller, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| CliError::Failed { what: "the runtime cannot be started", source: source.into() })?
        .block_on(stay(args, settings, terminal))
}

async fn stay(args: &cli::Controller, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let signals = signals::Stop::listen()?;
    let client = settings.client()?;
    let token = controller_token();
    let listener = match args.listen.0 {
        Some(at) => Some(listen(at, token.is_some()).await?),
        None => None,
    };
    let listen = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let holder = Holder { pid: std::process::id(), command: "flypg controller".to_owned(), listen };
    let _lock = StateLock::acquire(&settings.state, &holder)?;
    let store = Store::open(&settings.state)?;
    store.resume(Timestamp::now()).await?;
    let master = settings.master_or_new(&store).await?;
    let store = settings.lead(&store).await?;
    let generation = store.term().map(|term| term.caller.generation);
    let observer = settings.observer(client, store.clone(), Some(master.clone()))?;
    let metrics = Metrics::new()
        .map_err(|source| CliError::Failed { what: "the metrics cannot be set up", source: source.into() })?;
    let (board, metrics) = (Arc::new(Board::default()), Arc::new(metrics));
    let vigils = Arc::new(Vigils::new(settings.believes_platform()));
    let controller = Controller {
        actuator: actuator(&observer),
        observer,
        store,
        master,
        journals: settings.state.join("journal"),
        events: settings.events(),
        gone_after: GONE_AFTER,
        board: Arc::clone(&board),
        vigils: Arc::clone(&vigils),
        metrics: Arc::clone(&metrics),
    };

    let stop = CancellationToken::new();
    tracing::info!(generation, api = settings.api, "keeping what the files say");
    if let Some(listener) = listener {
        if let Some(at) = listen {
            terminal.print(&format!("http://{at}\n"))?;
        }
        let shown = Shown { board, vigils, events: settings.events(), metrics, token };
        let serving = serve(listener, shown, stop.clone());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTP endpoints ended");
            }
        });
    }
    let asked = stop.clone();
    tokio::spawn(async move {
        signals.wait().await;
        asked.cancel();
    });
    controller.run(Watch::new(args.files.file.clone()), stop).await.map_err(|error| match error {
        ControllerError::Source(source) => CliError::Source(source),
        ControllerError::Store { source } => CliError::Store { source },
    })?;
    Ok(Exit::Done)
}

/// Who can reach this computer from elsewhere must know a token.
async fn listen(at: SocketAddr, has_token: bool) -> Result<TcpListener, CliError> {
    if !at.ip().is_loopback() && !has_token {
        return Err(CliError::OpenDoor { at });
    }
    TcpListener::bind(at).await.map_err(|source| CliError::Listen { what: at.to_string(), source })
}
