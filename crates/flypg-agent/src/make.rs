//! Making a data directory: `initdb` for the first node, `pg_basebackup` for every other.

use std::process::Stdio;
use std::time::Duration;

use flypg_core::keys::Role;
use flypg_core::names::NodeName;
use flypg_core::node::Origin;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use crate::account::command;
use crate::conf::{Purpose, conninfo};
use crate::config::Config;
use crate::data_dir;
use crate::files;
use crate::processes::{Awaited, output};
use crate::server_log::errors_in;

/// Nothing was made that counts; what lies about is removed before the next attempt.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    #[error("{what} failed")]
    Io { what: &'static str, source: std::io::Error },
    #[error("{program} failed: {words}")]
    Program { program: &'static str, words: String },
    #[error("pg_basebackup made no progress for {0:?}")]
    Stalled(Duration),
    #[error("the clone could not be put in the place of the copy before it")]
    Instead(#[source] std::io::Error),
}

impl MakeError {
    /// It failed because the copy before it is still there.
    pub fn needs_room(&self) -> bool {
        match self {
            MakeError::Instead(_) => true,
            MakeError::Io { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            // strerror(ENOSPC), as PostgreSQL's programs print it.
            MakeError::Program { words, .. } => words.contains("No space left on device"),
            MakeError::Stalled(_) => false,
        }
    }
}

/// A clone that copies nothing for so long is begun again.
const STALLED: Duration = Duration::from_secs(120);

/// Bytes copied and, once the source has estimated it, bytes in all.
pub type Progress = (u64, Option<u64>);

/// Runs `initdb` in the making, then moves it to its place.
pub async fn initdb(config: &Config, nonce: &str) -> Result<(), MakeError> {
    let origin = Origin::Initdb { nonce: nonce.to_owned() };
    let io = |what| move |source| MakeError::Io { what, source };
    let into = data_dir::begin(config, &origin).map_err(io("marking an initdb"))?;
    let pwfile = config.paths.run.join("initdb.pw");
    files::replace(&pwfile, config.key.password(Role::Agent).as_bytes(), config.account)
        .map_err(io("writing initdb's password file"))?;
    let mut initdb = command(&config.program("initdb"), config.account);
    initdb.arg("-D").arg(&into).arg("--pwfile").arg(&pwfile);
    below(&mut initdb, config);
    initdb.args(["--username", Role::Agent.name(), "--auth", "scram-sha-256", "--data-checksums", "--no-instructions"]);
    // Sorts by code point, the same on every host and after every upgrade of the C library.
    initdb.args(["--encoding", "UTF8", "--locale", "C.UTF-8"]);
    if config.major >= 17 {
        initdb.args(["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]);
    }
    let output = output(&mut initdb).await;
    drop(std::fs::remove_file(&pwfile));
    let output = output.map_err(io("starting initdb"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let words = errors_in(stderr.lines()).unwrap_or_else(|| stderr.trim().to_owned());
        return Err(MakeError::Program { program: "initdb", words });
    }
    data_dir::finish(config, &origin).map_err(io("moving the new data directory to its place"))
}

/// Copies the data directory of the upstream, through the agent's own way to it, and moves it to its place: `instead`
/// of the copy that is there, or where none is.
pub async fn clone(
    config: &Config,
    from: &NodeName,
    instead: bool,
    progress: &watch::Sender<Progress>,
) -> Result<(), MakeError> {
    let origin = Origin::Clone { from: from.clone() };
    let io = |what| move |source| MakeError::Io { what, source };
    let into = data_dir::begin(config, &origin).map_err(io("marking a clone"))?;
    let mut basebackup = command(&config.program("pg_basebackup"), config.account);
    basebackup.arg("-D").arg(&into).arg("-d").arg(conninfo(config, Purpose::Clone));
    below(&mut basebackup, config);
    // The slot exists on the primary since this node is its peer: no WAL is missing between the copy and streaming.
    basebackup.args(["--wal-method", "stream", "--slot", &config.node.slot(), "--checkpoint", "fast", "--progress"]);
    basebackup.arg("--no-password");
    basebackup.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut running = Awaited::disposable(&mut basebackup).map_err(io("starting pg_basebackup"))?;
    let stderr = running.child.stderr.take().expect("stderr was asked for as a pipe");
    let mut lines = BufReader::new(stderr).lines();
    let mut words = Vec::new();
    let mut moved = tokio::time::Instant::now();
    let mut last = None;
    loop {
        match tokio::time::timeout_at(moved + STALLED, lines.next_line()).await {
            Err(_) => return Err(MakeError::Stalled(STALLED)),
            Ok(Ok(Some(line))) => match parse_progress(&line) {
                // It repeats itself each second; only a change is progress.
                Some(now) if last == Some(now) => {}
                Some(now) => {
                    last = Some(now);
                    moved = tokio::time::Instant::now();
                    progress.send_replace(now);
                }
                None => words.push(line),
            },
            Ok(Ok(None) | Err(_)) => break,
        }
    }
    let status = running.child.wait().await.map_err(io("waiting for pg_basebackup"))?;
    if !status.success() {
        let words = errors_in(words.iter().map(String::as_str)).unwrap_or_else(|| words.join("; "));
        return Err(MakeError::Program { program: "pg_basebackup", words });
    }
    if instead {
        return data_dir::finish_instead(config, &origin).map_err(MakeError::Instead);
    }
    data_dir::finish(config, &origin).map_err(io("moving the clone to its place"))
}

/// A program that outlives its agent is found by its working directory. And it does not clean up after itself: by
/// then the directory may be the next attempt's.
fn below(program: &mut Command, config: &Config) {
    program.current_dir(&config.paths.making).arg("--no-clean");
}

/// `  23139/231390 kB (10%), 0/1 tablespace (…)`.
fn parse_progress(line: &str) -> Option<Progress> {
    let (numbers, _) = line.trim_start().split_once(" kB")?;
    let (done, total) = numbers.split_once('/')?;
    Some((done.parse::<u64>().ok()? * 1024, total.parse::<u64>().ok().map(|kb| kb * 1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_as_pg_basebackup_prints_it() {
        assert_eq!(parse_progress("    0/23139 kB (0%), 0/1 tablespace"), Some((0, Some(23139 * 1024))));
        assert_eq!(
            parse_progress("23139/23139 kB (100%), 0/1 tablespace (...flypg/data/making/pgdata/base/4)"),
            Some((23139 * 1024, Some(23139 * 1024)))
        );
        assert_eq!(parse_progress("pg_basebackup: error: could not connect"), None);
    }
}
