//! One request, taken apart: who asks, about what, with which parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, header};

use crate::engine::Engine;
use crate::faults::Bent;
use crate::world::World;
use crate::world::machine::Machine;
use crate::world::refusal::{Gate, Refusal};
use crate::world::regions::REGIONS;
use crate::world::shared::Shared;
use crate::world::time::Millis;

use super::auth::Caller;
use super::views::Look;

/// A request that passed authentication and rate limits.
pub(crate) struct Call {
    pub(crate) engine: Arc<Engine>,
    pub(crate) caller: Caller,
    pub(crate) body: Bytes,
    /// The lease nonce, if one was sent.
    pub(crate) nonce: Option<String>,
    /// What fault rules do to this request's reads and placements.
    pub(crate) bent: Bent,
    path: BTreeMap<String, String>,
    query: Vec<(String, String)>,
}

/// Bodies above this are refused.
const MAX_BODY: usize = 8 << 20;

impl FromRequest<Arc<Engine>> for Call {
    type Rejection = Response;

    async fn from_request(request: Request, engine: &Arc<Engine>) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let query = query_pairs(parts.uri.query().unwrap_or_default());
        // Without it Fly's router does not know the path, token or not.
        let org_given = query.iter().any(|(key, value)| key == "org_slug" && !value.is_empty());
        if parts.method == Method::GET && parts.uri.path() == "/v1/apps" && !org_given {
            return Err(super::not_found().await);
        }
        let params = RawPathParams::from_request_parts(&mut parts, engine)
            .await
            .map_err(|_| Refusal::bad_request("the path is not UTF-8").into_response())?;
        let path: BTreeMap<String, String> = params.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let caller = match engine.auth.caller(parts.headers.get(header::AUTHORIZATION)) {
            Ok(caller) => caller,
            Err(refusal) if parts.uri.path().contains("/ip_assignments") => {
                // Another upstream behind the same host name, with another body.
                let mut response = refusal.into_response();
                *response.body_mut() = r#"{"message":"Unauthorized"}"#.into();
                return Err(response);
            }
            Err(refusal) => return Err(refusal.into_response()),
        };
        if let Some(app) = path.get("app") {
            caller.may_touch(app, engine.org_of(app).as_deref()).map_err(IntoResponse::into_response)?;
        }
        if let Some(refused) = over_limit(engine, &parts.method, parts.uri.path(), &path) {
            return Err(refused);
        }
        let bent = parts.extensions.remove::<Bent>().unwrap_or_default();
        let nonce = header_text(&parts.headers, "fly-machine-lease-nonce");
        let body = axum::body::to_bytes(body, MAX_BODY).await.map_err(|_| Refusal::too_large().into_response())?;
        Ok(Self { engine: Arc::clone(engine), caller, body, nonce, bent, path, query })
    }
}

/// The 429, if this request is one too many.
fn over_limit(engine: &Engine, method: &Method, path: &str, params: &BTreeMap<String, String>) -> Option<Response> {
    let identity = params.get("id").or_else(|| params.get("app")).map_or("", String::as_str);
    let parts: Vec<&str> = path.split('/').skip(3).map(|part| if part == identity { "*" } else { part }).collect();
    let retry_after = engine.limit(method, &parts, identity).err()?;
    let mut response = Refusal::rate_limited().into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    Some(response)
}

fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty()).map(str::to_owned)
}

/// Splits a query string; keys and values are percent-decoded.
pub(crate) fn query_pairs(query: &str) -> Vec<(String, String)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (unescape(k), unescape(v))).collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        match (first, tail.get(..2).and_then(hex)) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(other),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Call {
    /// A path parameter; empty if the route has none of that name.
    pub(crate) fn path(&self, name: &str) -> &str {
        self.path.get(name).map_or("", String::as_str)
    }

    pub(crate) fn app(&self) -> &str {
        self.path("app")
    }

    pub(crate) fn id(&self) -> &str {
        self.path("id")
    }

    /// The first non-empty value of a query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    pub(crate) fn query_all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// `true`, `1` and friends, as Go's `ParseBool` reads them.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.query(name).is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let parse =
            |text: &str| text.parse().map_err(|_| Refusal::invalid(&format!("{name} must be a number, got '{text}'")));
        self.query(name).map(parse).transpose()
    }

    /// How far lists lag behind for this request, ms.
    pub(crate) fn lag_of_lists(&self) -> u64 {
        self.engine.read(|world, _| world.knobs.list_lag_ms).max(self.bent.stale_ms)
    }

    /// How far reads of one thing lag behind for this request, ms.
    pub(crate) fn lag_of_reads(&self) -> u64 {
        self.engine.read(|world, _| world.knobs.read_lag_ms).max(self.bent.stale_ms)
    }

    /// The app's machine as this request sees it, and how to show it.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn machine(&self) -> Result<(Shared<Machine>, Look), Refusal> {
        let lag = self.lag_of_reads();
        let found = match lag {
            0 => self.engine.read(|world, now| world.machine(now, self.app(), self.id()).cloned())?,
            _ => {
                // Known for its errors first: an id that never existed is refused with the right text.
                self.engine.read(|world, now| world.machine(now, self.app(), self.id()).map(drop))?;
                let app = self.engine.app_at(self.app(), lag)?;
                app.machines.get(self.id()).cloned().ok_or_else(Refusal::machine_not_found)?
            }
        };
        Ok((found, self.look()))
    }

    /// What bodies show for this request.
    pub(crate) fn look(&self) -> Look {
        Look {
            unreachable: self.engine.unreachable(),
            leases: self.flag("include_leases"),
            summary: self.flag("summary"),
            now: self.engine.now(),
        }
    }

    /// Runs a command while fault rules refuse placements.
    pub(crate) fn placed<R>(&self, command: impl FnOnce(&mut World, Millis) -> R) -> R {
        self.engine.write(|world, now| {
            if self.bent.full.is_empty() {
                return command(world, now);
            }
            let kept = world.knobs.full_regions.clone();
            let all = self.bent.full.contains("*");
            let more = REGIONS.iter().map(|region| region.code).filter(|code| all || self.bent.full.contains(*code));
            world.knobs.full_regions.extend(more.map(str::to_owned));
            let result = command(world, now);
            world.knobs.full_regions = kept;
            result
        })
    }

    /// Runs a command that a lease may hold up: waits for the lease to end and tries again.
    pub(crate) async fn gated<R>(
        &self,
        mut command: impl FnMut(&mut World, Millis) -> Result<R, Gate>,
    ) -> Result<R, Refusal> {
        loop {
            let changes = self.engine.changes_of(self.id());
            // Registered before the attempt, so that a release in between is not missed.
            let changed = changes.notified();
            match self.engine.write(&mut command) {
                Ok(result) => return Ok(result),
                Err(Gate::Refused(refusal)) => return Err(refusal),
                Err(Gate::Leased { until }) => {
                    let wait = until.since(self.engine.now()) + 1;
                    tokio::select! {
                        () = changed => {}
                        () = tokio::time::sleep(std::time::Duration::from_millis(wait)) => {}
                        () = self.engine.closing.cancelled() => return Err(Refusal::closing()),
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            query_pairs("a=1&metadata.r%C3%B6le=a%20b+c&&x&bad=%zz"),
            [pair("a", "1"), pair("metadata.röle", "a b c"), pair("x", ""), pair("bad", "%zz")]
        );
    }
}
