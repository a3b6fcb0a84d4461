//! Processes that outlive their parent: what they are, and how they end.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// The children that somebody waits for; every other child is an orphan that was given to us.
static AWAITED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Makes orphans below this process its children, so that it can reap them.
pub fn adopt_orphans() {
    if let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        tracing::warn!(%error, "orphans cannot be adopted; whoever is above this process reaps them");
    }
}

/// A child that the caller waits for, hidden from [`reap_orphans`] while it is.
#[derive(Debug)]
pub struct Awaited {
    pub child: Child,
    pid: i32,
    /// Its process group dies with this value: for programs whose work is worthless once nobody waits for it.
    disposable: bool,
}

impl Awaited {
    pub fn spawn(command: &mut Command) -> std::io::Result<Self> {
        let mut awaited = AWAITED.lock().expect("no holder of this lock panics");
        let child = command.spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
        awaited.insert(pid);
        Ok(Self { child, pid, disposable: false })
    }

    pub fn disposable(command: &mut Command) -> std::io::Result<Self> {
        let mut spawned = Self::spawn(command)?;
        spawned.disposable = true;
        Ok(spawned)
    }

    pub fn signal(&self, signal: Signal) {
        // A child that was reaped has no id any more, so no stranger is ever signalled.
        if self.child.id().is_some()
            && let Err(error) = kill(Pid::from_raw(self.pid), signal)
        {
            tracing::warn!(%error, pid = self.pid, %signal, "signal not sent");
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if self.disposable && self.child.id().is_some() {
            // Its children are in its group: pg_basebackup receives WAL in a second process.
            let _ = nix::sys::signal::killpg(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
        // tokio goes on waiting for a dropped child by itself; forgetting it here only lets us do the same.
        AWAITED.lock().expect("no holder of this lock panics").remove(&self.pid);
    }
}

/// Runs a program to its end and keeps what it says. Dropping the future kills it and its children.
pub async fn output(command: &mut Command) -> std::io::Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Awaited::disposable(command)?;
    let mut out = running.child.stdout.take().expect("stdout was asked for as a pipe");
    let mut err = running.child.stderr.take().expect("stderr was asked for as a pipe");
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    // Both at once: a program that fills one pipe while the other is read would wait for ever.
    let (read_out, read_err) = tokio::join!(out.read_to_end(&mut stdout), err.read_to_end(&mut stderr));
    read_out.and(read_err)?;
    let status = running.child.wait().await?;
    Ok(Output { status, stdout, stderr })
}

/// Reaps children that nobody waits for.
pub fn reap_orphans() {
    loop {
        let awaited = AWAITED.lock().expect("no holder of this lock panics");
        let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let pid = match waitid(Id::All, peek) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => pid,
            _ => return,
        };
        // One of ours is about to be reaped by whoever waits for it; the rest is seen at the next call.
        if awaited.contains(&pid.as_raw()) || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

/// The processes that work in `directory` or below: all of a postmaster's, whoever their parent is now. An error says
/// that it is not known whether there are any.
fn working_in(directory: &Path) -> std::io::Result<BTreeSet<i32>> {
    let directory = match directory.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        directory => directory?,
    };
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // One that is gone by now, or waits to be reaped, works nowhere.
        let cwd = std::fs::read_link(entry.path().join("cwd"));
        if cwd.is_ok_and(|cwd| cwd.starts_with(&directory)) && !is_zombie(&entry.path()) {
            found.insert(pid);
        }
    }
    Ok(found)
}

/// The same, asked until it is known.
async fn surely_working_in(directory: &Path) -> BTreeSet<i32> {
    loop {
        match working_in(directory) {
            Ok(found) => return found,
            Err(error) => tracing::warn!(%error, "what runs here cannot be seen"),
        }
        sleep(Duration::from_millis(250)).await;
    }
}

fn is_zombie(proc: &Path) -> bool {
    // `pid (name) state …`, and a name may contain parentheses.
    std::fs::read_to_string(proc.join("stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

/// The process id in `postmaster.pid`, if there is one.
fn postmaster_pid(pgdata: &Path) -> Option<i32> {
    std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?.lines().next()?.trim().parse().ok()
}

/// Whether processes of an earlier life run, or may run, on this data directory.
pub fn leftovers(pgdata: &Path) -> bool {
    !working_in(pgdata).is_ok_and(|found| found.is_empty())
}

/// Kills what works in a directory whose content is about to be removed, and returns when it is gone.
pub async fn kill_below(directory: &Path) {
    loop {
        reap_orphans();
        let running = surely_working_in(directory).await;
        if running.is_empty() {
            return;
        }
        tracing::warn!(processes = running.len(), "ending what an earlier agent was making");
        for pid in running {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Kills every process that runs on this data directory, and returns when all are gone. The postmaster is held still
/// first, so that it begins nothing new, and killed last: without it a backend may go on writing (rule R4).
pub async fn kill_all(pgdata: &Path) {
    let postmaster = postmaster_pid(pgdata);
    if let Some(pid) = postmaster.filter(|pid| working_in(pgdata).is_ok_and(|found| found.contains(pid))) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
    }
    loop {
        reap_orphans();
        let mut running = surely_working_in(pgdata).await;
        let others: Vec<i32> = running.iter().copied().filter(|pid| Some(*pid) != postmaster).collect();
        if !others.is_empty() {
            running = others.into_iter().collect();
        } else if running.is_empty() {
            return;
        }
        for pid in running {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Ends every process that runs on this data directory, and returns when all are gone.
///
/// A postmaster whose agent died is stopped cleanly rather than taken over: nobody could wait for its end, and its log
/// goes nowhere. Backends whose postmaster died are killed: they can only end in crash recovery, and a new postmaster
/// must not start beside them.
pub async fn end_leftovers(pgdata: &Path) {
    let begun = Instant::now();
    let mut asked = None;
    loop {
        reap_orphans();
        let running = surely_working_in(pgdata).await;
        if running.is_empty() {
            break;
        }
        match postmaster_pid(pgdata).filter(|pid| running.contains(pid)) {
            Some(postmaster) => {
                // SIGINT: fast shutdown. SIGQUIT: immediate; safe, but the next start recovers from a crash.
                let patience = Duration::from_secs(60);
                let ask = if begun.elapsed() < patience { Signal::SIGINT } else { Signal::SIGQUIT };
                if asked != Some(ask) {
                    tracing::warn!(postmaster, signal = %ask, "stopping a postmaster that an earlier agent started");
                    let _ = kill(Pid::from_raw(postmaster), ask);
                    let _ = kill(Pid::from_raw(postmaster), Signal::SIGCONT);
                    asked = Some(ask);
                }
            }
            None => {
                tracing::warn!(processes = running.len(), "ending processes whose postmaster is gone");
                for pid in running {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
        }
        sleep(Duration::from_millis(20)).await;
    }
    remove_stale_pid_file(pgdata);
}

/// PostgreSQL takes any living process with the number in `postmaster.pid` for its own kind; after a reboot of the
/// Machine that can be a stranger, and Postgres would never start.
fn remove_stale_pid_file(pgdata: &Path) {
    let Some(pid) = postmaster_pid(pgdata) else { return };
    let alive = !matches!(kill(Pid::from_raw(pid), None), Err(Errno::ESRCH));
    if alive && working_in(pgdata).is_ok_and(|found| !found.contains(&pid)) {
        tracing::warn!(pid, "removing postmaster.pid of an earlier boot");
        if let Err(error) = std::fs::remove_file(pgdata.join("postmaster.pid")) {
            tracing::warn!(%error, "postmaster.pid could not be removed");
        }
    }
}

/// Once before Postgres is first started.
pub fn forget_stale_pid_file(pgdata: &Path) {
    if !leftovers(pgdata) {
        remove_stale_pid_file(pgdata);
    }
}
