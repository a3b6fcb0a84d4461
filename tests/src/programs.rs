//! Programs of others beside ours: started as the user that PostgreSQL runs as, and ended with the value that holds them.

use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use tempfile::TempDir;

/// Where Debian keeps PostgreSQL's programs.
pub const POSTGRES: &str = "/usr/lib/postgresql/15/bin";

/// How long a program may take to end before it is killed.
const END: Duration = Duration::from_secs(20);

/// A directory in which programs of others live. PostgreSQL refuses to run as root, so for root it is `postgres`'s.
#[derive(Debug)]
pub struct Room {
    dir: TempDir,
    root: bool,
}

impl Room {
    /// Under /tmp, because sockets need short paths.
    pub fn make(prefix: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp").expect("a directory");
        let root = nix::unistd::Uid::effective().is_root();
        if root {
            let user = User::from_name("postgres").ok().flatten().expect("Debian's PostgreSQL has a user postgres");
            std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may");
        }
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { dir, root }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file that its programs can read.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }

    /// `program`, to be run as the user of this room, in it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let mut command = match self.root {
            true => {
                // Becomes the program itself, so its pid is the program's.
                let mut command = Command::new("setpriv");
                command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
                command
            }
            false => Command::new(program),
        };
        command.current_dir(self.path()).env("HOME", self.path()).stdin(Stdio::null());
        command
    }

    /// Runs `program` to its end, which must be a good one.
    pub fn run(&self, program: impl AsRef<Path>, args: &[&str]) -> String {
        let program = program.as_ref();
        let output = self.command(program).args(args).output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {}: {said}", program.display(), args.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts `command`; what it says is kept in `NAME.log`.
    pub fn start(&self, name: &str, mut command: Command, end: Signal) -> Program {
        let log = self.path().join(format!("{name}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).expect("a log");
        // The terminal's Ctrl-C is for us: we end it.
        command.process_group(0).stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
        Program { name: name.to_owned(), child, end, log }
    }
}

/// A program that ends with this value.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    end: Signal,
    log: PathBuf,
}

impl Program {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid fits")
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, without waiting for that: several programs may end side by side.
    pub fn ask_to_end(&self) {
        let _ = kill(Pid::from_raw(self.pid()), self.end);
    }

    /// Panics with the end of its log if it has ended.
    pub fn must_run(&mut self) {
        if let Some(status) = self.child.try_wait().expect("it is ours") {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(10).collect();
            panic!("{} has ended ({status}): {}", self.name, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.ask_to_end();
        let deadline = Instant::now() + END;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
    }
}

/// A port that nobody listens on at this address now.
pub fn free_port(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    listener.local_addr().expect("it is bound").port()
}

/// Returns once the process is told to end: Ctrl-C, or SIGTERM.
pub async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut end = signal(SignalKind::terminate()).expect("signals can be listened to");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = end.recv() => {}
    }
}
