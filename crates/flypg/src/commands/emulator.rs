use crate::cli::Emulator;
use crate::error::{CliError, Exit};
use crate::settings::Settings;
use crate::terminal::Terminal;

pub(crate) fn run(_args: &Emulator, _settings: &Settings, _terminal: &Terminal) -> Result<Exit, CliError> {
    Ok(Exit::Fault)
}
