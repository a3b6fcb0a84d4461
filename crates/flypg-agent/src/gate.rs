//! The gate: until when this node's own Postgres may be heard, and by whom.
//!
//! What follows from the ledger and the tenure is put here by one function ([`crate::shared::Shared::refresh`]); the
//! [`pump`](crate::pump) of each connection reads one number of it for each chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flypg_core::decree::Epoch;
use flypg_core::failover::lease::BootTime;
use flypg_core::ledger::{Ledger, LedgerRole};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::clock;

/// As what this node answers its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capacity {
    /// Not at all.
    Silent,
    Primary(Epoch),
    /// From a copy. That it may be behind is known to whoever asks it, so it needs no lease.
    Standby,
}

impl Capacity {
    pub fn of(role: &LedgerRole) -> Self {
        match role {
            LedgerRole::Primary { epoch, .. } | LedgerRole::Promoting { epoch, .. } => Self::Primary(*epoch),
            LedgerRole::Replica { .. } | LedgerRole::Recruited { .. } => Self::Standby,
            LedgerRole::Blank
            | LedgerRole::Initialising { .. }
            | LedgerRole::Cloning { .. }
            | LedgerRole::Relinquished { .. }
            | LedgerRole::Rejoining { .. } => Self::Silent,
        }
    }
}

/// One stretch of time in which this node answers in one capacity. Every session belongs to one, and ends with it.
#[derive(Debug)]
pub struct Term {
    pub capacity: Capacity,
    /// Nanoseconds of `CLOCK_BOOTTIME`. 0: shut. [`u64::MAX`]: no lease is needed.
    until: AtomicU64,
    /// Nanoseconds before `until` in which nothing new begins.
    refuse_before: AtomicU64,
    /// New transactions wait, for a switchover.
    holding: AtomicBool,
    /// Sessions that are not between two transactions.
    busy: AtomicUsize,
    over: CancellationToken,
    /// Whether anything new may begin is not what it was.
    news: watch::Sender<()>,
}

impl Term {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            until: AtomicU64::new(0),
            refuse_before: AtomicU64::new(0),
            holding: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            over: CancellationToken::new(),
            news: watch::Sender::new(()),
        }
    }

    /// May an answer that was read leave now? To be asked between reading and forwarding it (rule R3).
    pub fn passes(&self) -> bool {
        match self.until.load(SeqCst) {
            0 => false,
            u64::MAX => true,
            until => nanos(clock::now()) < until,
        }
    }

    /// May something new begin: a transaction, or a session?
    pub fn takes_new(&self) -> bool {
        let until = match self.until.load(SeqCst) {
            0 => return false,
            u64::MAX => u64::MAX,
            until => until.saturating_sub(self.refuse_before.load(SeqCst)),
        };
        !self.holding.load(SeqCst) && (until == u64::MAX || nanos(clock::now()) < until)
    }

    /// When its lease ends; `None` while it is shut, or needs none.
    pub fn end(&self) -> Option<BootTime> {
        let until = self.until.load(SeqCst);
        (until != 0 && until != u64::MAX).then(|| BootTime(Duration::from_nanos(until)))
    }

    /// When it is over for good, and its sessions are to be reset.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }

    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// One more session may be in a transaction, until [`Term::rests`]. Before it is asked whether it may be: so no
    /// transaction goes past one who holds them back and then counts them.
    pub(crate) fn begins(&self) {
        self.busy.fetch_add(1, SeqCst);
    }

    pub(crate) fn rests(&self) {
        self.busy.fetch_sub(1, SeqCst);
    }

    pub(crate) fn put(&self, until: u64, refuse_before: Duration, holding: bool) {
        self.refuse_before.store(u64::try_from(refuse_before.as_nanos()).unwrap_or(u64::MAX), SeqCst);
        self.holding.store(holding, SeqCst);
        self.until.store(until, SeqCst);
    }

    fn close(&self) {
        self.until.store(0, SeqCst);
        self.over.cancel();
        self.news.send_replace(());
    }
}

/// What follows from ledger and tenure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    pub capacity: Capacity,
    /// `None`: nothing passes. [`BootTime::MAX`]: everything does.
    pub until: Option<BootTime>,
    pub refuse_before: Duration,
    pub holding: bool,
}

#[derive(Debug)]
pub struct Gate {
    term: watch::Sender<Arc<Term>>,
    feeds: Mutex<Feeds>,
}

impl Gate {
    /// Shut, as at every start (fence F4).
    pub fn shut() -> Self {
        Self { term: watch::Sender::new(Arc::new(Term::new(Capacity::Silent))), feeds: Mutex::default() }
    }

