use crate::cli::Controller;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::terminal::Terminal;

pub(crate) fn run(_args: &Controller, _settings: &Settings, _terminal: &Terminal) -> Result<Exit, CliError> {
    Ok(Exit::Fault)
}
