//! Whole transcripts of the command: what was typed, what it printed on which stream, and how it ended.
//!
//! `UPDATE_EXPECT=1 cargo test -p flypg-tests --test cli` rewrites them; read the difference before committing it.

mod emulating;
mod files;
mod platform;
mod streams;
mod typing;

use std::fmt::Write;
use std::process::{Command, Output, Stdio};

use flypg_tests::fly::binary;
use tempfile::TempDir;

/// A place to type in, with nothing in its environment.
pub(crate) struct Shell {
    pub(crate) dir: TempDir,
    environment: Vec<(String, String)>,
}

impl Shell {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), environment: Vec::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(binary("flypg"));
        command
            .args(arguments.split_whitespace())
            .env_clear()
            .env("HOME", self.dir.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, arguments: &str) -> Output {
        self.command(arguments).output().expect("flypg can be started")
    }

    /// `$ flypg ARGUMENTS`, then stdout, then stderr after a bar, then the exit code if it is not 0.
    pub(crate) fn transcript(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.output(arguments);
        let mut text = format!("$ flypg {arguments}\n{}", String::from_utf8_lossy(&stdout));
        for line in String::from_utf8_lossy(&stderr).lines() {
            writeln!(text, "{}", format!("| {line}").trim_end()).unwrap();
        }
        match status.code() {
            Some(0) => {}
            Some(code) => writeln!(text, "exit {code}").unwrap(),
            None => writeln!(text, "killed").unwrap(),
        }
        text.replace(&self.dir.path().display().to_string(), "[DIR]")
    }
}

/// A file that is good.
pub(crate) fn cluster(name: &str) -> String {
    flypg_tests::fly::cluster_file(name, 1, "")
}
