//! Which processes belong to a machine, however they detached themselves.
//!
//! A process belongs to a machine if its environment names the machine's root, if it works in the machine's root or
//! volume and has no terminal (a person's shell has one), or if its parent, process group or session leader belongs to
//! it. The second rule is needed because some programs overwrite their environment (PostgreSQL's process titles do).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::runtime::ProcessStat;
use crate::world::Processes;

/// The directories of a machine.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) root: PathBuf,
    pub(super) volumes: Vec<PathBuf>,
}

/// One line of `/proc`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    terminal: i32,
    /// `R`, `S`, `T`, `Z`, …
    state: char,
    /// Clock ticks after boot: with the pid, names a process for good.
    started: u64,
    utime: u64,
    stime: u64,
    rss_pages: u64,
    command: String,
}

/// A process and when it started, so that a reused pid is not mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Known {
    pub(super) pid: i32,
    pub(super) started: u64,
}

impl Known {
    /// The process with this pid, if there is one.
    pub(super) fn find(pid: i32) -> Option<Self> {
        let row = read(pid)?;
        Some(Self { pid, started: row.started })
    }

    /// Whether it still runs.
    pub(super) fn alive(self) -> bool {
        read(self.pid).is_some_and(|row| row.started == self.started && !matches!(row.state, 'Z' | 'X'))
    }

    pub(super) fn signal(self, signal: Signal) {
        if self.alive() {
            // It may end between the look and the signal; then there is nobody to tell.
            let _ = kill(Pid::from_raw(self.pid), signal);
        }
    }
}

fn read(pid: i32) -> Option<Row> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(pid, &text)
}

fn parse(pid: i32, text: &str) -> Option<Row> {
    let open = text.find('(')?;
    // The name may contain anything, also brackets.
    let close = text.rfind(')')?;
    let fields: Vec<&str> = text[close + 1..].split_whitespace().collect();
    let number = |n: usize| fields.get(n).and_then(|field| field.parse::<i64>().ok());
    let unsigned = |n: usize| number(n).and_then(|value| u64::try_from(value).ok()).unwrap_or(0);
    Some(Row {
        pid,
        state: fields.first()?.chars().next()?,
        parent: i32::try_from(number(1)?).ok()?,
        group: i32::try_from(number(2)?).ok()?,
        session: i32::try_from(number(3)?).ok()?,
        terminal: i32::try_from(number(4)?).unwrap_or(0),
        utime: unsigned(11),
        stime: unsigned(12),
        started: unsigned(19),
        rss_pages: unsigned(21),
        command: text[open + 1..close].to_owned(),
    })
}

fn all() -> BTreeMap<i32, Row> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, read(pid)?))).collect()
}

