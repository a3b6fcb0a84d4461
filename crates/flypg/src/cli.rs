//! What can be typed. Nothing is decided here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// PostgreSQL clusters on Fly Machines, as your files say they should be.
#[derive(Debug, Parser)]
#[command(name = "flypg", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The Machines API [default: FLY_FLAPS_BASE_URL, else FLY_API_HOSTNAME, else https://api.machines.dev]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) api: Option<String>,
    /// Where keys and records are kept [default: ~/.local/state/flypg]
    #[arg(long, global = true, value_name = "DIR", env = "FLYPG_STATE", hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,
    /// How nodes are called: at their private addresses, through the Machines API, or whichever way there is
    #[arg(long, global = true, value_enum, value_name = "ROUTE", env = "FLYPG_AGENTS", hide_env_values = true,
          default_value_t = AgentRoute::Auto)]
    pub(crate) agents: AgentRoute,
    /// Believe the Machines API that a machine has stopped, and fail over sooner for it; auto: unless it is the public one
    #[arg(long, global = true, value_enum, value_name = "WHEN", env = "FLYPG_PLATFORM_PROOF", hide_env_values = true,
          default_value_t = PlatformProof::Auto)]
    pub(crate) platform_proof: PlatformProof,
    /// Take a state directory that was copied from another computer as this one's; the original must never be used again
    #[arg(long, global = true)]
    pub(crate) adopt_state: bool,
    /// Say what happens underneath; twice, say everything
    #[arg(short, long, visible_alias = "debug", global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// How long a call without an answer may take to show
    #[arg(long, global = true, value_name = "DURATION", env = "FLYPG_SETTLE", default_value = "2s", hide = true,
          value_parser = duration)]
    pub(crate) settle: Duration,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Validate(Validate),
    Schema(Schema),
    Reconcile(Reconcile),
    Status(Status),
    Events(Events),
    Connect(Connect),
    Switchover(Switchover),
    Failover(Failover),
    Replay(Replay),
    Controller(Controller),
    Emulator(Emulator),
    Completions(Completions),
    Man(Man),
}

#[derive(Debug, Args)]
pub(crate) struct FileArgs {
    /// A file, or a directory with *.yaml and *.yml files; may be repeated
    #[arg(short, long = "file", value_name = "PATH", required = true)]
    pub(crate) file: Vec<PathBuf>,
}

/// Check files, and touch nothing
///
/// Exits 0 if every file is good, 1 with all that is wrong otherwise.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// How to print what is wrong
    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text)]
    pub(crate) output: TextOrJson,
}

/// Print the JSON Schema of cluster.yaml
#[derive(Debug, Args)]
pub(crate) struct Schema {}

/// Make the clusters what the files say
///
/// Shows what is done as it is done, waits for what ends by itself, and stops where a protection stands in the way.
/// Exits 0 when nothing is left to do, 3 when something holds.
#[derive(Debug, Args)]
pub(crate) struct Reconcile {
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Print what would be done, and touch nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// How to print the dry run
    #[arg(short, long, value_enum, default_value_t = PlanFormat::Text, requires = "dry_run")]
    pub(crate) output: PlanFormat,
    /// With --dry-run, exit 2 if there is something to do, 3 if protections hold all that is left
    #[arg(long, requires = "dry_run")]
    pub(crate) exit_code: bool,
    /// Wait this long for what ends by itself; `--wait` alone as long as it takes [default: 10m]
    #[arg(long, value_name = "DURATION", num_args = 0..=1, require_equals = true, value_parser = duration,
          conflicts_with = "dry_run")]
    pub(crate) wait: Option<Option<Duration>>,
}

