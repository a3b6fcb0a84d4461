//! The sender against real sockets.

use std::time::{Duration, Instant};

use flypg_machines::bucket::Rate;
use flypg_machines::lifecycle::{self, Wait, Waited};
use flypg_machines::types::*;
use flypg_machines::{
    BODY_KEPT, Cause, Client, ClientConfig, Error, Limits, Page, Reason, Removal, Request, apps, machines, orgs,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::server::{Answer, Server};

const MACHINE: &str = r#"{"id":"3d8d413b29d089","name":"ord-1","state":"created"}"#;

fn list() -> Request<Page<Machine>> {
    machines::list("orders-db", &Default::default())
}

fn create() -> Request<Machine> {
    machines::create("orders-db", &CreateMachine { name: Some("ord-1".to_owned()), ..Default::default() })
}

fn stop() -> Request<Ack> {
    lifecycle::stop("orders-db", "m1", &StopMachine::default())
}

#[tokio::test]
async fn a_read_is_repeated_after_a_server_error() {
    for status in [500, 502, 503, 504, 408] {
        let server = Server::start([Answer::new(status, "bad gateway"), Answer::new(200, "[]")]).await;
        assert_eq!(server.client().send(list()).await.unwrap().items, [], "{status}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn a_create_is_not() {
    for status in [500, 502, 503, 504, 408] {
        let answer = Answer::new(status, "<html>bad gateway</html>").header("fly-request-id", "01J-yyz");
        let server = Server::start([answer, Answer::new(200, MACHINE)]).await;
        let error = server.client().send(create()).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { cause: Cause::Unavailable, .. }), "{error:?}");
        let exchange = error.exchange();
        assert_eq!(exchange.raw_body.as_deref(), Some("<html>bad gateway</html>"));
        assert_eq!((exchange.status, exchange.request_id.as_deref()), (Some(status), Some("01J-yyz")));
        assert_eq!((exchange.method.as_str(), exchange.path.as_str()), ("POST", "/v1/apps/orders-db/machines"));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn what_may_be_done_twice_is_repeated() {
    let server = Server::start([Answer::new(502, ""), Answer::new(200, r#"{"ok":true}"#)]).await;
    assert_eq!(server.client().send(stop()).await.unwrap(), Ack::ok());
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn too_many_requests_is_waited_out_even_for_a_create() {
    let throttled = Answer::new(429, r#"{"error":"rate limit exceeded"}"#);
    let server = Server::start([throttled.clone(), throttled.clone(), Answer::new(200, MACHINE)]).await;
    assert_eq!(server.client().send(create()).await.unwrap().id, "3d8d413b29d089");
    assert_eq!(server.seen().len(), 3);

    let server = Server::start([throttled.header("retry-after", "1"), Answer::new(200, MACHINE)]).await;
    server.client().send(create()).await.unwrap();
    let seen = server.seen();
    assert!(seen[1].at - seen[0].at >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_pause_beyond_the_deadline_is_not_begun() {
    let server = Server::start([Answer::new(429, "{}").header("retry-after", "3600")]).await;
    let error = server.client().send(create()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::Throttled, .. }), "{error:?}");
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert_eq!((error.exchange().attempts, server.seen().len()), (1, 1));
}

#[tokio::test]
async fn repeating_ends_at_the_deadline() {
    let server = Server::start([Answer::new(503, "{}")]).await;
    let error = server.client().send_within(list(), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::Unavailable, .. }), "{error:?}");
    assert!(error.exchange().attempts > 1);
    assert_eq!(error.exchange().attempts as usize, server.seen().len());
}

#[tokio::test]
async fn without_time_nothing_is_sent() {
    let server = Server::start([Answer::new(200, MACHINE)]).await;
    let error = server.client().send_within(create(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::Deadline, .. }), "{error:?}");
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn nobody_listening_means_that_nothing_happened() {
    // Bound for as long as it is needed, so that nobody else is given the port, and not listening.
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let client = Client::new(ClientConfig::new(format!("http://{}", held.local_addr().unwrap()))).unwrap();
    let error = client.send_within(create(), Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::Connect, .. }), "{error:?}");
    assert!(error.exchange().attempts > 1 && !error.may_have_happened());
    assert!(std::error::Error::source(&error).is_some());
}

/// Reads a whole request, then does what `end` does with the connection. Counts the requests.
async fn breaking_server<F>(end: impl Fn(TcpStream) -> F + Send + 'static) -> (String, tokio::task::JoinHandle<()>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|window| window == b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            end(stream).await;
        }
    });
    (url, task)
}

#[tokio::test]
async fn a_connection_that_breaks_after_sending_leaves_a_doubt() {
    let reset = |stream: TcpStream| async move { stream.set_zero_linger().unwrap() };
    let half = |mut stream: TcpStream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"id\":").await.unwrap();
    };
    for (url, task) in [breaking_server(reset).await, breaking_server(half).await] {
        let client = Client::new(ClientConfig::new(&url)).unwrap();
        let error = client.send(create()).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { cause: Cause::Broken, .. }), "{error:?}");
        assert_eq!(error.exchange().attempts, 1);
        let error = client.send_within(list(), Duration::from_secs(2)).await.unwrap_err();
        assert!(matches!(error, Error::NotDone { cause: Cause::Broken, .. }), "{error:?}");
        assert!(error.exchange().attempts > 1);
        task.abort();
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_leaves_a_doubt_too() {
    let silent = |stream: TcpStream| async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        drop(stream);
    };
    let (url, task) = breaking_server(silent).await;
    let config = ClientConfig { timeout: Duration::from_millis(200), ..ClientConfig::new(&url) };
    let error = Client::new(config).unwrap().send(stop()).await.unwrap_err();
    // A stop that is held back by a lease is not piled up.
    assert!(matches!(error, Error::MaybeDone { cause: Cause::Timeout, .. }), "{error:?}");
    assert_eq!(error.exchange().attempts, 1);
    task.abort();
}

