//! Where no way leads to the nodes' private addresses.

use crate::cluster::{STREAMING, file};
use flypg_core::protocol::ports::NODE;
use flypg_tests::fly::Fly;
use flypg_tests::sql;
use serde_json::Value;

#[tokio::test]
async fn nodes_are_called_through_the_platform() {
    let fly = Fly::start();
    let text = |work_mem: &str| {
        file("exec-db", 2, "")
            .replace("    version: 15\n", &format!("    version: 15\n    parameters: {{ work_mem: {work_mem} }}\n"))
    };
    let path = fly.write("cluster.yaml", &text("8MB"));
    fly.ok(&["reconcile", "-f", &path, "--agents", "exec"]).await;
    let status = fly.ok(&["status", "exec-db", "-o", "json", "--agents", "exec"]).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((status["ready"].as_bool(), status["primary"].as_str()), (Some(true), Some("ord-1")), "{status}");

    std::fs::write(&path, text("9MB")).unwrap();
    fly.ok(&["reconcile", "-f", &path, "--agents", "exec"]).await;
    let (address, password) = (fly.address("exec-db", "ord-1").await, fly.password("exec-db"));
    assert_eq!(sql::ask(&address, NODE, &password, "SHOW work_mem").await.unwrap(), "9MB");
    assert_eq!(sql::ask(&address, NODE, &password, STREAMING).await.unwrap(), "1");

    // A Machine that is stopped cannot be asked, and is started.
    let machine = fly.machines("exec-db").await.into_iter().find(|machine| machine["name"] == "ord-2").unwrap();
    let stop = format!("/v1/apps/exec-db/machines/{}/stop", machine["id"].as_str().unwrap());
    assert_eq!(fly.api("POST", &stop, None).await.0, 200);
    fly.ok(&["reconcile", "-f", &path, "--agents", "exec"]).await;
    let ran = fly.run(&["reconcile", "-f", &path, "--agents", "exec", "--dry-run", "--exit-code"]).await;
    assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
}
