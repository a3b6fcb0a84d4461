//! The emulator as a command.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Shell;

/// Starts an emulator and returns it with the first line of its stderr, once it answers.
fn started(shell: &Shell, more: &str) -> (Child, String) {
    let mut child = shell
        .command(&format!("emulator --runtime model --listen 127.0.0.1:0 --data fly {more}"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("flypg can be started");
    let url = BufReader::new(child.stdout.take().unwrap()).lines().next().expect("it says where it answers").unwrap();
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let first = BufReader::new(child.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    (child, first)
}

fn interrupted(mut child: Child) {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_seed_is_said_first_and_can_be_given_back() {
    let shell = Shell::new();
    let (child, said) = started(&shell, "");
    interrupted(child);
    let seed = said.strip_prefix("Seed ").and_then(|rest| rest.split(';').next()).expect("a seed");
    assert!(seed.parse::<u64>().is_ok(), "{said}");
    // In the world of the first run, too.
    let (child, again) = started(&shell, &format!("--seed {seed}"));
    interrupted(child);
    assert_eq!(again, said);
}