#[tokio::test]
async fn a_wait_may_take_longer_than_other_answers() {
    let answer = Answer::new(200, r#"{"ok":true,"state":"started"}"#).delay(Duration::from_millis(600));
    let server = Server::start([answer]).await;
    let config = ClientConfig { timeout: Duration::from_millis(200), patience: Duration::ZERO, ..server.config() };
    let client = Client::new(config).unwrap();
    let wait = Wait::until(WaitState::Started, Duration::from_secs(1));
    let waited = client.send(lifecycle::wait("orders-db", "m1", &wait)).await.unwrap();
    assert!(matches!(waited, Waited::Reached(_)), "{waited:?}");
    let error = client.send(list()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::Timeout, .. }), "{error:?}");
}

#[tokio::test]
async fn a_wait_for_the_end_of_a_machine_that_is_gone_is_over() {
    let absent = Answer::new(404, r#"{"error":"not_found: machine not found"}"#);
    let server = Server::start([absent]).await;
    let wait = |state| lifecycle::wait("orders-db", "m1", &Wait::until(state, Duration::from_secs(1)));
    assert_eq!(server.client().send(wait(WaitState::Destroyed)).await.unwrap(), Waited::Gone);
    assert!(server.client().send(wait(WaitState::Started)).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn removing_what_is_gone_is_done_but_a_wrong_address_is_not() {
    let server = Server::start([
        Answer::new(502, ""),
        Answer::new(404, r#"{"error":"not_found: machine not found"}"#),
        Answer::new(404, "404 page not found\n").header("content-type", "text/plain"),
    ])
    .await;
    let destroy = || machines::destroy("orders-db", "m1", true);
    assert_eq!(server.client().send(destroy()).await.unwrap(), Removal::Gone);
    let error = server.client().send(destroy()).await.unwrap_err();
    assert_eq!(error.reason(), Some(&Reason::NoSuchRoute));
    assert!(!error.is_not_found());
}

#[tokio::test]
async fn a_success_that_cannot_be_read_may_have_happened() {
    for body in ["<html>hello</html>", r#"{"name":"x"}"#, ""] {
        let server = Server::start([Answer::new(200, body)]).await;
        let error = server.client().send(create()).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { cause: Cause::Undecodable, .. }), "{error:?}");
        let kept = body.starts_with('<').then_some(body);
        assert_eq!(error.exchange().raw_body.as_deref(), kept);
        let error = server.client().send(list()).await.unwrap_err();
        assert!(matches!(error, Error::NotDone { cause: Cause::Undecodable, .. }), "{error:?}");
        assert_eq!(server.seen().len(), 2, "neither is repeated");
    }
}

#[tokio::test]
async fn bodies_are_bounded() {
    let huge = "x".repeat(4 * 1024 * 1024);
    let server = Server::start([Answer::new(404, huge.clone()), Answer::new(200, huge)]).await;
    let client = Client::new(ClientConfig { longest_body: 1024 * 1024, ..server.config() }).unwrap();
    let error = client.send(list()).await.unwrap_err();
    assert_eq!(error.exchange().raw_body.as_ref().map(String::len), Some(BODY_KEPT));
    let error = client.send(list()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::TooLarge, .. }), "{error:?}");
    let error = client.send(create()).await.unwrap_err();
    assert!(matches!(error, Error::MaybeDone { cause: Cause::TooLarge, .. }), "{error:?}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start([Answer::new(200, "[]")]).await;
    let server = Server::start([Answer::new(307, "").header("location", &elsewhere.url)]).await;
    let client = Client::new(server.config().with_token("secret")).unwrap();
    let error = client.send(list()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::UnexpectedStatus, .. }), "{error:?}");
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn the_affinity_cookie_stays_with_its_app() {
    let cookie = "fly_flaps_affinity=node-7; Path=/v1/apps/orders-db; HttpOnly";
    let created = Answer::new(201, r#"{"id":"x"}"#).header("set-cookie", cookie);
    let server = Server::start([created, Answer::new(200, "[]")]).await;
    let client = server.client();
    let app = CreateApp { name: "orders-db".to_owned(), org_slug: "acme".to_owned(), ..Default::default() };
    client.send(apps::create(&app)).await.unwrap();
    client.send(list()).await.unwrap();
    client.clone().send(list()).await.unwrap();
    client.send(machines::list("other", &Default::default())).await.unwrap();
    let sent: Vec<_> = server.seen().iter().map(|seen| seen.headers.get("cookie").cloned()).collect();
    let affinity = Some("fly_flaps_affinity=node-7".parse().unwrap());
    assert_eq!(sent, [None, affinity.clone(), affinity, None]);
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let page = |id: &str, next: Option<&str>| {
        let items = if id.is_empty() { "[]".to_owned() } else { format!(r#"[{{"id":"{id}"}}]"#) };
        let answer = Answer::new(200, items);
        next.iter().fold(answer, |answer, next| answer.header("fly-next-cursor", next))
    };
    // The second page is empty and still not the last.
    let server = Server::start([page("a", Some("c 1")), page("", Some("c2")), page("b", None)]).await;
    let request =
        |cursor| machines::list("orders-db", &machines::ListMachines { limit: Some(1), cursor, ..Default::default() });
    let all = server.client().all(request).await.unwrap();
    let ids: Vec<_> = all.items.iter().map(|machine| machine.id.as_str()).collect();
    assert_eq!((ids, all.next_cursor), (vec!["a", "b"], None));
    let asked: Vec<_> = server.seen().into_iter().map(|seen| seen.path_and_query).collect();
    let path = "/v1/apps/orders-db/machines?limit=1";
    assert_eq!(asked, [path.to_owned(), format!("{path}&cursor=c+1"), format!("{path}&cursor=c2")]);
}

#[tokio::test]
async fn pages_of_an_organisation_keep_their_gaps() {
    let server = Server::start([
        Answer::new(200, r#"{"machines":[{"id":"a"}],"next_cursor":"c","error_regions":["ams"]}"#),
        Answer::new(200, r#"{"machines":[{"id":"b"}],"error_regions":["ams","syd"],"last_machine_id":"b"}"#),
    ])
    .await;
    let request = |cursor| orgs::machines("acme", &orgs::ListOrgMachines { cursor, ..Default::default() });
    let all = server.client().all(request).await.unwrap();
    assert_eq!((all.machines.len(), all.error_regions), (2, vec!["ams".to_owned(), "syd".to_owned()]));
    assert_eq!(all.last_machine_id.as_deref(), Some("b"));
}

#[tokio::test]
async fn a_list_without_an_end_is_given_up() {
    let server = Server::start([Answer::new(200, "[]").header("fly-next-cursor", "again")]).await;
    let error = server.client().all(|_| list()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::TooManyPages, .. }), "{error:?}");
    assert_eq!(server.seen().len(), 1000);
}

/// A client that is held to `burst` requests at once, and one more `every` so often.
fn paced(server: &Server, every: Duration, burst: u32) -> Client {
    let limits = Limits { general: Some(Rate { every, burst }), ..Limits::none() };
    Client::new(server.config().with_limits(limits)).unwrap()
}

#[tokio::test]
async fn requests_wait_for_their_turn() {
    let server = Server::start([Answer::new(200, r#"{"ok":true}"#)]).await;
    let client = paced(&server, Duration::from_millis(200), 2);
    let begun = Instant::now();
    for _ in 0..4 {
        client.send(stop()).await.unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn a_turn_beyond_the_deadline_is_not_waited_for() {
    let server = Server::start([Answer::new(200, r#"{"ok":true}"#)]).await;
    let client = paced(&server, Duration::from_secs(3600), 3);
    for _ in 0..3 {
        client.send(stop()).await.unwrap();
    }
    let error = client.send(stop()).await.unwrap_err();
    assert!(matches!(error, Error::NotDone { cause: Cause::BucketShut, .. }), "{error:?}");
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(3000)));
    assert_eq!(server.seen().len(), 3);
    // Another Machine has a bucket of its own.
    client.send(lifecycle::stop("orders-db", "m2", &StopMachine::default())).await.unwrap();
}

#[tokio::test]
async fn an_identifier_that_would_name_something_else_is_not_sent() {
    let server = Server::start([Answer::new(200, "{}")]).await;
    for machine in ["", ".", ".."] {
        let error = server.client().send(machines::destroy("orders-db", machine, true)).await.unwrap_err();
        assert!(matches!(error, Error::NotDone { cause: Cause::Unsendable, .. }), "{error:?}");
    }
    assert!(server.seen().is_empty());
    server.client().send(machines::destroy("orders-db", "a/../b?c#%2e", true)).await.unwrap();
    let path = "/v1/apps/orders-db/machines/a%2F..%2Fb%3Fc%23%252e?force=true";
    assert_eq!(server.seen()[0].path_and_query, path);
}

#[tokio::test]
async fn a_lease_is_shown_where_it_is_held() {
    let server = Server::start([Answer::new(200, r#"{"ok":true}"#)]).await;
    server.client().send(stop().lease(Some("5c35f65c9f95"))).await.unwrap();
    server.client().send(stop().lease(None)).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen[0].headers["fly-machine-lease-nonce"], "5c35f65c9f95");
    assert!(!seen[1].headers.contains_key("fly-machine-lease-nonce"));
}

#[tokio::test]
async fn futures_of_the_client_can_be_spawned() {
    let server = Server::start([Answer::new(200, "[]")]).await;
    let client = server.client();
    let all = tokio::spawn(async move { client.all(|_| list()).await }).await.unwrap();
    assert_eq!(all.unwrap().items, []);
}
