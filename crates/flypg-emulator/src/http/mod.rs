//! `/v1` as Fly serves it, and the emulator's own `/_faults`, `/_knobs`, `/_world`, `/_health`.

mod apps;
pub(crate) mod auth;
mod call;
mod machines;
mod own;
mod paging;
mod platform;
mod reply;
mod views;
mod volumes;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::engine::Engine;
use crate::world::refusal::Refusal;

use wire::Conn;

/// Every route.
pub(crate) fn router(engine: Arc<Engine>) -> Router {
    let app = "/v1/apps/{app}";
    let machine = "/v1/apps/{app}/machines/{id}";
    let volume = "/v1/apps/{app}/volumes/{id}";
    let at = |base: &str, rest: &str| format!("{base}/{rest}");
    let v1 = Router::new()
        .route("/v1/apps", get(apps::list).post(apps::create))
        .route(app, get(apps::show).delete(apps::destroy))
        .route(&at(app, "deploy_token"), post(apps::deploy_token))
        .route(&at(app, "secrets"), get(apps::list_secrets).post(apps::update_secrets))
        .route(&at(app, "secrets/{name}"), get(apps::show_secret).post(apps::set_secret).delete(apps::delete_secret))
        .route(&at(app, "ip_assignments"), get(apps::list_ips).post(apps::assign_ip))
        .route(&at(app, "ip_assignments/{ip}"), delete(apps::release_ip))
        .route(&at(app, "machines"), get(machines::list).post(machines::create))
        .route(machine, get(machines::show).post(machines::update).delete(machines::destroy))
        .route(&at(machine, "start"), post(machines::start))
        .route(&at(machine, "stop"), post(machines::stop))
        .route(&at(machine, "restart"), post(machines::restart))
        .route(&at(machine, "suspend"), post(machines::suspend))
        .route(&at(machine, "signal"), post(machines::signal))
        .route(&at(machine, "cordon"), post(machines::cordon))
        .route(&at(machine, "uncordon"), post(machines::uncordon))
        .route(&at(machine, "wait"), get(machines::wait))
        .route(&at(machine, "exec"), post(machines::exec))
        .route(&at(machine, "ps"), get(machines::ps))
        .route(&at(machine, "events"), get(machines::events))
        .route(&at(machine, "versions"), get(machines::versions))
        .route(&at(machine, "memory"), get(machines::memory).put(machines::set_memory))
        .route(&at(machine, "memory/reclaim"), post(machines::reclaim_memory))
        .route(
            &at(machine, "metadata"),
            get(machines::metadata).patch(machines::merge_metadata).put(machines::merge_metadata),
        )
        .route(
            &at(machine, "metadata/{key}"),
            get(machines::metadata_key).post(machines::set_metadata_key).delete(machines::delete_metadata_key),
        )
        .route(&at(machine, "lease"), get(machines::lease).post(machines::take_lease).delete(machines::release_lease))
        .route(&at(app, "volumes"), get(volumes::list).post(volumes::create))
        .route(volume, get(volumes::show).put(volumes::update).delete(volumes::destroy))
        .route(&at(volume, "extend"), put(volumes::extend))
        .route(&at(volume, "snapshots"), get(volumes::snapshots).post(volumes::snapshot))
        .route("/v1/orgs/{org}/machines", get(platform::org_machines))
        .route("/v1/orgs/{org}/volumes", get(platform::org_volumes))
        .route("/v1/platform/regions", get(platform::regions))
        .route("/v1/platform/placements", post(platform::placements))
        .route("/v1/tokens/current", get(platform::current_token));
    let own = Router::new()
        .route("/_faults", get(own::faults).post(own::add_fault).delete(own::clear_faults))
        .route("/_faults/{id}", delete(own::remove_fault))
        .route("/_knobs", get(own::knobs).patch(own::set_knobs))
        .route("/_world", get(own::world))
        .route("/_health", get(own::health));
    v1.merge(own)
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(middleware::from_fn_with_state(Arc::clone(&engine), around))
        .with_state(engine)
}

/// What Go's router answers, before authentication is looked at.
async fn not_found() -> Response {
    let text = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    (StatusCode::NOT_FOUND, text, "404 page not found\n").into_response()
}

/// Around every request: fault rules, the request id, and the wait for the disk.
async fn around(
    State(engine): State<Arc<Engine>>,
    ConnectInfo(conn): ConnectInfo<Conn>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    if !path.starts_with("/v1/") {
        let changes = request.method() != Method::GET;
        let response = next.run(request).await;
        if changes {
            engine.saved().await;
        }
        return response;
    }
    let id = engine.request_id();
    let strike = engine.strike(request.method(), &path);
    if strike.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(strike.delay_ms)).await;
    }
    if strike.lose_request {
        return conn.cut();
    }
    let performed = strike.status.as_ref().is_none_or(|(_, performed, ..)| *performed);
    let changes = request.method() != Method::GET;
    let method = request.method().clone();
    let mut response = if performed {
        request.extensions_mut().insert(strike.bent);
        let response = next.run(request).await;
        if changes {
            engine.saved().await;
        }
        response
    } else {
        StatusCode::OK.into_response()
    };
    tracing::debug!(%method, path, status = response.status().as_u16(), "request");
    if strike.lose_answer {
        return conn.cut();
    }
    if let Some((code, _, retry_after, body)) = strike.status {
        response = injected(code, retry_after, body);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(HeaderName::from_static("fly-request-id"), id);
    }
    response
}

/// A status that a fault rule asked for.
fn injected(code: u16, retry_after: Option<u64>, body: Option<String>) -> Response {
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match (body, code) {
        (Some(body), _) => (status, Body::from(body)).into_response(),
        (None, 429) => Refusal::rate_limited().into_response(),
        (None, 408) => Refusal { status: code, error: "deadline_exceeded: request timed out".to_owned(), code: None }
            .into_response(),
        // 502 and 503 come from the proxy in front, as text.
        (None, 502 | 503) => (status, "upstream connect error or disconnect/reset before headers").into_response(),
        (None, _) => {
            let error = format!("unknown: {}", status.canonical_reason().unwrap_or("error").to_lowercase());
            Refusal { status: code, error, code: None }.into_response()
        }
    };
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
