//! PostgreSQL as it is: its programs, with every process a child of this one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flypg_sim::{Rewound, Written};

/// Everything here takes milliseconds to seconds; a computer may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Real {
    bin: PathBuf,
    folder: tempfile::TempDir,
    /// Whom PostgreSQL runs as: it refuses to run as root.
    user: Option<(u32, u32)>,
    nodes: Vec<Server>,
    sessions: BTreeMap<String, (usize, Child)>,
    written: BTreeMap<String, Written>,
}

#[derive(Default)]
struct Server {
    postmaster: Option<Child>,
    upstream: Option<usize>,
    rule: String,
    frozen: Vec<u32>,
    /// How long its log was when it was last started or pointed elsewhere.
    told: usize,
}

/// A deadline, and what is waited for.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn id(flag: &str) -> u32 {
    let output = Command::new("id").args([flag, "postgres"]).output().expect("id runs");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("there is a user postgres")
}

impl Real {
    pub(crate) fn new(bin: PathBuf, nodes: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let user = root.then(|| (id("-u"), id("-g")));
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid)).expect("it is ours");
        }
        let nodes = (0..nodes).map(|_| Server::default()).collect();
        let real = Self { bin, folder, user, nodes, sessions: BTreeMap::new(), written: BTreeMap::new() };
        real.done("initdb", &["-D", &real.data(0), "-U", "postgres", "--auth=trust", "-N", "-k", "--no-locale"]);
        let mut real = real;
        real.start(0);
        real.ask(0, "CREATE TABLE rows (name text)");
        real.begin_stop(0);
        assert!(real.stops(0));
        real
    }

    fn data(&self, node: usize) -> String {
        self.path(&format!("data{node}")).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.folder.path()).env("LC_ALL", "C").env_remove("PGHOST").stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn run(&self, name: &str, arguments: &[&str]) -> Output {
        self.program(name).args(arguments).output().expect("it runs")
    }

    fn done(&self, name: &str, arguments: &[&str]) {
        let output = self.run(name, arguments);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn place(&self, node: usize) -> String {
        format!("host={} port={} user=postgres", self.folder.path().display(), 6_000 + node)
    }

    fn psql(&self, node: usize, session: &str, sql: &str) -> Command {
        let mut command = self.program("psql");
        let place = format!("{} dbname=postgres application_name='{session}'", self.place(node));
        command.args(["-X", "-A", "-t", "-c", sql, "-d", &place]);
        command
    }

    fn ask(&self, node: usize, sql: &str) -> String {
        self.try_ask(node, sql).unwrap_or_else(|why| panic!("{sql}: {why}"))
    }

    fn try_ask(&self, node: usize, sql: &str) -> Result<String, String> {
        let output = self.psql(node, "script", sql).output().expect("psql runs");
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    fn configure(&self, node: usize) {
        let this = &self.nodes[node];
        let mut text = format!(
            "port = {}\nunix_socket_directories = '{}'\nhba_file = '{}/pg_hba.conf'\n",
            6_000 + node,
            self.folder.path().display(),
            self.data(node)
        );
        text += "listen_addresses = ''\nfsync = off\nwal_level = replica\nhot_standby = on\n\
                 shared_buffers = 16MB\nautovacuum = off\n\
                 checkpoint_timeout = 1h\nwal_keep_size = 0\nmax_wal_size = 32MB\nmin_wal_size = 32MB\n\
                 wal_sender_timeout = 10min\nwal_receiver_timeout = 10min\nwal_retrieve_retry_interval = 100ms\n\
                 wal_receiver_status_interval = 1s\nlog_min_messages = info\n";
        writeln!(text, "synchronous_standby_names = '{}'", this.rule).expect("text");
        if let Some(upstream) = this.upstream {
            let place = format!("{} application_name=node{node}", self.place(upstream));
            writeln!(text, "primary_conninfo = '{place}'\nprimary_slot_name = 'node{node}'").expect("text");
        }
        fs::write(self.path(&format!("{node}.conf")), text).expect("a file");
    }

    /// The configuration is read: by every process that a new session could be answered by.
    fn reload(&mut self, node: usize) {
        self.configure(node);
        self.nodes[node].told = self.log(node).len();
        if let Some(postmaster) = &self.nodes[node].postmaster {
            signal("HUP", &[postmaster.id()]);
            let rule = self.nodes[node].rule.clone();
            eventually("the rule is read", || {
                (self.try_ask(node, "SHOW synchronous_standby_names").ok()? == rule).then_some(())
            });
        }
    }

    fn log(&self, node: usize) -> String {
        fs::read_to_string(self.path(&format!("{node}.log"))).unwrap_or_default()
    }

    pub(crate) fn start(&mut self, node: usize) {
        self.configure(node);
        self.nodes[node].told = self.log(node).len();
        let log = fs::File::options().create(true).append(true).open(self.path(&format!("{node}.log"))).expect("a log");
        let file = format!("config_file={}", self.path(&format!("{node}.conf")).display());
        let mut command = self.program("postgres");
        command.args(["-D", &self.data(node), "-c", &file]).stdout(Stdio::null()).stderr(log);
        self.nodes[node].postmaster = Some(command.spawn().expect("it starts"));
        eventually("it answers", || {
            let postmaster = self.nodes[node].postmaster.as_mut().expect("it was started");
            assert!(postmaster.try_wait().expect("a child").is_none(), "it does not start: {}", self.log(node));
            self.try_ask(node, "SELECT 1").ok()
        });
    }

    pub(crate) fn begin_stop(&mut self, node: usize) {
        let postmaster = self.nodes[node].postmaster.as_ref().expect("it runs");
        signal("INT", &[postmaster.id()]);
    }

    /// False once all that the end waits for is a walsender: its last checkpoint is on disk.
    pub(crate) fn stops(&mut self, node: usize) -> bool {
        let ended = eventually("it ends, or waits for a standby", || {
            if self.has_ended(node) {
                return Some(true);
            }
            let control = self.run("pg_controldata", &[&self.data(node)]);
            let written = String::from_utf8_lossy(&control.stdout).lines().any(|line| line.ends_with(" shut down"));
            let frozen = self.nodes.iter().any(|node| !node.frozen.is_empty());
            (written && frozen).then_some(false)
        });
        if ended {
            self.nodes[node].postmaster = None;
        }
        ended
    }

    fn has_ended(&mut self, node: usize) -> bool {
        let Some(postmaster) = self.nodes[node].postmaster.as_mut() else { return true };
        postmaster.try_wait().expect("a child").is_some()
    }

    pub(crate) fn kill(&mut self, node: usize) {
        let Some(mut postmaster) = self.nodes[node].postmaster.take() else { return };
        let mut all = children(postmaster.id());
        all.insert(0, postmaster.id());
        signal("KILL", &all);
        postmaster.wait().expect("a child");
        eventually("all of its processes are gone", || all.iter().all(|pid| !exists(*pid)).then_some(()));
    }

    pub(crate) fn freeze(&mut self, node: usize) {
        let postmaster = self.nodes[node].postmaster.as_ref().expect("it runs").id();
        let mut all = children(postmaster);
        all.push(postmaster);
        signal("STOP", &all);
        self.nodes[node].frozen = all;
    }

    pub(crate) fn thaw(&mut self, node: usize) {
        let frozen = std::mem::take(&mut self.nodes[node].frozen);
        signal("CONT", &frozen);
    }

    pub(crate) fn copy(&mut self, from: usize, to: usize) {
        let _ = fs::remove_dir_all(self.data(to));
        let place = self.place(from);
        self.done("pg_basebackup", &["-D", &self.data(to), "-d", &place, "-X", "stream", "-c", "fast", "--no-sync"]);
        self.set_standby(to, true);
    }

    pub(crate) fn make_slot(&mut self, node: usize, standby: usize) {
        self.ask(node, &format!("SELECT pg_create_physical_replication_slot('node{standby}', true)"));
    }

    pub(crate) fn drop_slot(&mut self, node: usize, standby: usize) {
        let sql = format!("SELECT pg_drop_replication_slot('node{standby}')");
        eventually("the slot goes", || self.try_ask(node, &sql).ok());
    }

    pub(crate) fn set_upstream(&mut self, node: usize, upstream: Option<usize>) {
        self.nodes[node].upstream = upstream;
        self.reload(node);
    }

    pub(crate) fn set_standby(&mut self, node: usize, standby: bool) {
        let file = Path::new(&self.data(node)).join("standby.signal");
        if standby {
            fs::write(&file, "").expect("a file");
        } else {
            let _ = fs::remove_file(&file);
        }
    }

    pub(crate) fn set_rule(&mut self, node: usize, acks: usize, of: &[usize]) {
        let members: Vec<String> = of.iter().map(|member| format!("node{member}")).collect();
        self.nodes[node].rule = if acks == 0 { String::new() } else { format!("ANY {acks} ({})", members.join(",")) };
        self.reload(node);
        // Every walsender has looked: what it says of itself is not older than the reload.
        let counted = if acks == 0 { "async" } else { "quorum" };
        let names = members.iter().map(|member| format!("'{member}'")).collect::<Vec<_>>().join(",");
        if !of.is_empty() {
            let sql = format!(
                "SELECT count(*) FROM pg_stat_replication WHERE application_name IN ({names}) AND sync_state <> \
                 '{counted}'"
            );
            eventually("the walsenders know the rule", || (self.try_ask(node, &sql).ok()? == "0").then_some(()));
        }
    }

    /// False once its log says that its upstream has refused it.
    pub(crate) fn streams(&mut self, node: usize) -> bool {
        eventually("it streams, or is refused", || {
            let status = self.try_ask(node, "SELECT status FROM pg_stat_wal_receiver").ok()?;
            let log = self.log(node);
            let since = &log[self.nodes[node].told.min(log.len())..];
            let refused = [
                "could not start WAL streaming",
                "forked off current database system timeline",
                "has already been removed",
            ];
            if refused.iter().any(|words| since.contains(words)) {
                return Some(false);
            }
            let upstream = self.nodes[node].upstream?;
            let sql = format!("SELECT state FROM pg_stat_replication WHERE application_name = 'node{node}'");
            (status == "streaming" && self.try_ask(upstream, &sql).ok()? == "streaming").then_some(true)
        })
    }

    pub(crate) fn knows_received(&mut self, node: usize) -> bool {
        let sql = "SELECT coalesce(pg_last_wal_receive_lsn() >= pg_last_wal_replay_lsn(), false)";
        self.ask(node, sql) == "t"
    }

    pub(crate) fn write(&mut self, node: usize, row: &str) {
        let mut command = self.psql(node, row, &format!("INSERT INTO rows VALUES ('{row}')"));
        let session = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql runs");
        self.sessions.insert(row.to_owned(), (node, session));
    }

    pub(crate) fn written(&mut self, row: &str) -> Written {
        if let Some(known) = self.written.get(row) {
            return *known;
        }
        let (node, mut session) = self.sessions.remove(row).expect("it was begun");
        let waits = format!("SELECT wait_event FROM pg_stat_activity WHERE application_name = '{row}'");
        let waits = eventually("it is answered, or waits", || {
            if session.try_wait().expect("a child").is_some() {
                return Some(false);
            }
            (self.try_ask(node, &waits).ok()? == "SyncRep").then_some(true)
        });
        if waits {
            self.sessions.insert(row.to_owned(), (node, session));
            return Written::Waits;
        }
        let output = session.wait_with_output().expect("a child");
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let written = match out.contains("INSERT 0 1") {
            true if error.contains("canceling wait for synchronous replication") => Written::Cancelled,
            true => Written::Acknowledged,
            false if error.contains("read-only transaction") => Written::Refused,
            false => Written::Unanswered,
        };
        self.written.insert(row.to_owned(), written);
        written
    }

    pub(crate) fn cancel_wait(&mut self, node: usize) {
        let sql = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        assert_eq!(self.ask(node, sql), "1", "one waits");
    }

    /// A standby shows what it has received once it has replayed it.
    pub(crate) fn rows(&mut self, node: usize) -> Vec<String> {
        let quiet = "SELECT NOT pg_is_in_recovery() OR coalesce(pg_last_wal_receive_lsn(), '0/0') <= \
                     pg_last_wal_replay_lsn()";
        eventually("it has replayed", || (self.try_ask(node, quiet).ok()? == "t").then_some(()));
        let rows = self.ask(node, "SELECT name FROM rows ORDER BY name");
        rows.lines().map(str::to_owned).collect()
    }

    pub(crate) fn promote(&mut self, node: usize, stubs: &[u32]) -> u32 {
        for stub in stubs {
            let file = Path::new(&self.data(node)).join("pg_wal").join(format!("{stub:08X}.history"));
            fs::write(&file, "# nobody is there\n").expect("a file");
            if let Some((uid, gid)) = self.user {
                chown(&file, Some(uid), Some(gid)).expect("it is ours");
            }
        }
        assert_eq!(self.ask(node, "SELECT pg_promote(true, 60)"), "t");
        self.timeline(node)
    }

    pub(crate) fn timeline(&mut self, node: usize) -> u32 {
        let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli::text FROM pg_stat_wal_receiver) \
                   ELSE 'x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END";
        let told = self.ask(node, sql);
        match told.strip_prefix('x') {
            Some(hex) => u32::from_str_radix(hex, 16).expect("a timeline"),
            None => told.parse().expect("a timeline"),
        }
    }

    pub(crate) fn checkpoint(&mut self, node: usize) {
        self.ask(node, "CHECKPOINT");
    }

    pub(crate) fn rewind(&mut self, node: usize, from: usize) -> Rewound {
        self.set_standby(node, false);
        let source = format!("{} dbname=postgres", self.place(from));
        let output = self.run("pg_rewind", &["-D", &self.data(node), "--source-server", &source, "--no-sync"]);
        self.set_standby(node, true);
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        match output.status.success() {
            true if said.contains("no rewind required") => Rewound::NothingToDo,
            true => Rewound::Rewound,
            false => {
                eprintln!("{said}");
                Rewound::Impossible
            }
        }
    }

    pub(crate) fn wear_out_wal(&mut self, node: usize) {
        for _ in 0..6 {
            self.ask(node, "SELECT pg_switch_wal()");
            self.ask(node, "CREATE TABLE worn (n int)");
            self.ask(node, "DROP TABLE worn");
        }
        self.ask(node, "CHECKPOINT");
    }

    /// A procedure that commits in a loop is in the middle of it when the postmaster is killed.
    pub(crate) fn writes_without_postmaster(&mut self, node: usize) -> bool {
        self.ask(
            node,
            "CREATE PROCEDURE go_on() LANGUAGE plpgsql AS $$ BEGIN LOOP INSERT INTO rows VALUES ('more'); COMMIT; END \
             LOOP; END $$",
        );
        let count = "SELECT count(*) FROM rows WHERE name = 'more'";
        let mut session = self.psql(node, "loop", "CALL go_on()").stderr(Stdio::null()).spawn().expect("psql runs");
        eventually("it writes", || (self.try_ask(node, count).ok()?.parse::<u64>().ok()? > 100).then_some(()));
        let mut postmaster = self.nodes[node].postmaster.take().expect("it runs");
        let all = children(postmaster.id());
        signal("KILL", &[postmaster.id()]);
        postmaster.wait().expect("a child");
        let written = || -> u64 {
            let folder = fs::read_dir(Path::new(&self.data(node)).join("pg_wal")).expect("a folder");
            let files = folder.filter_map(|entry| entry.ok()?.metadata().ok());
            let times = files.filter_map(|file| file.modified().ok()?.elapsed().ok());
            u64::from(times.min().is_some_and(|age| age < Duration::from_secs(1)))
        };
        // Long after it is gone the newest write is still a young one.
        let killed = Instant::now();
        let goes_on = eventually("it goes on", || {
            let long = killed.elapsed() > Duration::from_secs(2);
            if written() == 0 { Some(false) } else { long.then_some(true) }
        });
        signal("KILL", &all);
        eventually("all of its processes are gone", || all.iter().all(|pid| !exists(*pid)).then_some(()));
        session.wait().expect("a child");
        goes_on
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        for node in 0..self.nodes.len() {
            if !self.nodes[node].frozen.is_empty() {
                self.thaw(node);
            }
            self.kill(node);
        }
        for (_, session) in self.sessions.values_mut() {
            let _ = session.wait();
        }
    }
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status();
}

fn children(parent: u32) -> Vec<u32> {
    let file = format!("/proc/{parent}/task/{parent}/children");
    fs::read_to_string(file).unwrap_or_default().split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn exists(pid: u32) -> bool {
    // One that is dead and not yet buried has no memory any more.
    fs::read_to_string(format!("/proc/{pid}/statm")).is_ok_and(|pages| !pages.starts_with("0 "))
}
