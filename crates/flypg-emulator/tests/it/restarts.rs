//! The emulator goes, and comes back to the same data directory.

use std::fs;

use serde_json::json;

use crate::harness::{Api, until};
use crate::processes::{merged, script, shell, survivors};

#[tokio::test(flavor = "multi_thread")]
async fn killed_and_back_it_takes_over_what_runs() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let steady = api.started(json!({"name": "steady", "config": {"image": "acme/shell"}})).await;
    let doomed = "sleep 654 & wait";
    let dies = api
        .started(json!({"name": "dies", "config": merged(script(doomed), json!({"restart": {"policy": "always"}}))}))
        .await;
    let stays_down = api
        .started(json!({"name": "stays-down", "config": merged(script(doomed), json!({"restart": {"policy": "no"}}))}))
        .await;
    let pid = |id: &str| -> i64 {
        let file = fs::read(data.path().join("run").join(format!("{id}.json"))).unwrap();
        let run: serde_json::Value = serde_json::from_slice(&file).unwrap();
        run["processes"][0]["pid"].as_i64().unwrap()
    };
    let before = api.show(&steady).await;
    let (steady_pid, dies_pid, down_pid) = (pid(&steady), pid(&dies), pid(&stays_down));
    api.emulator.abandon().await;

    assert!(survivors(data.path()).contains(&steady_pid.to_string()), "a killed emulator leaves processes alone");
    for pid in [dies_pid, down_pid] {
        let kill = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
        assert!(kill.success());
        until("it is dead", || !survivors(data.path()).contains(&pid.to_string())).await;
    }

    let api = Api::processes(data.path(), shell()).await;
    api.wait(&steady, "started").await;
    let after = api.show(&steady).await;
    assert_eq!(after["private_ip"], before["private_ip"]);
    assert_eq!(after["version"], before["version"]);
    assert_eq!(pid(&steady), steady_pid, "the same process");
    api.wait(&dies, "started").await;
    until("a new process", || pid(&dies) != dies_pid).await;
    api.wait(&stays_down, "stopped").await;
    let left = survivors(data.path());
    assert_eq!(left.len(), left.iter().collect::<std::collections::BTreeSet<_>>().len());

    // An adopted machine obeys like any other.
    api.post_empty(&format!("/v1/apps/db/machines/{steady}/stop")).await.expect(200);
    api.wait(&steady, "stopped").await;
    assert!(!survivors(data.path()).contains(&steady_pid.to_string()));
    api.post_empty(&format!("/v1/apps/db/machines/{steady}/start")).await.expect(200);
    api.wait(&steady, "started").await;
    api.emulator.shutdown().await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_order_everything_ends_and_starts_again() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let volume = api.volume(json!({"name": "data"})).await;
    let mounts = json!({"mounts": [{"volume": volume, "path": "/data"}]});
    let counted = "echo up >> data/log; trap 'echo down >> data/log; exit 0' INT; while :; do sleep 0.02; done";
    let up = api.started(json!({"config": merged(script(counted), mounts)})).await;
    let down = api.machine(json!({"skip_launch": true, "config": {"image": "acme/shell"}})).await;
    let log = data.path().join("v").join(&volume).join("log");
    until("it is up", || fs::read_to_string(&log).is_ok_and(|text| text == "up\n")).await;
    let restarts = api.show(&up).await["events"].as_array().unwrap().len();
    api.emulator.shutdown().await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
    assert_eq!(fs::read_to_string(&log).unwrap(), "up\ndown\n");

    // `restart: no` does not matter: this was not a crash.
    let api = Api::processes(data.path(), shell()).await;
    api.wait(&up, "started").await;
    until("it is up again", || fs::read_to_string(&log).is_ok_and(|text| text == "up\ndown\nup\n")).await;
    assert_eq!(api.show(&down).await["state"], "stopped");
    let events = api.show(&up).await["events"].as_array().unwrap().clone();
    assert_eq!(events.len(), restarts + 1);
    assert_eq!(events[0]["type"], "start");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_survives_without_processes_too() {
    let data = tempfile::tempdir().unwrap();
    let config =
        || flypg_emulator::Config { data: Some(data.path().to_path_buf()), ..flypg_emulator::Config::default() };
    let api = Api::start(config()).await;
    api.app("db").await;
    api.app("gone").await;
    let volume = api.volume(json!({"name": "data", "region": "ord"})).await;
    let mounts = json!([{"volume": volume, "path": "/data"}]);
    let id = api.started(json!({"name": "a", "config": {"image": "x", "mounts": mounts}})).await;
    let lease = api.post(&format!("/v1/apps/db/machines/{id}/lease"), json!({"ttl": 100})).await.expect(201);
    api.delete("/v1/apps/gone").await.expect(202);
    let (machine, volumes) = (api.show(&id).await, api.get("/v1/apps/db/volumes").await.body);
    // Answered is saved: no goodbye.
    api.emulator.abandon().await;

    let api = Api::start(config()).await;
    assert_eq!(api.show(&id).await, machine);
    assert_eq!(api.get("/v1/apps/db/volumes").await.body, volumes);
    assert_eq!(api.get(&format!("/v1/apps/db/machines/{id}/lease")).await.body["data"], lease["data"]);
    api.until("/v1/apps/gone", |a| a.status == 404).await;
    let next = api.machine(json!({"name": "b", "config": {"image": "x"}})).await;
    assert_ne!(next, id);
    assert_ne!(api.show(&next).await["private_ip"], machine["private_ip"]);
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_amid_a_snapshot_it_continues_what_it_held_still() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let held = api.started(json!({"config": {"image": "acme/shell"}})).await;
    let suspended = api.started(json!({"config": {"image": "acme/shell"}})).await;
    api.post_empty(&format!("/v1/apps/db/machines/{suspended}/suspend")).await.expect(200);
    let still = |id: &str| {
        let file = fs::read(data.path().join("run").join(format!("{id}.json"))).unwrap();
        let run: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", run["processes"][0]["pid"])).unwrap();
        stat.contains(") T ")
    };
    until("it is suspended", || still(&suspended)).await;
    api.emulator.abandon().await;
    let stop = std::process::Command::new("kill").arg("-STOP").args(survivors(data.path())).status().unwrap();
    assert!(stop.success());
    until("it is held still", || still(&held)).await;

    let api = Api::processes(data.path(), shell()).await;
    until("it goes on", || !still(&held)).await;
    assert!(still(&suspended), "somebody wanted this one to stand still");
    api.post_empty(&format!("/v1/apps/db/machines/{suspended}/start")).await.expect(200);
    until("it goes on, too", || !still(&suspended)).await;
    api.emulator.shutdown().await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
}
