//! The controller is killed at every call that changes something, and a new one finishes the work.

use flypg_core::protocol::ports::NODE;
use flypg_tests::proxy::{Death, Proxy};

use crate::cluster::{Cluster, STREAMING, file};

/// Runs `flypg reconcile` again and again, each run killed at the mutating call that `at` names for it (1 is its
/// first), until one run has nothing left to do. Gives how many runs were killed.
async fn kill_at_every_call(cluster: &Cluster, proxy: &Proxy, death: Death, at: impl Fn(usize) -> usize) -> usize {
    let mut killed = 0;
    loop {
        let mut command = cluster.fly.flypg_at(&proxy.url);
        command.args(["reconcile", "-f", &cluster.path]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().expect("it can be started");
        proxy.kill_at(child.id() as i32, at(killed), death);
        let status = tokio::task::spawn_blocking(move || child.wait().expect("it is ours")).await.unwrap();
        match status.code() {
            Some(0) => return killed,
            Some(code) => panic!("it was not killed and failed with {code}"),
            None => killed += 1,
        }
        assert!(killed < 200, "it does not get anywhere");
    }
}

async fn creation(name: &'static str, death: Death) {
    let cluster = Cluster::begin(name, &file(name, 2, "    replicas:\n      - { code: ams, nodes: 1 }\n"));
    let proxy = Proxy::start(cluster.fly.url()).await;
    // One call a run; the call that comes after the one that succeeded, where that is the one that kills.
    let at = move |_| if death == Death::Before { 2 } else { 1 };
    let killed = kill_at_every_call(&cluster, &proxy, death, at).await;
    assert!(killed >= 4, "only {killed} runs were killed");
    assert_eq!(cluster.nodes().await, ["ams-1", "ord-1", "ord-2"]);
    cluster.until("ord-1", NODE, STREAMING, "2").await;
    // Nothing twice.
    assert_eq!(cluster.fly.machines(name).await.len(), 3);
    assert_eq!(cluster.fly.volumes(name).await.len(), 3);
    assert_eq!(cluster.pending().await, 0);
}

#[tokio::test]
async fn creation_after_the_call() {
    creation("crash-after", Death::After).await;
}

#[tokio::test]
async fn creation_before_the_call() {
    creation("crash-before", Death::Before).await;
}

#[tokio::test]
async fn growth_and_removal() {
    let text = |nodes| file("crash-grow", nodes, "  deletion: delete\n");
    let cluster = Cluster::make("crash-grow", &text(1)).await;
    let proxy = Proxy::start(cluster.fly.url()).await;
    for (nodes, death) in [(2, Death::After), (1, Death::After), (2, Death::Before), (1, Death::Before)] {
        std::fs::write(&cluster.path, text(nodes)).unwrap();
        // A Machine's lease is a call of its own: a run that may make one call could never do more than take it.
        let killed = kill_at_every_call(&cluster, &proxy, death, |killed| killed + 1).await;
        assert!(killed >= 1, "nobody was killed on the way to {nodes}");
        assert_eq!(cluster.fly.machines("crash-grow").await.len(), nodes as usize);
        assert_eq!(cluster.fly.volumes("crash-grow").await.len(), nodes as usize);
    }
}
