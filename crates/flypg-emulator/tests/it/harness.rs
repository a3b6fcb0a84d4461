//! An emulator and a client that knows nothing about it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flypg_emulator::{Config, Emulator, EmulatorHandle, ImageTable, RuntimeKind};
use reqwest::Method;
use serde_json::{Value, json};

pub(crate) struct Api {
    pub(crate) emulator: EmulatorHandle,
    _leftovers: Leftovers,
    client: reqwest::Client,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) text: String,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Answer {
    pub(crate) fn error(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        self.body
    }

    #[track_caller]
    pub(crate) fn refused(self, status: u16, error: &str) {
        assert_eq!((self.status, self.error()), (status, error), "{}", self.text);
    }
}

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Kills what a failed test leaves running.
struct Leftovers(Option<PathBuf>);

impl Drop for Leftovers {
    fn drop(&mut self) {
        if let Some(data) = self.0.as_ref().filter(|_| std::thread::panicking()) {
            let pids = crate::processes::survivors(data);
            // The test has failed anyway.
            let _ = std::process::Command::new("kill").arg("-9").args(pids).status();
        }
    }
}

impl Api {
    pub(crate) async fn model() -> Self {
        Self::start(Config { seed: Some(1), ..Config::default() }).await
    }

    pub(crate) async fn processes(data: &Path, images: ImageTable) -> Self {
        let data = Some(data.to_path_buf());
        Self::start(Config { data, images, runtime: RuntimeKind::Process, ..Config::default() }).await
    }

    pub(crate) async fn start(config: Config) -> Self {
        let leftovers = Leftovers(config.data.clone());
        let emulator = Emulator::start(config).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { emulator, _leftovers: leftovers, client }
    }

    /// A request with anything in it.
    pub(crate) async fn raw(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> reqwest::Result<Answer> {
        let mut request = self.client.request(method, format!("{}{path}", self.emulator.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await?;
        Ok(Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::Null), text, headers })
    }

    pub(crate) async fn call(&self, method: Method, path: &str, nonce: Option<&str>, body: Option<Value>) -> Answer {
        let mut headers = vec![("authorization", "Bearer test")];
        headers.extend(nonce.map(|nonce| ("fly-machine-lease-nonce", nonce)));
        self.raw(method, path, &headers, body.map(|body| body.to_string())).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.call(Method::POST, path, None, Some(body)).await
    }

    pub(crate) async fn post_empty(&self, path: &str) -> Answer {
        self.call(Method::POST, path, None, None).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.call(Method::PUT, path, None, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, None, None).await
    }

    pub(crate) async fn knobs(&self, knobs: Value) {
        self.call(Method::PATCH, "/_knobs", None, Some(knobs)).await.expect(200);
    }

    pub(crate) async fn fault(&self, fault: Value) -> Answer {
        self.post("/_faults", fault).await
    }

    pub(crate) async fn app(&self, name: &str) {
        self.post("/v1/apps", json!({"name": name, "org_slug": "personal"})).await.expect(201);
    }

    /// Creates a machine of app `db` and returns its id.
    pub(crate) async fn machine(&self, body: Value) -> String {
        let body = self.post("/v1/apps/db/machines", body).await.expect(200);
        body["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn volume(&self, body: Value) -> String {
        let body = self.post("/v1/apps/db/volumes", body).await.expect(200);
        body["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn wait(&self, machine: &str, state: &str) {
        self.get(&format!("/v1/apps/db/machines/{machine}/wait?state={state}&timeout=20")).await.expect(200);
    }

    /// A machine of app `db` that is up.
    pub(crate) async fn started(&self, body: Value) -> String {
        let id = self.machine(body).await;
        self.wait(&id, "started").await;
        id
    }

    pub(crate) async fn show(&self, machine: &str) -> Value {
        self.get(&format!("/v1/apps/db/machines/{machine}")).await.expect(200)
    }

    /// Runs `sh -c` in a machine of app `db`.
    pub(crate) async fn sh(&self, machine: &str, script: &str) -> Value {
        let body = json!({"command": ["/bin/sh", "-c", script], "timeout": 10});
        self.post(&format!("/v1/apps/db/machines/{machine}/exec"), body).await.expect(200)
    }

    /// Looks until `good` or the deadline.
    pub(crate) async fn until(&self, path: &str, good: impl Fn(&Answer) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = self.get(path).await;
            if good(&answer) {
                return answer.body;
            }
            assert!(Instant::now() < deadline, "{path} stayed {}", answer.text);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Looks until `good` or the deadline.
pub(crate) async fn until(what: &str, mut good: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !good() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The smallest config.
pub(crate) fn config() -> Value {
    json!({"image": "registry.fly.io/orders-db:1"})
}