    /// The term that runs now; a receiver is woken when it is another one, and when it takes something new again.
    pub fn watch(&self) -> watch::Receiver<Arc<Term>> {
        self.term.subscribe()
    }

    pub fn term(&self) -> Arc<Term> {
        self.term.borrow().clone()
    }

    /// New transactions wait, and none runs any more.
    pub fn is_drained(&self) -> bool {
        let term = self.term();
        term.holding.load(SeqCst) && term.busy.load(SeqCst) == 0
    }

    /// Puts what follows from ledger and tenure in force. A term ends as soon as nothing passes any more: its sessions
    /// are reset, and whatever passes later is another term's.
    pub fn put(&self, leave: Leave, now: BootTime) {
        let until = leave.until.filter(|until| *until > now).map_or(0, nanos);
        self.term.send_if_modified(|term| {
            let shuts = until == 0 && term.until.load(SeqCst) != 0;
            let ends = shuts || term.capacity != leave.capacity;
            if ends {
                term.close();
                *term = Arc::new(Term::new(leave.capacity));
            }
            let took = term.takes_new();
            term.put(until, leave.refuse_before, leave.holding);
            // A lease that only goes on is no news to those who wait for one: they would all look again.
            let news = ends || took != term.takes_new();
            if news {
                term.news.send_replace(());
            }
            news
        });
    }

    /// Lets members replicate from here while this node feeds others.
    pub fn feed(&self, ledger: &Ledger, members: &BTreeSet<IpAddr>) {
        let mut feeds = self.feeds();
        let source = Source::of(ledger);
        if feeds.source != source {
            feeds.cut_all();
            (feeds.source, feeds.only) = (source, None);
        }
        if feeds.members != *members {
            feeds.members.clone_from(members);
            feeds.cut_others();
        }
    }

    /// Cuts everybody else's replication off, for as long as this node feeds others or until `None`: a walsender that
    /// cannot get rid of its WAL would keep Postgres from stopping (protocol §2.6, "Demote").
    pub fn feed_only(&self, only: Option<BTreeSet<IpAddr>>) {
        let mut feeds = self.feeds();
        feeds.only = only;
        feeds.cut_others();
    }

    /// Leave for `member` to replicate, until the token is cancelled.
    pub fn feeds_to(&self, member: IpAddr) -> Option<CancellationToken> {
        let mut feeds = self.feeds();
        let may = feeds.source.is_some() && feeds.is_let_in(&member);
        may.then(|| feeds.open.entry(member).or_default().clone())
    }

    fn feeds(&self) -> std::sync::MutexGuard<'_, Feeds> {
        self.feeds.lock().expect("no holder of this lock panics")
    }
}

/// Who replicates from this node.
#[derive(Debug, Default)]
struct Feeds {
    source: Option<Source>,
    members: BTreeSet<IpAddr>,
    only: Option<BTreeSet<IpAddr>>,
    open: BTreeMap<IpAddr, CancellationToken>,
}

/// As what this node is replicated from. While this stays, connections do: a promotion's followers may connect before
/// it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Primary(Epoch),
    Cascade,
}

impl Source {
    fn of(ledger: &Ledger) -> Option<Self> {
        match Capacity::of(&ledger.role) {
            // Promised to another since: whatever it sends now is nobody's business (rule R5).
            Capacity::Primary(epoch) => (epoch == ledger.promised).then_some(Self::Primary(epoch)),
            Capacity::Standby => matches!(ledger.role, LedgerRole::Replica { .. }).then_some(Self::Cascade),
            Capacity::Silent => None,
        }
    }
}

impl Feeds {
    fn is_let_in(&self, member: &IpAddr) -> bool {
        self.members.contains(member) && self.only.as_ref().is_none_or(|only| only.contains(member))
    }

    fn cut_all(&mut self) {
        for cut in std::mem::take(&mut self.open).into_values() {
            cut.cancel();
        }
    }

    fn cut_others(&mut self) {
        for (member, cut) in std::mem::take(&mut self.open) {
            if self.is_let_in(&member) {
                self.open.insert(member, cut);
            } else {
                cut.cancel();
            }
        }
    }
}

