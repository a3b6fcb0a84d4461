use std::io::Write;
use std::thread;

use super::*;

impl ServerLog {
    /// As Postgres does.
    pub(crate) fn say(&self, words: &str) {
        (&self.writer).write_all(words.as_bytes()).unwrap();
    }
}

fn cancelled(pid: u32) -> String {
    format!("<{pid}> 2026 [{pid}] WARNING:  canceling wait for synchronous replication due to user request\n")
}

#[test]
fn words_are_the_errors_or_else_the_last_lines() {
    let log = ServerLog::new().unwrap();
    for n in 0..30 {
        log.say(&format!("<7> 2026-11-22 [7] LOG:  line {n}\n"));
    }
    log.take();
    assert_eq!(log.content().tail.len(), TAIL);
    assert_eq!(log.content().tail[TAIL - 1], "2026-11-22 [7] LOG:  line 29");
    assert!(log.words().ends_with("line 29"), "{}", log.words());
    log.say("<7> 2026-11-22 [7] FATAL:  could not map anonymous shared memory\n");
    log.say("<7> 2026-11-22 [7] HINT:  reduce shared_buffers\n");
    log.take();
    assert_eq!(log.words(), "could not map anonymous shared memory; reduce shared_buffers");
    assert!(!log.is_stranded());
    log.say(
        "<7> 2026-11-22 [7] FATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment \
         000000010000000000000002 has already been removed\n",
    );
    log.take();
    assert!(log.is_stranded());
    log.say("<7> LOG:  the last words of the one before\n");
    log.begin().unwrap();
    assert!(!log.is_stranded() && log.words().is_empty());
}

#[test]
fn a_cancelled_wait_is_known_once_it_is_written() {
    let log = ServerLog::new().unwrap();
    let mut known = log.cancelled_waits();
    assert!(!log.has_cancelled(17, &mut known));
    log.say(&cancelled(17));
    assert!(!log.has_cancelled(18, &mut known), "another's");
    assert!(log.has_cancelled(17, &mut log.cancelled_waits().saturating_sub(1)));
    // A later backend of the same id, and one that is asked about again and again.
    let mut later = log.cancelled_waits();
    assert!(!log.has_cancelled(17, &mut later));
    log.say(&cancelled(18));
    assert!(!log.has_cancelled(17, &mut later));
    assert!(log.has_cancelled(18, &mut known));
}

/// A write that fills the pipe is torn, and what others say stands in its middle.
#[test]
fn what_is_said_while_the_pipe_is_full_is_known_too() {
    let log = ServerLog::new().unwrap();
    fcntl(&log.writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let long = format!("<5> ERROR:  x\n<5> STATEMENT:  {}\n", "y".repeat(3 * log.capacity));
    let mut said = (&log.writer).write(long.as_bytes()).unwrap();
    assert!(said < long.len(), "it fits into the pipe");
    let mut known = log.cancelled_waits();
    assert!(!log.has_cancelled(17, &mut known));
    log.say(&cancelled(17));
    assert!(log.has_cancelled(17, &mut known));
    while said < long.len() {
        said += (&log.writer).write(&long.as_bytes()[said..]).unwrap();
        log.take();
    }
    // The torn line is passed on in two parts, and nothing is lost that comes after it.
    log.say("<5> LOG:  after\n");
    log.take();
    assert_eq!(log.content().tail.back().unwrap(), "LOG:  after");
}

/// However many read the pipe at once, nobody misses what was written before it looked.
#[test]
fn nobody_misses_what_another_is_reading() {
    let (log, done) = (ServerLog::new().unwrap(), AtomicBool::new(false));
    assert!(!log.has_unread());
    log.reading.store(true, SeqCst);
    assert!(log.has_unread(), "the pipe is empty, and what was in it is not to be seen yet");
    log.reading.store(false, SeqCst);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(SeqCst) {
                    if log.has_unread() {
                        log.take();
                    }
                    thread::yield_now();
                }
            });
        }
        let mut known = 0;
        let missed = (1..2_000).find(|backend| {
            log.say(&cancelled(*backend));
            !log.has_cancelled(*backend, &mut known)
        });
        done.store(true, SeqCst);
        assert_eq!(missed, None);
    });
}
