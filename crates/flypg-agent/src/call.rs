//! `flypg-agent call METHOD PATH`: the same API from inside the Machine, for a controller that reaches it through
//! Fly's `exec` only. Plain HTTP/1.1 to one address, so no HTTP client is needed.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use flypg_core::keys::Key;
use flypg_core::protocol::ports;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Config;

/// Longer than the agent may take to answer anything.
const PATIENCE: Duration = Duration::from_secs(100);

/// The call was not answered. Whether it was carried out is not known unless it could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Usage(&'static str),
    #[error("the agent cannot be reached; nothing was done")]
    Connect(#[source] io::Error),
    #[error("the agent did not answer; the call may have been carried out")]
    Io(#[source] io::Error),
    #[error("the agent did not answer in time; the call may have been carried out")]
    TooSlow,
    #[error("the agent's answer is not HTTP; the call may have been carried out")]
    NotHttp,
}

/// Status and body of the answer.
pub async fn call(config: &Config, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>), CallError> {
    let clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !method.bytes().all(|b| b.is_ascii_uppercase()) || !path.starts_with('/') || !clean(path) {
        return Err(CallError::Usage("a call is a METHOD and a PATH, such as GET /v1/report"));
    }
    call_at(SocketAddr::new(config.address, ports::API), &config.key, method, path, body).await
}

/// The same, of the agent at `to`. Method and path are words of a request line.
pub async fn call_at(
    to: SocketAddr,
    key: &Key,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(u16, Vec<u8>), CallError> {
    let mut stream = TcpStream::connect(to).await.map_err(CallError::Connect)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        key.expose(),
        body.len()
    );
    let exchange = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.map_err(|_| CallError::TooSlow)?.map_err(CallError::Io)?;
    split(&answer).ok_or(CallError::NotHttp)
}

/// The agent closes after its answer and always gives a length, so what follows the head is the body.
fn split(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = head.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let body = answer.get(end + 4..end + 4 + length?)?;
    Some((status, body.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_or_nothing() {
        let answer = b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(split(answer), Some((409, b"{}".to_vec())));
        assert_eq!(split(&answer[..answer.len() - 1]), None);
        assert_eq!(split(b"SSH-2.0-OpenSSH\r\n\r\n"), None);
    }
}
