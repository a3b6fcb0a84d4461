//! What this node's Postgres says on stderr: passed on to the agent's own log, and read by the gate before it passes an
//! answer on.
//!
//! A commit whose wait for a standby is cancelled is answered like any other. PostgreSQL warns of it, but a session may
//! keep warnings from itself (`client_min_messages`), and in a procedure even a timeout of its own cancels the wait. What
//! no session can do without a superuser's leave is to keep it out of the server's log, and a backend has written that
//! into the pipe before it answers. So whoever has read an answer looks into the pipe before it passes on (rule R12).

mod waits;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::lines::{Line, Lines};
use waits::Waits;
pub use waits::marked;

/// How many of PostgreSQL's last lines are kept to say why it ended.
const TAIL: usize = 20;
/// What the pipe is asked to hold, so that it is rarely full; the most that a process without privileges may ask for.
const PIPE: usize = 1024 * 1024;
/// Read at once.
const CHUNK: usize = 64 * 1024;
/// What may wait to be passed on. Beyond that, whoever reads the pipe passes it on itself, as slowly as that may go.
const UNSAID: usize = 1024 * 1024;

/// The log of all postmasters that this agent starts, one after the other.
#[derive(Debug)]
pub struct ServerLog {
    pipe: PipeReader,
    /// The other end, for postmasters to come.
    writer: PipeWriter,
    /// Bytes that the pipe holds.
    capacity: usize,
    read: Mutex<Content>,
    /// Bytes have been taken out of the pipe that nobody can see in `read` yet.
    reading: AtomicBool,
    /// How many waits have been cancelled.
    cancelled: AtomicU64,
    /// There is something to pass on.
    unsaid: Notify,
    /// Held while lines are passed on, so that they stay in their order.
    saying: Mutex<()>,
}

#[derive(Debug, Default)]
struct Content {
    /// What was read last begins it.
    buffer: Vec<u8>,
    lines: Lines,
    waits: Waits,
    /// Which of all cancelled waits was the last one of a backend. Ids come again, so this grows to one number for each.
    cancelled: BTreeMap<u32, u64>,
    unsaid: VecDeque<String>,
    unsaid_bytes: usize,
    tail: VecDeque<String>,
    stranded: bool,
}

impl ServerLog {
    pub fn new() -> io::Result<Self> {
        let (pipe, writer) = io::pipe()?;
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        // As large as it may be.
        let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE as i32));
        let capacity = fcntl(&pipe, FcntlArg::F_GETPIPE_SZ)?;
        Ok(Self {
            pipe,
            writer,
            capacity: usize::try_from(capacity).unwrap_or(PIPE),
            read: Mutex::default(),
            reading: AtomicBool::new(false),
            cancelled: AtomicU64::new(0),
            unsaid: Notify::new(),
            saying: Mutex::new(()),
        })
    }

    /// The stderr of a postmaster that is about to be started. What the one before it said is not said of it.
    pub fn begin(&self) -> io::Result<Stdio> {
        self.take();
        let mut content = self.content();
        content.tail.clear();
        content.stranded = false;
        Ok(self.writer.try_clone()?.into())
    }

    /// How many waits for standbys have been cancelled so far.
    pub fn cancelled_waits(&self) -> u64 {
        self.cancelled.load(SeqCst)
    }

    /// Whether Postgres has said by now that a wait of `backend` was cancelled, after the first `known` of all. Counts
    /// `known` up to where that need not be looked at again.
    pub fn has_cancelled(&self, backend: u32, known: &mut u64) -> bool {
        if self.has_unread() {
            self.take();
        }
        let all = self.cancelled_waits();
        if all == *known {
            return false;
        }
        let before = std::mem::replace(known, all);
        self.content().cancelled.get(&backend).is_some_and(|last| *last > before)
    }

    /// Whether anything was written that is not in `read` yet. Looks at `reading` last: whoever took it out of the pipe
    /// before the pipe was looked at had set it by then, and resets it after all is to be seen.
    fn has_unread(&self) -> bool {
        let mut pipe = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        poll(&mut pipe, PollTimeout::ZERO) != Ok(0) || self.reading.load(SeqCst)
    }

    /// Takes out of the pipe what was in it when this was called. Whether it is empty now.
    fn take(&self) -> bool {
        let mut content = self.content();
        self.reading.store(true, SeqCst);
        let mut buffer = std::mem::take(&mut content.buffer);
        let (filled, empty) = self.read_pipe(&mut buffer);
        let bytes = &buffer[..filled];
        // It is full by pages rather than bytes; any two of them that follow one another hold more than one can.
        for backend in content.waits.read(bytes, filled >= self.capacity / 2) {
            let number = self.cancelled.load(SeqCst) + 1;
            content.cancelled.insert(backend, number);
            self.cancelled.store(number, SeqCst);
        }
        self.reading.store(false, SeqCst);
        content.keep(bytes);
        buffer.truncate(CHUNK);
        buffer.shrink_to(CHUNK);
        content.buffer = buffer;
        let (much, something) = (content.unsaid_bytes > UNSAID, !content.unsaid.is_empty());
        drop(content);
        if much {
            self.pass_on();
        } else if something {
            self.unsaid.notify_one();
        }
        empty
    }

    /// Reads what is in the pipe, or as much as fits into it: what was there at first is part of that. How many bytes it
    /// was, and whether that was all.
    fn read_pipe(&self, buffer: &mut Vec<u8>) -> (usize, bool) {
        let mut filled = 0;
        while filled < self.capacity {
            if buffer.len() < filled + CHUNK {
                buffer.resize(filled + CHUNK, 0);
            }
            match (&self.pipe).read(&mut buffer[filled..]) {
                Ok(0) => return (filled, true),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (filled, true),
                Err(error) => {
                    tracing::error!(%error, "PostgreSQL's log cannot be read");
                    return (filled, true);
                }
            }
        }
        (filled, false)
    }

    /// Passes on what was read.
    fn pass_on(&self) {
        let _turn = self.saying.lock().expect("no holder of this lock panics");
        let lines = {
            let mut content = self.content();
            content.unsaid_bytes = 0;
            std::mem::take(&mut content.unsaid)
        };
        for line in lines {
            tracing::info!(target: "postgres", "{line}");
        }
    }

    /// Passes on all that was said by now.
    pub fn flush(&self) {
        while !self.take() {
            self.pass_on();
        }
        self.pass_on();
    }

    /// Whether a standby said that its primary cannot give it the WAL it needs, since this was last forgotten.
    pub fn is_stranded(&self) -> bool {
        self.content().stranded
    }

    pub fn forget_stranded(&self) {
        self.content().stranded = false;
    }

    /// What PostgreSQL said last of why it cannot go on: its errors, or else its last lines.
    pub fn words(&self) -> String {
        let tail = &self.content().tail;
        errors_in(tail.iter().map(String::as_str))
            .unwrap_or_else(|| tail.iter().skip(tail.len().saturating_sub(3)).cloned().collect::<Vec<_>>().join("; "))
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.read.lock().expect("no holder of this lock panics")
    }
}

