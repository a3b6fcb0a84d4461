//! What the controller asks of this node, over HTTP on port 5500.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use flypg_core::protocol::{Assignment, NodeReport, Phase};
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

/// Answer of `POST /v1/restart`.
#[derive(Debug, Serialize, Deserialize)]
pub struct RestartAnswer {
    /// Whether Postgres is being restarted; not, if nothing waits for it.
    pub restarting: bool,
}

pub async fn serve(listener: TcpListener, shared: Arc<Shared>) -> std::io::Result<()> {
    axum::serve(listener, router(shared)).await
}

fn router(shared: Arc<Shared>) -> Router {
    let closed = Router::new()
        .route("/v1/report", get(report))
        .route("/v1/assignment", put(assign))
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
            match tokio::time::timeout(LONGEST_WAIT + PATIENCE, next.run(request)).await {
                Ok(response) => response,
                Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "the request took too long"),
            }
        }
        Some(_) => problem(StatusCode::UNAUTHORIZED, "this is not the cluster's key"),
        None => problem(StatusCode::UNAUTHORIZED, "the cluster's key is needed: Authorization: Bearer …"),
    }
}

async fn report(State(shared): State<Arc<Shared>>, Query(query): Query<ReportQuery>) -> Json<NodeReport> {
    let wait = query.wait.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default();
    Json(shared.report_after(query.after, wait.min(LONGEST_WAIT)).await)
}

/// The answer is given when the assignment is on disk. Doing it takes longer; the report tells.
async fn assign(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let assignment: Assignment = match serde_json::from_slice(&body) {
        Ok(assignment) => assignment,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("this is not an assignment: {error}")),
    };
    let accepting = shared.clone();
    let accepted = tokio::task::spawn_blocking(move || accepting.accept(&assignment)).await;
    match accepted {
        Ok(Ok(())) => Json(shared.report.borrow().clone()).into_response(),
        Ok(Err(error @ AcceptError::Refused(_))) => problem(StatusCode::CONFLICT, &error.to_string()),
        Ok(Err(error @ AcceptError::Store(_))) => problem(StatusCode::CONFLICT, &crate::words(&error)),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the agent failed while it accepted the assignment"),
    }
}

async fn restart(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    let order = match body.is_empty() {
        true => Ok(RestartOrder::default()),
        false => serde_json::from_slice(&body),
    };
    let force = match order {
        Ok(order) => order.force,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("this is not an order to restart: {error}")),
    };
    let pending = shared.report.borrow().postgres.as_ref().is_some_and(|postgres| !postgres.pending_restart.is_empty());
    let restarting = force || pending;
    if restarting {
        shared.order_restart();
    }
    Json(RestartAnswer { restarting }).into_response()
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
    let phase = match &report.phase {
        Phase::Blank => "blank",
        Phase::Idle => "idle",
        Phase::Initialising => "initialising",
        Phase::Cloning { .. } => "cloning",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Failing { .. } => "failing",
        Phase::Quarantined { .. } => "quarantined",
    };
    let role = report.postgres.as_ref().map(|postgres| match postgres.role {
        flypg_core::protocol::PgRole::Primary { .. } => "primary",
        flypg_core::protocol::PgRole::Standby { .. } => "standby",
    });
    json!({ "phase": phase, "role": role })
}

fn problem(status: StatusCode, error: &str) -> Response {
    let body = Body::from(json!({ "error": error }).to_string());
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
