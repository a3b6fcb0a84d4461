//! stdout is data and stderr is talk; colour only where a person looks.

use std::process::Stdio;

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
