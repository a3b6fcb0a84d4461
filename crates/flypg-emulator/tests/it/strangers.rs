//! What clients that nobody here wrote may send.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::harness::{Api, config};
use crate::processes::shell;

#[tokio::test]
async fn the_route_is_looked_at_before_the_token() {
    let api = Api::model().await;
    for path in ["/v1/apps", "/v1/apps?org_slug=", "/v1/apps?limit=1"] {
        let answer = api.raw(Method::GET, path, &[], None).await.unwrap();
        assert_eq!((answer.status, answer.text.trim_end()), (404, "404 page not found"), "{path}");
    }
    let answer = api.raw(Method::GET, "/v1/apps/db/machines/%ff", &[], None).await.unwrap();
    assert_eq!((answer.status, answer.error()), (400, "the path is not UTF-8"));
}

#[tokio::test]
async fn a_key_makes_the_creation_of_an_app_repeatable() {
    let api = Api::model().await;
    let create = |body| api.post("/v1/apps", body);
    let first = create(json!({"org_slug": "personal", "idempotency_key": "k"})).await.expect(201);
    for name in [json!(null), json!(""), first["name"].clone()] {
        let body = json!({"org_slug": "personal", "idempotency_key": "k", "name": name});
        assert_eq!(create(body).await.expect(201)["id"], first["id"]);
    }
    let other = json!({"org_slug": "personal", "idempotency_key": "k", "name": "other"});
    assert_eq!(create(other).await.status, 422);
    let nameless = create(json!({"org_slug": "personal"})).await;
    nameless.refused(422, "Validation failed: Name under 63 chars using numbers, lowercase letters and dashes");
}

#[tokio::test]
async fn numbers_beyond_all_reason() {
    let api = Api::model().await;
    api.knobs(json!({"host_cpus": 64, "host_memory_mb": 65536, "host_volume_gb": 4000})).await;
    api.app("db").await;
    let id = api.started(json!({"config": config()})).await;
    for timeout in [json!(i64::MAX), json!(10_u64.pow(18)), json!(-1)] {
        let body = json!({"cmd": "true", "timeout": timeout});
        let answer = api.post(&format!("/v1/apps/db/machines/{id}/exec"), body).await;
        assert_eq!(answer.status, 501, "the model runs no commands, whatever their timeout");
    }
    let guest = json!({"cpus": u64::MAX, "memory_mb": u64::MAX});
    api.post("/v1/apps/db/volumes", json!({"name": "data", "compute": guest}))
        .await
        .refused(409, "aborted: no capacity");
    for guest in [json!({"cpus": -1}), json!({"memory_mb": -256})] {
        let body = json!({"config": {"image": "x", "guest": guest}});
        let answer = api.post("/v1/apps/db/machines", body).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
    }
    let ps = api.get(&format!("/v1/apps/db/machines/{id}/ps?order=sideways")).await;
    ps.refused(400, "invalid_argument: invalid order 'sideways'");

    // Hosts without limit could take any number: this must neither take for ever nor stop everybody else.
    api.knobs(json!({"host_cpus": null, "host_memory_mb": null, "host_volume_gb": null})).await;
    let many = json!({"org_slug": "personal", "region": "ord", "count": i64::MAX});
    let placed = tokio::time::timeout(Duration::from_secs(20), api.post("/v1/platform/placements", many)).await;
    assert!(placed.expect("an answer").expect(200)["Regions"][0]["Count"].as_u64() > Some(1000));
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn what_is_not_there_is_left_out_of_typed_answers() {
    let api = Api::model().await;
    api.app("db").await;
    api.started(json!({"config": config()})).await;
    let row = &api.get("/v1/orgs/personal/machines").await.expect(200)["machines"][0];
    assert!(row["config"].get("metadata").is_none() && row["config"]["guest"]["cpus"] == 1, "{row}");
    let token = &api.get("/v1/tokens/current").await.expect(200)["tokens"][0];
    assert!(token["organization"].is_string() && token["apps"].is_array(), "{token}");
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn bodies_too_long_are_refused_in_words() {
    let api = Api::model().await;
    api.app("db").await;
    let long = json!({"config": {"image": "x", "env": {"A": "x".repeat(9 << 20)}}});
    api.post("/v1/apps/db/machines", long).await.refused(413, "http: request body too large");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_may_leave_something_running() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let id = api.started(json!({"config": {"image": "acme/shell"}})).await;
    let output = api.sh(&id, "echo begun; sleep 300 & echo $! > sleeper").await;
    assert_eq!((output["exit_code"].as_i64(), output["stdout"].as_str()), (Some(0), Some("begun\n")));
    assert_eq!(api.sh(&id, "kill -0 $(cat sleeper)").await["exit_code"], 0, "it goes on");
    let flood = api.sh(&id, "head -c 30000000 /dev/zero | tr '\\0' x; echo end >&2").await;
    assert_eq!(flood["stderr"], "end\n");
    assert!(flood["stdout"].as_str().is_some_and(|text| text.len() >= 1 << 20));
    api.emulator.shutdown().await;
    assert_eq!(crate::processes::survivors(data.path()), Vec::<String>::new());
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let hits = async |seed: u64| {
        let api = Api::start(flypg_emulator::Config { seed: Some(seed), ..flypg_emulator::Config::default() }).await;
        api.fault(json!({"effect": {"status": {"code": 503}}, "probability": 0.5})).await.expect(201);
        let mut hits = Vec::new();
        for _ in 0..64 {
            hits.push(api.get("/v1/apps?org_slug=personal").await.status == 503);
        }
        api.emulator.shutdown().await;
        hits
    };
    let first = hits(7).await;
    assert_eq!(first, hits(7).await);
    assert_ne!(first, hits(8).await);
}
