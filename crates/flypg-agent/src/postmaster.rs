//! The postmaster: one child process, its log and its end.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::BufReader;
use tokio::process::ChildStderr;
use tokio::task::JoinHandle;

use crate::account::command;
use crate::config::Config;
use crate::lines;
use crate::processes::Awaited;

/// How many of PostgreSQL's last lines are kept to say why it ended.
const TAIL: usize = 20;

#[derive(Debug)]
pub struct Postmaster {
    process: Awaited,
    pub log: LogTail,
    /// It has answered a query.
    pub up: bool,
    /// It was asked to end, so that its end is no crash.
    pub asked_to_end: bool,
}

/// The last lines of a program's stderr, which all go to the agent's log too.
#[derive(Debug, Default)]
pub struct LogTail {
    lines: Arc<Mutex<VecDeque<String>>>,
    stranded: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Postmaster {
    /// Starts Postgres; it does not answer yet.
    pub fn start(config: &Config) -> std::io::Result<Self> {
        let mut postgres = command(&config.program("postgres"), config.account);
        postgres.arg("-D").arg(&config.paths.pgdata);
        postgres.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // When memory runs out, a backend should go and not the postmaster ("Linux Memory Overcommit" in PostgreSQL's
        // documentation): it gets a low score, and its children raise theirs by themselves.
        postgres.env("PG_OOM_ADJUST_FILE", "/proc/self/oom_score_adj").env("PG_OOM_ADJUST_VALUE", "0");
        let mut process = Awaited::spawn(&mut postgres)?;
        if let Some(pid) = process.child.id() {
            // Only root may lower a score.
            let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "-900");
        }
        let mut log = LogTail::default();
        if let Some(stderr) = process.child.stderr.take() {
            log.follow(stderr);
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

impl LogTail {
    /// Reads until the last writer has closed its end.
    fn follow(&mut self, stderr: ChildStderr) {
        let tail = Self { lines: self.lines.clone(), stranded: self.stranded.clone(), reader: None };
        self.reader = Some(tokio::spawn(async move {
            let mut reader = BufReader::with_capacity(16 * 1024, stderr);
            while let Ok(Some(line)) = lines::next(&mut reader).await {
                tracing::info!(target: "postgres", "{line}");
                tail.push(&line);
            }
        }));
    }

    /// Waits a moment for the last lines of a program that has ended.
    pub async fn settle(&mut self) {
        if let Some(reader) = &mut self.reader {
            // Whatever still holds the pipe open has no more to say about the start.
            let _ = tokio::time::timeout(Duration::from_millis(200), reader).await;
        }
    }

    /// Whether a standby said that its primary cannot give it the WAL it needs, since this was last forgotten.
    pub fn is_stranded(&self) -> bool {
        self.stranded.load(Ordering::Relaxed)
    }

    pub fn forget_stranded(&self) {
        self.stranded.store(false, Ordering::Relaxed);
    }

    fn push(&self, line: &str) {
        if says_stranded(line) {
            self.stranded.store(true, Ordering::Relaxed);
        }
        let mut lines = self.lines.lock().expect("no holder of this lock panics");
        if lines.len() == TAIL {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }

    /// What PostgreSQL said last of why it cannot go on: its errors, or else its last lines.
    pub fn words(&self) -> String {
        let lines = self.lines.lock().expect("no holder of this lock panics");
        errors_in(lines.iter().map(String::as_str))
            .unwrap_or_else(|| lines.iter().skip(lines.len().saturating_sub(3)).cloned().collect::<Vec<_>>().join("; "))
    }
}

/// What a standby says that its primary cannot give it the WAL it needs, because it is gone or because the two have
/// diverged (walsender.c, walreceiver.c, xlogrecovery.c). No SQL function of either tells it.
fn says_stranded(line: &str) -> bool {
    const WORDS: [(&str, &str); 5] = [
        ("could not receive data from WAL stream: ERROR:  requested WAL segment ", " has already been removed"),
        ("could not start WAL streaming: ERROR:  requested starting point ", " is not in this server's history"),
        ("could not start WAL streaming: ERROR:  requested starting point ", " is ahead of the WAL flush position"),
        ("highest timeline ", " of the primary is behind recovery timeline "),
        ("new timeline ", " forked off current database system timeline "),
    ];
    WORDS.iter().any(|(first, then)| line.split_once(first).is_some_and(|(_, rest)| rest.contains(then)))
}

/// The errors among PostgreSQL's log lines, with their hints, without prefixes.
pub fn errors_in<'a>(lines: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut found = Vec::new();
    for line in lines {
        for tag in ["PANIC:  ", "FATAL:  ", "ERROR:  ", "HINT:  ", "DETAIL:  ", "error: "] {
            if let Some((_, words)) = line.split_once(tag) {
                found.push(words.trim());
                break;
            }
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_errors_or_else_the_last_lines() {
        let tail = LogTail::default();
        for n in 0..30 {
            tail.push(&format!("2026-11-22 [7] LOG:  line {n}"));
        }
        assert_eq!(tail.lines.lock().unwrap().len(), TAIL);
        assert!(tail.words().ends_with("line 29"), "{}", tail.words());
        tail.push("2026-11-22 [7] FATAL:  could not map anonymous shared memory");
        tail.push("2026-11-22 [7] HINT:  reduce shared_buffers");
        assert_eq!(tail.words(), "could not map anonymous shared memory; reduce shared_buffers");
        assert!(!tail.is_stranded());
        tail.push(
            "2026-11-22 [7] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment \
             000000010000000000000002 has already been removed",
        );
        assert!(tail.is_stranded());
    }
}
