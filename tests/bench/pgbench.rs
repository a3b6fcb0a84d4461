//! `pgbench`, and what it says of one run.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use flypg_tests::programs::POSTGRES;
use tokio::process::Command;

/// Of all transactions, this share is written down one by one: latencies for a fraction of the cost.
const SAMPLED: &str = "0.2";
/// Connecting, running and writing the log down may take so much longer than the run itself.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// `-S`: one SELECT by key.
    SelectOnly,
    /// The default: five statements between BEGIN and END.
    TpcB,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Simple,
    Prepared,
}

impl Script {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Script::SelectOnly => "select-only",
            Script::TpcB => "TPC-B-like",
        }
    }
}

impl Protocol {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Protocol::Simple => "simple",
            Protocol::Prepared => "prepared",
        }
    }
}

/// Where a session is had.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) password: String,
}

impl Door {
    fn pgbench(&self) -> Command {
        let mut command = Command::new(Path::new(POSTGRES).join("pgbench"));
        command
            .args(["-h", &self.host, "-p", &self.port.to_string(), "-U", "postgres"])
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", "postgres")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Makes pgbench's tables.
    pub(crate) async fn fill(&self, scale: u32) {
        said(self.pgbench().args(["-i", "-q", "-s", &scale.to_string()])).await.expect("tables for pgbench");
    }
}

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub(crate) tps: f64,
    pub(crate) transactions: f64,
    /// Milliseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Runs it for `seconds`, and writes only into `dir`, which is empty afterwards.
pub(crate) async fn run(
    door: &Door,
    dir: &Path,
    (script, protocol, clients): (Script, Protocol, u32),
    seconds: u64,
) -> Result<Measured, String> {
    let mut command = door.pgbench();
    command.current_dir(dir).args(["-n", "-M", protocol.words(), "-j", &clients.min(2).to_string()]);
    command.args(["-c", &clients.to_string(), "-T", &seconds.to_string()]);
    command.args(["-l", "--log-prefix=latency", "--sampling-rate", SAMPLED]);
    if script == Script::SelectOnly {
        command.arg("-S");
    }
    let ran = tokio::time::timeout(Duration::from_secs(seconds) + PATIENCE, said(&mut command)).await;
    let latencies = take_latencies(dir);
    let text = ran.map_err(|_| "pgbench did not end in time".to_owned())??;
    let number = |before: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.strip_prefix(before))?;
        line.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| !word.is_empty())?.parse().ok()
    };
    match (number("tps = "), number("number of transactions actually processed: ")) {
        (Some(tps), Some(transactions)) if !latencies.is_empty() => {
            let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
            Ok(Measured { tps, transactions, p50: at(0.5), p99: at(0.99) })
        }
        _ => Err(format!("pgbench said nothing that is known here: {text}")),
    }
}

/// Milliseconds, sorted, of every transaction in the logs, which are removed.
fn take_latencies(dir: &Path) -> Vec<f64> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a log");
        // client, transaction, microseconds, script, when
        let micros = text.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
        all.extend(micros.map(|micros| micros / 1000.0));
        std::fs::remove_file(entry.path()).expect("it is ours");
    }
    all.sort_by(f64::total_cmp);
    all
}

async fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().await.map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
