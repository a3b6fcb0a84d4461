//! Orders that no file can give: told to the controller that keeps the cluster, or carried out here if there is none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flypg_controller::clock;
use flypg_controller::orders::Goal;
use flypg_controller::status::status_of;
use flypg_controller::store::{Holder, Records, StateLock, Store, holder};
use flypg_controller::turn::Wanted;
use flypg_controller::vigil::{ORDER_STANDS, Vigil};
use flypg_core::Timestamp;
use flypg_core::names::{ClusterName, NodeName};
use flypg_core::observed::Order;
use flypg_core::status::ClusterStatus;
use reqwest::StatusCode;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::keeper::keeper;
use super::status::{chosen, parse_name};
use crate::cli::{Failover, Switchover};
use crate::error::{CliError, Exit};
use crate::progress::Progress;
use crate::settings::{Settings, controller_token};
use crate::signals;
use crate::terminal::Terminal;

/// Between two looks at how far it has come.
const INTERVAL: Duration = Duration::from_millis(200);
/// What was taken up has so long to come about.
const LONGEST: Duration = Duration::from_secs(300);
/// A controller on this computer answers from memory.
const ANSWER: Duration = Duration::from_secs(5);

pub(crate) fn switchover(args: &Switchover, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let to = args.to.as_deref().map(node).transpose()?;
    give(&args.cluster, Order::Switchover { to }, settings, terminal)
}

pub(crate) fn failover(args: &Failover, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let order = Order::Failover { to: node(&args.to)?, accept_data_loss: args.accept_data_loss };
    give(&args.cluster, order, settings, terminal)
}

fn node(name: &str) -> Result<NodeName, CliError> {
    name.parse().map_err(|source| CliError::Name { source })
}

fn give(cluster: &str, order: Order, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let cluster = parse_name(cluster)?;
    crate::runtime()?.block_on(async {
        match holder(&settings.state).and_then(|holder| holder.listen) {
            Some(at) => tell(at, &cluster, order, terminal).await,
            None => carry_out(&cluster, order, settings, terminal).await,
        }
    })
}

/// Whether to look again, and how it ended if not.
enum Course {
    UnderWay,
    Done(String),
    /// Nothing came of it.
    Idle,
}

fn course(goal: &Goal, status: &ClusterStatus, begun: Instant) -> Course {
    match &status.primary {
        Some(primary) if goal.came_about(status) => Course::Done(primary.clone()),
        _ if goal.went_otherwise(status) => Course::Idle,
        // The order stands for so long; what was taken up by then is seen by the record.
        _ if begun.elapsed() > ORDER_STANDS + ANSWER && goal.is_idle(status) => Course::Idle,
        _ if begun.elapsed() > LONGEST => Course::Idle,
        _ => Course::UnderWay,
    }
}

fn done(cluster: &ClusterName, primary: &str, begun: Instant, terminal: &Terminal) -> Result<Exit, CliError> {
    terminal.print(&format!("{cluster} is led by {primary} ({:.1} s)\n", begun.elapsed().as_secs_f64()))?;
    Ok(Exit::Done)
}

fn idle(cluster: &ClusterName, status: &ClusterStatus, terminal: &Terminal) -> Exit {
    let primary = status.primary.as_deref().unwrap_or("nobody");
    let held = terminal.bold_red("held");
    let what = waits(status).unwrap_or_else(|| "nothing says why; see `flypg events`".to_owned());
    terminal.say(&format!("{held}: {cluster}: the order did not come about, and {primary} leads: {what}\n"));
    Exit::Held
}

/// What is waited for, or held.
fn waits(status: &ClusterStatus) -> Option<String> {
    let told = |kind: &str| {
        let condition = status.conditions.iter().find(|condition| condition.kind == kind && condition.status)?;
        Some(condition.message.clone()).filter(|message| !message.is_empty())
    };
    told("Held").or_else(|| told("Progressing"))
}

