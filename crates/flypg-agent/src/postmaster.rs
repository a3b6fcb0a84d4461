//! The postmaster: one child process, its log and its end.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::account::command;
use crate::config::Config;
use crate::processes::Awaited;
use crate::server_log::ServerLog;

#[derive(Debug)]
pub struct Postmaster {
    process: Awaited,
    pub log: Arc<ServerLog>,
    /// It has answered a query.
    pub up: bool,
    /// It was asked to end, so that its end is no crash.
    pub asked_to_end: bool,
}

impl Postmaster {
    /// Starts Postgres, which writes to `log`; it does not answer yet.
    pub fn start(config: &Config, log: Arc<ServerLog>) -> std::io::Result<Self> {
        let mut postgres = command(&config.program("postgres"), config.account);
        postgres.arg("-D").arg(&config.paths.pgdata);
        postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.begin()?);
        // Before all that a session may choose (`lc_messages`), gettext goes by this: what Postgres says can be read.
        postgres.env("LANGUAGE", "C");
        // When memory runs out, a backend should go and not the postmaster ("Linux Memory Overcommit" in PostgreSQL's
        // documentation): it gets a low score, and its children raise theirs by themselves.
        postgres.env("PG_OOM_ADJUST_FILE", "/proc/self/oom_score_adj").env("PG_OOM_ADJUST_VALUE", "0");
        let process = Awaited::spawn(&mut postgres)?;
        if let Some(pid) = process.child.id() {
            // Only root may lower a score.
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "-900");
        }
        Ok(Self { process, log, up: false, asked_to_end: false })
    }

    /// Whether it says in `postmaster.pid` that it takes connections. Asking it before would fill its log.
    pub fn is_ready(&self, pgdata: &Path) -> bool {
        let Ok(file) = std::fs::read_to_string(pgdata.join("postmaster.pid")) else { return false };
        let mut lines = file.lines();
        // The file of an earlier postmaster stays until this one has replaced it.
        let ours = lines.next().and_then(|pid| pid.trim().parse().ok()) == self.process.child.id();
        // LOCK_FILE_LINE_PM_STATUS of PostgreSQL's miscadmin.h is the eighth.
        ours && lines.nth(6).is_some_and(|status| status.trim() == "ready")
    }

    /// SIGINT is a fast shutdown, SIGQUIT an immediate one, SIGHUP a reload.
    pub fn signal(&mut self, signal: Signal) {
        self.asked_to_end |= matches!(signal, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM);
        self.process.signal(signal);
    }

    /// Returns when the postmaster has ended. May be dropped and called again.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.process.child.wait().await
    }
}
