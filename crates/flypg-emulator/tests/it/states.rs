//! Which calls are legal in which state, and the windows between.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Api, config};

const START: &str = "failed_precondition: unable to start machine from current state";
const DESTROY: &str =
    "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created";
const REPLACING: &str = "machine is replacing: concurrent update in progress";

#[tokio::test]
async fn legality() {
    let api = Api::model().await;
    api.app("db").await;
    let update = || json!({"config": config(), "skip_launch": true});
    let call = async |id: &str, what: &str| {
        let path = format!("/v1/apps/db/machines/{id}");
        let answer = match what {
            "destroy" => api.delete(&path).await,
            "update" => api.post(&path, update()).await,
            verb => api.post_empty(&format!("{path}/{verb}")).await,
        };
        (answer.status, answer.error().to_owned())
    };

    // created
    api.knobs(json!({"prepare_ms": 600_000})).await;
    let created = api.machine(json!({"config": config()})).await;
    assert_eq!(call(&created, "start").await, (412, format!("{START}: 'created'")));
    assert_eq!(call(&created, "stop").await.0, 200);
    let created = api.machine(json!({"config": config()})).await;
    assert_eq!(call(&created, "destroy").await.0, 200);
    let created = api.machine(json!({"config": config()})).await;
    assert_eq!(call(&created, "update").await.0, 200);
    api.knobs(json!({"prepare_ms": 0})).await;

    // starting
    api.knobs(json!({"start_ms": 600_000})).await;
    let starting = api.machine(json!({"config": config()})).await;
    let path = format!("/v1/apps/db/machines/{starting}");
    api.until(&path, |a| a.body["state"] == "starting").await;
    assert_eq!(call(&starting, "start").await, (409, "aborted: machine still attempting to start".to_owned()));
    assert_eq!(call(&starting, "destroy").await, (412, DESTROY.to_owned()));
    api.knobs(json!({"start_ms": 0})).await;

    // started
    let id = api.started(json!({"config": config()})).await;
    assert_eq!(call(&id, "start").await, (409, "aborted: machine still attempting to start".to_owned()));
    assert_eq!(call(&id, "destroy").await, (412, DESTROY.to_owned()));

    // suspended
    assert_eq!(call(&id, "suspend").await.0, 200);
    assert_eq!(api.show(&id).await["state"], "suspended");
    assert_eq!(call(&id, "start").await.0, 200);
    assert_eq!(call(&id, "suspend").await.0, 200);
    assert_eq!(call(&id, "stop").await.0, 200);
    api.wait(&id, "stopped").await;

    // stopping
    assert_eq!(call(&id, "start").await.0, 200);
    api.wait(&id, "started").await;
    api.knobs(json!({"stop_ms": 600_000})).await;
    assert_eq!(call(&id, "stop").await.0, 200);
    assert_eq!(call(&id, "start").await, (412, format!("{START}: 'stopping'")));
    assert_eq!(call(&id, "destroy").await, (412, DESTROY.to_owned()));
    api.knobs(json!({"stop_ms": 0})).await;

    // stopped
    let stopped = api.machine(json!({"skip_launch": true, "config": config()})).await;
    api.wait(&stopped, "stopped").await;
    assert_eq!(call(&stopped, "stop").await.0, 200);
    assert_eq!(call(&stopped, "start").await.0, 200);
    api.wait(&stopped, "started").await;
    api.knobs(json!({"still_active_ms": 600_000})).await;
    assert_eq!(call(&stopped, "stop").await.0, 200);
    api.wait(&stopped, "stopped").await;
    let refused = call(&stopped, "start").await;
    assert_eq!(refused, (412, "failed_precondition: machine still active, refusing to start".to_owned()));
    api.knobs(json!({"still_active_ms": 0})).await;

    // replacing
    api.knobs(json!({"replace_ms": 600_000})).await;
    assert_eq!(call(&stopped, "update").await.0, 200);
    assert_eq!(api.show(&stopped).await["state"], "replacing");
    let refused = call(&stopped, "start").await;
    assert_eq!(refused, (412, "failed_precondition: machine getting replaced, refusing to start".to_owned()));
    assert_eq!(call(&stopped, "update").await, (409, REPLACING.to_owned()));
    assert_eq!(call(&stopped, "destroy").await, (412, DESTROY.to_owned()));
    let path = format!("/v1/apps/db/machines/{stopped}");
    api.delete(&format!("{path}?force=true")).await.expect(200);

    // destroyed, then absent
    api.wait(&stopped, "destroyed").await;
    api.until(&path, |a| a.status == 404).await;
    for what in ["start", "stop", "update", "destroy", "cordon"] {
        assert_eq!(call(&stopped, what).await, (404, "not_found: machine not found".to_owned()), "{what}");
    }
    let listed = api.get("/v1/apps/db/machines?include_deleted=true").await.expect(200);
    let gone = listed.as_array().unwrap().iter().find(|machine| machine["id"] == *stopped).unwrap();
    assert_eq!(gone["state"], "destroyed");
    let listed = api.get("/v1/apps/db/machines").await.expect(200);
    assert!(listed.as_array().unwrap().iter().all(|machine| machine["id"] != *stopped));
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn updates_make_versions_and_replace_everything() {
    let api = Api::model().await;
    api.app("db").await;
    let first = json!({"image": "a:1", "services": [{"internal_port": 5432, "protocol": "tcp", "autostop": "stop"}],
        "metadata": {"role": "primary"}, "x_unknown": {"kept": [1, null]}});
    let id = api.started(json!({"config": first})).await;
    let path = format!("/v1/apps/db/machines/{id}");
    let before = api.show(&id).await;
    assert_eq!(before["config"]["services"][0]["autostop"], true, "read back as a bool");
    assert_eq!(before["config"]["x_unknown"], json!({"kept": [1, null]}));

    let second = json!({"image": "a:2", "env": {"A": "b"}});
    let stale = json!({"config": second, "current_version": "01HQ73A7BFFDF1B6WMGHFZZ4E7"});
    assert_eq!(api.post(&path, stale).await.status, 409);
    let fresh = json!({"config": second, "current_version": before["version"], "name": "other", "region": "ams", "skip_secrets": false});
    let replaced = api.post(&path, fresh).await.expect(200);
    assert_eq!(replaced["state"], "replacing");
    assert!(replaced["version"].as_str() > before["version"].as_str());
    assert_eq!(replaced["instance_id"], replaced["version"]);
    assert_eq!((&replaced["name"], &replaced["region"]), (&before["name"], &before["region"]));
    assert!(replaced["config"]["services"].is_null() && replaced["config"]["metadata"].is_null());
    api.wait(&id, "started").await;
    let kinds: Vec<String> = api.show(&id).await["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| format!("{}/{}", event["type"].as_str().unwrap(), event["status"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, ["start/started", "exit/stopped", "update/replacing", "start/started", "launch/created"]);
    let exit = &api.show(&id).await["events"][1];
    assert_eq!(exit["request"]["exit_event"]["requested_stop"], false);

    let old = api.get(&format!("{path}?version={}", before["version"].as_str().unwrap())).await.expect(200);
    assert_eq!(old["state"], "replaced");
    assert_eq!(old["config"]["image"], "a:1");
    let versions = api.get(&format!("{path}/versions")).await.expect(200);
    assert_eq!(versions.as_array().unwrap().len(), 2);
    assert_eq!(versions[0]["version"], replaced["version"]);
    assert_eq!(versions[1]["user_config"]["image"], "a:1");

    // A stopped machine stays stopped, or starts.
    api.post_empty(&format!("{path}/stop")).await.expect(200);
    api.wait(&id, "stopped").await;
    api.post(&path, json!({"config": second, "skip_launch": true})).await.expect(200);
    api.wait(&id, "settled").await;
    assert_eq!(api.show(&id).await["state"], "stopped");
    api.post(&path, json!({"config": second})).await.expect(200);
    api.wait(&id, "started").await;
    // The same reference stays resolved to the same image.
    assert_eq!(api.show(&id).await["image_ref"], replaced["image_ref"]);
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn waits() {
    let api = Api::model().await;
    api.app("db").await;
    let id = api.machine(json!({"skip_launch": true, "config": config()})).await;
    let wait = |query: &str| format!("/v1/apps/db/machines/{id}/wait?{query}");
    let reached = api.get(&wait("state=stopped")).await.expect(200);
    let machine = api.show(&id).await;
    assert_eq!(
        reached,
        json!({"ok": true, "state": "stopped", "version": machine["version"], "event_id": machine["events"][0]["id"]})
    );
    let answer = api.get(&wait("timeout=1")).await;
    answer.refused(408, "deadline_exceeded: machine failed to reach desired state, started, currently stopped");
    for bad in ["timeout=90", "timeout=0", "state=starting", "timeout=x"] {
        let answer = api.get(&wait(bad)).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.error().starts_with("invalid_argument:"), "{}", answer.error());
    }
    assert!(api.get(&wait("timeout=90")).await.error().contains("value must be inside range [1s, 1m0s]"));
    api.get(&wait("state=started,stopped")).await.expect(200);
    api.get(&wait("state=started&state=stopped&timeout=1s")).await.expect(200);
    api.get(&wait("state=settled")).await.expect(200);
    // A long poll sees the change.
    let begin = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        api.post_empty(&format!("/v1/apps/db/machines/{id}/start")).await.expect(200);
    };
    let query = format!("state=started&timeout=20&from_event_id={}", machine["events"][0]["id"].as_str().unwrap());
    let waits = wait(&query);
    let (answer, ()) = tokio::join!(api.get(&waits), begin);
    assert_eq!(answer.expect(200)["state"], "started");
    let gone = format!("/v1/apps/db/machines/{id}?force=true");
    let waits = wait("state=destroyed&timeout=20");
    let (answer, destroyed) = tokio::join!(api.get(&waits), api.delete(&gone));
    destroyed.expect(200);
    assert_eq!(answer.expect(200)["state"], "destroyed");
    api.get("/v1/apps/db/machines/00000000000000/wait").await.refused(404, "not_found: machine not found");
    api.knobs(json!({"wait_refuses_hopeless": true})).await;
    let id = api.machine(json!({"skip_launch": true, "config": config()})).await;
    api.wait(&id, "stopped").await;
    assert_eq!(api.get(&format!("/v1/apps/db/machines/{id}/wait?state=started")).await.status, 400);
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn metadata_merges_without_a_new_version() {
    let api = Api::model().await;
    api.app("db").await;
    let config = json!({"image": "a", "metadata": {"role": "primary", "old": "x", "kept": "y"}});
    let id = api.started(json!({"config": config})).await;
    let path = format!("/v1/apps/db/machines/{id}/metadata");
    let version = api.show(&id).await["version"].clone();
    let merge = json!({"metadata": {"role": "replica", "old": "", "never": null, "new key/ö": "z"}, "machine_version": version});
    assert_eq!(api.call(Method::PATCH, &path, None, Some(merge.clone())).await.status, 204);
    assert_eq!(api.get(&path).await.expect(200), json!({"role": "replica", "kept": "y", "new key/ö": "z"}));
    let stale = json!({"metadata": {"role": "x"}, "machine_version": "01HQ73A7BFFDF1B6WMGHFZZ4E7"});
    assert_eq!(api.call(Method::PATCH, &path, None, Some(stale)).await.status, 412);
    assert_eq!(api.put(&path, json!({"metadata": {"kept": null}})).await.status, 204, "PUT merges, too");
    assert_eq!(api.get(&format!("{path}/new%20key%2F%C3%B6")).await.expect(200), json!({"value": "z"}));
    assert_eq!(api.post(&format!("{path}/role"), json!({"value": "primary", "updated_at": null})).await.status, 204);
    assert_eq!(api.delete(&format!("{path}/new%20key%2F%C3%B6")).await.status, 204);
    assert_eq!(api.get(&path).await.expect(200), json!({"role": "primary"}));
    assert_eq!(api.get(&format!("{path}/nothing")).await.status, 404);
    let machine = api.show(&id).await;
    assert_eq!((&machine["version"], &machine["state"]), (&version, &json!("started")));
    assert_eq!(machine["config"]["metadata"], json!({"role": "primary"}));
    let by = |query: &str| format!("/v1/apps/db/machines?{query}");
    assert_eq!(api.get(&by("metadata.role=primary")).await.body.as_array().unwrap().len(), 1);
    assert_eq!(api.get(&by("metadata.role=primary&metadata.x=y")).await.body.as_array().unwrap().len(), 0);
    assert_eq!(api.get(&by("state=stopped,created")).await.body.as_array().unwrap().len(), 0);
    assert_eq!(api.get(&by("region=ord&state=started")).await.body.as_array().unwrap().len(), 1);
    let summary = api.get(&by("summary=true")).await.body[0].clone();
    assert!(summary.get("config").is_none() && summary.get("events").is_none() && summary["state"] == "started");
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn a_start_gives_the_restart_policy_all_its_tries_again() {
    let api = Api::model().await;
    api.knobs(json!({"restart_backoff_ms": 1})).await;
    api.app("db").await;
    let restart = json!({"policy": "on-failure", "max_retries": 1});
    let id = api.started(json!({"config": {"image": "x", "restart": restart}})).await;
    let starts = async || {
        let events = api.get(&format!("/v1/apps/db/machines/{id}/events")).await.expect(200);
        events.as_array().unwrap().iter().filter(|event| event["type"] == "start").count()
    };
    for round in 0..2 {
        api.fault(json!({"fault": "machine_dies", "machine": id})).await.expect(200);
        api.wait(&id, "started").await;
        assert_eq!(starts().await, 2 * round + 2, "restarted once");
        api.fault(json!({"fault": "machine_dies", "machine": id})).await.expect(200);
        api.wait(&id, "stopped").await;
        api.post_empty(&format!("/v1/apps/db/machines/{id}/start")).await.expect(200);
        api.wait(&id, "started").await;
    }
    api.emulator.shutdown().await;
}
