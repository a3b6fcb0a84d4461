//! What a node is started with: the environment, read once.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use flypg_core::keys::{BadKey, Key};
use flypg_core::names::{BadName, ClusterName, NodeName};
use flypg_core::protocol::env;
use flypg_core::settings::Guest;

use crate::account::{Account, AccountError};

/// Where absolute guest paths begin; set where the guest is not a machine of its own.
pub(crate) const ROOT: &str = "FLY_EMULATOR_ROOT";
/// Overrides where PostgreSQL's programs are.
const BIN: &str = "FLYPG_POSTGRES_BIN";
/// The address that every port binds to, where it is not [`PRIVATE_IP`]: `::` lets Fly's proxy in as well.
const LISTEN: &str = "FLYPG_LISTEN";
const PRIVATE_IP: &str = "FLY_PRIVATE_IP";
const MACHINE: &str = "FLY_MACHINE_ID";
const MEMORY: &str = "FLY_VM_MEMORY_MB";

/// Everything about this node that does not change while it runs.
#[derive(Debug)]
pub struct Config {
    pub cluster: ClusterName,
    pub node: NodeName,
    /// PostgreSQL major version, 15 to 18.
    pub major: u32,
    /// The cluster's key.
    pub key: Key,
    /// The Machine's private address: where outgoing connections come from.
    pub address: IpAddr,
    pub listen: IpAddr,
    pub machine: String,
    pub guest: Guest,
    /// The directory of `postgres`, `initdb`, `pg_basebackup`, `pg_controldata`.
    pub bin: PathBuf,
    /// Whom PostgreSQL runs as; absent if it is whoever runs the agent.
    pub account: Option<Account>,
    pub paths: Paths,
}

/// Where things are. All of them absolute.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The volume.
    pub volume: PathBuf,
    pub pgdata: PathBuf,
    /// A data directory in the making, and its mark.
    pub making: PathBuf,
    /// There while `pg_rewind` may be changing the data directory.
    pub rewinding: PathBuf,
    pub ledger: PathBuf,
    /// Runtime files: nothing here outlives the Machine.
    pub run: PathBuf,
    /// PostgreSQL's socket directory.
    pub socket: PathBuf,
    /// The socket directory through which this node's Postgres reaches its upstream.
    pub upstream: PathBuf,
    pub passfile: PathBuf,
}

/// The environment does not describe a node. Nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{0} is not set")]
    Missing(&'static str),
    #[error("{name} is `{given}`, which is not {expected}")]
    Invalid { name: &'static str, given: String, expected: &'static str },
    #[error("{name} is not usable")]
    Name { name: &'static str, source: BadName },
    #[error("{} is not usable", env::CLUSTER_KEY)]
    Key { source: BadKey },
    #[error("PostgreSQL {major} is not here: none of {looked} holds `postgres`; set {BIN}")]
    NoPostgres { major: u32, looked: String },
    #[error("the socket path {path} has {length} bytes, and a Unix socket's may have 107; use a shorter {ROOT}")]
    SocketPath { path: String, length: usize },
    #[error("PostgreSQL cannot run here")]
    Account { source: AccountError },
}

impl Config {
    /// Reads the environment through `get`.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let needed = |name: &'static str| get(name).filter(|v| !v.is_empty()).ok_or(ConfigError::Missing(name));
        let cluster = needed(env::CLUSTER)?;
        let cluster = cluster.parse().map_err(|source| ConfigError::Name { name: env::CLUSTER, source })?;
        let node = needed(env::NODE)?;
        let node = node.parse().map_err(|source| ConfigError::Name { name: env::NODE, source })?;
        let major = number(env::POSTGRES_MAJOR, needed(env::POSTGRES_MAJOR)?, "a PostgreSQL major version, 15 to 18")?;
        if !(15..=18).contains(&major) {
            return Err(ConfigError::Invalid {
                name: env::POSTGRES_MAJOR,
                given: major.to_string(),
                expected: "a PostgreSQL major version, 15 to 18",
            });
        }
        let major = u32::try_from(major).expect("15 to 18");
        let key = needed(env::CLUSTER_KEY)?.parse().map_err(|source| ConfigError::Key { source })?;
        let address = ip(PRIVATE_IP, needed(PRIVATE_IP)?)?;
        let listen = match get(LISTEN).filter(|v| !v.is_empty()) {
            Some(given) => ip(LISTEN, given)?,
            None => address,
        };
        let memory_mb = match get(MEMORY).filter(|v| !v.is_empty()) {
            Some(given) => number(MEMORY, given, "a number of MB")?,
            None => memory_of_this_machine().ok_or(ConfigError::Missing(MEMORY))?,
        };
        let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let root = get(ROOT).filter(|v| !v.is_empty()).map_or_else(|| PathBuf::from("/"), PathBuf::from);
        if !root.is_absolute() {
            return Err(ConfigError::Invalid {
                name: ROOT,
                given: root.display().to_string(),
                expected: "an absolute path",
            });
        }
        Ok(Self {
            cluster,
            node,
            major,
            key,
            address,
            listen,
            machine: needed(MACHINE)?,
            guest: Guest { memory_mb, cpus },
            bin: find_bin(major, get(BIN))?,
            account: Account::for_postgres().map_err(|source| ConfigError::Account { source })?,
            paths: Paths::below(&root)?,
        })
    }

    /// One of PostgreSQL's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

impl Paths {
    fn below(root: &Path) -> Result<Self, ConfigError> {
        let volume = root.join("data");
        let run = root.join("run/flypg");
        let (socket, upstream) = (run.join("pg"), run.join("up"));
        // `.s.PGSQL.` and four digits; sun_path holds 108 bytes with its NUL.
        let path = socket.join(".s.PGSQL.5432").display().to_string();
        if path.len() > 107 {
            return Err(ConfigError::SocketPath { length: path.len(), path });
        }
        Ok(Self {
            pgdata: volume.join("pgdata"),
            making: volume.join("making"),
            rewinding: volume.join("rewinding"),
            ledger: volume.join("ledger"),
            passfile: run.join("pgpass"),
            volume,
            run,
            socket,
            upstream,
        })
    }

    pub fn postgres_socket(&self) -> PathBuf {
        self.socket.join(".s.PGSQL.5432")
    }
}

fn number(name: &'static str, given: String, expected: &'static str) -> Result<u64, ConfigError> {
    given.trim().parse().map_err(|_| ConfigError::Invalid { name, given, expected })
}

fn ip(name: &'static str, given: String) -> Result<IpAddr, ConfigError> {
    given.trim().parse().map_err(|_| ConfigError::Invalid { name, given, expected: "an IP address" })
}

fn memory_of_this_machine() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kb: u64 =
        info.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kb / 1024)
}