impl Content {
    fn keep(&mut self, bytes: &[u8]) {
        let Self { lines, unsaid, unsaid_bytes, tail, stranded, .. } = self;
        lines.read(bytes, |line| {
            let text = shown(line);
            *stranded |= says_stranded(&text);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text.clone());
            *unsaid_bytes += text.len();
            unsaid.push_back(text);
        });
    }
}

/// A line without our mark.
fn shown(line: &Line<'_>) -> String {
    match waits::unmarked(line.kept) {
        Some((_, rest)) => line.without_beginning(rest).text(),
        None => line.text(),
    }
}

/// Passes on what Postgres says, as it says it.
pub async fn follow(log: Arc<ServerLog>) -> io::Result<()> {
    let pipe = pipe::Receiver::from_owned_fd(log.pipe.try_clone()?.into())?;
    loop {
        tokio::select! {
            ready = pipe.readable() => ready?,
            () = log.unsaid.notified() => {}
        }
        // An error tells tokio that it is empty, and to wake this task when it is not.
        let _ = pipe.try_io(|| if log.take() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) });
        log.pass_on();
    }
}

/// What a standby says that its primary cannot give it the WAL it needs, because it is gone or because the two have
/// diverged (walsender.c, walreceiver.c, xlogrecovery.c). No SQL function of either tells it.
fn says_stranded(line: &str) -> bool {
    const WORDS: [(&str, &str); 5] = [
        ("could not receive data from WAL stream: ERROR:  requested WAL segment ", " has already been removed"),
        ("could not start WAL streaming: ERROR:  requested starting point ", " is not in this server's history"),
        ("could not start WAL streaming: ERROR:  requested starting point ", " is ahead of the WAL flush position"),
        ("highest timeline ", " of the primary is behind recovery timeline "),
        ("new timeline ", " forked off current database system timeline "),
    ];
    WORDS.iter().any(|(first, then)| line.split_once(first).is_some_and(|(_, rest)| rest.contains(then)))
}

/// The errors among PostgreSQL's log lines, with their hints, without prefixes.
pub fn errors_in<'a>(lines: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut found = Vec::new();
    for line in lines {
        for tag in ["PANIC:  ", "FATAL:  ", "ERROR:  ", "HINT:  ", "DETAIL:  ", "error: "] {
            if let Some((_, words)) = line.split_once(tag) {
                found.push(words.trim());
                break;
            }
        }
    }
    (!found.is_empty()).then(|| found.join("; "))
}

#[cfg(test)]
mod tests;
