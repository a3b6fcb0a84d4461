//! Commands run in a machine from outside.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt as _;

use crate::runtime::{ExecCommand, ExecError, ExecOutput};
use crate::world::Boot;

use super::{Inner, exit_of, launch};

pub(super) async fn run(inner: Arc<Inner>, boot: Boot, exec: ExecCommand) -> Result<ExecOutput, ExecError> {
    let env = launch::environment(&inner, &boot);
    let mut command = launch::command(&inner, &boot, &exec.argv, &env).map_err(ExecError::NotStarted)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(ExecError::NotStarted)?;
    let group = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
    let mut stdin = child.stdin.take();
    let feed = async move {
        if let Some(stdin) = &mut stdin {
            // A command need not read its input.
            let _ = stdin.write_all(exec.stdin.as_bytes()).await;
        }
        drop(stdin);
    };
    let finished = async { tokio::join!(feed, child.wait_with_output()).1 };
    match tokio::time::timeout(Duration::from_millis(exec.timeout_ms), finished).await {
        Ok(Ok(output)) => {
            let exit = exit_of(output.status);
            Ok(ExecOutput {
                exit_code: exit.code,
                exit_signal: exit.signal.max(0),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        }
        Ok(Err(error)) => Err(ExecError::NotStarted(error)),
        Err(_) => {
            if let Some(group) = group {
                // Dropping the child killed it; this is for its children.
                let _ = killpg(group, Signal::SIGKILL);
            }
            Err(ExecError::TimedOut(exec.timeout_ms))
        }
    }
}
