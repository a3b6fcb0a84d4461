//! The platform: absent, forbidden, empty, and in somebody else's hands.

use expect_test::expect;
use flypg_controller::store::{Holder, StateLock, Store};
use flypg_emulator::{Config, Emulator, EmulatorHandle};

use crate::{Shell, cluster};

async fn emulator() -> (EmulatorHandle, Shell) {
    let emulator = Emulator::start(Config::default()).await.unwrap();
    let shell = Shell::new().with("FLY_FLAPS_BASE_URL", &emulator.url()).with("FLYPG_STATE", "state");
    shell.write("orders.yaml", &cluster("orders-db"));
    (emulator, shell)
}

async fn transcript(shell: Shell, arguments: &'static str) -> (String, Shell) {
    tokio::task::spawn_blocking(move || (shell.transcript(arguments), shell)).await.unwrap()
}

#[test]
fn no_token_and_no_platform() {
    let shell = Shell::new();
    shell.write("orders.yaml", &cluster("orders-db"));
    expect![[r#"
        $ flypg reconcile -f orders.yaml --dry-run
        | error: FLY_API_TOKEN is not set
        |
        | hint: make one with `fly tokens create org`, or use a local API: `flypg emulator`, then --api http://127.0.0.1:4280
        exit 1
    "#]].assert_eq(&shell.transcript("reconcile -f orders.yaml --dry-run"));
    let shell = shell.with("FLY_API_TOKEN", "fo1_x");
    expect![[r#"
        $ flypg reconcile -f orders.yaml --api ftp://127.0.0.1 --dry-run
        | error: the Machines API cannot be used
        | caused by: the API address must be http://host[:port][/path] or https://…, without user, query or fragment
        |
        | hint: give the API's address with --api, such as http://127.0.0.1:4280
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile -f orders.yaml --api ftp://127.0.0.1 --dry-run"));
    expect![[r#"
        $ flypg reconcile -f orders.yaml --api http://127.0.0.1:1 --dry-run
        | error: the Machines API at http://127.0.0.1:1 cannot be read
        | caused by: GET /v1/apps/orders-db/machines did not happen: no connection: error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)
        |
        | hint: check its address (--api, FLY_FLAPS_BASE_URL) and the token (FLY_API_TOKEN), then try again
        exit 3
    "#]].assert_eq(&shell.transcript("reconcile -f orders.yaml --api http://127.0.0.1:1 --dry-run"));
}

#[test]
fn clusters_that_are_not_known() {
    let shell = Shell::new().with("FLY_FLAPS_BASE_URL", "http://127.0.0.1:1");
    expect![[r#"
        $ flypg status
        no cluster is known here
    "#]]
    .assert_eq(&shell.transcript("status"));
    expect![[r#"
        $ flypg status orders-db
        | error: no cluster `orders-db` is known here
        |
        | hint: make one with `flypg reconcile -f cluster.yaml`, or give its state directory with --state
        exit 1
    "#]]
    .assert_eq(&shell.transcript("status orders-db"));
    expect![[r#"
        $ flypg connect orders-db
        | error: there is no master key yet, so there is no password to connect with
        |
        | hint: give the state directory the cluster was made with (--state), or set FLYPG_MASTER_KEY
        exit 1
    "#]]
    .assert_eq(&shell.transcript("connect orders-db"));
    let shell = shell.with("FLYPG_MASTER_KEY", "not-a-key");
    expect![[r#"
        $ flypg connect orders-db
        | error: FLYPG_MASTER_KEY cannot be used
        | caused by: a key is 64 hexadecimal digits
        |
        | hint: put back the key the clusters were made with: 64 hexadecimal digits
        exit 1
    "#]]
    .assert_eq(&shell.transcript("connect orders-db"));
}

#[tokio::test]
async fn a_dry_run_leaves_no_trace() {
    let (emulator, shell) = emulator().await;
    let (text, shell) = transcript(shell, "reconcile -f orders.yaml --dry-run --exit-code").await;
    expect![[r#"
        $ flypg reconcile -f orders.yaml --dry-run --exit-code
        orders-db: ord-1 will make the cluster's data

          now
            + app orders-db in organization personal  (there is none)
            + secret FLYPG_CLUSTER_KEY with the cluster's key  (there is none)
            + private address orders-db.flycast  (there is none)
            + volume pg_ord_1, 1 GB in ord, daily snapshots kept 7 days  (the file wants 1 here, there are 0)

          then
            + machine ord-1, shared-1x 1024 MB with flypg/postgres:15  (the file wants 1 here, there are 0)

          then
            ~ record: ord-1 makes the cluster's data, in epoch 1  (there is no data anywhere)
            ~ ord-1 makes the cluster's data  (initdb)

          then
            ~ record: ord-1 leads, in epoch 1; commits are acknowledged by the primary alone  (the data are made)
            ~ machine ord-1: flypg_role=primary  (as on record)
            ~ ord-1: addresses and roles of the others  (so that they route and keep WAL)

        5 to create, 5 to change, 0 to destroy
        one node: when it is lost, the cluster waits until it is back
        exit 2
    "#]]
    .assert_eq(&text);
    let (text, shell) = transcript(shell, "reconcile -f orders.yaml --dry-run -o markdown").await;
    expect![[r#"
        $ flypg reconcile -f orders.yaml --dry-run -o markdown
        ### `orders-db`

        ord-1 will make the cluster's data

        ```diff
        # now
        + app orders-db in organization personal (there is none)
        + secret FLYPG_CLUSTER_KEY with the cluster's key (there is none)
        + private address orders-db.flycast (there is none)
        + volume pg_ord_1, 1 GB in ord, daily snapshots kept 7 days (the file wants 1 here, there are 0)
        # then
        + machine ord-1, shared-1x 1024 MB with flypg/postgres:15 (the file wants 1 here, there are 0)
        # then
        ! record: ord-1 makes the cluster's data, in epoch 1 (there is no data anywhere)
        ! ord-1 makes the cluster's data (initdb)
        # then
        ! record: ord-1 leads, in epoch 1; commits are acknowledged by the primary alone (the data are made)
        ! machine ord-1: flypg_role=primary (as on record)
        ! ord-1: addresses and roles of the others (so that they route and keep WAL)
        ```

        **5 to create, 5 to change, 0 to destroy**

        _one node: when it is lost, the cluster waits until it is back_
    "#]]
    .assert_eq(&text);
    let (text, shell) = transcript(shell, "reconcile -f orders.yaml --dry-run -o json").await;
    let text = text.split_once('\n').unwrap().1;
    let object: serde_json::Value = serde_json::from_str(text).unwrap();
    for key in ["cluster", "converged", "verdict", "steps", "holds", "forecast", "summary", "monthly_usd"] {
        assert!(object.get(key).is_some(), "{key} is missing in {text}");
    }
    assert!(!shell.dir.path().join("state").exists());
    emulator.shutdown().await;
}

#[tokio::test]
async fn what_does_not_end_in_time_is_named() {
    // Nothing runs in these Machines, so no agent ever answers.
    let (emulator, shell) = emulator().await;
    let (text, shell) = transcript(shell, "reconcile -f orders.yaml --wait=1s").await;
    assert!(text.ends_with("exit 3\n"), "{text}");
    assert!(text.contains("| waiting: orders-db: "), "{text}");
    // It is noted all the same, and status tells of it.
    let (text, shell) = transcript(shell, "status").await;
    assert!(text.starts_with("$ flypg status\norders-db is not ready\n"), "{text}");
    // What cannot be seen is neither ready nor not ready.
    let url = emulator.url();
    emulator.shutdown().await;
    let (text, shell) = transcript(shell, "status").await;
    expect![[r#"
        $ flypg status
        orders-db cannot be seen
          progressing  everything: until the app can be read (GET /v1/apps/orders-db/machines did not happen: no connection: error sending request: client error (Connect): tcp connect error: Connection refused (os error 111))
        | error: the Machines API at [URL] cannot be read
        | caused by: GET /v1/apps/orders-db/machines did not happen: no connection: error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)
        |
        | hint: check its address (--api, FLY_FLAPS_BASE_URL) and the token (FLY_API_TOKEN), then try again
        exit 3
    "#]].assert_eq(&text.replace(&url, "[URL]"));
    let (text, _) = transcript(shell, "connect orders-db").await;
    expect![[r#"
        $ flypg connect orders-db
        | error: the Machines API at [URL] cannot be read
        | caused by: GET /v1/apps/orders-db/machines did not happen: no connection: error sending request: client error (Connect): tcp connect error: Connection refused (os error 111)
        |
        | hint: check its address (--api, FLY_FLAPS_BASE_URL) and the token (FLY_API_TOKEN), then try again
        exit 3
    "#]].assert_eq(&text.replace(&url, "[URL]"));
}

#[tokio::test]
async fn one_state_directory_has_one_controller() {
    let (emulator, shell) = emulator().await;
    let holder =
        Holder { pid: 4242, command: "flypg controller".to_owned(), listen: Some("127.0.0.1:4281".parse().unwrap()) };
    let lock = StateLock::acquire(&shell.dir.path().join("state"), &holder).unwrap();
    let (text, shell) = transcript(shell, "reconcile -f orders.yaml").await;
    expect![[r#"
        $ flypg reconcile -f orders.yaml
        | error: the clusters are in somebody else's hands
        | caused by: state is in use by `flypg controller` (pid 4242)
        |
        | hint: that controller takes up the files it watches by itself, and answers on http://127.0.0.1:4281/v1/clusters; preview with --dry-run, follow with `flypg status --watch`
        exit 3
    "#]].assert_eq(&text);
    // To look is free.
    let (text, shell) = transcript(shell, "status").await;
    expect![[r#"
        $ flypg status
        no cluster is known here
    "#]]
    .assert_eq(&text);
    drop(lock);
    drop(Store::open(&shell.dir.path().join("state")).unwrap());
    emulator.shutdown().await;
}

#[test]
fn a_state_directory_that_cannot_be_used() {
    let shell = Shell::new().with("FLY_FLAPS_BASE_URL", "http://127.0.0.1:1");
    shell.write("orders.yaml", &cluster("orders-db"));
    expect![[r#"
        $ flypg reconcile -f orders.yaml --state orders.yaml/state
        | error: the state directory cannot be used
        | caused by: orders.yaml/state cannot be made
        | caused by: Not a directory (os error 20)
        |
        | hint: give a directory that can be read and written with --state
        exit 1
    "#]]
    .assert_eq(&shell.transcript("reconcile -f orders.yaml --state orders.yaml/state"));
    expect![[r#"
        $ flypg connect orders-db --state orders.yaml/state
        | error: the state directory cannot be used
        | caused by: orders.yaml/state/master.key cannot be read
        | caused by: Not a directory (os error 20)
        |
        | hint: give a directory that can be read and written with --state
        exit 1
    "#]]
    .assert_eq(&shell.transcript("connect orders-db --state orders.yaml/state"));
    shell.write("damaged/flypg.db", &"this is no database\n".repeat(100));
    expect![[r#"
        $ flypg reconcile -f orders.yaml --state damaged
        | error: the state directory cannot be used
        | caused by: damaged/flypg.db cannot be opened
        | caused by: file is not a database
        | caused by: Error code 26: file is not a database
        |
        | hint: put back a copy of it; if there is none, move it away: the nodes still say who leads
        exit 70
    "#]]
    .assert_eq(&shell.transcript("reconcile -f orders.yaml --state damaged"));
    expect![[r#"
        $ flypg status --state damaged
        | error: the state directory cannot be used
        | caused by: damaged/flypg.db cannot be opened
        | caused by: file is not a database
        | caused by: Error code 26: file is not a database
        |
        | hint: put back a copy of it; if there is none, move it away: the nodes still say who leads
        exit 70
    "#]]
    .assert_eq(&shell.transcript("status --state damaged"));
}

#[tokio::test]
async fn another_master_key_is_not_made_for_clusters_that_had_one() {
    let (emulator, shell) = emulator().await;
    let (_, shell) = transcript(shell, "reconcile -f orders.yaml --wait=0s").await;
    let key = shell.dir.path().join("state/master.key");
    std::fs::rename(&key, shell.dir.path().join("kept")).unwrap();
    let (text, shell) = transcript(shell, "reconcile -f orders.yaml --wait=0s").await;
    expect![[r#"
        $ flypg reconcile -f orders.yaml --wait=0s
        | error: state/master.key is missing, and the passwords of orders-db follow from it
        |
        | hint: put the file back, or set FLYPG_MASTER_KEY to what it held
        exit 1
    "#]]
    .assert_eq(&text);
    assert!(!key.exists());
    emulator.shutdown().await;
    drop(shell);
}

/// What a captive portal, a proxy or a mistyped address answers.
#[tokio::test]
async fn the_page_of_another_server_is_not_an_empty_platform() {
    let page = axum::response::Html("<!DOCTYPE html>\n<html>\n<body>Not Found</body>\n</html>\n");
    let app = axum::Router::new().fallback(async move || (axum::http::StatusCode::NOT_FOUND, page));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let shell = Shell::new().with("FLY_FLAPS_BASE_URL", &url);
    shell.write("orders.yaml", &cluster("orders-db"));
    let (text, _) = transcript(shell, "reconcile -f orders.yaml --dry-run").await;
    expect![[r#"
        $ flypg reconcile -f orders.yaml --dry-run
        | error: the Machines API at [URL] cannot be read
        | caused by: GET /v1/apps/orders-db/machines did not happen: an answer that this API does not give: 404 <!DOCTYPE html> <html> <body>Not Found</body> </html>
        |
        | hint: check its address (--api, FLY_FLAPS_BASE_URL) and the token (FLY_API_TOKEN), then try again
        exit 3
    "#]].assert_eq(&text.replace(&url, "[URL]"));
    serving.abort();
}

#[tokio::test]
async fn secrets_are_not_said() {
    let (emulator, shell) = emulator().await;
    let shell = shell.with("FLY_API_TOKEN", "FlyV1 fm2_s3cr3t").with("FLYPG_MASTER_KEY", &"5e".repeat(32));
    let (text, _) = transcript(shell, "-vvv reconcile -f orders.yaml --wait=0s").await;
    let key: flypg_core::keys::Key = "5e".repeat(32).parse().unwrap();
    let cluster = key.of_cluster(&"orders-db".parse().unwrap());
    assert!(text.len() > 2000, "it does not say much: {text}");
    for secret in ["s3cr3t", &"5e".repeat(32), &cluster.expose(), &cluster.password(flypg_core::keys::Role::Postgres)] {
        assert!(!text.contains(secret), "{secret} is in:\n{text}");
    }
    emulator.shutdown().await;
}
