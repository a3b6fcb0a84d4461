use crate::error::{CliError, Exit};
use crate::terminal::Terminal;

pub(crate) fn run(terminal: &Terminal) -> Result<Exit, CliError> {
    let text = serde_json::to_string_pretty(&flypg_core::spec::schema()).expect("a schema is JSON");
    terminal.print(&format!("{text}\n"))?;
    Ok(Exit::Done)
}
