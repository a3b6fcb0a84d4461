//! Commands run in a machine from outside.

use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::runtime::{ExecCommand, ExecError, ExecOutput};
use crate::world::Boot;

use super::{Inner, exit_of, launch};

/// How much of each stream is kept, in bytes; the rest is read and forgotten.
const MOST_OUTPUT: usize = 16 << 20;
/// How long after the command's end its streams may stay open: what it left running has them, too.
const LAST_WORDS: Duration = Duration::from_millis(500);

pub(super) async fn run(inner: Arc<Inner>, boot: Boot, exec: ExecCommand) -> Result<ExecOutput, ExecError> {
    let env = launch::environment(&inner, &boot);
    let mut command = launch::command(&inner, &boot, &exec.argv, &env).map_err(ExecError::NotStarted)?;
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(ExecError::NotStarted)?;
    let group = child.id().map(|pid| Pid::from_raw(pid.cast_signed()));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // A command need not read its input.
            let _ = stdin.write_all(exec.stdin.as_bytes()).await;
        }
    };
    let finished = async {
        let mut talk = pin!(async { tokio::join!(feed, keep(stdout, &mut out), keep(stderr, &mut err)) });
        tokio::select! {
            status = child.wait() => {
                // Nothing more may come; then it was all.
                let _ = timeout(LAST_WORDS, talk).await;
                status
            }
            _ = &mut talk => child.wait().await,
        }
    };
    match timeout(Duration::from_millis(exec.timeout_ms), finished).await {
        Ok(Ok(status)) => {
            let exit = exit_of(status);
            Ok(ExecOutput {
                exit_code: exit.code,
                exit_signal: exit.signal.max(0),
                stdout: String::from_utf8_lossy(&out).into_owned(),
                stderr: String::from_utf8_lossy(&err).into_owned(),
            })
        }
        Ok(Err(error)) => Err(ExecError::NotStarted(error)),
        Err(_) => {
            if let Some(group) = group {
                // Dropping the child kills it; this is for its children.
                let _ = killpg(group, Signal::SIGKILL);
            }
            Err(ExecError::TimedOut(exec.timeout_ms))
        }
    }
}

/// Reads a stream to its end, and keeps the first part.
async fn keep(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut part = vec![0; 64 << 10];
    // An error ends a stream as its end does.
    while let Ok(length @ 1..) = stream.read(&mut part).await {
        let room = MOST_OUTPUT - kept.len();
        kept.extend_from_slice(&part[..length.min(room)]);
    }
}
