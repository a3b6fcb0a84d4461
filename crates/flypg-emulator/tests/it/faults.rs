//! Everything that can be made to go wrong.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;

use crate::harness::{Api, config, until};
use crate::processes::{merged, script, shell, survivors};

#[tokio::test]
async fn requests_and_answers_get_lost() {
    let api = Api::model().await;
    api.app("db").await;
    let create = |name: &str| Some(json!({"name": name, "config": config()}).to_string());
    let send = async |name: &str| {
        api.raw(Method::POST, "/v1/apps/db/machines", &[("authorization", "Bearer x")], create(name)).await
    };
    let matching = json!({"method": "POST", "path": "/v1/apps/*/machines"});
    api.fault(json!({"id": "answer", "match": matching, "effect": "lose_answer", "count": 1})).await.expect(201);
    assert!(send("a").await.is_err());
    let listed = api.get("/v1/apps/db/machines").await.expect(200);
    assert_eq!(listed[0]["name"], "a", "it was done all the same");
    api.fault(json!({"id": "request", "match": matching, "effect": "lose_request", "count": 1})).await.expect(201);
    assert!(send("b").await.is_err());
    assert_eq!(api.get("/v1/apps/db/machines").await.body.as_array().unwrap().len(), 1, "it was not done");
    assert_eq!(send("b").await.unwrap().status, 200);
    let rules = api.get("/_faults").await.expect(200);
    assert_eq!((&rules[0]["id"], &rules[0]["hits"], &rules[0]["seen"]), (&json!("answer"), &json!(1), &json!(3)));
    assert_eq!(api.delete("/_faults/answer").await.status, 204);
    assert_eq!(api.delete("/_faults/answer").await.status, 404);
    assert_eq!(api.delete("/_faults").await.status, 204);
    assert_eq!(api.get("/_faults").await.body, json!([]));
    assert_eq!(api.fault(json!({"effect": "no_such"})).await.status, 400);
    for code in [0, 102, 9999] {
        assert_eq!(api.fault(json!({"effect": {"status": {"code": code}}})).await.status, 400);
    }
    assert_eq!(api.fault(json!({"fault": "partition", "machines": [["a"], ["b"]]})).await.status, 501);
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn statuses_delays_lists_and_capacity() {
    let api = Api::model().await;
    api.app("db").await;
    let status = |code: u16, performed: bool| {
        json!({"match": {"method": "POST"}, "count": 1,
        "effect": {"status": {"code": code, "performed": performed, "retry_after": 7}}})
    };
    let create = |name: &str| json!({"name": name, "config": config()});
    api.fault(status(503, true)).await.expect(201);
    let answer = api.post("/v1/apps/db/machines", create("a")).await;
    assert_eq!((answer.status, answer.headers["retry-after"].to_str().unwrap()), (503, "7"));
    api.fault(status(429, false)).await.expect(201);
    api.post("/v1/apps/db/machines", create("b")).await.refused(429, "rate limit exceeded");
    api.fault(status(408, false)).await.expect(201);
    assert_eq!(api.post("/v1/apps/db/machines", create("b")).await.status, 408);
    let names = api.get("/v1/apps/db/machines").await.body;
    assert_eq!((names.as_array().unwrap().len(), &names[0]["name"]), (1, &json!("a")));

    api.fault(json!({"match": {"app": "db", "method": "GET"}, "effect": {"delay": {"ms": 200}}, "count": 1}))
        .await
        .expect(201);
    let began = Instant::now();
    api.get("/v1/apps/db").await.expect(200);
    assert!(began.elapsed() >= Duration::from_millis(200));

    api.fault(json!({"match": {"path": "/v1/apps/*/machines"}, "effect": "empty_list", "count": 1})).await.expect(201);
    assert_eq!(api.get("/v1/apps/db/machines").await.body, json!([]));
    assert_eq!(api.get("/v1/apps/db/machines").await.body.as_array().unwrap().len(), 1);

    api.fault(json!({"id": "stale", "match": {"method": "GET", "path": "/v1/apps/*/machines"}, "effect": {"stale": {"ms": 600_000}}})).await.expect(201);
    api.post("/v1/apps/db/machines", create("c")).await.expect(200);
    assert_eq!(api.get("/v1/apps/db/machines").await.body.as_array().unwrap().len(), 1);
    api.delete("/_faults/stale").await;
    assert_eq!(api.get("/v1/apps/db/machines").await.body.as_array().unwrap().len(), 2);

    let full = json!({"effect": {"no_capacity": {"region": "ord"}}, "count": 2});
    api.fault(full).await.expect(201);
    let in_region = |region: &str| json!({"region": region, "config": config()});
    let refused = api.post("/v1/apps/db/machines", in_region("ord")).await;
    assert_eq!(refused.body, json!({"error": "could not find a candidate host", "status": "insufficient_capacity"}));
    assert_eq!(refused.status, 422);
    api.post("/v1/apps/db/machines", in_region("ams")).await.expect(200);
    api.post("/v1/apps/db/machines", in_region("ord")).await.expect(200);
    api.fault(json!({"fault": "region_full", "region": "ord"})).await.expect(200);
    assert_eq!(api.post("/v1/apps/db/machines", in_region("ord")).await.status, 422);
    let placements = json!({"org_slug": "personal", "region": "ord,ams", "count": 1});
    let rows = api.post("/v1/platform/placements", placements).await.expect(200);
    assert_eq!(rows, json!({"Regions": [{"Region": "ams", "Count": 1, "Concurrency": 1}]}));
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn capacity_of_hosts() {
    let api = Api::model().await;
    api.knobs(json!({"host_memory_mb": 1024, "hosts_per_region": 8})).await;
    api.app("db").await;
    let guest = |memory: u64| json!({"region": "ord", "config": {"image": "x", "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": memory}}});
    let first = api.started(guest(1024)).await;
    for _ in 1..8 {
        api.machine(guest(1024)).await;
    }
    assert_eq!(api.post("/v1/apps/db/machines", guest(256)).await.status, 422);
    let path = format!("/v1/apps/db/machines/{first}");
    api.post(&path, guest(2048)).await.refused(409, "insufficient memory available to fulfill request");
    api.post(&path, guest(512)).await.expect(200);
    api.post("/v1/apps/db/machines", guest(512)).await.expect(200);
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_out_of_sight() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let id = api.started(json!({"name": "a", "region": "ord", "config": {"image": "acme/shell"}})).await;
    let path = format!("/v1/apps/db/machines/{id}");
    api.fault(json!({"fault": "host_unreachable", "machine": id})).await.expect(200);
    let machine = api.show(&id).await;
    assert_eq!((&machine["host_status"], &machine["state"]), (&json!("unreachable"), &json!("started")));
    assert!(machine["config"].is_null() && machine["incomplete_config"]["image"] == "acme/shell");
    assert_eq!(api.post_empty(&format!("{path}/stop")).await.status, 408);
    assert_eq!(api.post(&format!("{path}/exec"), json!({"command": ["true"]})).await.status, 408);
    assert_eq!(survivors(data.path()).len().min(1), 1, "it still runs");
    // A destroy is only noted down, and carried out when the host is back.
    api.delete(&format!("{path}?force=true")).await.expect(200);
    assert_eq!(api.show(&id).await["state"], "destroying");
    assert_eq!(
        api.post("/v1/apps/db/machines", json!({"name": "a", "config": {"image": "acme/shell"}})).await.status,
        409
    );
    assert!(!survivors(data.path()).is_empty());
    api.fault(json!({"fault": "host_back", "machine": id})).await.expect(200);
    api.until(&path, |a| a.status == 404 || a.body["state"] == "destroyed").await;
    until("nothing runs", || survivors(data.path()).is_empty()).await;

    // A dead host: nothing runs, the API does not know; when it is back the machine starts again.
    let id = api.started(json!({"name": "b", "config": {"image": "acme/shell"}})).await;
    api.fault(json!({"fault": "host_unreachable", "machine": "db/b", "processes": false})).await.expect(200);
    until("nothing runs", || survivors(data.path()).is_empty()).await;
    assert_eq!(api.show(&id).await["state"], "started");
    api.fault(json!({"fault": "host_back", "machine": "db/b"})).await.expect(200);
    until("it runs again", || !survivors(data.path()).is_empty()).await;
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_die_freeze_stick_and_move() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let volume = api.volume(json!({"name": "data", "region": "ord"})).await;
    let ticking = "trap 'exit 0' INT; while :; do date +%s%N > data/new; mv data/new data/tick; sleep 0.02; done";
    let config = merged(
        script(ticking),
        json!({"mounts": [{"volume": volume, "path": "/data"}], "restart": {"policy": "always"}}),
    );
    let id = api.started(json!({"name": "a", "region": "ord", "config": config})).await;
    let path = format!("/v1/apps/db/machines/{id}");
    let tick =
        |volume: &str| std::fs::read_to_string(data.path().join("v").join(volume).join("tick")).unwrap_or_default();

    api.fault(json!({"fault": "machine_dies", "machine": id})).await.expect(200);
    let machine = api.until(&path, |a| a.body["state"] == "started" && a.body["events"][1]["type"] == "exit").await;
    let exit = &machine["events"][1]["request"]["exit_event"];
    assert_eq!((&exit["signal"], &exit["restarting"]), (&json!(9), &json!(true)));

    until("it ticks", || !tick(&volume).is_empty()).await;
    api.fault(json!({"fault": "freeze", "machine": id})).await.expect(200);
    let mut last = String::new();
    // Two looks, far enough apart for several ticks, that show the same.
    until("it stands still", || {
        let before = tick(&volume);
        std::thread::sleep(Duration::from_millis(120));
        last = tick(&volume);
        before == last
    })
    .await;
    api.fault(json!({"fault": "thaw", "machine": id})).await.expect(200);
    until("it ticks again", || tick(&volume) != last).await;

    let before = api.show(&id).await;
    api.fault(json!({"fault": "migrate", "machine": id})).await.expect(200);
    let after =
        api.until(&path, |a| a.body["state"] == "started" && a.body["config"]["mounts"][0]["volume"] != *volume).await;
    let moved = after["config"]["mounts"][0]["volume"].as_str().unwrap().to_owned();
    assert_ne!(after["private_ip"], before["private_ip"]);
    assert_eq!(after["version"], before["version"]);
    assert!(after["events"].as_array().unwrap().iter().any(|event| event["request"]["migrated"] == true));
    assert_eq!(api.get(&format!("/v1/apps/db/volumes/{volume}")).await.status, 404);
    assert_eq!(api.get(&format!("/v1/apps/db/volumes/{moved}")).await.expect(200)["attached_machine_id"], id);
    let last = tick(&moved);
    assert!(!last.is_empty(), "the content moved along");
    until("it ticks there", || tick(&moved) != last).await;

    api.fault(json!({"fault": "stuck", "machine": id})).await.expect(200);
    api.post_empty(&format!("{path}/stop")).await.expect(200);
    until("its processes are gone", || survivors(data.path()).is_empty()).await;
    assert_eq!(api.show(&id).await["state"], "stopping");
    api.fault(json!({"fault": "stuck", "machine": id, "stuck": false})).await.expect(200);
    api.wait(&id, "stopped").await;

    api.fault(json!({"fault": "volume_lost", "volume": moved})).await.expect(200);
    until("it is empty", || tick(&moved).is_empty()).await;
    api.fault(json!({"fault": "slow_start", "machine": id, "ms": 300})).await.expect(200);
    let began = Instant::now();
    api.post_empty(&format!("{path}/start")).await.expect(200);
    assert_eq!(api.show(&id).await["state"], "starting");
    api.wait(&id, "started").await;
    assert!(began.elapsed() >= Duration::from_millis(300));
    api.emulator.shutdown().await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
}