fn find_bin(major: u32, given: Option<String>) -> Result<PathBuf, ConfigError> {
    let missing = |looked: String| ConfigError::NoPostgres { major, looked };
    match given.filter(|v| !v.is_empty()) {
        Some(given) => Some(PathBuf::from(&given)).filter(|bin| holds_postgres(bin)).ok_or_else(|| missing(given)),
        None => installed(major).ok_or_else(|| missing(places(major).map(|p| p.display().to_string()).join(", "))),
    }
}

/// Where Debian and the PostgreSQL project's own packages put a major version, and where one is unpacked by hand.
fn places(major: u32) -> [PathBuf; 3] {
    [format!("/usr/lib/postgresql/{major}"), format!("/usr/pgsql-{major}"), format!("/opt/pg{major}")]
        .map(PathBuf::from)
}

/// The directory of the programs of a major version that is installed here.
pub fn installed(major: u32) -> Option<PathBuf> {
    places(major).iter().find_map(|place| bin_below(place, 3))
}

fn holds_postgres(bin: &Path) -> bool {
    bin.join("postgres").is_file()
}

/// `bin` with `postgres` in it, at most so many directories down; the first by name.
fn bin_below(place: &Path, depth: u32) -> Option<PathBuf> {
    let bin = place.join("bin");
    if holds_postgres(&bin) {
        return Some(bin);
    }
    let entries = std::fs::read_dir(place).ok().filter(|_| depth > 0)?;
    let mut inner: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    inner.sort();
    inner.iter().find_map(|place| bin_below(place, depth - 1))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn complete() -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            (env::CLUSTER, "orders-db".to_owned()),
            (env::NODE, "ord-1".to_owned()),
            (env::POSTGRES_MAJOR, "15".to_owned()),
            (env::CLUSTER_KEY, "ab".repeat(32)),
            (PRIVATE_IP, "127.5.0.1".to_owned()),
            (MACHINE, "m1".to_owned()),
            (MEMORY, "1024".to_owned()),
            (ROOT, "/tmp/x".to_owned()),
        ])
    }

    #[test]
    fn each_missing_or_wrong_variable_is_named() {
        let read = |vars: &BTreeMap<&str, String>| Config::read(|name| vars.get(name).cloned());
        let config = read(&complete()).unwrap();
        assert_eq!(config.paths.pgdata, Path::new("/tmp/x/data/pgdata"));
        assert_eq!(config.listen, config.address);
        for (name, bad) in [
            (env::CLUSTER, "Orders"),
            (env::NODE, "ord"),
            (env::POSTGRES_MAJOR, "14"),
            (env::POSTGRES_MAJOR, "fifteen"),
            (env::CLUSTER_KEY, "secret"),
            (PRIVATE_IP, "localhost"),
            (MEMORY, "1 GB"),
            (ROOT, "relative"),
        ] {
            let error = read(&BTreeMap::from_iter(complete().into_iter().chain([(name, bad.to_owned())]))).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert!(name != env::CLUSTER_KEY || !error.to_string().contains(bad), "{error}");
        }
        for name in [env::CLUSTER, env::NODE, env::POSTGRES_MAJOR, env::CLUSTER_KEY, PRIVATE_IP, MACHINE] {
            let mut vars = complete();
            vars.remove(name);
            assert_eq!(read(&vars).unwrap_err().to_string(), format!("{name} is not set"));
        }
        let mut vars = complete();
        vars.insert(ROOT, format!("/{}", "x".repeat(100)));
        assert!(matches!(read(&vars), Err(ConfigError::SocketPath { .. })));
    }
}
