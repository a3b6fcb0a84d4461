//! See ARCHITECTURE.md.

use std::io::{Read, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flypg_agent::config::Config;
use flypg_agent::{call, run, words};
use tracing_subscriber::EnvFilter;

/// Keeps one Postgres on one Fly Machine
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep this node until it is told to end: the entrypoint of a Machine
    Run,
    /// Call the agent of this machine
    Call {
        /// GET, PUT or POST
        method: String,
        /// Such as /v1/report
        path: String,
        /// JSON; read from stdin if it is not given
        body: Option<String>,
    },
    /// Print the version
    Version,
}

/// Input that is wrong, as elsewhere in flypg.
const BAD_INPUT: u8 = 1;
/// Our fault, or the machine's.
const FAILED: u8 = 70;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Version => print(format!("flypg-agent {}\n", env!("CARGO_PKG_VERSION")).as_bytes()),
        Command::Run => start(),
        Command::Call { method, path, body } => pass_call(&method, &path, body),
    };
    result.unwrap_or_else(|(code, words)| {
        let _ = writeln!(std::io::stderr(), "flypg-agent: {words}");
        ExitCode::from(code)
    })
}

type Outcome = Result<ExitCode, (u8, String)>;

fn print(bytes: &[u8]) -> Outcome {
    // A reader that went away wanted no more.
    let _ = std::io::stdout().write_all(bytes);
    Ok(ExitCode::SUCCESS)
}

fn config() -> Result<Config, (u8, String)> {
    Config::read(|name| std::env::var(name).ok()).map_err(|error| (BAD_INPUT, words(&error)))
}

fn runtime() -> Result<tokio::runtime::Runtime, (u8, String)> {
    // Two threads: one may wait for a disk while the other answers. Bytes are passed by threads of their own.
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).max_blocking_threads(4).enable_all();
    builder.build().map_err(|error| (FAILED, words(&error)))
}

fn start() -> Outcome {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let config = config()?;
    runtime()?.block_on(run::run(config)).map_err(|error| (FAILED, words(&error)))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the answer's body. Succeeds if, and only if, the agent did what was asked.
fn pass_call(method: &str, path: &str, given: Option<String>) -> Outcome {
    let config = config()?;
    let read = given.is_none() && method != "GET";
    let mut body = given.unwrap_or_default().into_bytes();
    if read {
        std::io::stdin().read_to_end(&mut body).map_err(|error| (BAD_INPUT, words(&error)))?;
    }
    let (status, answer) =
        runtime()?.block_on(call::call(&config, method, path, &body)).map_err(|error| (FAILED, words(&error)))?;
    print(&answer)?;
    match status {
        200..=299 => Ok(ExitCode::SUCCESS),
        400..=499 => Err((BAD_INPUT, format!("the agent answered {status}"))),
        _ => Err((FAILED, format!("the agent answered {status}"))),
    }
}
