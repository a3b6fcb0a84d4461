use flypg_controller::source::{Files, Wishes};
use flypg_core::render::Paint;
use flypg_core::spec::{Diagnostics, Style};

use crate::cli::FileArgs;
use crate::error::CliError;
use crate::terminal::Terminal;

/// Reads and checks what `-f` names.
///
/// # Errors
/// If it is not there, or nothing is in it.
pub(crate) fn read(args: &FileArgs) -> Result<Wishes, CliError> {
    let files = Files::read(&args.file)?;
    if files.is_empty() {
        return Err(CliError::NoFiles { paths: args.file.clone() });
    }
    Ok(files.wishes())
}

/// Tells everything that is wrong, or may be. True if nothing may be applied.
pub(crate) fn complain(diagnostics: &Diagnostics, terminal: &Terminal) -> bool {
    if !diagnostics.is_empty() {
        let style = if terminal.err == Paint::Colour { Style::Coloured } else { Style::Plain };
        terminal.say(&format!("{}\n", diagnostics.render(style).trim_end()));
    }
    let errors = diagnostics.errors();
    if errors > 0 {
        let s = if errors == 1 { "" } else { "s" };
        terminal.say(&format!("\n{}: {errors} mistake{s}; nothing was done\n", terminal.bold_red("error")));
    }
    errors > 0
}
