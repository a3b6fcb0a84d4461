use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::error::{CliError, Exit};
use crate::terminal::Terminal;

pub(crate) fn completions(args: &Completions, terminal: &Terminal) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "flypg", &mut script);
    terminal.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// One page for all commands: what is searched for stands in one place.
pub(crate) fn man(terminal: &Terminal) -> Result<Exit, CliError> {
    let mut command = Cli::command().flatten_help(true);
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command)
        .render(&mut page)
        .map_err(|source| CliError::Failed { what: "the page cannot be made", source: source.into() })?;
    terminal.print(&String::from_utf8_lossy(&page))?;
    Ok(Exit::Done)
}
