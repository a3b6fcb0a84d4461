//! The sender: the one place that opens connections.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, RETRY_AFTER, SET_COOKIE};
use reqwest::Url;

use crate::auth::{TokenError, authorization};
use crate::bucket::{Gate, Limits};
use crate::cookie::Affinity;
use crate::error::{Cause, Error, Exchange, Source, keep_raw};
use crate::request::{Idempotence, LEASE_NONCE, Paged, Request, is_sendable};
use crate::retry::{self, left};
use crate::types::Secret;

/// The public address of the Machines API.
pub const PUBLIC_API: &str = "https://api.machines.dev";

/// The header that names a request to Fly's support.
pub const REQUEST_ID: &str = "fly-request-id";
/// The header with the cursor of a list's next page; absent on the last.
pub const NEXT_CURSOR: &str = "fly-next-cursor";

/// More pages than this are a server going round in circles.
const MOST_PAGES: u32 = 1000;
/// No error has more to say.
const LONGEST_ERROR: usize = 64 * 1024;

/// How to reach the Machines API.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Without `/v1`. `http` for an emulator or within 6PN, `https` for the public address.
    pub base_url: String,
    /// As printed by `fly tokens create` or `fly auth token`; both schemes. `None` sends none.
    pub token: Option<Secret>,
    pub limits: Limits,
    pub user_agent: String,
    /// For one answer, unless the request says that the server may take longer.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// How long [`Client::send`] goes on repeating what may be repeated.
    pub patience: Duration,
    /// Bytes of an answer that are read before it is given up.
    pub longest_body: usize,
}

impl ClientConfig {
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            token: None,
            limits: Limits::fly(),
            user_agent: concat!("flypg/", env!("CARGO_PKG_VERSION")).to_owned(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            patience: Duration::from_secs(30),
            longest_body: 64 * 1024 * 1024,
        }
    }

    pub fn with_token(mut self, token: impl Into<Secret>) -> Self {
        self.token = Some(token.into());
        self
    }

    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

