//! `flypg emulator` with real processes in a directory of its own, and the `flypg` command against it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flypg_core::keys::{Key, Role};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// Where the binaries are that the tests start as people do. `make test` builds them first.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it lies");
    // Tests lie in target/PROFILE/deps, programs in target/PROFILE.
    let mut places = test.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    places
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing beside {}: cargo build -p flypg -p flypg-agent", test.display()))
}

/// A Fly of one test. Dropping it ends every process it started.
#[derive(Debug)]
pub struct Fly {
    dir: TempDir,
    emulator: Option<Child>,
    url: String,
    /// Of `flypg emulator`, beside where it listens and what it keeps.
    arguments: &'static [&'static str],
    /// The terminal's Ctrl-C does not reach it: whoever started it ends it.
    apart: bool,
}

/// A cluster file with small nodes in ord. `more` goes on where `regions` leaves off, so it may begin with `replicas`.
pub fn cluster_file(name: &str, nodes: u32, more: &str) -> String {
    format!(
        "apiVersion: flypg/v1
kind: PostgresCluster
metadata:
  name: {name}
spec:
  organization: personal
  preset: development
  postgres:
    version: 15
  regions:
    primary: {{ code: ord, nodes: {nodes} }}
{more}"
    )
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Fly {
    /// Machines are real processes.
    pub fn start() -> Self {
        Self::with(&["--runtime", "process"])
    }

    /// Machines are real processes; in namespaces (which need root) each has a network of its own. Whoever starts it
    /// hears signals itself and drops it then: a second signal would make the emulator let go of its Machines.
    pub fn apart(namespaces: bool) -> Self {
        match namespaces {
            true => Self::begin(&["--runtime", "process", "--network", "namespaces"], true),
            false => Self::begin(&["--runtime", "process"], true),
        }
    }

    /// Machines are records only.
    pub fn model() -> Self {
        Self::with(&["--runtime", "model"])
    }

    fn with(arguments: &'static [&'static str]) -> Self {
        Self::begin(arguments, false)
    }

    fn begin(arguments: &'static [&'static str], apart: bool) -> Self {
        // Under /tmp, because sockets need short paths, and open to the user that Postgres runs as.
        let dir = tempfile::Builder::new().prefix("flypg-").tempdir_in("/tmp").expect("a directory for the test");
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut fly = Self { dir, emulator: None, url: String::new(), arguments, apart };
        fly.url = fly.boot("127.0.0.1:0");
        fly
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Its files stay when it ends.
    pub fn keep(&mut self) {
        self.dir.disable_cleanup(true);
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Starts the emulator and waits until it has said where it listens.
    fn boot(&mut self, listen: &str) -> String {
        let log = self.path().join("emulator.log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        // As in the image of a node, its agent is found by its name.
        let programs = binary("flypg-agent").parent().expect("it lies somewhere").display().to_string();
        let mut command = Command::new(binary("flypg"));
        if self.apart {
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        let mut child = command
            .env("PATH", format!("{programs}:{}", std::env::var("PATH").unwrap_or_default()))
            .arg("emulator")
            .args(self.arguments)
            .args(["--listen", listen, "--data"])
            .arg(self.path().join("fly"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("flypg can be started");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line[line.find("http://127.0.0.1:")?..].split_whitespace().next()?.to_owned()));
        std::thread::spawn(move || lines.for_each(drop)); // so that its stdout never fills up
        self.emulator = Some(child);
        let log = std::fs::read_to_string(self.path().join("emulator.log")).unwrap_or_default();
        url.unwrap_or_else(|| panic!("the emulator did not start: {log}")).trim_end_matches(['.', ',', '/']).to_owned()
    }

    /// Ends the emulator and starts it again on the same port and directory.
    pub fn restart_emulator(&mut self, signal: Signal) {
        self.end_emulator(signal);
        let listen = self.url.trim_start_matches("http://").to_owned();
        let again = self.boot(&listen);
        assert_eq!(again, self.url);
    }

    /// Ends the emulator for good.
    pub fn stop_emulator(&mut self) {
        self.end_emulator(Signal::SIGTERM);
    }

    /// Stops the emulator's process where it is, or lets it go on; its Machines run meanwhile.
    pub fn signal_emulator(&self, signal: Signal) {
        let emulator = self.emulator.as_ref().expect("it runs");
        kill(Pid::from_raw(emulator.id() as i32), signal).expect("it runs");
    }

    fn end_emulator(&mut self, signal: Signal) {
        let Some(mut child) = self.emulator.take() else { return };
        let _ = kill(Pid::from_raw(child.id() as i32), signal);
        // One that was stopped where it is hears nothing else.
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGCONT);
        let deadline = Instant::now() + Duration::from_secs(120);
        while child.try_wait().ok().flatten().is_none() {
            if Instant::now() > deadline {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `flypg` with this Fly's address and a state directory of its own.
    pub fn flypg(&self) -> Command {
        self.flypg_at(&self.url)
    }

    /// The same, through another address (a proxy).
    pub fn flypg_at(&self, url: &str) -> Command {
        let mut command = Command::new(binary("flypg"));
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", self.path())
            .env("FLY_FLAPS_BASE_URL", url)
            .env("FLY_API_TOKEN", "test-token")
            .env("FLYPG_STATE", self.path().join("state"))
            .current_dir(self.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs `flypg` with `args` to its end.
    pub async fn run(&self, args: &[&str]) -> Ran {
        let mut command = self.flypg();
        command.args(args);
        run(command).await
    }

    /// Like [`Fly::run`], and it must succeed.
    pub async fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args).await;
        assert_eq!(ran.code, 0, "flypg {}: {}\n{}", args.join(" "), ran.stdout, ran.stderr);
        ran.stdout
    }

    /// Writes a cluster file and gives its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub async fn status(&self, cluster: &str) -> Value {
        serde_json::from_str(&self.ok(&["status", cluster, "-o", "json"]).await).expect("status prints JSON")
    }

    /// The password of the cluster's `postgres` role, from the master key as the state directory keeps it.
    pub fn password(&self, cluster: &str) -> String {
        let file = self.path().join("state/master.key");
        let master: Key = std::fs::read_to_string(&file).expect("there is a master key").parse().expect("it is a key");
        master.of_cluster(&cluster.parse().unwrap()).password(Role::Postgres)
    }

    /// A call to the emulator's API or to its controls.
    pub async fn api(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let client = reqwest::Client::builder().tls_certs_only([]).build().expect("a client for plain HTTP");
        let method = method.parse().expect("an HTTP method");
        let mut request = client.request(method, format!("{}{path}", self.url)).bearer_auth("test-token");
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.expect("the emulator answers");
        let status = response.status().as_u16();
        let text = response.text().await.unwrap_or_default();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub async fn machines(&self, app: &str) -> Vec<Value> {
        let (status, machines) = self.api("GET", &format!("/v1/apps/{app}/machines"), None).await;
        assert_eq!(status, 200, "{machines}");
        machines.as_array().cloned().expect("a list")
    }

    pub async fn volumes(&self, app: &str) -> Vec<Value> {
        let (status, volumes) = self.api("GET", &format!("/v1/apps/{app}/volumes"), None).await;
        assert_eq!(status, 200, "{volumes}");
        let gone = |v: &&Value| v["state"].as_str().is_some_and(|s| s.contains("destroy"));
        volumes.as_array().expect("a list").iter().filter(|v| !gone(v)).cloned().collect()
    }

    pub async fn address(&self, app: &str, node: &str) -> String {
        let machines = self.machines(app).await;
        let machine = machines.iter().find(|m| m["name"] == node).unwrap_or_else(|| panic!("no machine {node}"));
        machine["private_ip"].as_str().expect("it has an address").to_owned()
    }

    /// Pids of the processes below this Fly whose command line contains `words`.
    pub fn pids(&self, words: &str) -> Vec<i32> {
        processes_below(self.path()).into_iter().filter(|(_, line)| line.contains(words)).map(|(pid, _)| pid).collect()
    }
}

impl Drop for Fly {
    fn drop(&mut self) {
        self.end_emulator(Signal::SIGTERM);
        let left = processes_below(self.path());
        for (pid, _) in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            let kept = self.dir.path().to_owned();
            self.dir.disable_cleanup(true);
            eprintln_kept(&kept);
        } else {
            assert!(left.is_empty(), "processes were left behind: {left:?}");
        }
    }
}

#[expect(clippy::print_stderr, reason = "a failed test says where its files are")]
fn eprintln_kept(path: &Path) {
    eprintln!("kept for a look: {}", path.display());
}

/// Processes that were started with this directory as their Fly: (pid, command line).
fn processes_below(dir: &Path) -> Vec<(i32, String)> {
    let marks = [format!("FLY_EMULATOR_ROOT={}/", dir.display()), format!("FLYPG_STATE={}/", dir.display())];
    let me = std::process::id() as i32;
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != me)
        .filter_map(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let environment = String::from_utf8_lossy(&environment);
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let ours = marks.iter().any(|mark| environment.split('\0').any(|e| e.starts_with(mark.as_str())));
            // Postgres writes its titles over its environment; its data directory is in its command line.
            let ours = ours || line.contains(&format!("{}/", dir.display()));
            ours.then_some((pid, line))
        })
        .collect()
}

/// The processes of one Machine: (pid, command line), the agent first.
pub fn tree(machine: &str) -> Vec<(i32, String)> {
    let mark = format!("FLY_MACHINE_ID={machine}");
    let read = |pid: i32, what: &str| std::fs::read(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: Vec<i32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let parent = |pid: i32| -> i32 {
        let stat = String::from_utf8_lossy(&read(pid, "stat")).into_owned();
        // After the command's name, which may hold anything, in brackets: the state, then the parent.
        stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
    };
    let line = |pid: i32| String::from_utf8_lossy(&read(pid, "cmdline")).replace('\0', " ").trim().to_owned();
    let is_agent = |pid: &i32| {
        let environment = read(*pid, "environ");
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()) && line(*pid).contains("flypg-agent")
    };
    let mut found: Vec<i32> = all.iter().copied().filter(is_agent).collect();
    let mut next = 0;
    while let Some(of) = found.get(next).copied() {
        found.extend(all.iter().copied().filter(|pid| parent(*pid) == of && !found.contains(pid)).collect::<Vec<_>>());
        next += 1;
    }
    found.into_iter().map(|pid| (pid, line(pid))).collect()
}

/// Runs a command to its end without holding up the runtime. Whoever stops waiting for it ends it.
pub async fn run(command: Command) -> Ran {
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let Output { status, stdout, stderr } = output.expect("it can be started");
    Ran {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Starts a command that goes on; its output is kept in `log`.
pub fn spawn(mut command: Command, log: &Path) -> Running {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log);
    Running(command.spawn().expect("it can be started"))
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it runs");
    }

    /// Its exit code once it has ended, -1 for a signal.
    pub fn ended(&mut self) -> Option<i32> {
        self.0.try_wait().expect("it is ours").map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads a whole file, or says that it cannot.
pub fn read(path: &Path) -> String {
    let mut text = String::new();
    match std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => text,
        Err(error) => format!("{}: {error}", path.display()),
    }
}
