//! What a lease blocks, and how.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::harness::{Api, config};

async fn leased(ttl: u64) -> (Api, String, String) {
    let api = Api::model().await;
    api.app("db").await;
    let id = api.started(json!({"config": config()})).await;
    let path = format!("/v1/apps/db/machines/{id}");
    let lease = api.post(&format!("{path}/lease"), json!({"ttl": ttl, "description": "failover 1"})).await.expect(201);
    (api, path, lease["data"]["nonce"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn calls_without_the_nonce() {
    let (api, path, nonce) = leased(3600).await;
    for (method, call, body) in [
        (Method::POST, "/lease", Some(json!({"ttl": 5}))),
        (Method::POST, "", Some(json!({"config": config()}))),
        (Method::POST, "/start", None),
        (Method::POST, "/restart", None),
        (Method::POST, "/suspend", None),
        (Method::POST, "/cordon", None),
        (Method::POST, "/uncordon", None),
        (Method::POST, "/exec", Some(json!({"command": ["true"]}))),
        (Method::DELETE, "/lease", None),
    ] {
        let answer = api.call(method.clone(), &format!("{path}{call}"), Some("wrong"), body).await;
        assert_eq!(answer.status, 409, "{method} {call}: {}", answer.text);
        let id = path.rsplit('/').next().unwrap();
        assert!(
            answer.error().starts_with(&format!("aborted: machine ID {id} lease currently held by ")),
            "{}",
            answer.error()
        );
        assert!(answer.error().contains("@tokens.fly.io, expires at 20"), "{}", answer.error());
    }
    for (method, call, body) in [
        (Method::GET, "", None),
        (Method::GET, "/wait?state=started", None),
        (Method::GET, "/lease", None),
        (Method::PATCH, "/metadata", Some(json!({"metadata": {"a": "b"}}))),
        (Method::POST, "/metadata/role", Some(json!({"value": "x"}))),
        (Method::POST, "/signal", Some(json!({"signal": "SIGUSR1"}))),
    ] {
        let answer = api.call(method.clone(), &format!("{path}{call}"), None, body).await;
        assert!(answer.status < 300, "{method} {call}: {}", answer.text);
    }
    // With it, everything goes through, and an update keeps it.
    let before = api.get(&format!("{path}/lease")).await.expect(200);
    api.call(Method::POST, &path, Some(&nonce), Some(json!({"config": config()}))).await.expect(200);
    let after = api.get(&format!("{path}/lease")).await.expect(200);
    assert_eq!(before["data"]["nonce"], after["data"]["nonce"]);
    assert_eq!(before["data"]["expires_at"], after["data"]["expires_at"]);
    assert_ne!(before["data"]["version"], after["data"]["version"]);
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn stop_and_destroy_wait_for_the_end() {
    let (api, path, _) = leased(2).await;
    let began = Instant::now();
    api.post_empty(&format!("{path}/stop")).await.expect(200);
    assert!(began.elapsed() >= Duration::from_millis(1000), "{:?}", began.elapsed());

    // A release lets them go on at once.
    let lease = api.post(&format!("{path}/lease?ttl=3600"), json!(null)).await.expect(201);
    let nonce = lease["data"]["nonce"].as_str().unwrap().to_owned();
    let release = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        api.call(Method::DELETE, &format!("{path}/lease"), Some(&nonce), None).await.expect(200)
    };
    let gone = format!("{path}?force=true");
    let (destroyed, released) = tokio::join!(api.delete(&gone), release);
    assert_eq!(released, json!({"status": "success", "data": {"ok": true}}));
    assert_eq!(destroyed.expect(200), json!({"ok": true}));
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn or_are_refused_if_so_wished() {
    let (api, path, _) = leased(3600).await;
    api.knobs(json!({"lease_blocks_stop_and_destroy": false})).await;
    assert_eq!(api.post_empty(&format!("{path}/stop")).await.status, 409);
    assert_eq!(api.delete(&format!("{path}?kill=true")).await.status, 409);
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn the_life_of_a_lease() {
    let (api, path, nonce) = leased(1000).await;
    let lease = format!("{path}/lease");
    let first = api.get(&lease).await.expect(200);
    assert_eq!(first["data"]["description"], "failover 1");
    // fly-go refreshes with the ttl in the query and no body.
    let second = api.call(Method::POST, &format!("{lease}?ttl=2000"), Some(&nonce), None).await.expect(201);
    assert_eq!(second["data"]["nonce"], first["data"]["nonce"]);
    assert!(second["data"]["expires_at"].as_u64() > first["data"]["expires_at"].as_u64());
    assert_eq!(api.delete(&lease).await.status, 400, "the nonce is required");
    let listed = api.get("/v1/apps/db/machines?include_leases=true").await.expect(200);
    assert_eq!(listed[0]["lease"]["description"], "failover 1");
    assert!(listed[0]["lease"]["nonce"].is_null());
    assert!(listed[0]["nonce"].is_null());
    api.call(Method::DELETE, &lease, Some(&nonce), None).await.expect(200);
    api.get(&lease).await.refused(404, "lease not found");
    api.call(Method::DELETE, &lease, Some(&nonce), None).await.refused(404, "lease not found");
    // At create.
    let made = api.post("/v1/apps/db/machines", json!({"lease_ttl": 60, "config": config()})).await.expect(200);
    let path = format!("/v1/apps/db/machines/{}", made["id"].as_str().unwrap());
    assert_eq!(api.get(&format!("{path}/lease")).await.expect(200)["data"]["nonce"], made["nonce"]);
    // It ends by itself.
    let short = api.started(json!({"config": config()})).await;
    let path = format!("/v1/apps/db/machines/{short}/lease");
    api.post(&path, json!({"ttl": 1})).await.expect(201);
    api.until(&path, |a| a.status == 404).await;
    api.emulator.shutdown().await;
}