/// By the controller that keeps the cluster.
async fn tell(at: SocketAddr, cluster: &ClusterName, order: Order, terminal: &Terminal) -> Result<Exit, CliError> {
    let no_answer = |source: reqwest::Error| CliError::NoController { at, source: source.without_url() };
    // On this computer: no proxy stands between, and no certificates are loaded.
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(ANSWER)
        .build()
        .map_err(|source| CliError::Failed { what: "the HTTP client cannot be set up", source: source.into() })?;
    let signed = |request: reqwest::RequestBuilder| match controller_token() {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let url = format!("http://{at}/v1/clusters/{cluster}");
    let answer = signed(http.post(format!("{url}/orders")).json(&order)).send().await.map_err(no_answer)?;
    if answer.status() != StatusCode::ACCEPTED {
        return Err(refused(at, answer).await);
    }
    let goal: Goal = answer.json().await.map_err(no_answer)?;
    let begun = Instant::now();
    let mut told = None;
    loop {
        let answer = signed(http.get(format!("{url}/status"))).send().await.map_err(no_answer)?;
        if !answer.status().is_success() {
            return Err(refused(at, answer).await);
        }
        let status: ClusterStatus = answer.json().await.map_err(no_answer)?;
        match course(&goal, &status, begun) {
            Course::Done(primary) => return done(cluster, &primary, begun, terminal),
            Course::Idle => return Ok(idle(cluster, &status, terminal)),
            Course::UnderWay => {}
        }
        let stage = status.leadership.as_ref().map(|leadership| leadership.stage.clone());
        if stage != told {
            if let Some(stage) = stage.as_deref().filter(|stage| *stage != "established") {
                terminal.say(&format!("  {stage}, in epoch {}\n", status.epoch.unwrap_or_default()));
            }
            told = stage;
        }
        sleep(INTERVAL).await;
    }
}

async fn refused(at: SocketAddr, answer: reqwest::Response) -> CliError {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    let status = answer.status();
    let text = answer.json::<Said>().await.map_or_else(|_| status.to_string(), |said| said.error);
    CliError::NotTaken { at, text }
}

/// By turns of our own, with the state directory to ourselves.
async fn carry_out(
    cluster: &ClusterName,
    order: Order,
    settings: &Settings,
    terminal: &Terminal,
) -> Result<Exit, CliError> {
    let signals = signals::Stop::listen()?;
    let client = settings.client()?;
    let specs = chosen(Store::open_to_read(&settings.state)?.specs().await?, Some(cluster))?;
    let us = Holder { pid: std::process::id(), command: "flypg switchover".to_owned(), listen: None };
    let _lock = StateLock::acquire(&settings.state, &us)?;
    let store = Store::open(&settings.state)?;
    store.resume(Timestamp::now()).await?;
    let master = settings.master()?.ok_or(CliError::NoMasterKey)?;
    let store = settings.lead(&store).await?;
    let vigil = Arc::new(Vigil::new(settings.believes_platform()));
    let observer = settings.observer(client, store.clone(), Some(master.clone()))?.of(Arc::clone(&vigil));
    let progress = Arc::new(Progress::new(*terminal, false));
    let wanted = Wanted::Kept(
        specs
            .into_iter()
            .next()
            .map(|known| known.spec)
            .ok_or(CliError::UnknownCluster { name: cluster.to_string(), known: Vec::new() })?,
    );
    let mut keeper = keeper(settings, &master, wanted.clone(), observer, &progress);
    let carried_out = async {
        let begun = Instant::now();
        let mut goal = None;
        loop {
            let turn = keeper.turn().await;
            let status =
                status_of(&store, &wanted, &turn.observed, &vigil.last_seen(), &turn.plan, keeper.stuck(), turn.at)
                    .await?;
            let goal = match &goal {
                Some(goal) => goal,
                // Not before it is known who leads.
                None if status.primary.is_none() && begun.elapsed() < ANSWER => {
                    let _ = timeout(INTERVAL, keeper.rest()).await;
                    continue;
                }
                None => {
                    let made = Goal::of(order.clone(), &status).map_err(|source| CliError::Order { source })?;
                    let record = store.read(cluster).await?.record;
                    vigil.order(order.clone(), record.as_ref(), clock::mono());
                    goal.insert(made)
                }
            };
            match course(goal, &status, begun) {
                Course::Done(primary) => return done(cluster, &primary, begun, terminal),
                Course::Idle => return Ok(idle(cluster, &status, terminal)),
                Course::UnderWay => {}
            }
            // The order ends by the clock, too.
            let _ = timeout(Duration::from_secs(1), keeper.rest()).await;
        }
    };
    let exit = tokio::select! {
        exit = carried_out => exit?,
        () = signals.wait() => Exit::Held,
    };
    progress.done(cluster);
    super::unwatched([&wanted].into_iter(), terminal);
    Ok(exit)
}
