//! Servers, and proxies before them, that do HTTP in ways of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flypg_machines::types::{CreateMachine, Machine};
use flypg_machines::{Cause, Client, ClientConfig, Error, Limits, Page, Request, machines};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const MACHINE: &str = r#"{"id":"3d8d413b29d089","name":"ord-1","state":"created"}"#;

fn list() -> Request<Page<Machine>> {
    machines::list("orders-db", &Default::default())
}

fn create() -> Request<Machine> {
    machines::create("orders-db", &CreateMachine { name: Some("ord-1".to_owned()), ..Default::default() })
}

/// Answers every request with these pieces, a pause before each but the first, and closes. Counts the requests.
struct Raw {
    url: String,
    requests: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Raw {
    async fn start(pieces: &[&str], pause: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let pieces: Vec<String> = pieces.iter().map(|piece| (*piece).to_owned()).collect();
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                counted.fetch_add(1, Ordering::SeqCst);
                for (n, piece) in pieces.iter().enumerate() {
                    if n > 0 {
                        tokio::time::sleep(pause).await;
                    }
                    // The client may have given up.
                    if stream.write_all(piece.as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        Self { url, requests, task }
    }

    async fn at_once(answer: &str) -> Self {
        Self::start(&[answer], Duration::ZERO).await
    }

    fn client(&self) -> Client {
        let config = ClientConfig::new(&self.url).with_limits(Limits::none());
        Client::new(ClientConfig { timeout: Duration::from_secs(1), patience: Duration::ZERO, ..config }).unwrap()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn every_framing_of_a_whole_answer_is_read() {
    let length = MACHINE.len();
    let (half, rest) = MACHINE.split_at(20);
    for answer in [
        format!("HTTP/1.0 200 OK\r\n\r\n{MACHINE}"),
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{MACHINE}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{MACHINE}"),
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{MACHINE}"),
        format!(
            "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{MACHINE}"
        ),
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n14\r\n{half}\r\n{:x};ext=1\r\n{rest}\r\n0\r\nx: y\r\n\r\n",
            rest.len()
        ),
        format!("HTTP/1.1 200\r\nContent-Type: text/html\r\ncontent-length: {length}\r\n\r\n{MACHINE}"),
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n\u{feff}{MACHINE}", length + 3),
    ] {
        let server = Raw::at_once(&answer).await;
        match server.client().send(create()).await {
            Ok(machine) => assert_eq!(machine.id, "3d8d413b29d089", "{answer}"),
            // No JSON starts with a byte order mark.
            Err(error) => assert!(answer.contains('\u{feff}') && error.may_have_happened(), "{answer}\n{error:?}"),
        }
    }
}

#[tokio::test]
async fn half_an_answer_to_a_create_is_a_doubt_and_to_a_read_is_nothing() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 200\r\n\r\n{\"id\":",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n14\r\n{\"id\":\"3d8d413b2",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        "HTTP/1.0 200 OK\r\n\r\n{\"id\":",
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\u{1f}\u{7f}\u{8}\u{0}",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 7\r\n\r\n[]",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0",
        "",
    ] {
        let server = Raw::at_once(answer).await;
        let error = server.client().send(create()).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { .. }), "{answer:?}: {error:?}");
        assert_eq!(server.requests(), 1, "a create is sent once: {answer:?}");
        let error = server.client().send(list()).await.unwrap_err();
        assert!(matches!(error, Error::NotDone { .. }), "{answer:?}: {error:?}");
    }
}

#[tokio::test]
async fn redirects_are_not_followed_whatever_their_kind() {
    for status in [300, 301, 302, 303, 304, 307, 308] {
        let elsewhere = Raw::at_once("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]").await;
        let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url);
        let server = Raw::at_once(&answer).await;
        let error = server.client().send(create()).await.unwrap_err();
        assert_eq!(error.cause(), Some(Cause::UnexpectedStatus), "{status}: {error:?}");
        assert_eq!(elsewhere.requests(), 0);
    }
}

#[tokio::test]
async fn an_answer_in_drops_does_not_hold_a_client_for_ever() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n";
    let drops: Vec<&str> = std::iter::once(head).chain(std::iter::repeat_n("x", 1000)).collect();
    let server = Raw::start(&drops, Duration::from_millis(50)).await;
    let begun = Instant::now();
    let error = server.client().send(create()).await.unwrap_err();
    assert!(matches!(error, Error::MaybeDone { cause: Cause::Timeout, .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn heads_without_end_are_given_up() {
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 2\r\n\r\n[]", "y".repeat(2 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 2\r\n\r\n[]", "x: y\r\n".repeat(5000));
    for answer in [long, many] {
        let server = Raw::at_once(&answer).await;
        let error = server.client().send(create()).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn errors_keep_what_little_there_is() {
    for (answer, kept) in [
        ("HTTP/1.1 503 \r\ncontent-length: 100\r\n\r\nupstream", Some("upstream")),
        ("HTTP/1.1 502 Bad Gateway\r\ntransfer-encoding: chunked\r\n\r\n4\r\noops\r\n", Some("oops")),
        ("HTTP/1.1 500 x\r\ncontent-length: 0\r\nfly-request-id: r\r\n\r\n", None),
        ("HTTP/1.0 504 x\r\n\r\n\u{fffd}\u{0}", Some("\u{fffd}\u{0}")),
    ] {
        let error = Raw::at_once(answer).await.client().send(create()).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { cause: Cause::Unavailable, .. }), "{answer:?}: {error:?}");
        assert_eq!(error.exchange().raw_body.as_deref(), kept, "{answer:?}");
    }
}
