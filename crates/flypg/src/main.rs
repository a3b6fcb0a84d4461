//! The command people type.

mod cli;
mod commands;
mod error;
mod progress;
mod settings;
mod signals;
mod terminal;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Command};
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let terminal = Terminal::detect();
    let exit = match Cli::try_parse() {
        Ok(cli) => run(&cli, &terminal).unwrap_or_else(|error| {
            if !matches!(error, CliError::OutputClosed) {
                terminal.report(&error);
            }
            error.exit()
        }),
        Err(error) => {
            // Help and version are data; a mistake is talk. Nobody to print it to is no reason to panic.
            let _ = error.print();
            if error.use_stderr() { Exit::Input } else { Exit::Done }
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: &Cli, terminal: &Terminal) -> Result<Exit, CliError> {
    log(cli, terminal);
    let settings = || Settings::resolve(&cli.global);
    match &cli.command {
        Command::Validate(args) => commands::validate::run(args, terminal),
        Command::Schema(_) => commands::schema::run(terminal),
        Command::Reconcile(args) => commands::reconcile::run(args, &settings()?, terminal),
        Command::Status(args) => commands::status::run(args, &settings()?, terminal),
        Command::Events(args) => commands::events::run(args, &settings()?, terminal),
        Command::Switchover(args) => commands::order::switchover(args, &settings()?, terminal),
        Command::Failover(args) => commands::order::failover(args, &settings()?, terminal),
        Command::Replay(args) => commands::replay::run(args, terminal),
        Command::Connect(args) => commands::connect::run(args, &settings()?, terminal),
        Command::Controller(args) => commands::controller::run(args, &settings()?, terminal),
        Command::Emulator(args) => commands::emulator::run(args, &settings()?, terminal),
        Command::Completions(args) => commands::generate::completions(args, terminal),
        Command::Man(_) => commands::generate::man(terminal),
    }
}

/// Logs go to stderr. What stays up says what it does; what ends says what went wrong, unless asked for more.
fn log(cli: &Cli, terminal: &Terminal) {
    let stays = matches!(cli.command, Command::Controller(_) | Command::Emulator(_));
    let level = match (cli.global.verbose, stays) {
        (0, false) => "error",
        (0, true) => "info",
        (1, _) => "info,flypg=debug,flypg_controller=debug,flypg_machines=debug,flypg_emulator=debug",
        (2.., _) => "debug,flypg=trace,flypg_controller=trace,flypg_machines=trace,flypg_emulator=trace",
    };
    let filter = EnvFilter::try_from_env("FLYPG_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal.err == flypg_core::render::Paint::Colour)
        .with_target(cli.global.verbose > 1)
        // It would tell of a stderr that is closed on stderr, and panic.
        .log_internal_errors(false)
        .init();
}

/// A runtime for a command that ends: one thread, nothing started that is not needed.
fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| CliError::Failed { what: "the runtime cannot be started", source: source.into() })
}
