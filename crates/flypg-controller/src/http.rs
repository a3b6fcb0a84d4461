//! The controller's HTTP endpoints.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use flypg_core::render::{self, Preview};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::board::{Board, Posted};
use crate::metrics::Metrics;
use crate::words::chain;

/// What the endpoints tell of.
#[derive(Debug)]
pub struct Shown {
    pub board: Arc<Board>,
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

fn with(shown: &Shown, name: &str, tell: impl FnOnce(&Posted) -> Value) -> Response {
    match shown.board.cluster(name) {
        Some(posted) => Json(tell(&posted)).into_response(),
        None => error(StatusCode::NOT_FOUND, "no such cluster is kept here, or it was not looked at yet"),
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
