use std::net::SocketAddr;

use flypg_core::Timestamp;
use flypg_core::observed::{Observed, Seen};
use reqwest::Method;

use super::*;
use crate::events::{Event, What};
use crate::orders::tests::status;
use crate::turn::Wanted;

const TOKEN: &str = "a secret";

/// The endpoints of a controller that keeps `orders-db`, led by `ord-1`.
struct Rig {
    at: SocketAddr,
    vigils: Arc<Vigils>,
    events: tempfile::TempDir,
    stop: CancellationToken,
    http: reqwest::Client,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Rig {
    async fn start(token: Option<&str>) -> Self {
        let board = Arc::new(Board::default());
        board.post(Posted {
            at: Timestamp::UNIX_EPOCH,
            wanted: Wanted::Kept(crate::tests::spec("orders-db")),
            observed: Observed { record: Seen::at(Timestamp::UNIX_EPOCH, None), ..Observed::default() },
            status: status(Some("ord-1"), 4, "established", &["ord-1", "ord-2", "ord-3"]),
        });
        let vigils = Arc::new(Vigils::new(false));
        let events = tempfile::tempdir().unwrap();
        let shown = Shown {
            board,
            vigils: Arc::clone(&vigils),
            events: events.path().to_owned(),
            metrics: Arc::new(Metrics::new().unwrap()),
            token: token.map(str::to_owned),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, shown, stop.clone()));
        let http = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        Self { at, vigils, events, stop, http }
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("http://{}{path}", self.at))
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        answer(self.request(Method::GET, path)).await
    }

    async fn order(&self, cluster: &str, order: &Value) -> (u16, Value) {
        answer(self.request(Method::POST, &format!("/v1/clusters/{cluster}/orders")).json(order)).await
    }

    /// What stands in the vigil for the next plan.
    fn ordered(&self) -> Option<Order> {
        let reading = crate::store::Reading { record: None, leads: true };
        let now = clock::mono();
        self.vigils.of(&"orders-db".parse().unwrap()).watch(&reading, None, now, now).order
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
}

fn switchover(to: &str) -> Value {
    json!({ "is": "switchover", "to": to })
}

#[tokio::test]
async fn an_order_is_taken_and_the_next_one_takes_its_place() {
    let rig = Rig::start(None).await;
    assert_eq!(rig.ordered(), None);
    let (code, goal) = rig.order("orders-db", &switchover("ord-2")).await;
    assert_eq!((code, &goal["primary"], &goal["reign"]), (202, &json!("ord-1"), &json!(4)));
    assert_eq!(rig.ordered(), Some(Order::Switchover { to: Some("ord-2".parse().unwrap()) }));
    assert_eq!(rig.order("orders-db", &switchover("ord-3")).await.0, 202);
    assert_eq!(rig.ordered(), Some(Order::Switchover { to: Some("ord-3".parse().unwrap()) }));
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused_with_the_reason() {
    let rig = Rig::start(None).await;
    let reckless = json!({ "is": "failover", "to": "ord-2", "accept_data_loss": false });
    for (cluster, order, code, words) in [
        ("nobody-db", switchover("ord-2"), 404, "no such cluster"),
        ("orders-db", switchover("ord-1"), 409, "leads `orders-db` already"),
        ("orders-db", switchover("ord-9"), 409, "has no node ord-9; there are ord-1, ord-2, ord-3"),
        ("orders-db", switchover("2"), 422, "to"),
        ("orders-db", reckless, 409, "may lose what was acknowledged"),
        ("orders-db", json!({ "is": "destroy" }), 422, "unknown variant `destroy`"),
        ("orders-db", json!([]), 422, ""),
    ] {
        let (status, answer) = rig.order(cluster, &order).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(status == code && error.contains(words), "{order}: {status} {answer}");
    }
    // Not JSON, and not said to be JSON: what a page in a browser can send.
    let path = "/v1/clusters/orders-db/orders";
    let text = switchover("ord-2").to_string();
    assert_eq!(answer(rig.request(Method::POST, path).body(text)).await.0, 415);
    let broken = rig.request(Method::POST, path).header("content-type", "application/json").body("{");
    assert_eq!(answer(broken).await.0, 400);
    assert_eq!(rig.get(path).await.0, 405);
    assert_eq!(rig.ordered(), None);
}

#[tokio::test]
async fn whoever_lacks_the_token_learns_and_orders_nothing() {
    let rig = Rig::start(Some(TOKEN)).await;
    let orders = "/v1/clusters/orders-db/orders";
    for path in ["/v1/clusters", "/v1/clusters/orders-db/status", "/v1/clusters/orders-db/events", orders] {
        for given in [None, Some("another"), Some("")] {
            let method = if path == orders { Method::POST } else { Method::GET };
            let request = rig.request(method, path).json(&switchover("ord-2"));
            let request = given.into_iter().fold(request, |request, token| request.bearer_auth(token));
            let (code, answer) = answer(request).await;
            assert_eq!(code, 401, "{path} with {given:?}");
            assert!(answer["error"].as_str().is_some_and(|error| error.contains("Bearer")), "{answer}");
        }
    }
    assert_eq!(rig.ordered(), None);
    assert_eq!(answer(rig.request(Method::GET, "/v1/clusters").bearer_auth(TOKEN)).await.0, 200);
    // These say nothing that a stranger should not know.
    assert_eq!(rig.request(Method::GET, "/healthz").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn events_are_told_oldest_first_and_half_a_line_is_none() {
    let rig = Rig::start(None).await;
    assert_eq!(rig.get("/v1/clusters/nobody-db/events").await.0, 404);
    assert_eq!(rig.get("/v1/clusters/orders-db/events").await, (200, json!({ "events": [] })));
    let event = |second, what| Event {
        at: Timestamp::from_second(second).unwrap(),
        what,
        node: Some("ord-1".parse().unwrap()),
        epoch: Some(4),
        message: "it was seen".to_owned(),
    };
    let line = |event: &Event| serde_json::to_string(event).unwrap();
    let text = format!("{}\n{}\n{{\"at\": \"19", line(&event(1, What::NodeDown)), line(&event(2, What::NodeUp)));
    std::fs::write(rig.events.path().join("orders-db.jsonl"), text).unwrap();
    let (code, told) = rig.get("/v1/clusters/orders-db/events").await;
    let what: Vec<&str> = told["events"].as_array().unwrap().iter().map(|e| e["what"].as_str().unwrap()).collect();
    assert_eq!((code, what), (200, vec!["node-down", "node-up"]));
}
