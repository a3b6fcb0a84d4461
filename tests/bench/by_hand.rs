//! What a person would type: `initdb`, start, two `pg_basebackup` side by side, start both, wait until they stream.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// The time it took. Everything is gone afterwards.
pub(crate) async fn three_nodes() -> Duration {
    tokio::task::spawn_blocking(|| {
        let dir = tempfile::Builder::new().prefix("byhand-").tempdir_in("/tmp").expect("a directory");
        let root = nix::unistd::Uid::effective().is_root();
        if root {
            assert!(Command::new("chown").args(["postgres", dir.path().to_str().unwrap()]).status().unwrap().success());
        }
        let begun = Instant::now();
        make(dir.path(), root);
        let took = begun.elapsed();
        for node in ["n2", "n3", "n1"] {
            run(dir.path(), root, &format!("{BIN}/pg_ctl -D {node} -m fast -w stop"));
        }
        took
    })
    .await
    .expect("it does not panic")
}

fn make(dir: &Path, root: bool) {
    let sh = |script: &str| run(dir, root, script);
    // The settings that matter for the work done are the same as ours: checksums, a quick checkpoint, slots.
    sh(&format!("{BIN}/initdb -D n1 --data-checksums --auth=trust -E UTF8 --locale=C.UTF-8"));
    let start = |node: &str| {
        format!(
            "{BIN}/pg_ctl -D {node} -w -l {node}.log -o \"-k $PWD -c listen_addresses= -c port=543{}\" start",
            &node[1..]
        )
    };
    sh(&start("n1"));
    sh(&format!(
        "{BIN}/psql -qAt -h $PWD -p 5431 -d postgres -c \"SELECT pg_create_physical_replication_slot('n2'), \
         pg_create_physical_replication_slot('n3')\""
    ));
    let copy = |node: &str| {
        format!(
            "{BIN}/pg_basebackup -h $PWD -p 5431 -D {node} -R -X stream --checkpoint=fast -S {node} && {}",
            start(node)
        )
    };
    sh(&format!("({}) & a=$!; ({}) & b=$!; wait $a && wait $b", copy("n2"), copy("n3")));
    let streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
    sh(&format!(
        "until [ \"$({BIN}/psql -qAt -h $PWD -p 5431 -d postgres -c \"{streaming}\")\" = 2 ]; do sleep 0.02; done"
    ));
}

fn run(dir: &Path, root: bool, script: &str) {
    let mut command = match root {
        true => {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--", "sh", "-c", script]);
            command
        }
        false => {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        }
    };
    let status = command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).status().expect("sh runs");
    assert!(status.success(), "{script}");
}
