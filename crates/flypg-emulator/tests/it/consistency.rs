//! Reads that lag, pages, org-wide lists, and many machines at once.

use std::time::Instant;

use serde_json::json;

use crate::harness::{Api, config};

#[tokio::test]
async fn lists_and_reads_lag_behind() {
    let api = Api::model().await;
    api.app("db").await;
    api.knobs(json!({"list_lag_ms": 400, "read_lag_ms": 200})).await;
    let began = Instant::now();
    let id = api.machine(json!({"name": "a", "config": config()})).await;
    let path = format!("/v1/apps/db/machines/{id}");
    api.get(&path).await.refused(404, "not_found: machine not found");
    api.until(&path, |a| a.status == 200).await;
    assert!(began.elapsed().as_millis() >= 200);
    api.until("/v1/apps/db/machines", |a| a.body.as_array().unwrap().len() == 1).await;
    assert!(began.elapsed().as_millis() >= 400);
    // Writes see the truth.
    assert_eq!(api.post("/v1/apps/db/machines", json!({"name": "a", "config": config()})).await.status, 409);
    // Gone things are listed for a while.
    api.delete(&format!("{path}?force=true")).await.expect(200);
    assert_eq!(api.get("/v1/apps/db/machines").await.body[0]["state"], "started");
    api.until("/v1/apps/db/machines", |a| a.body == json!([])).await;
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn pages_cover_everything_once() {
    let api = Api::model().await;
    api.app("db").await;
    let mut made = std::collections::BTreeSet::new();
    for _ in 0..7 {
        made.insert(api.machine(json!({"config": config(), "skip_launch": true})).await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/apps/db/machines?limit=3".to_owned();
    loop {
        let answer = api.get(&path).await;
        seen.extend(answer.body.as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap().to_owned()));
        let Some(cursor) = answer.headers.get("fly-next-cursor") else { break };
        path = format!("/v1/apps/db/machines?limit=3&cursor={}", cursor.to_str().unwrap());
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(seen.into_iter().collect::<std::collections::BTreeSet<_>>(), made);
    for bad in ["limit=0", "limit=1001", "cursor=x", "limit=1&cursor=x"] {
        assert_eq!(api.get(&format!("/v1/apps/db/machines?{bad}")).await.status, 400, "{bad}");
    }
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn the_organisation_at_a_glance() {
    let api = Api::model().await;
    for app in ["db", "web"] {
        api.app(app).await;
    }
    api.post("/v1/apps", json!({"name": "alien", "org_slug": "other"})).await.expect(201);
    let id = api
        .machine(json!({"name": "a", "config": {"image": "x", "env": {"SECRET": "1"}, "metadata": {"k": "v"}}}))
        .await;
    api.post("/v1/apps/web/machines", json!({"region": "ams", "config": config()})).await.expect(200);
    api.post("/v1/apps/alien/machines", json!({"config": config()})).await.expect(200);
    api.wait(&id, "started").await;
    let page = api
        .until("/v1/orgs/personal/machines?state=started", |a| a.body["machines"].as_array().unwrap().len() == 2)
        .await;
    let row = page["machines"].as_array().unwrap().iter().find(|row| row["id"] == *id).unwrap();
    assert_eq!((&row["app_name"], &row["config"]["metadata"]["k"]), (&json!("db"), &json!("v")));
    assert!(row["config"].get("env").is_none());
    assert_eq!(page["error_regions"], json!([]));
    let after = format!("/v1/orgs/personal/machines?updated_after={}", page["last_updated_at"].as_str().unwrap());
    assert_eq!(api.get(&after).await.expect(200)["machines"], json!([]));
    let ams = api.get("/v1/orgs/personal/machines?region=ams&limit=1").await.expect(200);
    assert_eq!(ams["machines"].as_array().unwrap().len(), 1);
    let first = api.get("/v1/orgs/personal/machines?limit=1").await.expect(200);
    let next = format!("/v1/orgs/personal/machines?limit=1&cursor={}", first["next_cursor"].as_str().unwrap());
    assert_ne!(api.get(&next).await.expect(200)["machines"][0]["id"], first["machines"][0]["id"]);
    api.volume(json!({"name": "pg"})).await;
    assert_eq!(api.get("/v1/orgs/personal/volumes").await.expect(200)["volumes"][0]["app_name"], "db");
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn rate_limits() {
    let api = Api::model().await;
    api.app("db").await;
    let id = api.started(json!({"config": config()})).await;
    api.knobs(json!({"retry_after_s": 2, "rate_limit": {"per_second": 1, "burst": 3, "get_machine_per_second": 5,
        "get_machine_burst": 10, "app_deletes_per_minute": 100}}))
        .await;
    let path = format!("/v1/apps/db/machines/{id}/cordon");
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(api.post_empty(&path).await.status);
    }
    assert_eq!(statuses, [200, 200, 200]);
    let over = api.post_empty(&path).await;
    assert_eq!(over.headers["retry-after"], "2");
    over.refused(429, "rate limit exceeded");
    assert_eq!(api.post_empty(&path.replace("/cordon", "/uncordon")).await.status, 200, "another action");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_apps_at_once() {
    let api = Api::model().await;
    let many = 1000;
    let work = (0..many).map(|n| {
        let api = &api;
        async move {
            let app = format!("app-{n}");
            api.app(&app).await;
            for name in ["a", "b", "c"] {
                api.post(&format!("/v1/apps/{app}/machines"), json!({"name": name, "config": config()}))
                    .await
                    .expect(200);
            }
        }
    });
    use futures::StreamExt as _;
    futures::stream::iter(work).buffer_unordered(32).collect::<Vec<()>>().await;
    let health = api.get("/_health").await.expect(200);
    assert_eq!(health["machines"], 3 * many);
    let list = api.until("/v1/orgs/personal/machines?limit=1000&state=started", |a| {
        a.body["machines"].as_array().unwrap().len() == 1000
    });
    list.await;
    api.emulator.shutdown().await;
}
