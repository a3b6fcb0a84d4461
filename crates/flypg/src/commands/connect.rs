use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

use flypg_controller::store::Store;
use flypg_core::keys::{Key, Role};
use flypg_core::names::ClusterName;

use super::status::{chosen, look, parse_name};
use crate::cli::Connect;
use crate::error::{CliError, Exit, Words};
use crate::settings::Settings;
use crate::terminal::Terminal;

/// Becomes psql: its exit code is ours. Or says where psql would go.
pub(crate) fn run(args: &Connect, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let cluster = parse_name(&args.cluster)?;
    let master = settings.master()?.ok_or(CliError::NoMasterKey)?;
    let endpoint = crate::runtime()?.block_on(endpoint(args, settings, &cluster, &master))?;
    let password = master.of_cluster(&cluster).password(Role::Postgres);
    if args.url {
        // For programs, and only because it was asked for: here the password is the data.
        let user = Role::Postgres.name();
        let mut url = reqwest::Url::parse(&format!("postgres://{user}:{password}@{endpoint}"))
            .expect("an address, a role of ours and hexadecimal digits make a URL");
        url.set_path(&args.database);
        terminal.print(&format!("{url}\n"))?;
        return Ok(Exit::Done);
    }
    let (host, port) = endpoint.rsplit_once(':').unwrap_or((&endpoint, "5432"));
    let error = Command::new("psql")
        .arg(format!("--host={}", host.trim_start_matches('[').trim_end_matches(']')))
        .arg(format!("--port={port}"))
        .arg(format!("--username={}", Role::Postgres.name()))
        .arg(format!("--dbname={}", args.database))
        .args(&args.psql)
        // Arguments can be read by everybody on the computer, the environment by nobody else.
        .env("PGPASSWORD", password)
        .env("PGAPPNAME", "flypg connect")
        // It would outrank the host that was asked for.
        .env_remove("PGHOSTADDR")
        .exec();
    Err(match error.kind() {
        ErrorKind::NotFound => CliError::NoPsql,
        _ => CliError::Psql { source: error },
    })
}

async fn endpoint(
    args: &Connect,
    settings: &Settings,
    cluster: &ClusterName,
    master: &Key,
) -> Result<String, CliError> {
    let store = Store::open_to_read(&settings.state)?;
    let known = chosen(store.specs().await?, Some(cluster))?;
    let observer = settings.impatient_observer(store, Some(master.clone()))?;
    let look = look(&observer, &known).await?.into_iter().next();
    if let Some(error) = look.as_ref().and_then(|look| look.unseen.clone()) {
        return Err(CliError::Unseen { api: settings.api.clone(), source: Words(error) });
    }
    let status = look.map(|look| look.status);
    let endpoints = status.as_ref().map(|status| &status.endpoints);
    let (door, endpoint) = match args.read_only {
        false => ("read-write", endpoints.and_then(|endpoints| endpoints.read_write.clone())),
        true => ("read-only", endpoints.and_then(|endpoints| endpoints.read_only.clone())),
    };
    endpoint.ok_or_else(|| {
        let ready = status.iter().flat_map(|status| &status.conditions).find(|condition| condition.kind == "Ready");
        CliError::NoEndpoint {
            cluster: cluster.to_string(),
            door,
            state: ready.map_or_else(|| "it is not ready".to_owned(), |condition| condition.message.clone()),
        }
    })
}
