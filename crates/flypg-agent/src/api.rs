//! What the controller asks of this node, over HTTP on port 5500.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use flypg_core::failover::lease::Grant;
use flypg_core::ledger::{Caller, Refusal};
use flypg_core::node::PledgeAsked;
use flypg_core::protocol::{Assignment, NodeReport};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::TcpListener;

use crate::shared::Shared;
use crate::store::AcceptError;

/// An assignment of a hundred nodes and a hundred parameters is far below this.
const LARGEST_BODY: usize = 1024 * 1024;
/// The longest that a report is waited for.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Everything else is answered within this, or the caller is told that it was not.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the answer to an order to restart waits for the restart.
const RESTART: Duration = Duration::from_secs(45);

#[derive(Debug, Deserialize)]
struct ReportQuery {
    after: Option<u64>,
    /// Seconds; a fraction is fine.
    wait: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestartOrder {
    #[serde(default)]
    force: bool,
}

/// Body of `PUT /v1/assignment`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Assigned {
    pub caller: Caller,
    pub assignment: Assignment,
}

/// Body of `PUT /v1/lease`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Granted {
    pub caller: Caller,
    pub grant: Grant,
}

/// Answer of `PUT /v1/lease`.
#[derive(Debug, Serialize, Deserialize)]
pub struct GrantAnswer {
    /// It is for the epoch that this node leads in, and for this boot. What it does not say is that the lease became
    /// longer: a late one counts too.
    pub counted: bool,
}

/// Answer of `POST /v1/restart`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RestartAnswer {
    /// Postgres was restarted and serves again. Not, if nothing waited for it (200), or if it takes longer (202).
    pub restarted: bool,
}

/// Callers at a time: a controller or two, health checks, and people.
pub const CALLERS: usize = 128;

pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    crate::http::serve(listener, router(shared), CALLERS).await;
}

fn router(shared: Arc<Shared>) -> Router {
    let closed = Router::new()
        .route("/v1/report", get(report))
        .route("/v1/assignment", put(assign))
        .route("/v1/lease", put(grant))
        .route("/v1/pledge", post(pledge))
        .route("/v1/restart", post(restart))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing here") })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(shared.clone(), authenticate));
    Router::new()
        .route("/v1/health", get(health))
        .route("/v1/health/ready", get(ready))
        .merge(closed)
        .with_state(shared)
}

/// Lets through who has the cluster's key. The comparison takes the same time wherever a difference is.
async fn authenticate(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
    let known = shared.config.key.expose();
    match given {
        Some(given) if bool::from(given.ct_eq(known.as_bytes())) => {
            // A report waits for itself; a body that dribbles in is what this is against.
            let answer = tokio::time::timeout(LONGEST_WAIT + PATIENCE, next.run(request)).await;
            answer.unwrap_or_else(|_| problem(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response())
        }
        Some(_) => problem(StatusCode::UNAUTHORIZED, "this is not the cluster's key").into_response(),
        None => {
            problem(StatusCode::UNAUTHORIZED, "the cluster's key is needed: Authorization: Bearer …").into_response()
        }
    }
}

async fn report(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<ReportQuery>, QueryRejection>,
) -> Result<Json<NodeReport>, Problem> {
    let Query(query) = query.map_err(|error| problem(error.status(), error.body_text()))?;
    let wait = query.wait.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default();
    Ok(Json(shared.report_after(query.after, wait.min(LONGEST_WAIT)).await))
}

/// The answer is given when the assignment is on disk. Doing it takes longer; the report tells.
async fn assign(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<NodeReport>, Problem> {
    let told: Assigned = read(body, "an assignment")?;
    decide(&shared, move |shared| shared.accept(&told.caller, &told.assignment)).await?;
    Ok(Json(shared.answer()))
}

async fn grant(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<GrantAnswer>, Problem> {
    let told: Granted = read(body, "a grant")?;
    let counted = decide(&shared, move |shared| shared.grant(&told.caller, &told.grant)).await?;
    Ok(Json(GrantAnswer { counted }))
}

/// The answer is given when the pledge is on disk.
async fn pledge(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<serde_json::Value>, Problem> {
    let asked: PledgeAsked = read(body, "a question for a pledge")?;
    decide(&shared, move |shared| shared.pledge(&asked)).await?;
    Ok(Json(json!({ "pledged": true })))
}

/// Does what may block for the disk.
async fn decide<T: Send + 'static>(
    shared: &Arc<Shared>,
    decide: impl FnOnce(&Shared) -> Result<T, AcceptError> + Send + 'static,
) -> Result<T, Problem> {
    let shared = shared.clone();
    let decided = tokio::task::spawn_blocking(move || decide(&shared)).await;
    let decided = decided.map_err(|_| {
        problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the agent failed while it decided; what was asked may have been done: ask for its report",
        )
    })?;
    decided.map_err(|error| {
        let status = match &error {
            // It will be possible by itself.
            AcceptError::Refused(Refusal::Pledged { .. }) => StatusCode::LOCKED,
            AcceptError::Refused(_) | AcceptError::Quarantined(_) => StatusCode::CONFLICT,
            AcceptError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        problem(status, crate::words(&error))
    })
}

async fn restart(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<RestartAnswer>), Problem> {
    let order = match &body {
        Ok(body) if body.is_empty() => RestartOrder::default(),
        _ => read(body, "an order to restart")?,
    };
    let pending = shared.report.borrow().postgres.as_ref().is_some_and(|postgres| !postgres.pending_restart.is_empty());
    if !order.force && !pending {
        return Ok((StatusCode::OK, Json(RestartAnswer { restarted: false })));
    }
    let started_before = shared.starts.load(Ordering::Relaxed);
    let mut here = shared.here.subscribe();
    shared.order_restart();
    let back = here.wait_for(|here| here.open && shared.starts.load(Ordering::Relaxed) > started_before);
    let restarted = tokio::time::timeout(RESTART, back).await.is_ok();
    let status = if restarted { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(RestartAnswer { restarted })))
}

fn read<T: for<'de> Deserialize<'de>>(body: Result<Bytes, BytesRejection>, what: &str) -> Result<T, Problem> {
    let body = body.map_err(|error| problem(error.status(), error.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, format!("this is not {what}: {error}")))
}

/// The agent lives. Says nothing that a stranger should not know.
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    Json(health_of(&shared)).into_response()
}

/// Whether this node serves: 200 if Postgres runs, else 503.
async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    let status = match shared.here.borrow().open {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(health_of(&shared))).into_response()
}

fn health_of(shared: &Shared) -> serde_json::Value {
    let report = shared.report.borrow();
    let phase = report.phase.name();
    let role = report.postgres.as_ref().map(|postgres| match postgres.role {
        flypg_core::protocol::PgRole::Primary { .. } => "primary",
        flypg_core::protocol::PgRole::Standby { .. } => "standby",
    });
    json!({ "phase": phase, "role": role })
}

/// What an answer that is no success says: `{"error": …}`.
#[derive(Debug)]
struct Problem {
    status: StatusCode,
    error: String,
}

fn problem(status: StatusCode, error: impl Into<String>) -> Problem {
    Problem { status, error: error.into() }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.error }))).into_response()
    }
}
