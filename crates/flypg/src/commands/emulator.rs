use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use flypg_controller::words::chain;
use flypg_emulator::{Config, Emulator, ImageTable, NetworkKind, RuntimeKind, StartError};

use crate::cli::{self, EmulatorNetwork, EmulatorRuntime};
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::signals;
use crate::terminal::Terminal;

pub(crate) fn run(args: &cli::Emulator, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let data = args.data.clone().unwrap_or_else(|| settings.state.join("emulator"));
    let (runtime, images) = match args.runtime {
        EmulatorRuntime::Process => (RuntimeKind::Process, images()?),
        EmulatorRuntime::Model => (RuntimeKind::Model, ImageTable::new()),
    };
    let network = match args.network {
        EmulatorNetwork::Loopback => NetworkKind::Loopback,
        EmulatorNetwork::Namespaces => NetworkKind::Namespaces,
    };
    let seed = args.seed.unwrap_or_else(arbitrary_seed);
    terminal.say(&format!("Seed {seed}; with --seed {seed} the same requests meet the same random faults.\n"));
    let config = Config {
        listen: args.listen,
        data: Some(data.clone()),
        runtime,
        network,
        images,
        seed: Some(seed),
        ..Config::default()
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| CliError::Failed { what: "the runtime cannot be started", source: source.into() })?
        .block_on(async {
            let signals = signals::Stop::listen()?;
            let emulator = Emulator::start(config).await.map_err(refused)?;
            let url = emulator.url();
            terminal.say(&format!(
                "A Machines API on this computer; its world is kept in {}.\nIn another shell:\n\n  \
                 export FLY_FLAPS_BASE_URL={url}\n  flypg reconcile -f cluster.yaml\n\n\
                 Ctrl-C stops every Machine in order; the next start goes on where this one stopped.\n\n",
                data.display()
            ));
            terminal.print(&format!("{url}\n"))?;
            signals.wait().await;
            terminal.say("stopping every Machine … (once more leaves them running)\n");
            let again = signals::Stop::listen()?;
            tokio::select! {
                () = emulator.shutdown() => {}
                // Dropped halfway, it lets go of what still runs; the next start takes that over.
                () = again.wait() => terminal.say("left running\n"),
            }
            Ok(Exit::Done)
        })
}

/// Short enough to be typed again.
fn arbitrary_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()) ^ (now.as_secs() % 1000)
}

/// Our image is the agent that was built or installed beside this program.
fn images() -> Result<ImageTable, CliError> {
    let here = std::env::current_exe()
        .map_err(|source| CliError::Failed { what: "this program cannot be located", source: source.into() })?;
    let agent: PathBuf = here.with_file_name("flypg-agent");
    if !agent.is_file() {
        return Err(CliError::NoAgent { path: agent });
    }
    Ok(ImageTable::new().with("flypg/postgres", [agent.to_string_lossy().into_owned(), "run".to_owned()]))
}

fn refused(error: StartError) -> CliError {
    tracing::debug!(error = chain(&error), "the emulator did not start");
    match error {
        StartError::Listen { address, source } => CliError::Listen { what: address.to_string(), source },
        error => CliError::Emulator { source: error },
    }
}
