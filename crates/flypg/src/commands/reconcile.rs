use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use flypg_controller::act::ActError;
use flypg_controller::observe::Observer;
use flypg_controller::source::Wishes;
use flypg_controller::store::{Holder, StateLock, Store};
use flypg_controller::turn::{Turn, Wanted};
use flypg_controller::vigil::Vigils;
use flypg_controller::words::chain;
use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::observed::Observed;
use flypg_core::plan::{Hold, Plan};
use flypg_core::render::{self, Preview};
use flypg_core::status::{generation, status};
use futures::future::{join_all, try_join_all};
use tokio::time::{Instant, timeout_at};

use super::keeper::{CliKeeper, keeper};
use super::{files, unseen, unwatched};
use crate::cli::{PlanFormat, Reconcile};
use crate::error::{CliError, Exit, Words};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::signals;
use crate::terminal::Terminal;

/// What ends by itself has this long, if nothing else was said.
const WAIT: Duration = Duration::from_secs(600);
/// Turns in a row in which the answer was no, before it is taken for an answer.
const REFUSALS: u32 = 3;

pub(crate) fn run(args: &Reconcile, settings: &Settings, terminal: &Terminal) -> Result<Exit, CliError> {
    let wishes = files::read(&args.files)?;
    if files::complain(&wishes.diagnostics, terminal) {
        return Ok(Exit::Input);
    }
    let runtime = crate::runtime()?;
    if args.dry_run {
        runtime.block_on(dry_run(args, &wishes, settings, terminal))
    } else {
        runtime.block_on(reconcile(args, wishes, settings, terminal))
    }
}

/// What would be done, without a trace: neither in the world nor in the state directory.
async fn dry_run(
    args: &Reconcile,
    wishes: &Wishes,
    settings: &Settings,
    terminal: &Terminal,
) -> Result<Exit, CliError> {
    let store = Store::open_to_read(&settings.state)?;
    let wanted = wishes.wanted(&store.specs().await?);
    let observer = settings.impatient_observer(store, settings.master()?)?;
    let looks = wanted.into_values().map(|wanted| {
        let mut observer = observer.of(Arc::default());
        async move {
            let now = Timestamp::now();
            let observed = observer.observe(wanted.spec(), now).await;
            let turns = wanted.forecast(&observed, now);
            (wanted, observed, turns)
        }
    });
    let looks: Vec<(Wanted, Observed, Vec<Plan>)> = join_all(looks).await;
    for (wanted, observed, turns) in &looks {
        if args.output != PlanFormat::Json && unseen(observed).is_some() {
            continue; // there is nothing to show, and the error says why
        }
        let preview = Preview { spec: wanted.spec(), observed, turns };
        let text = match args.output {
            PlanFormat::Text => render::text(&preview, terminal.out),
            PlanFormat::Markdown => render::markdown(&preview),
            PlanFormat::Json => {
                serde_json::to_string_pretty(&render::json(&preview)).expect("a preview has string keys only")
            }
        };
        terminal.print(&format!("{}\n", text.trim_end()))?;
    }
    // What could not be seen cannot be planned: that is no answer, with or without --exit-code.
    if let Some(error) = looks.iter().find_map(|(_, observed, _)| unseen(observed)) {
        return Err(CliError::Unseen { api: settings.api.clone(), source: Words(error) });
    }
    if !args.exit_code {
        return Ok(Exit::Done);
    }
    let now: Vec<&Plan> = looks.iter().filter_map(|(.., turns)| turns.first()).collect();
    let pending = |plan: &&Plan| !plan.steps.is_empty() || plan.holds.iter().any(|hold| hold.until.is_wait());
    if now.iter().any(pending) {
        return Ok(Exit::Pending);
    }
    for plan in &now {
        name_holds(&plan.cluster, &plan.holds, terminal);
    }
    Ok(if now.iter().all(|plan| plan.is_quiet()) { Exit::Done } else { Exit::Held })
}

async fn reconcile(
    args: &Reconcile,
    wishes: Wishes,
    settings: &Settings,
    terminal: &Terminal,
) -> Result<Exit, CliError> {
    let signals = signals::Stop::listen()?;
    let client = settings.client()?;
    let holder = Holder { pid: std::process::id(), command: "flypg reconcile".to_owned(), listen: None };
    let _lock = StateLock::acquire(&settings.state, &holder)?;
    let store = Store::open(&settings.state)?;
    store.resume(Timestamp::now()).await?;
    let master = settings.master_or_new(&store).await?;
    let store = settings.lead(&store).await?;
    store.note_specs(wishes.clusters.clone()).await?;
    let wanted = wishes.wanted(&store.specs().await?);

    let several = wanted.len() > 1;
    let progress = Arc::new(Progress::new(*terminal, several));
    let observer = settings.observer(client, store.clone(), Some(master.clone()))?;
    let deadline = match args.wait {
        None => Some(Instant::now() + WAIT),
        Some(None) => None,
        Some(Some(wait)) => Some(Instant::now() + wait),
    };
    let vigils = Vigils::new(settings.believes_platform());
    let keepers = wanted.into_iter().map(|(cluster, wanted)| {
        let observer = observer.of(vigils.of(&cluster));
        let keeper = keeper(settings, &master, wanted, observer, &progress);
        keep(cluster, keeper, deadline, &store, &progress)
    });
    let kept = tokio::select! {
        kept = try_join_all(keepers) => kept?,
        () = signals.wait() => {
            progress.interrupted();
            terminal.say("stopped; what was begun is noted, and the same command goes on from there\n");
            return Ok(Exit::Held);
        }
    };

    let mut exit = Exit::Done;
    for (cluster, end) in &kept {
        exit = worse(exit, tell(cluster, end, terminal)?);
    }
    let led = kept.iter().filter_map(|(_, end)| match end {
        End::Converged { wanted, .. } => Some(&**wanted),
        End::Gone | End::Held { .. } => None,
    });
    unwatched(led, terminal);
    Ok(exit)
}

