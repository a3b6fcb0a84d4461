//! The controller's HTTP endpoints.

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::{Router, body::Body};
use flypg_core::observed::Order;
use flypg_core::render::{self, Preview};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Posted};
use crate::clock;
use crate::metrics::Metrics;
use crate::orders::Goal;
use crate::vigil::Vigils;
use crate::words::chain;

/// What the endpoints tell of.
#[derive(Debug)]
pub struct Shown {
    pub board: Arc<Board>,
    pub vigils: Arc<Vigils>,
    /// The directory of the event logs.
    pub events: PathBuf,
    pub metrics: Arc<Metrics>,
    /// What a caller of `/v1` must know; `None` lets everybody in who can reach the address.
    pub token: Option<String>,
}

/// Answers until `stop`.
///
/// # Errors
/// If the listener breaks.
pub async fn serve(listener: TcpListener, shown: Shown, stop: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(shown)).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// `/healthz`, `/readyz` and `/metrics` are open, `/v1` is guarded if there is a token.
fn router(shown: Shown) -> Router {
    let shown = Arc::new(shown);
    let guarded = Router::new()
        .route("/v1/clusters", get(clusters))
        .route("/v1/clusters/{name}/status", get(status))
        .route("/v1/clusters/{name}/plan", get(plan))
        .route("/v1/clusters/{name}/events", get(events))
        .route("/v1/clusters/{name}/orders", post(order))
        .layer(from_fn_with_state(Arc::clone(&shown), guard));
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(guarded)
        .fallback(|| async { error(StatusCode::NOT_FOUND, "there is nothing here") })
        .with_state(shown)
}

async fn ready(State(shown): State<Arc<Shown>>) -> Response {
    if shown.board.is_complete() {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not every cluster was looked at yet\n").into_response()
    }
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Response {
    match shown.metrics.text(&shown.board) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &chain(&failure)),
    }
}

async fn clusters(State(shown): State<Arc<Shown>>) -> Json<Value> {
    let clusters: Vec<_> = shown.board.clusters().iter().map(|posted| json!(posted.status)).collect();
    Json(json!({ "clusters": clusters, "mistakes": shown.board.source() }))
}

async fn status(State(shown): State<Arc<Shown>>, Path(name): Path<String>) -> Response {
    with(&shown, &name, |posted| json!(posted.status))
}

/// What a dry run would print now.
async fn plan(State(shown): State<Arc<Shown>>, Path(name): Path<String>) -> Response {
    with(&shown, &name, |posted| {
        let turns = posted.wanted.forecast(&posted.observed, posted.at);
        render::json(&Preview { spec: posted.wanted.spec(), observed: &posted.observed, turns: &turns })
    })
}

/// Takes an order, and says what it has to come to: whoever gave it asks for the status until it has. As JSON only, which
/// a page in a browser cannot send here.
async fn order(
    State(shown): State<Arc<Shown>>,
    Path(name): Path<String>,
    order: Result<Json<Order>, JsonRejection>,
) -> Response {
    let Some(posted) = shown.board.cluster(&name) else { return not_kept() };
    let order = match order {
        Ok(Json(order)) => order,
        Err(rejection) => return error(rejection.status(), &rejection.body_text()),
    };
    match Goal::of(order.clone(), &posted.status) {
        Ok(goal) => {
            let record = posted.observed.record.known().and_then(Option::as_ref);
            tracing::info!(cluster = name, order = ?order, "ordered");
            shown.vigils.of(posted.wanted.name()).order(order, record, clock::mono());
            (StatusCode::ACCEPTED, Json(goal)).into_response()
        }
        Err(refusal) => error(StatusCode::CONFLICT, &refusal.to_string()),
    }
}

/// What has happened, oldest first.
async fn events(State(shown): State<Arc<Shown>>, Path(name): Path<String>) -> Response {
    let Some(posted) = shown.board.cluster(&name) else { return not_kept() };
    match crate::events::read(&shown.events, posted.wanted.name()) {
        Ok(events) => Json(json!({ "events": events })).into_response(),
        Err(failure) => error(StatusCode::INTERNAL_SERVER_ERROR, &chain(&failure)),
    }
}

fn not_kept() -> Response {
    error(StatusCode::NOT_FOUND, "no such cluster is kept here, or it was not looked at yet")
}

fn with(shown: &Shown, name: &str, tell: impl FnOnce(&Posted) -> Value) -> Response {
    match shown.board.cluster(name) {
        Some(posted) => Json(tell(&posted)).into_response(),
        None => not_kept(),
    }
}

async fn guard(State(shown): State<Arc<Shown>>, request: Request<Body>, next: Next) -> Response {
    if shown.token.as_deref().is_none_or(|token| is_bearer(request.headers(), token)) {
        return next.run(request).await;
    }
    error(StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …")
}

/// Digests are compared, so that the time it takes says nothing about the token.
fn is_bearer(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    given.is_some_and(|given| Sha256::digest(given.trim()) == Sha256::digest(token))
}

fn error(status: StatusCode, text: &str) -> Response {
    (status, Json(json!({ "error": text }))).into_response()
}

#[cfg(test)]
mod tests;
