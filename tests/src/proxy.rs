//! A door between the controller and the Machines API that can take the controller's life at an exact call.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// When the client dies, relative to the call that kills it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The call is not made.
    Before,
    /// The call is made, the answer is not seen.
    After,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    http: reqwest::Client,
    /// Calls of any kind that came through.
    requests: AtomicUsize,
    trap: Mutex<Option<Trap>>,
}

#[derive(Debug, Clone, Copy)]
struct Trap {
    pid: i32,
    /// So many mutating calls from now.
    after: usize,
    death: Death,
}

/// Forwards everything; counts what changes something.
#[derive(Debug)]
pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: reqwest::Client::builder().tls_certs_only([]).build().expect("a client for plain HTTP"),
            requests: AtomicUsize::new(0),
            trap: Mutex::new(None),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().fallback(forward).with_state(Arc::clone(&shared));
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { url, shared, task }
    }

    /// How many calls came through so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The `after`th mutating call from now (1 is the next) is the last one that `pid` makes.
    pub fn kill_at(&self, pid: i32, after: usize, death: Death) {
        *self.shared.trap.lock().unwrap() = Some(Trap { pid, after, death });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    shared.requests.fetch_add(1, Ordering::SeqCst);
    let mutates = request.method() != Method::GET;
    let sprung = if mutates {
        let mut trap = shared.trap.lock().unwrap();
        if let Some(set) = trap.as_mut() {
            set.after = set.after.saturating_sub(1);
        }
        trap.take_if(|set| set.after == 0)
    } else {
        None
    };
    if let Some(Trap { pid, death: Death::Before, .. }) = sprung {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let answer = pass_on(&shared, request).await;
    if let Some(Trap { pid, .. }) = sprung {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    answer.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
}

async fn pass_on(shared: &Shared, request: Request) -> Result<Response, reqwest::Error> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let body: Bytes = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let mut headers = parts.headers;
    headers.remove("host");
    let answer = shared
        .http
        .request(parts.method, format!("{}{path}", shared.upstream))
        .headers(headers)
        .body(body)
        .send()
        .await?;
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        response = response.header(name, value);
    }
    let bytes = answer.bytes().await?;
    Ok(response.body(bytes.into()).unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response()))
}