/// The living processes of a machine.
fn members(places: &Places) -> Vec<Row> {
    let rows = all();
    let me = i32::try_from(std::process::id()).unwrap_or(0);
    let mut above = BTreeSet::from([me]);
    let mut at = me;
    while let Some(row) = rows.get(&at).filter(|row| row.parent > 0 && above.insert(row.parent)) {
        at = row.parent;
    }
    let mark = format!("FLY_EMULATOR_ROOT={}", places.root.display()).into_bytes();
    let mut found: BTreeSet<i32> = rows
        .values()
        .filter(|row| !above.contains(&row.pid) && row.state != 'Z')
        .filter(|row| has_mark(row.pid, &mark) || (row.terminal == 0 && works_in(row.pid, places)))
        .map(|row| row.pid)
        .collect();
    loop {
        let more: Vec<i32> = rows
            .values()
            .filter(|row| !found.contains(&row.pid) && !above.contains(&row.pid))
            .filter(|row| [row.parent, row.group, row.session].iter().any(|leader| found.contains(leader)))
            .map(|row| row.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    rows.into_values().filter(|row| found.contains(&row.pid) && row.state != 'Z').collect()
}

fn has_mark(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

fn works_in(pid: i32, places: &Places) -> bool {
    let Ok(directory) = fs::read_link(format!("/proc/{pid}/cwd")) else { return false };
    let below = |place: &Path| directory.starts_with(place);
    below(&places.root) || places.volumes.iter().any(|volume| below(volume))
}

/// Sends a signal to every process of a machine; returns those it was sent to.
pub(super) fn signal_all(places: &Places, signal: Signal) -> Vec<Known> {
    // Those already stopped stay out: whoever stopped them continues them.
    let members = members(places).into_iter().filter(|row| signal != Signal::SIGSTOP || row.state != 'T');
    let known: Vec<Known> = members.map(|row| Known { pid: row.pid, started: row.started }).collect();
    known.iter().for_each(|process| process.signal(signal));
    known
}

/// Sends a signal to the processes of a program in a machine.
pub(super) fn signal_some(places: &Places, to: &Processes, signal: Signal) {
    let rows = members(places);
    for row in chosen(&rows, to) {
        Known { pid: row.pid, started: row.started }.signal(signal);
    }
}

/// Names of processes are cut to this many bytes.
const LONGEST_NAME: usize = 15;

fn chosen<'r>(rows: &'r [Row], to: &Processes) -> Vec<&'r Row> {
    let of = |name: &String| {
        let name = name.get(..LONGEST_NAME).unwrap_or(name).to_owned();
        move |row: &&Row| row.command == name
    };
    match to {
        // Whoever started them knows which these are.
        Processes::Main => Vec::new(),
        Processes::Program(name) => rows.iter().filter(of(name)).collect(),
        Processes::Eldest(name) => {
            let all: Vec<&Row> = rows.iter().filter(of(name)).collect();
            all.iter().filter(|row| all.iter().all(|other| other.pid != row.parent)).copied().collect()
        }
    }
}

/// How long SIGKILL may take to work: processes in uninterruptible sleep die when they wake.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Kills every process of a machine, also those that are born meanwhile. False if some would not die.
pub(super) fn kill_all(places: &Places) -> bool {
    let deadline = Instant::now() + KILL_PATIENCE;
    let mut pause = Duration::from_millis(1);
    while !signal_all(places, Signal::SIGKILL).is_empty() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    true
}

/// The processes of a machine for `ps`.
pub(super) fn stats(places: &Places) -> Vec<ProcessStat> {
    /// `sysconf(_SC_CLK_TCK)` is 100 on every Linux.
    const MS_PER_TICK: u64 = 10;
    const PAGE: u64 = 4096;
    let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let uptime_ms = uptime.split('.').next().and_then(|seconds| seconds.parse::<u64>().ok()).unwrap_or(0) * 1000;
    let stat = |row: Row| {
        let words = fs::read(format!("/proc/{}/cmdline", row.pid)).unwrap_or_default();
        let command = String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned();
        let directory = fs::read_link(format!("/proc/{}/cwd", row.pid)).unwrap_or_default();
        ProcessStat {
            pid: row.pid,
            stime: row.stime * MS_PER_TICK,
            rtime: uptime_ms.saturating_sub(row.started * MS_PER_TICK),
            command: if command.is_empty() { row.command } else { command },
            directory: directory.display().to_string(),
            cpu: (row.utime + row.stime) * MS_PER_TICK,
            rss: row.rss_pages * PAGE,
            listen_sockets: Vec::new(),
        }
    };
    members(places).into_iter().map(stat).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_do_not_confuse_the_parser() {
        let text = "77 (a) b (c) S 5 77 5 0 -1 4194304 100 0 0 0 3 4 0 0 20 0 1 0 8899 1000 42 0";
        let row = parse(77, text).unwrap();
        assert_eq!((row.parent, row.group, row.session, row.state, row.started), (5, 77, 5, 'S', 8899));
        assert_eq!((row.utime, row.stime, row.rss_pages, row.command.as_str()), (3, 4, 42, "a) b (c"));
    }

    #[test]
    fn the_eldest_of_a_program() {
        let row = |pid, parent, name: &str| {
            let text = format!("{pid} ({name}) S {parent} 77 5 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 8899 1000 42 0");
            parse(pid, &text).unwrap()
        };
        let rows =
            [row(5, 1, "agent"), row(6, 5, "db"), row(7, 6, "db"), row(8, 6, "db"), row(9, 5, "a-name-of-fiftee")];
        let pids = |to: Processes| chosen(&rows, &to).iter().map(|row| row.pid).collect::<Vec<_>>();
        assert_eq!(pids(Processes::Eldest("db".to_owned())), [6]);
        assert_eq!(pids(Processes::Program("db".to_owned())), [6, 7, 8]);
        assert!(pids(Processes::Program("none".to_owned())).is_empty());
        assert!(pids(Processes::Main).is_empty());
    }

    #[test]
    fn this_process_is_known_and_alive() {
        let me = Known::find(std::process::id().cast_signed()).unwrap();
        assert!(me.alive());
        assert!(!Known { started: me.started + 1, ..me }.alive());
    }
}
