//! The long-lived controller over a directory.

use flypg_core::protocol::ports::{NODE, READ_WRITE};
use flypg_tests::fly::{Fly, Running, read, spawn};
use flypg_tests::patience::eventually;
use flypg_tests::sql;
use nix::sys::signal::Signal;

use crate::cluster::{LIMIT, STREAMING, file};

fn controller(fly: &Fly) -> Running {
    let mut command = fly.flypg();
    command.args(["controller", "--listen", "127.0.0.1:0", "-f"]).arg(fly.path().join("clusters"));
    spawn(command, &fly.path().join("controller.log"))
}

async fn until(fly: &Fly, cluster: &str, node: &str, query: &str, wanted: &str) {
    eventually(&format!("{query} on {node}"), LIMIT, || async {
        let machines = fly.api("GET", &format!("/v1/apps/{cluster}/machines"), None).await.1;
        let found = machines.as_array().and_then(|m| m.iter().find(|m| m["name"] == node).cloned());
        let address = found.and_then(|m| m["private_ip"].as_str().map(str::to_owned)).ok_or("no such machine")?;
        let seen = sql::ask(&address, NODE, &fly.password(cluster), query).await?;
        if seen == wanted { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn files_come_change_break_and_go() {
    let fly = Fly::start();
    fly.write("clusters/a.yaml", &file("loop-a", 1, "  deletion: delete\n"));
    let mut running = controller(&fly);
    until(&fly, "loop-a", "ord-1", "SELECT 1", "1").await;

    // A second file, and a change of the first.
    fly.write("clusters/more/b.yaml", &file("loop-b", 1, ""));
    fly.write("clusters/a.yaml", &file("loop-a", 2, "  deletion: delete\n"));
    until(&fly, "loop-b", "ord-1", "SELECT 1", "1").await;
    until(&fly, "loop-a", "ord-1", STREAMING, "1").await;

    // A mistake is reported, and what was there stays in force: the node that people destroy comes back.
    fly.write("clusters/a.yaml", &file("loop-a", 2, "  delition: delete\n"));
    eventually("the mistake is told", LIMIT, || async {
        let log = read(&fly.path().join("controller.log"));
        if log.contains("delition") { Ok(()) } else { Err(log) }
    })
    .await;
    let machine = fly.machines("loop-a").await.into_iter().find(|m| m["name"] == "ord-2").unwrap();
    let path = format!("/v1/apps/loop-a/machines/{}?force=true", machine["id"].as_str().unwrap());
    assert_eq!(fly.api("DELETE", &path, None).await.0, 200);
    eventually("ord-2 is made again", LIMIT, || async {
        let machines = fly.machines("loop-a").await;
        let again = machines.iter().any(|m| m["name"] == "ord-2" && m["id"] != machine["id"]);
        if again { Ok(()) } else { Err(format!("{} machines", machines.len())) }
    })
    .await;
    until(&fly, "loop-a", "ord-1", STREAMING, "1").await;

    // The first leaves and may be deleted; the second leaves and is protected. (A directory without any file would
    // take nothing away: it may be one that is not mounted.)
    fly.write("clusters/none.yaml", "# no cluster\n");
    fly.write("clusters/a.yaml", &file("loop-a", 2, "  deletion: delete\n"));
    std::fs::remove_file(fly.path().join("clusters/a.yaml")).unwrap();
    std::fs::remove_dir_all(fly.path().join("clusters/more")).unwrap();
    eventually("loop-a is gone", LIMIT, || async {
        let (status, answer) = fly.api("GET", "/v1/apps/loop-a", None).await;
        if status == 404 { Ok(()) } else { Err(format!("{status} {answer}")) }
    })
    .await;
    until(&fly, "loop-b", "ord-1", "SELECT 1", "1").await;

    running.signal(Signal::SIGTERM);
    let code = eventually("the controller ends", LIMIT, || {
        let ended = running.ended().ok_or_else(|| "it still runs".to_owned());
        async { ended }
    })
    .await;
    assert_eq!(code, 0);
}

#[tokio::test]
async fn a_controller_that_was_killed_goes_on_where_it_was() {
    let fly = Fly::start();
    fly.write("clusters/a.yaml", &file("killed-db", 2, ""));
    // Killed again and again while the cluster is made. Each life is a little longer than the one before: on a busy
    // computer a short one ends before the lists have been read a second time.
    let mut runs = 0;
    loop {
        let running = controller(&fly);
        let life = std::time::Duration::from_millis(400 + 30 * runs);
        let streams = tokio::time::timeout(life, async {
            until(&fly, "killed-db", "ord-1", STREAMING, "1").await;
        })
        .await;
        runs += 1;
        drop(running);
        if streams.is_ok() {
            break;
        }
        assert!(runs < 100, "{}", read(&fly.path().join("controller.log")));
    }
    assert_eq!(fly.machines("killed-db").await.len(), 2);
    assert_eq!(fly.volumes("killed-db").await.len(), 2);
    let address = fly.address("killed-db", "ord-2").await;
    let password = fly.password("killed-db");
    sql::ask(&address, READ_WRITE, &password, "CREATE TABLE t (id int)").await.expect("a write through the other node");
}