/// As the pumps read it: 584 years of uptime fit.
fn nanos(at: BootTime) -> u64 {
    u64::try_from(at.0.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use flypg_core::failover::lease::Timing;
    use flypg_core::spec::Profile;

    use super::*;

    fn leave(capacity: Capacity, until: Option<BootTime>) -> Leave {
        let refuse_before = Timing::of(Profile::Balanced).refuse_before;
        Leave { capacity, until, refuse_before, holding: false }
    }

    fn soon(from_now: Duration) -> Option<BootTime> {
        Some(BootTime(clock::now().0 + from_now))
    }

    #[test]
    fn a_gate_is_shut_until_it_is_opened_and_nothing_begins_shortly_before_the_end() {
        let gate = Gate::shut();
        assert!(!gate.term().passes() && !gate.term().takes_new());
        let lead = Capacity::Primary(Epoch(1));
        gate.put(leave(lead, soon(Duration::from_secs(60))), clock::now());
        let term = gate.term();
        assert!(term.passes() && term.takes_new());
        gate.put(leave(lead, soon(Duration::from_millis(150))), clock::now());
        assert!(term.passes() && !term.takes_new(), "within the last 200 ms");
        gate.put(leave(lead, Some(BootTime::MAX)), clock::now());
        assert!(Arc::ptr_eq(&term, &gate.term()) && term.passes() && term.takes_new());
        gate.put(Leave { holding: true, ..leave(lead, Some(BootTime::MAX)) }, clock::now());
        assert!(term.passes() && !term.takes_new() && gate.is_drained());
        term.begins();
        assert!(!gate.is_drained());
    }

    #[test]
    fn sessions_end_with_their_term() {
        let gate = Gate::shut();
        let lead = Capacity::Primary(Epoch(1));
        let open = Some(BootTime::MAX);
        for (next, until) in [
            (lead, None),
            (lead, Some(BootTime::default())),
            (Capacity::Primary(Epoch(2)), open),
            (Capacity::Standby, open),
            (Capacity::Silent, None),
        ] {
            gate.put(leave(lead, open), clock::now());
            let term = gate.term();
            assert!(!term.over().is_cancelled());
            gate.put(leave(next, until), clock::now());
            assert!(term.over().is_cancelled() && !term.passes() && !Arc::ptr_eq(&term, &gate.term()), "{next:?}");
            assert_eq!(gate.term().passes(), until == open);
            // What is shut already is not ended again and again.
            let shut = gate.term();
            gate.put(leave(next, until), clock::now());
            assert!(Arc::ptr_eq(&shut, &gate.term()));
        }
        // The end of a lease that nobody renewed.
        gate.put(leave(lead, soon(Duration::from_secs(60))), clock::now());
        let term = gate.term();
        gate.put(leave(lead, soon(Duration::from_secs(60))), BootTime(clock::now().0 + Duration::from_secs(90)));
        assert!(term.over().is_cancelled());
    }

    #[test]
    fn those_who_wait_are_woken_only_by_what_they_wait_for() {
        let gate = Gate::shut();
        let mut waiting = gate.watch();
        let lead = Capacity::Primary(Epoch(1));
        let mut woken = |leave: Leave| {
            gate.put(leave, clock::now());
            let woken = waiting.has_changed().unwrap();
            waiting.mark_unchanged();
            woken
        };
        let long = || soon(Duration::from_secs(60));
        let held = |until| Leave { holding: true, ..leave(lead, until) };
        assert!(woken(leave(lead, long())));
        assert!(!woken(leave(lead, long())), "a renewal");
        assert!(woken(held(long())) && !woken(held(long())));
        assert!(woken(leave(lead, Some(BootTime::MAX))));
        assert!(woken(leave(lead, None)) && !woken(leave(lead, None)));
        assert!(!woken(leave(lead, soon(Duration::from_millis(100)))), "nothing begins so shortly before the end");
        assert!(woken(leave(lead, long())));
    }

    #[test]
    fn members_replicate_while_this_node_leads_and_has_promised_nothing_higher() {
        let [one, two, stranger] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let members = BTreeSet::from([one, two]);
        let primary = |epoch, promised| {
            let ledger = Ledger::blank("orders-db".parse().unwrap(), "ord-1".parse().unwrap(), "m".to_owned());
            let role = LedgerRole::Primary { epoch: Epoch(epoch), nonce: "n".to_owned() };
            Ledger { role, promised: Epoch(promised), ..ledger }
        };
        let gate = Gate::shut();
        assert!(gate.feeds_to(one).is_none());
        gate.feed(&primary(1, 1), &members);
        let first = gate.feeds_to(one).unwrap();
        assert!(gate.feeds_to(stranger).is_none());
        // A primary that is promoted goes on in its epoch; one that promised a higher one does not.
        gate.feed(&primary(1, 1), &members);
        assert!(!first.is_cancelled());
        gate.feed_only(Some([two].into()));
        assert!(first.is_cancelled() && gate.feeds_to(one).is_none());
        let second = gate.feeds_to(two).unwrap();
        gate.feed_only(None);
        let first = gate.feeds_to(one).unwrap();
        gate.feed(&primary(1, 1), &[two].into());
        assert!(first.is_cancelled() && !second.is_cancelled());
        gate.feed(&primary(1, 2), &members);
        assert!(second.is_cancelled() && gate.feeds_to(two).is_none());
    }
}
