//! Health checks of running machines.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::world::Boot;
use crate::world::config::{Check, HttpCheck};
use crate::world::machine::CheckStatus;
use crate::world::report::Report;
use crate::world::time::Millis;

use super::Inner;

/// Runs the checks of a boot until the token is cancelled.
pub(super) fn watch(inner: &Arc<Inner>, boot: &Boot) -> CancellationToken {
    let token = CancellationToken::new();
    let config = &boot.machine.config;
    if config.checks.is_empty() {
        return token;
    }
    let first = |check: &Check| CheckStatus {
        name: check.name.clone(),
        status: "warning".to_owned(),
        output: "the check has not run yet".to_owned(),
        updated_at: now(),
    };
    let statuses: Arc<Mutex<Vec<CheckStatus>>> = Arc::new(Mutex::new(config.checks.iter().map(first).collect()));
    for (n, check) in config.checks.iter().cloned().enumerate() {
        let (inner, statuses, token) = (Arc::clone(inner), Arc::clone(&statuses), token.clone());
        let (app, machine, run, address) =
            (boot.app.clone(), boot.machine.id.clone(), boot.run, boot.machine.address.clone());
        tokio::spawn(async move {
            let began = Instant::now();
            loop {
                let result = tokio::select! {
                    result = probe(&address, &check) => result,
                    () = token.cancelled() => return,
                };
                let in_grace = began.elapsed() < Duration::from_millis(check.grace_ms);
                let (status, output) = match result {
                    Ok(output) => ("passing", output),
                    Err(output) if in_grace => ("warning", output),
                    Err(output) => ("critical", output),
                };
                let changed = {
                    let mut statuses = statuses.lock().unwrap_or_else(PoisonError::into_inner);
                    let changed = statuses[n].status != status;
                    if changed {
                        status.clone_into(&mut statuses[n].status);
                        statuses[n].updated_at = now();
                    }
                    statuses[n].output = output;
                    changed.then(|| statuses.clone())
                };
                if let Some(checks) = changed {
                    let (app, machine) = (app.clone(), machine.clone());
                    inner.report(Report::Checked { app, machine, run, checks });
                }
                // A machine that comes up is looked at more often than one that runs.
                let pause = if status == "passing" { check.interval_ms } else { check.interval_ms.min(1000) };
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(pause)) => {}
                    () = token.cancelled() => return,
                }
            }
        });
    }
    token
}

fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

async fn probe(address: &str, check: &Check) -> Result<String, String> {
    let limit = Duration::from_millis(check.timeout_ms);
    let attempt = async {
        // An IPv6 address needs brackets before a port.
        let to = match address.contains(':') {
            true => format!("[{address}]:{}", check.port),
            false => format!("{address}:{}", check.port),
        };
        let stream = TcpStream::connect(&to).await.map_err(|error| format!("connect to {to}: {error}"))?;
        match &check.http {
            None => Ok("Success".to_owned()),
            Some(http) => request(stream, &to, http).await,
        }
    };
    tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| Err("timed out".to_owned()))
}

/// Longest answer that is read.
const MOST: u64 = 4096;

async fn request(mut stream: TcpStream, to: &str, http: &HttpCheck) -> Result<String, String> {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n", http.method, http.path);
    for (name, value) in &http.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer).await.map_err(|error| error.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim();
    match status.len() == 3 && status.starts_with('2') {
        true => Ok(body.to_owned()),
        false => Err(format!("status {status}: {body}")),
    }
}
