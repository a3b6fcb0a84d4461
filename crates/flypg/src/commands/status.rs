use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flypg_controller::observe::{LiveObserver, Observer};
use flypg_controller::status::status_of;
use flypg_controller::store::{KnownSpec, Store};
use flypg_controller::turn::Wanted;
use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::status::{ClusterStatus, NodeStatus};
use futures::future::try_join_all;

use super::unseen;
use crate::cli::{Status, TextOrJson};
use crate::error::{CliError, Exit, Words};
use crate::settings::Settings;
use crate::terminal::Terminal;

/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &Status, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let name: Option<ClusterName> = args.cluster.as_deref().map(parse_name).transpose()?;
    let store = Store::open_to_read(&settings.state)?;
    crate::runtime()?.block_on(async {
        let observer = settings.impatient_observer(store.clone(), settings.master()?)?;
        let mut last = String::new();
        loop {
            let known = chosen(store.specs().await?, name.as_ref())?;
            let looks = look(&observer, &known).await?;
            let unseen = looks.iter().find_map(|look| look.unseen.clone());
            let text = text_of(args, &looks.into_iter().map(|look| look.status).collect::<Vec<_>>());
            if text != last {
                let clear = if args.watch && terminal.out_is_terminal { "\x1b[H\x1b[2J" } else { "" };
                terminal.print(&format!("{clear}{text}"))?;
                last = text;
            }
            match unseen {
                _ if args.watch => {}
                None => return Ok(Exit::Done),
                Some(error) => return Err(CliError::Unseen { api: settings.api.clone(), source: Words(error) }),
            }
            tokio::time::sleep(INTERVAL).await;
        }
    })
}

pub(crate) fn parse_name(name: &str) -> Result<ClusterName, CliError> {
    name.parse().map_err(|source| CliError::Name { source })
}

/// The specs of all clusters known here, or of the one that was named.
///
/// # Errors
/// If there is none of that name.
pub(crate) fn chosen(specs: Vec<KnownSpec>, name: Option<&ClusterName>) -> Result<Vec<KnownSpec>, CliError> {
    let Some(name) = name else { return Ok(specs) };
    let known: Vec<String> = specs.iter().map(|known| known.spec.name.to_string()).collect();
    let chosen: Vec<_> = specs.into_iter().filter(|known| known.spec.name == *name).collect();
    if chosen.is_empty() {
        return Err(CliError::UnknownCluster { name: name.to_string(), known });
    }
    Ok(chosen)
}

/// How a cluster is now.
pub(crate) struct Look {
    pub(crate) status: ClusterStatus,
    /// Why the platform could not be seen.
    pub(crate) unseen: Option<String>,
}

/// How each cluster is now.
pub(crate) async fn look(observer: &LiveObserver, known: &[KnownSpec]) -> Result<Vec<Look>, CliError> {
    let looks = known.iter().map(|known| {
        // What is known of one cluster says nothing of another.
        let mut observer = observer.of(Arc::default());
        async move {
            let wanted = Wanted::Kept(known.spec.clone());
            let now = Timestamp::now();
            let observed = observer.observe(&known.spec, now).await;
            let plan = wanted.plan(&observed, now);
            let status =
                status_of(&observer.store, &wanted, &observed, &observer.vigil.last_seen(), &plan, None, now).await?;
            Ok::<_, CliError>(Look { status, unseen: unseen(&observed) })
        }
    });
    try_join_all(looks).await
}

fn text_of(args: &Status, all: &[ClusterStatus]) -> String {
    match (args.output, &args.cluster) {
        (TextOrJson::Json, Some(_)) => json(&all.first()),
        (TextOrJson::Json, None) => json(&all),
        (TextOrJson::Text, _) if all.is_empty() => "no cluster is known here\n".to_owned(),
        (TextOrJson::Text, _) => all.iter().map(table).collect::<Vec<_>>().join("\n"),
    }
}

fn json(value: &impl serde::Serialize) -> String {
    format!("{}\n", serde_json::to_string_pretty(value).expect("a status has string keys only"))
}

fn table(status: &ClusterStatus) -> String {
    let is_unseen =
        status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.reason == "Unknown");
    let how = match (status.ready, is_unseen) {
        (true, _) => "is ready",
        (false, true) => "cannot be seen",
        (false, false) => "is not ready",
    };
    let mut text = format!("{} {how}\n", status.cluster);
    let mut fact = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("  {name:<10}  {value}\n"));
        }
    };
    fact("primary", &status.primary);
    fact("read-write", &status.endpoints.read_write);
    fact("read-only", &status.endpoints.read_only);
    if let Some(leadership) = &status.leadership {
        let stage = Some(&leadership.stage).filter(|stage| *stage != "established");
        fact("stage", &stage.map(|stage| format!("{stage}, in epoch {}", status.epoch.unwrap_or(leadership.reign))));
        fact("commits", &Some(format!("acknowledged by {}", leadership.acknowledged_by)));
        fact("gate", &leadership.gate.clone().filter(|gate| gate != "open"));
        fact("failed over", &leadership.last_failover);
    }
    for condition in &status.conditions {
        match condition.kind.as_str() {
            "Ready" => {}
            "HighlyAvailable" if condition.status => {
                fact("survives", &condition.message.strip_prefix("survives ").map(str::to_owned));
            }
            // One node is what the file asks for.
            "HighlyAvailable" if condition.reason == "OneNode" => {}
            "HighlyAvailable" => fact("at risk", &Some(condition.message.clone())),
            kind if condition.status => fact(&kind.to_lowercase(), &Some(condition.message.clone())),
            _ => {}
        }
    }
    if status.nodes.is_empty() {
        return text;
    }
    text.push('\n');
    let mut rows = vec![["NODE", "ROLE", "STATE", "LAG", "VERSION", "MACHINE", "VOLUME"].map(str::to_owned)];
    rows.extend(status.nodes.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: BTreeMap<usize, usize> = (0..7).map(|column| (column, width(column))).collect();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = widths[&column]));
        text.push_str(&format!("  {}\n", cells.collect::<Vec<_>>().join("  ").trim_end()));
    }
    text
}

fn row(node: &NodeStatus) -> [String; 7] {
    let or_dash = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
    let lag = match (node.lag_bytes, node.lag_seconds) {
        (None, None) => "-".to_owned(),
        (Some(bytes), None) => size(bytes),
        (None, Some(seconds)) => format!("{seconds:.1} s"),
        (Some(0), Some(_)) => "0 B".to_owned(),
        (Some(bytes), Some(seconds)) => format!("{}, {seconds:.1} s", size(bytes)),
    };
    [
        node.node.clone(),
        node.role.clone(),
        node.state.clone(),
        lag,
        or_dash(&node.version),
        or_dash(&node.machine),
        or_dash(&node.volume),
    ]
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} kB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GB", bytes as f64 / 1_073_741_824.0),
    }
}
