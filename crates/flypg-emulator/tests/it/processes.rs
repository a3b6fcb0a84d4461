//! Machines that are real processes.

use std::fs;
use std::path::Path;
use std::time::Instant;

use flypg_emulator::ImageTable;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Api, until};

/// An image that runs the shell script in `init.cmd`, by default sleeping.
pub(crate) fn shell() -> ImageTable {
    ImageTable::new().with("acme/shell", ["/bin/sh", "-c", "trap 'exit 0' INT TERM; while :; do sleep 0.05; done"])
}

pub(crate) fn script(script: &str) -> Value {
    json!({"image": "acme/shell:1", "init": {"exec": ["/bin/sh", "-c", script]}, "restart": {"policy": "no"}})
}

pub(crate) fn merged(mut config: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

/// Living processes whose environment names this data directory.
pub(crate) fn survivors(data: &Path) -> Vec<String> {
    let mark = format!("FLY_EMULATOR_ROOT={}", data.display());
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let state = fs::read_to_string(entry.path().join("stat")).ok()?;
        let zombie = state.rsplit(')').next()?.trim_start().starts_with('Z');
        (!zombie && String::from_utf8_lossy(&environment).contains(&mark)).then(|| pid.to_string())
    });
    pids.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn environment_secrets_and_root() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    api.post("/v1/apps/db/secrets", json!({"values": {"PASSWORD": "s3cret"}})).await.expect(200);
    let volume = api.volume(json!({"name": "data", "region": "ord", "size_gb": 1})).await;
    let id = api
        .started(json!({"name": "ord-1", "region": "ord", "config": {
            "image": "acme/shell:1",
            "env": {"COLOUR": "blue", "PRIMARY_REGION": "ord"},
            "metadata": {"fly_process_group": "pg"},
            "guest": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512},
            "files": [{"guest_path": "/etc/greeting", "raw_value": "aGVsbG8="}],
            "mounts": [{"volume": volume, "path": "/data"}],
        }}))
        .await;
    let machine = api.show(&id).await;
    let output = api.sh(&id, "env | sort; pwd; cat etc/greeting; readlink data; echo kept > data/file").await;
    let text = output["stdout"].as_str().unwrap();
    for line in [
        "COLOUR=blue".to_owned(),
        "PASSWORD=s3cret".to_owned(),
        "PRIMARY_REGION=ord".to_owned(),
        "FLY_APP_NAME=db".to_owned(),
        format!("FLY_MACHINE_ID={id}"),
        format!("FLY_ALLOC_ID={id}"),
        "FLY_REGION=ord".to_owned(),
        "FLY_IMAGE_REF=acme/shell:1".to_owned(),
        format!("FLY_MACHINE_VERSION={}", machine["version"].as_str().unwrap()),
        format!("FLY_PRIVATE_IP={}", machine["private_ip"].as_str().unwrap()),
        "FLY_PROCESS_GROUP=pg".to_owned(),
        "FLY_VM_MEMORY_MB=512".to_owned(),
        format!("FLY_EMULATOR_ROOT={}/m/{id}", data.path().display()),
        format!("{}/v/{volume}", data.path().display()),
        format!("{}/m/{id}", data.path().display()),
    ] {
        assert!(text.lines().any(|l| l == line || l == format!("hello{line}")), "{line} is missing in:\n{text}");
    }
    assert!(!text.contains("CARGO"), "the emulator's own environment leaked:\n{text}");
    assert!(machine["private_ip"].as_str().unwrap().starts_with("127."));

    // Without secrets, if so wished.
    let bare = api.started(json!({"skip_secrets": true, "config": {"image": "acme/shell:1"}})).await;
    assert!(!api.sh(&bare, "env").await["stdout"].as_str().unwrap().contains("PASSWORD"));
    assert_eq!(
        api.post("/v1/apps/db/machines", json!({"config": {"image": "acme/other:1"}})).await.status,
        400,
        "an unknown image"
    );
    api.emulator.shutdown().await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_reports_exit_codes_stdin_and_timeouts() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let id = api.started(json!({"config": {"image": "acme/shell"}})).await;
    let exec = format!("/v1/apps/db/machines/{id}/exec");
    let output = api.post(&exec, json!({"cmd": "sh -c 'echo out; echo err >&2; exit 3'"})).await.expect(200);
    assert_eq!(output, json!({"exit_code": 3, "exit_signal": 0, "stdout": "out\n", "stderr": "err\n"}));
    let output = api.post(&exec, json!({"command": ["cat"], "stdin": "given"})).await.expect(200);
    assert_eq!(output["stdout"], "given");
    assert_eq!(api.post(&exec, json!({"command": ["sleep", "30"], "timeout": 1})).await.status, 408);
    assert_eq!(api.post(&exec, json!({"command": ["/no/such"]})).await.status, 400);
    assert_eq!(api.post(&exec, json!({})).await.status, 400);
    let ps = api.get(&format!("/v1/apps/db/machines/{id}/ps")).await.expect(200);
    assert!(ps.as_array().unwrap().iter().any(|row| row["command"].as_str().unwrap().contains("/bin/sh")), "{ps}");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_policies() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.knobs(json!({"restart_backoff_ms": 1})).await;
    api.app("db").await;
    let with = |exit: &str, restart: Value| json!({"config": merged(script(exit), json!({"restart": restart}))});

    let no = api.machine(with("exit 7", json!({"policy": "no"}))).await;
    api.wait(&no, "stopped").await;
    let events = api.show(&no).await["events"].clone();
    assert_eq!(events[0]["type"], "exit");
    assert_eq!(events[0]["request"]["exit_event"]["exit_code"], 7);
    assert_eq!(events[0]["request"]["exit_event"]["requested_stop"], false);
    assert_eq!(events[0]["request"]["restart_count"], 0);

    let failing = api.machine(with("exit 1", json!({"policy": "on-failure", "max_retries": 2}))).await;
    let path = format!("/v1/apps/db/machines/{failing}");
    let machine = api.until(&path, |a| a.body["state"] == "stopped").await;
    assert_eq!(machine["events"][0]["request"]["restart_count"], 2, "{machine}");
    let exits = machine["events"].as_array().unwrap().iter().filter(|event| event["type"] == "exit").count();
    assert_eq!(exits, 3);

    let clean = api.machine(with("exit 0", json!({"policy": "on-failure"}))).await;
    api.wait(&clean, "stopped").await;

    let always = api.machine(with("exit 0", json!({"policy": "always"}))).await;
    let path = format!("/v1/apps/db/machines/{always}/events");
    let restarted = |a: &crate::harness::Answer| {
        a.body.as_array().unwrap().iter().any(|event| event["request"]["restart_count"].as_u64() >= Some(3))
    };
    api.until(&path, restarted).await;

    let gone = api.machine(json!({"config": merged(script("exit 0"), json!({"auto_destroy": true}))})).await;
    let path = format!("/v1/apps/db/machines/{gone}");
    api.until(&path, |a| a.status == 404 || a.body["state"] == "destroyed").await;
    api.emulator.shutdown().await;
    assert_eq!(survivors(data.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_patient_then_final() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    // Says which signal came, deaf to it in the end, with a grandchild in a session of its own.
    let deaf = "trap 'echo got INT >> data/signals' INT; setsid sleep 987 & while :; do sleep 0.05; done";
    let volume = api.volume(json!({"name": "data", "region": "ord"})).await;
    let mounts = json!({"mounts": [{"volume": volume, "path": "/data"}]});
    let id = api.started(json!({"config": merged(script(deaf), mounts)})).await;
    until("both processes run", || survivors(data.path()).len() >= 2).await;
    let began = Instant::now();
    api.post(&format!("/v1/apps/db/machines/{id}/stop"), json!({"timeout": "1s"})).await.expect(200);
    assert_eq!(api.show(&id).await["state"], "stopping");
    api.wait(&id, "stopped").await;
    assert!(began.elapsed().as_millis() >= 1000);
    let signals = fs::read_to_string(data.path().join("v").join(&volume).join("signals")).unwrap();
    assert_eq!(signals, "got INT\n");
    let event = api.show(&id).await["events"][0].clone();
    assert_eq!(event["request"]["exit_event"]["requested_stop"], true);
    assert_eq!(event["request"]["exit_event"]["signal"], 9);
    assert_eq!(survivors(data.path()), Vec::<String>::new(), "the grandchild too");

    // One that listens ends with its own exit code, and the root is fresh at the next start.
    let polite = "trap 'exit 4' TERM; echo x >> mark; while :; do sleep 0.02; done";
    let id = api.started(json!({"config": script(polite)})).await;
    let mark = data.path().join("m").join(&id).join("mark");
    until("the trap is set", || mark.exists()).await;
    api.call(Method::POST, &format!("/v1/apps/db/machines/{id}/stop"), None, Some(json!({"signal": "SIGTERM"})))
        .await
        .expect(200);
    api.wait(&id, "stopped").await;
    assert_eq!(api.show(&id).await["events"][0]["request"]["exit_event"]["exit_code"], 4);
    api.post_empty(&format!("/v1/apps/db/machines/{id}/start")).await.expect(200);
    api.wait(&id, "started").await;
    until("one line", || fs::read_to_string(&mark).is_ok_and(|text| text == "x\n")).await;
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_follow_the_machine() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let program = "import http.server,os,sys\n\
        class H(http.server.BaseHTTPRequestHandler):\n\
        \x20def do_GET(s):\n\
        \x20 ok=not os.path.exists('broken'); s.send_response(200 if ok else 503); s.end_headers(); s.wfile.write(b'fine' if ok else b'broken')\n\
        http.server.HTTPServer((os.environ['FLY_PRIVATE_IP'],8080),H).serve_forever()";
    let config = json!({
        "image": "acme/shell", "init": {"exec": ["python3", "-c", program]},
        "checks": {
            "web": {"type": "http", "port": 8080, "path": "/", "interval": "100ms", "timeout": "1s"},
            "tcp": {"type": "tcp", "port": 8080, "interval": 100_000_000u64, "timeout": "1s"},
            "dead": {"type": "tcp", "port": 8081, "interval": "100ms", "timeout": "1s"},
        },
    });
    let id = api.started(json!({"config": config})).await;
    let path = format!("/v1/apps/db/machines/{id}");
    let status = |body: &Value, name: &str| {
        let checks = body["checks"].as_array().unwrap();
        checks.iter().find(|c| c["name"] == name).map(|c| c["status"].as_str().unwrap().to_owned()).unwrap_or_default()
    };
    api.until(&path, |a| {
        status(&a.body, "web") == "passing"
            && status(&a.body, "tcp") == "passing"
            && status(&a.body, "dead") == "critical"
    })
    .await;
    api.sh(&id, "touch broken").await;
    api.until(&path, |a| status(&a.body, "web") == "critical").await;
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_emulators_have_networks_of_their_own() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Api::processes(one.path(), shell()).await;
    let second = Api::processes(two.path(), shell()).await;
    let mut octets = Vec::new();
    for api in [&first, &second] {
        api.app("db").await;
        let id = api.started(json!({"config": {"image": "acme/shell"}})).await;
        let address = api.show(&id).await["private_ip"].as_str().unwrap().to_owned();
        octets.push(address.split('.').nth(1).unwrap().to_owned());
    }
    assert_ne!(octets[0], octets[1]);
    let locked = flypg_emulator::Emulator::start(flypg_emulator::Config {
        data: Some(one.path().to_path_buf()),
        ..flypg_emulator::Config::default()
    });
    assert!(locked.await.unwrap_err().to_string().contains("world on disk"));
    first.emulator.shutdown().await;
    second.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_processes_in_one_machine() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let one = json!({"exec": ["/bin/sh", "-c", "echo $WHO > one; exec sleep 432"], "env": {"WHO": "first"}});
    let two = json!({"entrypoint": ["/bin/sh", "-c"], "cmd": ["while [ ! -e end ]; do sleep 0.02; done; exit 5"]});
    let config = json!({"image": "acme/shell", "restart": {"policy": "no"}, "processes": [one, two]});
    let id = api.started(json!({"config": config})).await;
    let root = data.path().join("m").join(&id);
    until("the first one has its environment", || fs::read_to_string(root.join("one")).is_ok_and(|t| t == "first\n"))
        .await;
    fs::write(root.join("end"), "").unwrap();
    api.wait(&id, "stopped").await;
    assert_eq!(api.show(&id).await["events"][0]["request"]["exit_event"]["exit_code"], 5);
    assert_eq!(survivors(data.path()), Vec::<String>::new(), "the other one went along");
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_hide_are_found() {
    let data = tempfile::tempdir().unwrap();
    let api = Api::processes(data.path(), shell()).await;
    api.app("db").await;
    let volume = api.volume(json!({"name": "data"})).await;
    // An orphan in a session of its own, without the machine's environment, working in the volume: what is left of a
    // PostgreSQL whose supervisor was killed.
    let hides = "(cd data && setsid env -i sh -c 'echo $$ > pid; while :; do sleep 0.05; done' &); sleep 321";
    let mounts = json!({"mounts": [{"volume": volume, "path": "/data"}]});
    let id = api.started(json!({"config": merged(script(hides), mounts)})).await;
    let file = data.path().join("v").join(&volume).join("pid");
    let pid = || fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<i32>().ok());
    until("it hides", || pid().is_some()).await;
    let proc = format!("/proc/{}", pid().unwrap());
    assert!(Path::new(&proc).exists());
    // The main process alone is killed, from outside.
    let run: Value =
        serde_json::from_slice(&fs::read(data.path().join("run").join(format!("{id}.json"))).unwrap()).unwrap();
    let main = run["processes"][0]["pid"].to_string();
    assert!(std::process::Command::new("kill").args(["-9", &main]).status().unwrap().success());
    api.wait(&id, "stopped").await;
    let state = fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
    api.emulator.shutdown().await;
}
