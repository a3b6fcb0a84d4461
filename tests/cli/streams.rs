//! stdout is data and stderr is talk; colour only where a person looks.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use flypg_tests::patience::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Shell, cluster};

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let shell = Shell::new();
    let mut child =
        shell.command("schema").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("flypg can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn colour_is_for_terminals_and_those_who_insist() {
    let shell = Shell::new();
    shell.write("orders.yaml", &cluster("orders-db").replace("regions", "regoins"));
    let escapes = |shell: &Shell| shell.output("validate -f orders.yaml").stderr.contains(&0x1b);
    assert!(!escapes(&shell), "stderr is a pipe");
    let shell = shell.with("CLICOLOR_FORCE", "1");
    assert!(escapes(&shell));
    let shell = shell.with("NO_COLOR", "1");
    assert!(!escapes(&shell), "NO_COLOR outranks it");
}

/// As `flypg controller 2>&1 | head` has it.
#[tokio::test]
async fn a_controller_whose_log_nobody_reads_goes_on() {
    let shell = Shell::new().with("FLY_FLAPS_BASE_URL", "http://127.0.0.1:1");
    shell.write("clusters/orders.yaml", &cluster("orders-db"));
    let mut child = shell
        .command("controller -f clusters --listen 127.0.0.1:0")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("flypg can be started");
    drop(child.stderr.take());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.next().expect("it says where it answers").unwrap();
    shell.write("clusters/users.yaml", "a mistake: [that is logged");
    let http = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    eventually("the mistake is seen", Duration::from_secs(60), || async {
        let text = http.get(format!("{url}/v1/clusters")).send().await.map_err(|error| error.to_string())?;
        let text = text.text().await.map_err(|error| error.to_string())?;
        if text.contains("users.yaml") { Ok(()) } else { Err(text) }
    })
    .await;
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
