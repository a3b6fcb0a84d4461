//! Under which conditions the bytes of one connection pass.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use flypg_core::failover::lease::BootTime;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::gate::{Capacity, Term};
use crate::seats::Seat;
use crate::server_log::ServerLog;
use crate::wire::{Answers, Broken};

/// The longest that a switchover may hold a transaction back (failover-protocol §2.6, "Pause"); then it goes on here.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// Of one connection.
#[derive(Debug)]
pub struct Passage {
    cut: CancellationToken,
    /// It is a session of this node's own Postgres.
    session: Option<Session>,
    /// When the other side was last heard.
    heard: Option<Arc<Heard>>,
    /// Taken as long as this is.
    _seat: Option<Seat>,
}

/// A session at the gate.
#[derive(Debug)]
struct Session {
    term: Arc<Term>,
    /// What a primary says is followed. Locked for moments, by the two directions of one connection.
    talk: Option<Mutex<Talk>>,
    /// What Postgres says to nobody but the agent.
    log: Arc<ServerLog>,
    /// The answers have shown that it is in a transaction still.
    awake: Notify,
}

#[derive(Debug, Default)]
struct Talk {
    answers: Answers,
    /// It counts as being in a transaction.
    busy: bool,
    broken: bool,
    /// How many waits for standbys had been cancelled when it was last looked whether this one's was among them.
    cancelled_waits: u64,
}

impl Talk {
    /// Postgres has said `bytes`. `Err`: neither they nor what follows may be passed on. Only now that they were read is
    /// the log looked at: whatever it tells of how they came to be stands in it by now (rule R12).
    fn read(&mut self, bytes: &[u8], log: &ServerLog) -> Result<(), Broken> {
        self.answers.read(bytes)?;
        match self.answers.backend() {
            Some(backend) if log.has_cancelled(backend, &mut self.cancelled_waits) => Err(Broken::WaitCancelled),
            _ => Ok(()),
        }
    }
}

/// When something was last heard, for whoever asks how long ago that was.
#[derive(Debug, Default)]
pub struct Heard(AtomicU64);

impl Heard {
    pub fn now(&self) {
        let now = u64::try_from(clock::now().0.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(now, Ordering::Relaxed);
    }

    /// As if nothing had been heard ever.
    pub fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// How long before `now`; `None` if never.
    pub fn ago(&self, now: BootTime) -> Option<Duration> {
        let at = self.0.load(Ordering::Relaxed);
        (at != 0).then(|| now.0.saturating_sub(Duration::from_nanos(at)))
    }
}

impl Passage {
    /// Open until `cut` is cancelled; then both ends are reset.
    pub fn until(cut: CancellationToken) -> Self {
        Self { cut, session: None, heard: None, _seat: None }
    }

    /// Open as long as both ends are.
    pub fn open() -> Self {
        Self::until(CancellationToken::new())
    }

    /// A session in `term` of this node's own Postgres, which it is not connected to yet and whose log this is.
    pub fn of(term: Arc<Term>, log: Arc<ServerLog>) -> Self {
        // A standby waits for nobody and is never drained, so its answers pass unread.
        let talk = || Mutex::new(Talk { cancelled_waits: log.cancelled_waits(), ..Talk::default() });
        let talk = matches!(term.capacity, Capacity::Primary(_)).then(talk);
        let cut = term.over().clone();
        let session = Session { term, talk, log, awake: Notify::new() };
        Self { session: Some(session), ..Self::until(cut) }
    }

    /// Remembers in `heard` when the other side said something.
    #[must_use]
    pub fn hearing(self, heard: Arc<Heard>) -> Self {
        Self { heard: Some(heard), ..self }
    }

    /// Has `seat` until it ends.
    #[must_use]
    pub fn seated(self, seat: Seat) -> Self {
        Self { _seat: Some(seat), ..self }
    }

    pub fn may_pass(&self) -> bool {
        match &self.session {
            Some(session) => session.term.passes() && !session.is_broken(),
            None => !self.cut.is_cancelled(),
        }
    }

    /// Returns when both ends are to be reset.
    pub async fn is_cut(&self) {
        self.cut.cancelled().await;
    }

    /// Postgres has said `bytes`: may they be passed on? Only now that they were read is the clock asked (rule R3).
    pub fn down(&self, bytes: &[u8]) -> io::Result<()> {
        if let Some(heard) = &self.heard {
            heard.now();
        }
        match &self.session {
            Some(session) => {
                session.reads(bytes)?;
                if session.term.passes() { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
            }
            None => self.check(),
        }
    }

    /// The client has said something: false if it would begin something that may not begin now.
    pub fn up(&self) -> io::Result<bool> {
        match &self.session {
            Some(session) if session.term.passes() => Ok(session.may_say()),
            Some(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            None => self.check().map(|()| true),
        }
    }

    /// Waits until what was held back may pass.
    pub async fn held(&self) -> io::Result<()> {
        if let Some(session) = &self.session {
            session.held().await;
        }
        self.check()
    }

    fn check(&self) -> io::Result<()> {
        if self.may_pass() { Ok(()) } else { Err(io::ErrorKind::ConnectionAborted.into()) }
    }
}

impl Session {
    fn talk(&self) -> Option<MutexGuard<'_, Talk>> {
        self.talk.as_ref().map(|talk| talk.lock().expect("no holder of this lock panics"))
    }

    fn is_broken(&self) -> bool {
        self.talk().is_some_and(|talk| talk.broken)
    }

    fn reads(&self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut talk) = self.talk() else { return Ok(()) };
        if let Err(broken) = talk.read(bytes, &self.log) {
            tracing::warn!(why = %broken, "a session is cut off");
            talk.broken = true;
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, broken));
        }
        match talk.answers.idle() {
            Some(true) if talk.busy => {
                talk.busy = false;
                self.term.rests();
            }
            Some(false) if !talk.busy => {
                // Several statements were on their way: what is held back belongs to the transaction that one began.
                talk.busy = true;
                self.term.begins();
                self.awake.notify_one();
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the client may be passed on: it goes on with what it has begun, or something new may begin.
    fn may_say(&self) -> bool {
        let Some(mut talk) = self.talk() else { return true };
        // Before it is let in, it cannot begin anything.
        if talk.busy || talk.answers.idle().is_none() {
            return true;
        }
        self.term.begins();
        talk.busy = self.term.takes_new();
        if !talk.busy {
            self.term.rests();
        }
        talk.busy
    }

    async fn held(&self) {
        let deadline = Instant::now() + LONGEST_HOLD;
        let mut news = self.term.news();
        while !self.may_say() {
            let something = async {
                tokio::select! {
                    _ = news.changed() => {}
                    () = self.awake.notified() => {}
                }
            };
            if timeout_at(deadline, something).await.is_err() {
                return self.begin_anyway();
            }
        }
    }

    fn begin_anyway(&self) {
        if let Some(mut talk) = self.talk()
            && !talk.busy
        {
            talk.busy = true;
            self.term.begins();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.talk().is_some_and(|talk| talk.busy) {
            self.term.rests();
        }
    }
}
