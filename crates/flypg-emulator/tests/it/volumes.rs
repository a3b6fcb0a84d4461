//! Volumes: claims, soft deletes, snapshots and what is in them.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Api, config, until};
use crate::processes::{merged, script, shell};

fn mounting(volume: &str) -> Value {
    merged(config(), json!({"mounts": [{"volume": volume, "path": "/data"}]}))
}

#[tokio::test]
async fn one_machine_per_volume() {
    let api = Api::model().await;
    api.knobs(json!({"claim_lingers_ms": 300})).await;
    api.app("db").await;
    let volume =
        api.volume(json!({"name": "pg_ord_1", "region": "ord", "size_gb": 2, "encrypted": null, "fstype": null})).await;
    let path = format!("/v1/apps/db/volumes/{volume}");
    assert_eq!(api.get(&path).await.body["attached_machine_id"], Value::Null);
    let create = |name: &str| json!({"name": name, "region": "ord", "config": mounting(&volume)});
    let id = api.started(create("a")).await;
    assert_eq!(api.get(&path).await.body["attached_machine_id"], id);
    api.post("/v1/apps/db/machines", create("b"))
        .await
        .refused(412, &format!("failed_precondition: volume already claimed by machine {id}"));
    let bound = format!("failed_precondition: volume is currently bound to machine: {id}");
    api.delete(&path).await.refused(412, &bound);
    // Another volume cannot be had by an update, and leaving the mount out does not free this one.
    let other = api.volume(json!({"name": "x", "region": "ord"})).await;
    let machine = format!("/v1/apps/db/machines/{id}");
    assert_eq!(api.post(&machine, json!({"config": mounting(&other)})).await.status, 400);
    api.post(&machine, json!({"config": config()})).await.expect(200);
    api.wait(&id, "started").await;
    api.delete(&path).await.refused(412, &bound);
    for bad in ["/", "relative", "/../etc"] {
        let config = merged(config(), json!({"mounts": [{"volume": other, "path": bad}]}));
        assert_eq!(api.post("/v1/apps/db/machines", json!({"config": config})).await.status, 400, "{bad}");
    }
    assert_eq!(
        api.post("/v1/apps/db/machines", json!({"region": "ams", "config": mounting(&other)})).await.status,
        400
    );
    assert_eq!(api.post("/v1/apps/db/machines", json!({"config": mounting("vol_0000000000000000")})).await.status, 404);
    // The claim outlives the machine a little, under an id of NUL bytes.
    api.delete(&format!("{machine}?force=true")).await.expect(200);
    api.wait(&id, "destroyed").await;
    let nul = format!("failed_precondition: volume already claimed by machine {}", "\0".repeat(14));
    api.post("/v1/apps/db/machines", create("b")).await.refused(412, &nul);
    let deadline = std::time::Instant::now() + crate::harness::DEADLINE;
    while api.post("/v1/apps/db/machines", create("b")).await.status != 200 {
        assert!(std::time::Instant::now() < deadline);
    }
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn deleted_softly() {
    let api = Api::model().await;
    api.app("db").await;
    let volume = api.volume(json!({"name": "a", "region": "ord"})).await;
    let path = format!("/v1/apps/db/volumes/{volume}");
    assert_eq!(api.delete(&path).await.expect(200)["state"], "destroyed");
    assert_eq!(api.get(&path).await.expect(200)["state"], "scheduling_destroy");
    api.until(&path, |a| a.body["state"] == "pending_destroy").await;
    let listed = api.get("/v1/apps/db/volumes").await.expect(200);
    assert_eq!(listed[0]["state"], "pending_destroy");
    assert_eq!(api.post("/v1/apps/db/machines", json!({"config": mounting(&volume)})).await.status, 412);
    api.delete(&path).await.expect(200);
    api.knobs(json!({"volume_pending_ms": 1})).await;
    let quick = api.volume(json!({"name": "b", "region": "ord"})).await;
    let path = format!("/v1/apps/db/volumes/{quick}");
    api.delete(&path).await.expect(200);
    api.until(&path, |a| a.status == 404).await;
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn sizes_zones_and_settings() {
    let api = Api::model().await;
    api.knobs(json!({"hosts_per_region": 8})).await;
    api.app("db").await;
    let create = |more: Value| merged(json!({"name": "pg", "region": "ord", "size_gb": 1}), more);
    let mut zones = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let body = api.post("/v1/apps/db/volumes", create(json!({}))).await.expect(200);
        zones.insert(body["zone"].as_str().unwrap().to_owned());
    }
    assert_eq!(zones.len(), 8, "unique zones");
    api.post("/v1/apps/db/volumes", create(json!({}))).await.refused(409, "aborted: no capacity");
    api.post("/v1/apps/db/volumes", create(json!({"require_unique_zone": false}))).await.expect(200);
    api.post("/v1/apps/db/volumes", create(json!({"name": "other"}))).await.expect(200);
    let wide = create(json!({"name": "third", "unique_zone_app_wide": true}));
    assert_eq!(api.post("/v1/apps/db/volumes", wide).await.status, 409);
    for bad in [
        json!({"name": ""}),
        json!({"size_gb": 501}),
        json!({"snapshot_retention": 61}),
        json!({"region": "mars"}),
        json!({"fstype": "zfs"}),
    ] {
        assert_eq!(api.post("/v1/apps/db/volumes", create(bad.clone())).await.status, 400, "{bad}");
    }
    let id = api.volume(create(json!({"region": "ams"}))).await;
    let path = format!("/v1/apps/db/volumes/{id}");
    let extended = api.put(&format!("{path}/extend"), json!({"size_gb": 5})).await.expect(200);
    assert_eq!((&extended["volume"]["size_gb"], &extended["needs_restart"]), (&json!(5), &json!(false)));
    assert_eq!(api.put(&format!("{path}/extend"), json!({"size_gb": 4})).await.status, 422);
    let updated = api.put(&path, json!({"snapshot_retention": 14, "auto_backup_enabled": false})).await.expect(200);
    assert_eq!((&updated["snapshot_retention"], &updated["auto_backup_enabled"]), (&json!(14), &json!(false)));
    assert_eq!(api.put(&path, json!({"snapshot_retention": 0})).await.status, 400);
    let summary = api.get("/v1/apps/db/volumes?summary=true").await.expect(200);
    assert!(summary[0].get("blocks").is_none());
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn automatic_snapshots_and_their_retention() {
    let api = Api::model().await;
    api.knobs(json!({"snapshot_every_ms": 50, "snapshot_wait_ms": 1, "snapshot_run_ms": 1})).await;
    api.app("db").await;
    let on = api.volume(json!({"name": "a"})).await;
    let off = api.volume(json!({"name": "b", "auto_backup_enabled": false})).await;
    let path = format!("/v1/apps/db/volumes/{on}/snapshots");
    let listed = api.until(&path, |a| a.body.as_array().unwrap().len() >= 2 && a.body[1]["status"] == "created").await;
    assert_eq!(listed[0]["retention_days"], 5);
    assert_eq!(api.get(&format!("/v1/apps/db/volumes/{off}/snapshots")).await.body, json!([]));
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_survives_machines_snapshots_and_forks() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let volume = api.volume(json!({"name": "data", "region": "ord", "size_gb": 1})).await;
    let on = |volume: &str, name: &str| {
        let sleeping = "while :; do sleep 0.05; done";
        json!({"name": name, "config": merged(script(sleeping), json!({"mounts": [{"volume": volume, "path": "/data"}]}))})
    };
    let id = api.started(on(&volume, "a")).await;
    api.sh(&id, "echo one > data/file; ln -s file data/link; chmod 600 data/file").await;
    let file = |volume: &str| data.path().join("v").join(volume).join("link");

    let snapshots = format!("/v1/apps/db/volumes/{volume}/snapshots");
    let job = api.post_empty(&snapshots).await.expect(200);
    let second = api.post_empty(&snapshots).await;
    assert_eq!(second.status, 412);
    assert!(second.error().starts_with("failed_precondition: snapshot is already scheduled at 20"));
    let snapshot = job["Msg"]["backup"]["graph_id"].as_str().unwrap();
    let early = json!({"name": "data", "snapshot_id": snapshot});
    assert_eq!(api.post("/v1/apps/db/volumes", early).await.status, 422);
    let listed = api.until(&snapshots, |a| a.body[0]["status"] == "created").await;
    assert_eq!(listed[0]["id"], snapshot);
    assert_eq!(listed[0]["volume_size"], 1u64 << 30);
    assert!(listed[0]["size"].as_u64().unwrap() > 0);
    api.sh(&id, "echo two > data/file").await;

    // The machine goes, the volume stays, and so does what is on it.
    api.delete(&format!("/v1/apps/db/machines/{id}?force=true")).await.expect(200);
    api.wait(&id, "destroyed").await;
    assert_eq!(fs::read_to_string(file(&volume)).unwrap(), "two\n");
    let next = api.started(on(&volume, "a")).await;
    assert_eq!(api.sh(&next, "cat data/file").await["stdout"], "two\n");

    let restore = |size: u64| json!({"name": "data", "region": "ams", "size_gb": size, "snapshot_id": snapshot});
    api.put(&format!("/v1/apps/db/volumes/{volume}/extend"), json!({"size_gb": 2})).await.expect(200);
    let body = api.post("/v1/apps/db/volumes", restore(1)).await.expect(200);
    assert_eq!((&body["state"], &body["region"]), (&json!("restoring"), &json!("ams")));
    let restored = body["id"].as_str().unwrap().to_owned();
    // Mounted before it is filled: the boot waits.
    let reader = api.started(on(&restored, "reader")).await;
    assert_eq!(api.sh(&reader, "cat data/file").await["stdout"], "one\n");
    api.until(&format!("/v1/apps/db/volumes/{restored}"), |a| a.body["state"] == "created").await;
    assert_eq!(
        fs::metadata(file(&restored)).unwrap().permissions(),
        fs::metadata(file(&volume)).unwrap().permissions()
    );

    let fork = json!({"name": "data", "source_volume_id": volume});
    let body = api.post("/v1/apps/db/volumes", merged(fork.clone(), json!({"size_gb": 1}))).await;
    assert_eq!(body.status, 422, "smaller than its source");
    let body = api.post("/v1/apps/db/volumes", fork).await.expect(200);
    assert_eq!((&body["region"], &body["size_gb"]), (&json!("ord"), &json!(2)));
    let forked = body["id"].as_str().unwrap().to_owned();
    api.until(&format!("/v1/apps/db/volumes/{forked}"), |a| a.body["state"] == "created").await;
    assert_eq!(fs::read_to_string(file(&forked)).unwrap(), "two\n");

    // Snapshots outlive their volume; the directory goes with the soft delete's end.
    api.knobs(json!({"volume_pending_ms": 1, "volume_scheduling_ms": 1})).await;
    api.delete(&format!("/v1/apps/db/machines/{next}?force=true")).await.expect(200);
    api.wait(&next, "destroyed").await;
    api.delete(&format!("/v1/apps/db/volumes/{volume}")).await.expect(200);
    api.until(&format!("/v1/apps/db/volumes/{volume}"), |a| a.status == 404).await;
    until("the directory is gone", || !data.path().join("v").join(&volume).exists()).await;
    assert_eq!(api.get(&snapshots).await.body[0]["id"], snapshot);
    let again = api.volume(restore(1)).await;
    api.until(&format!("/v1/apps/db/volumes/{again}"), |a| a.body["state"] == "created").await;
    assert_eq!(fs::read_to_string(file(&again)).unwrap(), "one\n");
    api.emulator.shutdown().await;
}
