//! Machines in network namespaces. These need root, `ip` and `nft`; `make faults` runs them.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;

use flypg_emulator::{Config, NetworkKind, RuntimeKind};
use serde_json::{Value, json};

use crate::harness::{Api, until};
use crate::processes::{script, shell};

async fn start(data: &Path) -> Api {
    Api::start(Config {
        data: Some(data.to_path_buf()),
        images: shell(),
        runtime: RuntimeKind::Process,
        network: NetworkKind::Namespaces,
        ..Config::default()
    })
    .await
}

/// The machine's id and address.
async fn sleeper(api: &Api, name: &str) -> (String, String) {
    let mut config = script("while :; do sleep 0.05; done");
    config["restart"] = json!({"policy": "no"});
    let id = api.started(json!({"name": name, "region": "ord", "config": config})).await;
    let address = api.show(&id).await["private_ip"].as_str().unwrap().to_owned();
    (id, address)
}

#[derive(Debug, PartialEq, Eq)]
enum Try {
    /// Somebody answered, if only that nobody listens.
    Answer,
    Silence,
}

/// What becomes of a connection from a machine to a port where nobody listens.
async fn reach(api: &Api, from: &str, to: &str) -> Try {
    let line = format!("timeout 1 bash -c '</dev/tcp/{to}/9' 2>/dev/null; echo $?");
    match api.sh(from, &line).await["stdout"].as_str().unwrap().trim() {
        "124" => Try::Silence,
        "1" => Try::Answer,
        other => panic!("{other}"),
    }
}

fn outside(address: &str) -> String {
    let tag = address.split(':').nth(1).unwrap();
    format!("fdaa:{tag}::1")
}

fn names(address: &str) -> Vec<String> {
    let tag = address.split(':').nth(1).unwrap();
    let list = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let ours = list.lines().filter(|line| line.starts_with(&format!("flypg-{tag}")));
    ours.map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

async fn fault(api: &Api, fault: Value) {
    let answer = api.fault(fault).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn cuts_are_real_and_have_a_direction() {
    let data = tempfile::tempdir().unwrap();
    let api = start(data.path()).await;
    api.app("db").await;
    let (a, at_a) = sleeper(&api, "a").await;
    let (b, at_b) = sleeper(&api, "b").await;
    let out = outside(&at_a);
    let listener = TcpListener::bind((out.as_str(), 0)).unwrap();
    for (from, to) in [(&a, &at_b), (&b, &at_a), (&a, &out), (&b, &out)] {
        assert_eq!(reach(&api, from, to).await, Try::Answer, "{from} to {to}");
    }

    fault(&api, json!({"fault": "partition", "machines": [["db/a"], ["db/b"]]})).await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Silence);
    assert_eq!(reach(&api, &b, &at_a).await, Try::Silence);
    assert_eq!(reach(&api, &a, &out).await, Try::Answer);
    assert_eq!(api.get("/_world").await.body["links"].as_array().unwrap().len(), 2);
    fault(&api, json!({"fault": "heal"})).await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Answer);

    // One way: packets of an answer are packets as well, so neither can ask the other; but what is sent arrives.
    fault(&api, json!({"fault": "cut", "from": ["outside"], "to": ["db/a"]})).await;
    assert_eq!(reach(&api, &a, &out).await, Try::Silence);
    assert_eq!(reach(&api, &a, &at_b).await, Try::Answer);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
    let port = listener.local_addr().unwrap().port();
    let send = format!("timeout 1 bash -c 'echo >/dev/udp/{out}/{port}'");
    let socket = std::net::UdpSocket::bind((out.as_str(), port)).unwrap();
    socket.set_read_timeout(Some(crate::harness::DEADLINE)).unwrap();
    api.sh(&a, &send).await;
    let (_, from): (usize, SocketAddr) = socket.recv_from(&mut [0; 8]).expect("the way out is open");
    assert_eq!(from.ip().to_string(), at_a);
    fault(&api, json!({"fault": "heal", "machines": ["db/a"]})).await;
    assert_eq!(reach(&api, &a, &out).await, Try::Answer);

    // A migration or restart changes nothing about a cut.
    fault(&api, json!({"fault": "cut", "from": ["db/a"], "to": ["db/b"]})).await;
    api.post_empty(&format!("/v1/apps/db/machines/{a}/restart")).await.expect(200);
    api.wait(&a, "started").await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Silence);

    let refused = api.fault(json!({"fault": "cut", "from": ["db/a"], "to": ["db/c"]})).await;
    assert_eq!(refused.status, 404);
    let refused = api.fault(json!({"fault": "cut", "from": ["db/a"], "to": ["db/b"], "loss": 2.0})).await;
    assert_eq!(refused.status, 400);
    assert_eq!(names(&at_a).len(), 3);
    api.emulator.shutdown().await;
    assert!(names(&at_a).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn what_is_dead_or_frozen_is_silent() {
    let data = tempfile::tempdir().unwrap();
    let api = start(data.path()).await;
    api.app("db").await;
    let (a, _) = sleeper(&api, "a").await;
    let (b, at_b) = sleeper(&api, "b").await;
    fault(&api, json!({"fault": "freeze", "machine": b})).await;
    until("it is silent", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(reach(&api, &a, &at_b)) == Try::Silence
        })
    })
    .await;
    fault(&api, json!({"fault": "thaw", "machine": b})).await;
    until("it answers again", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(reach(&api, &a, &at_b)) == Try::Answer
        })
    })
    .await;
    fault(&api, json!({"fault": "machine_dies", "machine": b})).await;
    api.wait(&b, "stopped").await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Silence);
    // Started again it is where it was, and knows nothing of what was before.
    api.post_empty(&format!("/v1/apps/db/machines/{b}/start")).await.expect(200);
    api.wait(&b, "started").await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Answer);
    api.delete(&format!("/v1/apps/db/machines/{b}?force=true")).await.expect(200);
    until("its namespace is gone", || names(&at_b).len() == 2).await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Silence);
    api.emulator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root"]
async fn an_emulator_that_was_killed_leaves_a_network_that_the_next_takes_over() {
    let data = tempfile::tempdir().unwrap();
    let api = start(data.path()).await;
    api.app("db").await;
    let (a, at_a) = sleeper(&api, "a").await;
    let (b, at_b) = sleeper(&api, "b").await;
    fault(&api, json!({"fault": "partition", "machines": [["db/a"], ["db/b"]]})).await;
    api.emulator.abandon().await;
    assert_eq!(names(&at_a).len(), 3);
    let api = start(data.path()).await;
    assert_eq!(api.show(&b).await["private_ip"], at_b.as_str());
    api.wait(&a, "started").await;
    assert_eq!(reach(&api, &a, &at_b).await, Try::Answer);
    api.emulator.shutdown().await;
    assert!(names(&at_a).is_empty());
    // The same addresses once more.
    let api = start(data.path()).await;
    api.wait(&a, "started").await;
    api.wait(&b, "started").await;
    assert_eq!(api.show(&b).await["private_ip"], at_b.as_str());
    assert_eq!(reach(&api, &a, &at_b).await, Try::Answer);
    api.emulator.shutdown().await;
    let other = Config { data: Some(data.path().to_path_buf()), runtime: RuntimeKind::Process, ..Config::default() };
    let refused = flypg_emulator::Emulator::start(other).await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("namespaces"), "{refused}");
}