/// How reconciling a cluster ended.
enum End {
    /// Nothing is left to do.
    Converged { wanted: Box<Wanted>, turn: Box<Turn> },
    /// Nothing is left of it.
    Gone,
    /// What is left does not end by itself, or did not in the time it had.
    Held { holds: Vec<Hold>, errors: Vec<Failure> },
}

/// A step that failed, in words.
struct Failure {
    step: String,
    error: String,
    suggestion: Option<&'static str>,
}

async fn keep(
    cluster: ClusterName,
    mut keeper: CliKeeper,
    deadline: Option<Instant>,
    store: &Store,
    progress: &Progress,
) -> Result<(ClusterName, End), CliError> {
    let mut refusals = 0;
    let end = loop {
        let turn = keeper.turn().await;
        let refused = |error: &ActError| matches!(error, ActError::Refused(_)) && !error.is_passing();
        refusals = if turn.failures().any(|(_, error)| refused(error)) { refusals + 1 } else { 0 };
        let waits = turn.plan.holds.iter().any(|hold| hold.until.is_wait());
        if turn.plan.changes().next().is_none() && !waits {
            break end_of(&keeper.wanted, turn);
        }
        // Only waiting has a limit: what can be done at once is done.
        let in_time = match deadline {
            _ if keeper.next().after.is_zero() => true,
            None => {
                keeper.rest().await;
                true
            }
            Some(deadline) => timeout_at(deadline, keeper.rest()).await.is_ok(),
        };
        if refusals >= REFUSALS || !in_time {
            break held(turn);
        }
    };
    progress.done(&cluster);
    match &end {
        End::Converged { wanted, .. } => store.note_generation(&cluster, &generation(wanted.spec())).await?,
        End::Gone => store.forget(&cluster).await?,
        End::Held { .. } => {}
    }
    Ok((cluster, end))
}

/// Neither a step nor a wait is left.
fn end_of(wanted: &Wanted, turn: Turn) -> End {
    if !turn.plan.holds.is_empty() {
        held(turn)
    } else if wanted.is_gone(&turn.observed) {
        End::Gone
    } else {
        End::Converged { wanted: Box::new(wanted.clone()), turn: Box::new(turn) }
    }
}

fn held(turn: Turn) -> End {
    let failure = |(step, error): (&_, &ActError)| Failure {
        step: render::step(step),
        error: chain(error),
        suggestion: error.suggestion(),
    };
    End::Held { errors: turn.failures().map(failure).collect(), holds: turn.plan.holds }
}

fn tell(cluster: &ClusterName, end: &End, terminal: &Terminal) -> Result<Exit, CliError> {
    match end {
        End::Gone => {
            terminal.print(&format!("{cluster} is gone\n"))?;
            Ok(Exit::Done)
        }
        End::Converged { wanted, turn } => {
            let status = status(wanted.spec(), &turn.observed, &turn.plan, turn.at);
            let mut text = match **wanted {
                Wanted::Kept(_) => format!("{cluster} is what its file says\n"),
                Wanted::Removed(_) => format!("{cluster} is removed; what its `deletion` keeps is still there\n"),
            };
            let endpoints = [("read-write", &status.endpoints.read_write), ("read-only", &status.endpoints.read_only)];
            for (door, endpoint) in endpoints {
                if let Some(endpoint) = endpoint {
                    writeln!(text, "  {door:<10}  {endpoint}").expect("a String takes everything");
                }
            }
            if status.endpoints.read_write.is_some() {
                writeln!(text, "  connect     flypg connect {cluster}").expect("a String takes everything");
            }
            terminal.print(&text)?;
            Ok(Exit::Done)
        }
        End::Held { holds, errors } => {
            name_holds(cluster, holds, terminal);
            for Failure { step, error, suggestion } in errors {
                let mut text = format!("{}: {cluster}: {step}\ncaused by: {error}\n", terminal.bold_red("error"));
                if let Some(suggestion) = suggestion {
                    text.push_str(&format!("\n{}: {suggestion}\n", terminal.bold_cyan("hint")));
                }
                terminal.say(&text);
            }
            Ok(Exit::Held)
        }
    }
}

fn name_holds(cluster: &ClusterName, holds: &[Hold], terminal: &Terminal) {
    for hold in holds {
        let word = if hold.until.is_wait() { "waiting" } else { "held" };
        terminal.say(&format!("{}: {cluster}: {}\n", terminal.bold_red(word), render::hold(hold)));
    }
}

fn worse(one: Exit, other: Exit) -> Exit {
    if (one as u8) >= (other as u8) { one } else { other }
}
