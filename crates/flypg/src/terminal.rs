//! stdout is data, stderr is talk; colour and progress only where a person looks.

use std::error::Error;
use std::io::{self, ErrorKind, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use flypg_core::render::Paint;

use crate::error::CliError;

/// How each stream may be written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    pub(crate) out: Paint,
    pub(crate) err: Paint,
    /// stderr is a terminal: lines may be written over.
    pub(crate) live: bool,
    pub(crate) out_is_terminal: bool,
}

impl Terminal {
    /// As `NO_COLOR`, `CLICOLOR_FORCE` and `TERM` say, and what the streams are.
    pub(crate) fn detect() -> Self {
        let paint = |choice| if choice == ColorChoice::Never { Paint::Plain } else { Paint::Colour };
        Self {
            out: paint(AutoStream::choice(&io::stdout())),
            err: paint(AutoStream::choice(&io::stderr())),
            live: io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb"),
            out_is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Writes data.
    ///
    /// # Errors
    /// If nobody takes it.
    pub(crate) fn print(&self, text: &str) -> Result<(), CliError> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|source| match source.kind() {
            ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::Output { source },
        })
    }

    /// Writes talk. Nobody listening is no error.
    pub(crate) fn say(&self, text: &str) {
        let mut err = io::stderr().lock();
        let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
    }

    /// The one place where errors are printed.
    pub(crate) fn report(&self, error: &CliError) {
        let mut text = format!("{}: {error}\n", self.bold_red("error"));
        let mut cause = error.source();
        while let Some(below) = cause {
            text.push_str(&format!("caused by: {below}\n"));
            cause = below.source();
        }
        if let Some(hint) = error.hint() {
            text.push_str(&format!("\n{}: {hint}\n", self.bold_cyan("hint")));
        }
        self.say(&text);
    }

    pub(crate) fn bold_red(&self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn bold_cyan(&self, text: &str) -> String {
        self.wrap("1;36", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.wrap("2", text)
    }

    fn wrap(&self, code: &str, text: &str) -> String {
        match self.err {
            Paint::Plain => text.to_owned(),
            Paint::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}