/// Say how clusters are
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// All that are known here, if not given
    pub(crate) cluster: Option<String>,
    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text)]
    pub(crate) output: TextOrJson,
    /// Print it again whenever it changes
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// Tell what happened to a cluster
///
/// Decisions with their reasons, what was held, nodes that fell silent and came back; oldest first.
#[derive(Debug, Args)]
pub(crate) struct Events {
    pub(crate) cluster: String,
    /// As text, or as JSON, one object per line
    #[arg(short, long, value_enum, default_value_t = TextOrJson::Text)]
    pub(crate) output: TextOrJson,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// Make another node the primary, without losing anything
///
/// The primary holds new transactions back, stops cleanly, and another node goes on. Told to the controller that keeps
/// the cluster, or carried out here if there is none. Exits 3 if it is held.
#[derive(Debug, Args)]
pub(crate) struct Switchover {
    pub(crate) cluster: String,
    /// The node that is to lead [default: the one that is best prepared]
    #[arg(long, value_name = "NODE")]
    pub(crate) to: Option<String>,
}

/// Make a node the primary although it may lack what was acknowledged
///
/// For when no choice is safe: `flypg status` says what stands in the way of one that is.
#[derive(Debug, Args)]
pub(crate) struct Failover {
    pub(crate) cluster: String,
    /// The node that is to lead
    #[arg(long, value_name = "NODE")]
    pub(crate) to: String,
    /// What this node lacks of what was acknowledged is lost for good
    #[arg(long, required = true)]
    pub(crate) accept_data_loss: bool,
}

/// Plan the turns of a journal again, and show where this flypg would plan otherwise
///
/// Journals are in the state directory, below journal/. Exits 2 if a plan differs.
#[derive(Debug, Args)]
pub(crate) struct Replay {
    /// A file of a journal
    pub(crate) journal: PathBuf,
}

/// Open psql on a cluster
///
/// On its primary, or with --read-only on a replica. The password goes to psql in its environment only.
#[derive(Debug, Args)]
pub(crate) struct Connect {
    pub(crate) cluster: String,
    #[arg(short, long, value_name = "NAME", default_value = "postgres")]
    pub(crate) database: String,
    /// Connect to a replica, if there is one
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Print the connection's URL, with its password, instead of opening psql
    #[arg(long, conflicts_with = "psql")]
    pub(crate) url: bool,
    /// Passed on to psql, such as -c 'SELECT 1'
    #[arg(last = true, value_name = "PSQL_ARGS")]
    pub(crate) psql: Vec<String>,
}

/// Keep the clusters what the files say, until stopped
#[derive(Debug, Args)]
pub(crate) struct Controller {
    #[command(flatten)]
    pub(crate) files: FileArgs,
    /// Where to answer /healthz, /readyz, /metrics and /v1; off with an empty value
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4281")]
    pub(crate) listen: Listen,
}

/// A Machines API on this computer
///
/// With --runtime process every Machine is real processes on a 127.0.0.0/8 address of its own.
#[derive(Debug, Args)]
pub(crate) struct Emulator {
    /// Where the world is kept [default: ~/.local/state/flypg/emulator]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4280")]
    pub(crate) listen: SocketAddr,
    /// What runs in a Machine: real processes, or nothing
    #[arg(long, value_enum, default_value_t = EmulatorRuntime::Process)]
    pub(crate) runtime: EmulatorRuntime,
    /// What processes are connected by; namespaces can be cut off from each other, and need root, ip and nft
    #[arg(long, value_enum, default_value_t = EmulatorNetwork::Loopback)]
    pub(crate) network: EmulatorNetwork,
    /// Repeats the random faults of an earlier run, whose first line says its seed [default: another one each time]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
}

/// Print a completion script
#[derive(Debug, Args)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Print the manual page
#[derive(Debug, Args)]
pub(crate) struct Man {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TextOrJson {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlanFormat {
    /// For people
    Text,
    /// One object per cluster
    Json,
    /// For a pull-request comment
    Markdown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmulatorRuntime {
    Process,
    Model,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EmulatorNetwork {
    /// One address in 127.0.0.0/8 for each Machine
    Loopback,
    /// One network namespace for each Machine, at an IPv6 address as on Fly
    Namespaces,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AgentRoute {
    Direct,
    Exec,
    Auto,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlatformProof {
    On,
    Off,
    Auto,
}

/// An address to listen on, or none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listen(pub(crate) Option<SocketAddr>);

impl std::str::FromStr for Listen {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

/// `90s`, `10m`, `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "expected a duration such as 90s, 10m or 1h30m".to_owned())?;
    Duration::try_from(span).map_err(|_| "a duration cannot be negative".to_owned())
}
