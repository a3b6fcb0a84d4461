//! Every documented request is answered as documented: the status, the shape of the body, the text of errors.

use flypg_emulator::{Config, Token};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::harness::{Api, config};

#[derive(Deserialize)]
struct Example {
    name: String,
    request: Request,
    response: Response,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: Option<Value>,
}

#[derive(Deserialize)]
struct Response {
    status: u16,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    body: Option<Value>,
}

/// The ids of the examples and what they are here.
struct Ids(Vec<(&'static str, String)>);

impl Ids {
    fn to_here(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    fn to_there(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (there, here)| text.replace(here, there))
    }
}

const MACHINE: &str = "3d8d413b29d089";
const OTHER_MACHINE: &str = "908057ef21e487";
const VOLUME: &str = "vol_9vw681egy1jj5xm4";
const VERSION: &str = "01HQ73A7BFFDF1B6WMGHFZZ4E7";
const NONCE: &str = "5c35f65c9f95";

/// Brings a world to where the example begins.
async fn stage(example: &str) -> (Api, Ids) {
    let tokens = vec![Token { token: "test".to_owned(), org: None, app: None }];
    let api = Api::start(Config { seed: Some(5), tokens: Some(tokens), ..Config::default() }).await;
    let mut ids = Ids(Vec::new());
    let text = |body: &Value, key: &str| body[key].as_str().unwrap().to_owned();
    if !matches!(example, "create_app" | "get_app_missing") {
        api.post("/v1/apps", json!({"name": "orders-db", "org_slug": "personal", "network": "orders-net"}))
            .await
            .expect(201);
    }
    let machines = "/v1/apps/orders-db/machines";
    let volume = async || {
        let body = json!({"name": "pgdata", "region": "ord", "size_gb": 10});
        text(&api.post("/v1/apps/orders-db/volumes", body).await.expect(200), "id")
    };
    let mounting = |volume: &str, name: &str| {
        let mut config = config();
        config["mounts"] = json!([{"volume": volume, "path": "/data"}]);
        json!({"name": name, "config": config})
    };
    match example {
        "get_app" | "get_app_missing" | "create_app" | "create_app_name_taken" | "list_apps" | "delete_app" => {}
        "create_volume" | "secrets_update" | "regions" | "placements" | "unauthorized" => {}
        "extend_volume" | "create_snapshot" | "snapshot_refused" | "list_snapshots" | "delete_volume"
        | "create_machine" => {
            ids.0.push((VOLUME, volume().await));
        }
        "volume_in_use_list_item" | "delete_volume_bound" | "create_machine_volume_claimed" => {
            let id = volume().await;
            let machine = text(&api.post(machines, mounting(&id, "orders-db-1")).await.expect(200), "id");
            let there = if example == "delete_volume_bound" { MACHINE } else { OTHER_MACHINE };
            ids.0.extend([(VOLUME, id), (there, machine)]);
        }
        "create_machine_no_region_capacity" => api.knobs(json!({"full_regions": ["ord"]})).await,
        "create_machine_volume_host_full" => {
            let id = volume().await;
            api.knobs(json!({"full_regions": ["ord"]})).await;
            ids.0.push((VOLUME, id));
        }
        "restore_volume" => {
            let id = volume().await;
            let snapshots = format!("/v1/apps/orders-db/volumes/{id}/snapshots");
            let job = api.post_empty(&snapshots).await.expect(200);
            api.until(&snapshots, |a| a.body[0]["status"] == "created").await;
            ids.0.push(("vs_evl65mZQ937tQ16xGGDX8BN", job["Msg"]["backup"]["graph_id"].as_str().unwrap().to_owned()));
        }
        _ => {
            let mut body = json!({"name": "orders-db-1", "config": config()});
            if example == "get_machine_after_exit" || example == "start_machine" || example == "wait_timeout" {
                body["skip_launch"] = json!(true);
            }
            if example == "start_machine" {
                body["lease_ttl"] = json!(60);
            }
            if example == "start_machine_not_ready" {
                api.knobs(json!({"prepare_ms": 60_000})).await;
            }
            body["config"]["metadata"] =
                json!({"fly_platform_version": "v2", "fly_process_group": "app", "role": "primary"});
            let machine = api.post(machines, body).await.expect(200);
            let id = text(&machine, "id");
            ids.0.push((MACHINE, id.clone()));
            let state = match example {
                "start_machine_not_ready" => "",
                "get_machine_after_exit" | "start_machine" | "wait_timeout" => "stopped",
                _ => "started",
            };
            if !state.is_empty() {
                api.get(&format!("{machines}/{id}/wait?state={state}")).await.expect(200);
            }
            ids.0.push((VERSION, text(&machine, "version")));
            if let Some(nonce) = machine["nonce"].as_str() {
                ids.0.push((NONCE, nonce.to_owned()));
            }
            if matches!(example, "lease_held" | "lease_held_2022" | "lease_release") {
                let lease = api.post(&format!("{machines}/{id}/lease"), json!({"ttl": 60})).await.expect(201);
                ids.0.push((NONCE, lease["data"]["nonce"].as_str().unwrap().to_owned()));
            }
            if example == "get_machine_after_exit" {
                for verb in ["start", "stop"] {
                    api.post_empty(&format!("{machines}/{id}/{verb}")).await.expect(200);
                    let state = if verb == "start" { "started" } else { "stopped" };
                    api.get(&format!("{machines}/{id}/wait?state={state}")).await.expect(200);
                }
            }
        }
    }
    match example {
        "snapshot_refused" => {
            api.knobs(json!({"snapshot_wait_ms": 60_000})).await;
            api.post_empty(&ids.to_here(&format!("/v1/apps/orders-db/volumes/{VOLUME}/snapshots"))).await.expect(200);
        }
        "list_snapshots" => {
            let snapshots = ids.to_here(&format!("/v1/apps/orders-db/volumes/{VOLUME}/snapshots"));
            api.post_empty(&snapshots).await.expect(200);
            api.until(&snapshots, |a| a.body[0]["status"] == "created").await;
            api.knobs(json!({"snapshot_run_ms": 60_000})).await;
            api.post_empty(&snapshots).await.expect(200);
            api.until(&snapshots, |a| a.body[1]["status"] == "running").await;
        }
        _ => {}
    }
    (api, ids)
}

/// Keys whose values are checked, not only their kind.
const EXACT: [&str; 16] = [
    "Nearest",
    "ok",
    "name",
    "state",
    "size_gb",
    "auto_backup_enabled",
    "encrypted",
    "previous_state",
    "migrated",
    "new_host",
    "needs_restart",
    "total_apps",
    "network",
    "role",
    "repository",
    "status",
];

/// Everything documented is there, in kind, and some of it in value.
fn compare(at: &str, wanted: &Value, got: &Value) {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => {
            for (key, value) in wanted {
                let at = format!("{at}.{key}");
                let found = got.get(key).unwrap_or_else(|| panic!("{at} is missing in {got:?}"));
                if EXACT.contains(&key.as_str()) && !value.is_object() {
                    assert_eq!(value, found, "{at}");
                }
                compare(&at, value, found);
            }
        }
        (Value::Array(wanted), Value::Array(got)) => {
            assert!(got.len() >= wanted.len().min(1), "{at} is empty");
            wanted.iter().zip(got).enumerate().for_each(|(n, (w, g))| compare(&format!("{at}[{n}]"), w, g));
        }
        (Value::Null, _) | (_, Value::Null) if at.ends_with("_id") => {}
        (wanted, got) => {
            let kind = std::mem::discriminant::<Value>;
            assert_eq!(kind(wanted), kind(got), "{at}: {wanted} is documented, {got} was answered");
        }
    }
}

/// Texts up to the parts that differ by nature: who holds a lease, and times.
fn fixed(text: &str) -> &str {
    let cut =
        [" currently held by ", " scheduled at "].iter().filter_map(|mark| Some(text.find(mark)? + mark.len())).min();
    &text[..cut.unwrap_or(text.len())]
}

#[tokio::test]
async fn every_documented_example() {
    let examples: Vec<Example> = serde_json::from_str(include_str!("../fixtures/examples.json")).unwrap();
    assert!(examples.len() >= 38);
    for example in examples {
        let name = example.name.as_str();
        let (api, ids) = stage(name).await;
        let request = &example.request;
        let mut headers: Vec<(String, String)> =
            request.headers.iter().map(|(name, value)| (name.clone(), ids.to_here(value))).collect();
        if name != "unauthorized" {
            headers.push(("authorization".to_owned(), "Bearer test".to_owned()));
        }
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let method: Method = request.method.parse().unwrap();
        let mut body = request.body.clone();
        if name == "create_machine_volume_claimed" {
            body.as_mut().unwrap()["name"] = json!("orders-db-2");
        }
        let body = body.map(|body| ids.to_here(&body.to_string()));
        let mut path = ids.to_here(&request.path);
        if name == "wait_timeout" {
            path = path.replace("timeout=10", "timeout=1");
        }
        let answer = api.raw(method, &path, &headers, body).await.unwrap();
        // The model runs no commands; the process runtime's tests cover it.
        let status = if name == "exec" { 501 } else { example.response.status };
        assert_eq!(answer.status, status, "{name}: {}", answer.text);
        assert!(answer.headers.contains_key("fly-request-id"), "{name}");
        for (header, value) in example.response.headers.iter().filter(|(header, _)| *header != "fly-request-id") {
            assert_eq!(answer.headers.get(header).unwrap(), value, "{name}");
        }
        match &example.response.body {
            // The envelope of 2022 is not spoken any more.
            Some(_) if matches!(name, "exec" | "lease_held_2022") => {}
            Some(wanted) if wanted.get("error").is_some() => {
                let got = ids.to_there(answer.error());
                assert_eq!(fixed(&got), fixed(wanted["error"].as_str().unwrap()), "{name}");
                assert_eq!(answer.body.get("status"), wanted.get("status"), "{name}");
            }
            Some(wanted) => {
                let mut got: Value = serde_json::from_str(&ids.to_there(&answer.text)).unwrap();
                if name == "regions" {
                    // The example shows one of many.
                    got["Regions"].as_array_mut().unwrap().retain(|region| region["code"] == "ord");
                }
                let mut wanted = wanted.clone();
                soften(name, &mut wanted);
                compare(name, &wanted, &got);
            }
            None => assert_eq!(answer.text, "", "{name}"),
        }
        api.emulator.shutdown().await;
    }
}

/// What the examples show of a longer history than their stage has.
fn soften(name: &str, wanted: &mut Value) {
    match name {
        // Its run ended by itself; this one was stopped. Events: exit, start, launch.
        "get_machine_after_exit" => {
            wanted["events"].as_array_mut().unwrap().remove(1);
            wanted["config"]["restart"] = Value::Null;
            wanted["config"].as_object_mut().unwrap().remove("restart");
        }
        "create_machine" => {
            wanted["config"].as_object_mut().unwrap().remove("dns");
            let image = wanted["image_ref"].as_object_mut().unwrap();
            assert!(image.contains_key("digest"));
        }
        "list_apps" => {
            let app = wanted["apps"][0].as_object_mut().unwrap();
            app.insert("machine_count".to_owned(), json!(0));
        }
        // The names of organisations are not part of the API.
        "get_app" => wanted["organization"]["name"] = json!("personal"),
        "secrets_update" => wanted["version"] = json!(1),
        _ => {}
    }
}

#[tokio::test]
async fn edges_of_http() {
    let api = Api::model().await;
    // Unknown routes and methods, before anyone asks for a token.
    for (method, path) in [
        (Method::GET, "/v1/nothing"),
        (Method::PUT, "/v1/apps/db/machines"),
        (Method::DELETE, "/v1/platform/regions"),
        (Method::GET, "/"),
    ] {
        let answer = api.raw(method, path, &[], None).await.unwrap();
        assert_eq!((answer.status, answer.text.trim_end()), (404, "404 page not found"), "{path}");
        assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    }
    let answer = api.get("/v1/apps").await;
    assert_eq!((answer.status, answer.text.trim_end()), (404, "404 page not found"), "no org_slug");
    // No token, no entry; regions need none.
    for path in ["/v1/apps?org_slug=x", "/v1/apps/db/machines", "/v1/apps/db/volumes", "/v1/apps/db/secrets"] {
        let answer = api.raw(Method::GET, path, &[], None).await.unwrap();
        assert_eq!(answer.headers["www-authenticate"], "Basic realm=\"api.machines.dev\"");
        answer.refused(401, "Authenticate: token validation error");
    }
    let answer = api.raw(Method::GET, "/v1/apps/db/ip_assignments", &[], None).await.unwrap();
    assert_eq!((answer.status, answer.body), (401, json!({"message": "Unauthorized"})));
    let regions = api.raw(Method::GET, "/v1/platform/regions", &[], None).await.unwrap().expect(200);
    assert_eq!(regions["Regions"].as_array().unwrap().len(), 18);

    api.post("/v1/apps", json!({"app_name": "db", "org_slug": "personal", "app_role_id": null})).await.expect(201);
    let id = api.started(json!({"config": config(), "region": null, "lease_ttl": null})).await;
    let machine = format!("/v1/apps/db/machines/{id}");
    let raw = async |method: Method, path: String, body: &str| {
        api.raw(method, &path, &[("authorization", "FlyV1 fm2_x"), ("x-odd", "1")], Some(body.to_owned()))
            .await
            .unwrap()
    };
    raw(Method::POST, format!("{machine}/stop"), "[]")
        .await
        .refused(400, "json: cannot unmarshal array into Go value of type main.stopRequest");
    raw(Method::POST, "/v1/apps/db/deploy_token".into(), "").await.refused(400, "EOF");
    raw(Method::POST, "/v1/apps/db/machines".into(), "{").await.refused(400, "unexpected EOF");
    raw(Method::POST, "/v1/apps/db/machines".into(), r#"{"lease_ttl":"x","config":{}}"#)
        .await
        .refused(400, "json: cannot unmarshal string into Go struct field CreateMachineRequest.lease_ttl of type int");
    let minted = raw(Method::POST, "/v1/apps/db/deploy_token".into(), r#"{"expiry":"1h"}"#).await.expect(200);
    assert!(minted["token"].as_str().unwrap().starts_with("FlyV1 fm2_"));
    assert_eq!(minted.as_object().unwrap().len(), 1);
    // Spellings other clients use.
    api.post(&format!("{machine}/stop"), json!({"id": id, "signal": "", "timeout": null})).await.expect(200);
    api.wait(&id, "stopped").await;
    raw(Method::POST, format!("{machine}/stop"), "").await.expect(200);
    api.post_empty(&format!("{machine}/start")).await.expect(200);
    api.wait(&id, "started").await;
    api.post_empty(&format!("{machine}/restart?timeout=10&force_stop=false&signal=SIGTERM")).await.expect(200);
    api.wait(&id, "started").await;
    api.post_empty(&format!("{machine}/restart?timeout=10s")).await.expect(200);
    api.wait(&id, "started").await;
    api.post(&format!("{machine}/signal"), json!({"signal": 9})).await.expect(200);
    api.delete(&format!("{machine}?kill=true")).await.expect(200);
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn guests_and_names() {
    let api = Api::model().await;
    api.app("db").await;
    let guest = async |kind: &str, cpus: u64, memory: u64| {
        let guest = json!({"cpu_kind": kind, "cpus": cpus, "memory_mb": memory});
        api.post("/v1/apps/db/machines", json!({"skip_launch": true, "config": {"image": "x", "guest": guest}})).await
    };
    guest("shared", 4, 512).await.refused(400, "invalid config.guest.memory_mb, minimum required 1024 MiB");
    guest("shared", 1, 4096).await.refused(400, "invalid config.guest.memory_mb, cannot exceed 2048 MiB");
    assert_eq!(guest("shared", 3, 1024).await.status, 400);
    assert_eq!(guest("shared", 1, 300).await.status, 400);
    assert_eq!(guest("performance", 1, 3072).await.status, 400);
    guest("performance", 16, 131_072).await.expect(200);
    guest("shared", 8, 2048).await.expect(200);
    for bad in ["Has-Capitals", "dots.are.bad", "-dash", &"x".repeat(64)] {
        let answer = api.post("/v1/apps", json!({"name": bad, "org_slug": "personal"})).await;
        answer.refused(422, "Validation failed: Name under 63 chars using numbers, lowercase letters and dashes");
    }
    let key = |name: &str| json!({"name": name, "org_slug": "personal", "idempotency_key": "k"});
    let first = api.post("/v1/apps", key("keyed")).await.expect(201);
    assert_eq!(api.post("/v1/apps", key("keyed")).await.expect(201)["id"], first["id"]);
    assert_eq!(api.post("/v1/apps", key("other")).await.status, 422);
    // The name is free once the machine is gone, not before.
    api.knobs(json!({"destroy_ms": 300})).await;
    let id = api.started(json!({"name": "ord-1", "config": config()})).await;
    let twin = json!({"name": "ord-1", "config": config()});
    let text =
        format!("already_exists: unique machine name violation, machine ID {id} already exists with name \"ord-1\"");
    api.post("/v1/apps/db/machines", twin.clone()).await.refused(409, &text);
    api.delete(&format!("/v1/apps/db/machines/{id}?force=true")).await.expect(200);
    assert_eq!(api.show(&id).await["state"], "destroying");
    api.post("/v1/apps/db/machines", twin.clone()).await.refused(409, &text);
    api.wait(&id, "destroyed").await;
    api.post("/v1/apps/db/machines", twin).await.expect(200);
    for (region, status) in [("mars", 400), ("ams,eu", 200), ("any", 200), ("usa", 200)] {
        let answer = api.post("/v1/apps/db/machines", json!({"region": region, "config": config()})).await;
        assert_eq!(answer.status, status, "{region}: {}", answer.text);
    }
    // A deleted app takes everything with it and frees its name.
    api.delete("/v1/apps/db").await.expect(202);
    api.get("/v1/apps/db").await.refused(404, "app not found");
    assert_eq!(api.get("/v1/apps/db/machines").await.status, 404);
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    while api.post("/v1/apps", json!({"name": "db", "org_slug": "personal"})).await.status != 201 {
        assert!(std::time::Instant::now() < deadline, "the name is never free");
    }
    assert_eq!(api.get("/v1/apps/db/machines?include_deleted=true").await.body, json!([]));
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn tokens_and_their_reach() {
    let token = |token: &str, org: Option<&str>, app: Option<&str>| Token {
        token: token.to_owned(),
        org: org.map(str::to_owned),
        app: app.map(str::to_owned),
    };
    let tokens = vec![token("test", None, None), token("acme", Some("acme"), None)];
    let api = Api::start(Config { tokens: Some(tokens), ..Config::default() }).await;
    api.app("db").await;
    let minted = api.post("/v1/apps/db/deploy_token", json!({"expiry": "1h"})).await.expect(200);
    let ask =
        async |token: &str, path: &str| api.raw(Method::GET, path, &[("authorization", token)], None).await.unwrap();
    let deploy = minted["token"].as_str().unwrap();
    ask(deploy, "/v1/apps/db/machines").await.expect(200);
    ask(deploy, "/v1/apps?org_slug=personal").await.refused(403, "unauthorized");
    ask(deploy, "/v1/apps/other").await.refused(403, "unauthorized");
    ask("Bearer acme", "/v1/apps/db").await.refused(403, "unauthorized");
    ask("Bearer acme", "/v1/apps/free").await.refused(404, "app not found");
    ask("Bearer wrong", "/v1/apps/db").await.refused(401, "Authenticate: token validation error");
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn secrets_and_addresses() {
    let api = Api::model().await;
    api.app("db").await;
    let set = api.post("/v1/apps/db/secrets/PASSWORD", json!({"value": "x"})).await.expect(201);
    assert_eq!((&set["version"], &set["Version"]), (&json!(1), &json!(1)));
    assert!(set.get("value").is_none());
    let bulk = api
        .post("/v1/apps/db/secrets", json!({"values": {"A": "1", "PASSWORD": null, "NEVER": null}}))
        .await
        .expect(200);
    assert_eq!(bulk["version"], 2);
    assert_eq!(api.delete("/v1/apps/db/secrets/UNKNOWN").await.expect(200)["version"], 3);
    let shown = api.get("/v1/apps/db/secrets?show_secrets=true&min_version=3").await.expect(200);
    assert_eq!(shown["secrets"][0]["value"], "1");
    let digest = shown["secrets"][0]["digest"].clone();
    assert_eq!(api.get("/v1/apps/db/secrets").await.expect(200)["secrets"][0]["digest"], digest);
    assert_eq!(api.get("/v1/apps/db/secrets?version=4").await.status, 412);
    assert_eq!(api.get("/v1/apps/db/secrets/PASSWORD").await.status, 404);
    let create = |version: u64| json!({"min_secrets_version": version, "config": config()});
    assert_eq!(api.post("/v1/apps/db/machines", create(4)).await.status, 412);
    api.post("/v1/apps/db/machines", create(3)).await.expect(200);

    let flycast =
        api.post("/v1/apps/db/ip_assignments", json!({"type": "private_v6", "region": null})).await.expect(200);
    assert!(flycast["ip"].as_str().unwrap().starts_with("fdaa:"));
    assert_eq!(flycast["network"], json!({"name": "default", "org_slug": "personal"}));
    for kind in ["v4", "v6", "shared_v4"] {
        api.post("/v1/apps/db/ip_assignments", json!({"type": kind})).await.expect(200);
    }
    let pair = api.post("/v1/apps/db/ip_assignments", json!({"type": "egress_pair"})).await.expect(200);
    assert!(pair["ip"].is_null() && pair["ip_pair"]["v6"].is_string());
    assert_eq!(api.post("/v1/apps/db/ip_assignments", json!({"type": "v5"})).await.status, 400);
    let path = format!("/v1/apps/db/ip_assignments/{}", flycast["ip"].as_str().unwrap());
    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.delete(&path).await.status, 404);
    assert_eq!(api.get("/v1/apps/db/ip_assignments").await.expect(200)["ips"].as_array().unwrap().len(), 5);
    api.emulator.shutdown().await;
}
