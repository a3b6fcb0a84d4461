//! What the gate is measured beside: a Postgres of its own with the settings of ours and a standby of its own, reached
//! directly over TCP, through HAProxy, and through PgBouncer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use flypg_tests::patience::eventually;
use flypg_tests::programs::{POSTGRES, Program, Room, free_port};
use flypg_tests::sql;
use nix::sys::signal::Signal;

use crate::pgbench::Door;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LIMIT: Duration = Duration::from_secs(60);

/// What says where a server lies, who may come in and whom it follows, instead of how it works.
const ITS_OWN: &[&str] = &[
    "archive_",
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "log_",
    "logging_",
    "password_encryption",
    "port",
    "primary_",
    "recovery_",
    "restore_command",
    "ssl",
    "synchronous_standby_names",
    "unix_socket_",
];

/// Ends with this value: first the pools, then the servers.
pub(crate) struct Reference {
    pub(crate) direct: Door,
    /// What was installed, with its processes.
    pub(crate) haproxy: Option<(Door, Vec<i32>)>,
    pub(crate) sessions: Option<(Door, Vec<i32>)>,
    pub(crate) transactions: Option<(Door, Vec<i32>)>,
    _pools: Vec<Program>,
    _standby: Program,
    _primary: Program,
    _room: Room,
}

impl Reference {
    /// `settings`: those of the Postgres that stands behind the gate.
    pub(crate) async fn start(settings: &BTreeMap<String, String>, tools: &Path) -> Self {
        let room = Room::make("flypg-bench-");
        let settings: String = settings
            .iter()
            .filter(|(name, _)| !ITS_OWN.iter().any(|own| name.starts_with(own)))
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        let initdb = ["-D", "one", "--data-checksums", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"];
        room.run(format!("{POSTGRES}/initdb"), &[&initdb[..], &["-U", "postgres"]].concat());
        let port = free_port(HERE);
        let primary = serve(&room, "one", &settings, port);
        let direct = Door { host: HERE.to_string(), port, password: String::new() };
        answers(&direct).await;

        let copy = ["-D", "two", "-R", "-X", "stream", "--checkpoint=fast", "-U", "postgres"];
        let from = ["-h", &direct.host, "-p", &port.to_string()];
        room.run(format!("{POSTGRES}/pg_basebackup"), &[&copy[..], &from].concat());
        let standby = serve(&room, "two", &settings, free_port(HERE));
        eventually("the standby streams", LIMIT, || async {
            let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            let n = sql::ask(&direct.host, port, "", query).await?;
            if n == "1" { Ok(()) } else { Err(n) }
        })
        .await;

        let mut reference = Self {
            direct,
            haproxy: None,
            sessions: None,
            transactions: None,
            _pools: Vec::new(),
            _standby: standby,
            _primary: primary,
            _room: room,
        };
        reference.pools(tools).await;
        reference
    }

    /// Both reach the server through its socket, as they do where they stand beside it.
    async fn pools(&mut self, tools: &Path) {
        let (room, server) = (&self._room, self.direct.port);
        let dir = room.path().display().to_string();
        if let Some(haproxy) = tool(tools, "haproxy") {
            let port = free_port(HERE);
            let config = format!(
                "global\n  maxconn 1000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
                 timeout server 1h\nlisten postgres\n  bind {HERE}:{port}\n  server one unix@{dir}/.s.PGSQL.{server}\n"
            );
            let mut command = room.command(haproxy);
            command.arg("-db").arg("-f").arg(room.write("haproxy.cfg", &config));
            let program = room.start("haproxy", command, Signal::SIGTERM);
            self.haproxy = Some((answered(port).await, vec![program.pid()]));
            self._pools.push(program);
        }
        if let Some(pgbouncer) = tool(tools, "pgbouncer") {
            // Sessions need a server connection each; transactions share those that PgBouncer gives by itself.
            for (mode, pool) in [("session", "default_pool_size = 100\n"), ("transaction", "")] {
                let port = free_port(HERE);
                let config = format!(
                    "[databases]\n* = host={dir} port={server} user=postgres\n[pgbouncer]\nlisten_addr = {HERE}\n\
                     listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
                     max_client_conn = 1000\n{pool}"
                );
                let mut command = room.command(&pgbouncer);
                command.arg(room.write(&format!("{mode}.ini"), &config));
                let program = room.start(&format!("pgbouncer-{mode}"), command, Signal::SIGTERM);
                let found = Some((answered(port).await, vec![program.pid()]));
                match mode {
                    "session" => self.sessions = found,
                    _ => self.transactions = found,
                }
                self._pools.push(program);
            }
        }
    }
}

/// Where a program is that `scripts/install` fetched, or the system has.
fn tool(tools: &Path, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(tools.to_owned()).chain(std::env::split_paths(&path)).map(|dir| dir.join(name));
    places.find(|path| path.is_file())
}

/// A postmaster of data that is there, with these settings last.
fn serve(room: &Room, data: &str, settings: &str, port: u16) -> Program {
    let dir = room.path().join(data);
    let text = std::fs::read_to_string(dir.join("postgresql.conf")).expect("initdb wrote it");
    let own = format!(
        "port = {port}\nlisten_addresses = '{HERE}'\nunix_socket_directories = '{}'\nlogging_collector = off\n",
        room.path().display()
    );
    room.write(&format!("{data}/postgresql.conf"), &format!("{text}\n{settings}{own}"));
    let mut command: Command = room.command(format!("{POSTGRES}/postgres"));
    command.arg("-D").arg(dir);
    room.start(data, command, Signal::SIGINT)
}

async fn answered(port: u16) -> Door {
    let door = Door { host: HERE.to_string(), port, password: String::new() };
    answers(&door).await;
    door
}

async fn answers(door: &Door) {
    eventually("it answers", LIMIT, || async { sql::ask(&door.host, door.port, "", "SELECT 1").await.map(drop) }).await;
}