impl Default for ClientConfig {
    /// The public API, without a token.
    fn default() -> Self {
        Self::new(PUBLIC_API)
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("the API address is not a URL")]
    Url(#[source] Source),
    #[error("the API address must be http://host[:port][/path] or https://…, without user, query or fragment")]
    UrlParts,
    #[error("the API token cannot be used")]
    Token(#[source] TokenError),
    #[error("the user agent has characters that cannot be sent in a header")]
    UserAgent,
    #[error("TLS cannot be set up; are CA certificates installed (Debian: `apt-get install ca-certificates`)?")]
    Tls(#[source] Source),
}

/// A client of the Machines API. Clones share connections, rate limits and affinity.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    http: reqwest::Client,
    base: Url,
    authorization: Option<http::HeaderValue>,
    timeout: Duration,
    patience: Duration,
    longest_body: usize,
    gate: Gate,
    affinity: Mutex<Affinity>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("base", &self.shared.base.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// [`ConfigError`] if the address, the token or the system's certificates cannot be used.
    pub fn new(config: ClientConfig) -> Result<Self, ConfigError> {
        let base = parse_base(&config.base_url)?;
        let authorization = config.token.as_ref().map(authorization).transpose().map_err(ConfigError::Token)?;
        let user_agent = http::HeaderValue::try_from(config.user_agent).map_err(|_| ConfigError::UserAgent)?;
        let mut http = reqwest::Client::builder()
            .user_agent(user_agent)
            .connect_timeout(config.connect_timeout)
            // A connection that the other side has just dropped turns a create into a doubt: keep few of them.
            .pool_idle_timeout(Duration::from_secs(15))
            // A redirect would take the token somewhere else.
            .redirect(reqwest::redirect::Policy::none())
            // What may be repeated is decided in one place.
            .retry(reqwest::retry::never());
        if base.scheme() == "http" {
            // No certificate is looked at here, so none need be installed; loopback and 6PN need no proxy either.
            http = http.tls_certs_only([]).no_proxy();
        }
        let http = http.build().map_err(|error| ConfigError::Tls(error.into()))?;
        Ok(Self {
            shared: Arc::new(Shared {
                http,
                base,
                authorization,
                timeout: config.timeout,
                patience: config.patience,
                longest_body: config.longest_body,
                gate: Gate::new(config.limits),
                affinity: Mutex::default(),
            }),
        })
    }

    /// Sends a request, repeats it where that is safe, for as long as the configuration's patience lasts (or one
    /// answer may take), and reads the answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send<T>(&self, request: Request<T>) -> Result<T, Error> {
        let budget = self.shared.patience.max(self.shared.answer_timeout(&request));
        self.repeat(request, budget, budget).await
    }

    /// [`Client::send`] with a deadline of its own: neither waiting for a token, nor for an answer, nor repeating
    /// goes beyond it. It may be longer than the configuration's patience: then one answer may take that long, and
    /// repeating ends earlier.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn send_within<T>(&self, request: Request<T>, budget: Duration) -> Result<T, Error> {
        self.repeat(request, budget.min(self.shared.patience), budget).await
    }

    async fn repeat<T>(&self, request: Request<T>, patience: Duration, budget: Duration) -> Result<T, Error> {
        let now = Instant::now();
        let after = |time| now.checked_add(time).unwrap_or(now + Duration::from_secs(86_400));
        let (until, deadline) = (after(patience), after(budget));
        retry::repeat(request.idempotence(), until, || self.shared.attempt(&request, deadline)).await
    }

    /// Sends a list request for page after page, and joins them. `page` builds the request for a cursor.
    ///
    /// # Errors
    /// See [`Error`]; also when the pages do not end.
    pub async fn all<T: Paged>(&self, page: impl Fn(Option<String>) -> Request<T>) -> Result<T, Error> {
        let first = page(None);
        let endless = Exchange::new(first.method(), first.path());
        let mut list = self.send(first).await?;
        for _ in 1..MOST_PAGES {
            let Some(cursor) = list.next_cursor().map(str::to_owned) else {
                return Ok(list);
            };
            list.append(self.send(page(Some(cursor))).await?);
        }
        match list.next_cursor() {
            None => Ok(list),
            Some(_) => Err(Error::not_done(Cause::TooManyPages, endless, None)),
        }
    }
}

fn parse_base(text: &str) -> Result<Url, ConfigError> {
    let base = Url::parse(text.trim().trim_end_matches('/')).map_err(|error| ConfigError::Url(error.into()))?;
    let plain =
        base.username().is_empty() && base.password().is_none() && base.query().is_none() && base.fragment().is_none();
    if plain && base.has_host() && matches!(base.scheme(), "http" | "https") {
        Ok(base)
    } else {
        Err(ConfigError::UrlParts)
    }
}

impl Shared {
    fn answer_timeout<T>(&self, request: &Request<T>) -> Duration {
        self.timeout.max(request.min_timeout().unwrap_or_default())
    }

    /// Sends a request once.
    async fn attempt<T>(&self, request: &Request<T>, deadline: Instant) -> Result<T, Error> {
        let exchange = || Exchange::new(request.method(), request.path());
        let idempotence = request.idempotence();

        let Some(url) = self.url(request) else {
            return Err(Error::not_done(Cause::Unsendable, exchange(), None));
        };
        if let Err(shut) = self.gate.pass(request.bucket(), left(deadline)).await {
            let mut exchange = exchange();
            exchange.retry_after = Some(shut.wait);
            return Err(Error::not_done(Cause::BucketShut, exchange, None));
        }

        let timeout = self.answer_timeout(request).min(left(deadline));
        if timeout.is_zero() {
            return Err(Error::not_done(Cause::Deadline, exchange(), None));
        }
        let begun = Instant::now();
        let response = self
            .build(request, url, timeout)
            .send()
            .await
            .map_err(|error| unanswered(idempotence, exchange(), error))?;
        let status = response.status();
        let mut exchange = exchange();
        exchange.status = Some(status.as_u16());
        exchange.request_id = header(&response, REQUEST_ID);
        exchange.retry_after = retry_after(&response);
        let next_cursor = header(&response, NEXT_CURSOR);
        self.keep_affinity(request, &response);
        tracing::debug!(
            method = %request.method(),
            path = request.path(),
            status = status.as_u16(),
            request_id = exchange.request_id.as_deref(),
            elapsed = ?begun.elapsed(),
            "answer"
        );

        if !status.is_success() {
            // An error is an error, however little of it can be read.
            let (body, _) = read_body(response, LONGEST_ERROR).await;
            let error = Error::from_answer(idempotence, status.as_u16(), exchange.with_body(&body));
            let settled = error.reason().and_then(|reason| request.settle(reason));
            return settled.ok_or(error);
        }
        let body = match read_body(response, self.longest_body).await {
            (body, BodyEnd::Complete) => body,
            (_, BodyEnd::TooLong) => {
                return Err(Error::unclear(idempotence, Cause::TooLarge, exchange, None));
            }
            (_, BodyEnd::Broken(error)) => return Err(unanswered(idempotence, exchange, error)),
        };
        request.read(&body, next_cursor.as_deref()).map_err(|error| {
            // A body of the wrong shape may hold secrets in the wrong place; one that is no JSON is a proxy's page.
            if serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_err() {
                exchange.raw_body = keep_raw(&body);
            }
            Error::unclear(idempotence, Cause::Undecodable, exchange, Some(error.into()))
        })
    }

