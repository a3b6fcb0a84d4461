//! The data directory: full, shared, someone else's, or a little behind.

use std::fs;
use std::path::Path;

use flypg_emulator::{Config, Emulator, RuntimeKind, StartError, StoreError};
use serde_json::json;

use crate::harness::{Api, until};
use crate::processes::{script, shell, survivors};

fn kept(data: &Path) -> Config {
    Config { data: Some(data.to_path_buf()), ..Config::default() }
}

#[tokio::test]
async fn what_could_not_be_saved_is_saved_once_it_can_be() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::start(kept(data.path())).await;
    api.app("db").await;
    // In the way of every write, as a full disk is.
    let obstacle = data.path().join("apps/db.new");
    fs::create_dir(&obstacle).unwrap();
    let id = api.started(json!({"config": {"image": "x"}})).await;
    let saved = || fs::read_to_string(data.path().join("apps/db.json")).unwrap();
    assert!(!saved().contains(&id));
    fs::remove_dir(&obstacle).unwrap();
    until("it is saved without another request", || saved().contains(&id)).await;
    api.emulator.shutdown().await;
}

#[tokio::test]
async fn one_emulator_per_directory_and_one_runtime_for_its_life() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::start(kept(data.path())).await;
    api.app("db").await;
    let error = Emulator::start(kept(data.path())).await.unwrap_err();
    assert!(matches!(error, StartError::Store(StoreError::Locked { .. })), "{error}");
    let error = Emulator::start(Config { listen: api.emulator.address(), ..Config::default() }).await.unwrap_err();
    assert!(matches!(error, StartError::Listen { .. }), "{error}");
    api.emulator.shutdown().await;
    // Its machines have addresses on which no process can listen.
    let other = Config { runtime: RuntimeKind::Process, images: shell(), ..kept(data.path()) };
    let error = Emulator::start(other).await.unwrap_err();
    assert!(error.to_string().contains("was made with the model runtime"), "{error}");
    Api::start(kept(data.path())).await.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_were_never_written_down_end() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let before = fs::read(data.path().join("apps/db.json")).unwrap();
    let lost = api.started(json!({"config": {"image": "acme/shell"}})).await;
    let address = api.show(&lost).await["private_ip"].clone();
    let foundation = fs::read(data.path().join("world.json")).unwrap();
    api.emulator.abandon().await;
    assert_ne!(survivors(data.path()), Vec::<String>::new());
    // Killed after the boot and before the write: the disk never heard of it.
    fs::write(data.path().join("apps/db.json"), before).unwrap();
    let earlier = String::from_utf8(foundation).unwrap().replace(r#""next":1"#, r#""next":0"#);
    fs::write(data.path().join("world.json"), earlier).unwrap();

    let api = Api::processes(data.path(), shell()).await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
    assert!(!data.path().join("m").join(&lost).exists());
    let next = api.started(json!({"config": {"image": "acme/shell"}})).await;
    assert_eq!(api.show(&next).await["private_ip"], address, "its address is free for the next one");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_is_not_taken_for_done() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let volume = api.volume(json!({"name": "data"})).await;
    fs::write(data.path().join("v").join(&volume).join("file"), "content").unwrap();
    let job = api.post_empty(&format!("/v1/apps/db/volumes/{volume}/snapshots")).await.expect(200);
    let snapshot = job["Msg"]["backup"]["graph_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/apps/db/volumes/{volume}/snapshots");
    api.until(&path, |answer| answer.body[0]["status"] == "created").await;
    // Out of reach for a while.
    let (content, away) = (data.path().join("s").join(&snapshot), data.path().join("away"));
    fs::rename(&content, &away).unwrap();
    let restored = api.volume(json!({"name": "data", "snapshot_id": snapshot})).await;
    let mounts = json!([{"volume": restored, "path": "/data"}]);
    let id = api.machine(json!({"config": {"image": "acme/shell", "mounts": mounts}})).await;
    api.until(&format!("/v1/apps/db/machines/{id}"), |answer| answer.body["state"] == "starting").await;
    for _ in 0..3 {
        api.started(json!({"config": {"image": "acme/shell"}})).await;
    }
    assert_eq!(api.show(&id).await["state"], "starting", "it does not boot on an empty volume");
    fs::rename(&away, &content).unwrap();
    api.wait(&id, "started").await;
    assert_eq!(api.sh(&id, "cat data/file").await["stdout"], "content");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_found_behind_a_symbolic_link() {
    let data = tempfile::tempdir().unwrap();
    let (real, link) = (data.path().join("real"), data.path().join("link"));
    fs::create_dir(&real).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let api = Api::processes(&link, shell()).await;
    api.app("db").await;
    let hide = "env -i /usr/bin/setsid /bin/sh -c 'echo $$ > hider; exec /bin/sleep 300' &
                while [ ! -s hider ]; do sleep 0.02; done; exit 0";
    let id = api.machine(json!({"config": script(hide)})).await;
    api.wait(&id, "stopped").await;
    let hider = fs::read_to_string(real.join("m").join(&id).join("hider")).unwrap();
    let stat = fs::read_to_string(Path::new("/proc").join(hider.trim()).join("stat"));
    assert!(stat.is_err() || stat.unwrap().contains(") Z "), "only its directory gives it away");
    api.emulator.shutdown().await;
}