    /// `None` if the path would not arrive as it was meant.
    fn url<T>(&self, request: &Request<T>) -> Option<Url> {
        if !is_sendable(request.path()) {
            return None;
        }
        let path = format!("{}{}", self.base.path().trim_end_matches('/'), request.path());
        let mut url = self.base.clone();
        url.set_path(&path);
        if url.path() != path {
            return None;
        }
        if !request.query().is_empty() {
            url.query_pairs_mut().extend_pairs(request.query());
        }
        Some(url)
    }

    fn build<T>(&self, request: &Request<T>, url: Url, timeout: Duration) -> reqwest::RequestBuilder {
        let mut http = self.http.request(request.method().clone(), url).timeout(timeout);
        if let Some(authorization) = &self.authorization {
            http = http.header(AUTHORIZATION, authorization);
        }
        if let Some(nonce) = request.lease_nonce() {
            http = http.header(LEASE_NONCE, nonce);
        }
        let cookie = self.affinity.lock().unwrap_or_else(PoisonError::into_inner).header(request.path());
        if let Some(cookie) = cookie {
            http = http.header(COOKIE, cookie);
        }
        if let Some(body) = request.body() {
            http = http.header(CONTENT_TYPE, "application/json").body(body.to_vec());
        }
        http
    }

    fn keep_affinity<T>(&self, request: &Request<T>, response: &reqwest::Response) {
        let mut cookies = response.headers().get_all(SET_COOKIE).iter().peekable();
        if cookies.peek().is_none() {
            return;
        }
        let mut affinity = self.affinity.lock().unwrap_or_else(PoisonError::into_inner);
        for cookie in cookies.filter_map(|value| value.to_str().ok()) {
            affinity.store(cookie, request.path());
        }
    }
}

/// Sorts what went wrong before there was a whole answer.
fn unanswered(idempotence: Idempotence, exchange: Exchange, error: reqwest::Error) -> Error {
    // The path is in the message already.
    let error = error.without_url();
    let source = |error: reqwest::Error| Some(Source::from(error));
    if error.is_builder() {
        Error::not_done(Cause::Unsendable, exchange, source(error))
    } else if error.is_connect() {
        // Also when the time for connecting ran out: nothing was sent.
        Error::not_done(Cause::Connect, exchange, source(error))
    } else if error.is_timeout() {
        Error::unclear(idempotence, Cause::Timeout, exchange, source(error))
    } else {
        Error::unclear(idempotence, Cause::Broken, exchange, source(error))
    }
}

enum BodyEnd {
    Complete,
    TooLong,
    Broken(reqwest::Error),
}

/// Reads a body up to `longest` bytes, and says how it ended.
async fn read_body(mut response: reqwest::Response, longest: usize) -> (Vec<u8>, BodyEnd) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                let room = longest - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return (body, BodyEnd::TooLong);
                }
            }
            Ok(None) => return (body, BodyEnd::Complete),
            Err(error) => return (body, BodyEnd::Broken(error)),
        }
    }
}

fn header(response: &reqwest::Response, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Whole seconds. The other form, a date, is not seen on this API and would need a clock that agrees.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}
