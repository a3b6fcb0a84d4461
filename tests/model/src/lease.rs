//! Leases, in ticks: may an answer of the old primary reach a client after another node was promoted?
//!
//! One primary whose clock may lag by [`DRIFT`] ticks over the run, may be paused once, and whose clock may stop in that
//! pause; two controllers, of which the second takes over; optionally a proxy on the client's side.

use crate::search::Machine;

/// How far the primary's clock may lag in all.
const DRIFT: u8 = 1;
/// What a controller waits beyond the lease: more than the drift, and one tick of granularity.
const MARGIN: u8 = 2;

/// What is left out of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing.
    None,
    /// The lease is counted from the arrival of the grant instead of the sending of the report.
    FromArrival,
    /// A new controller does not wait for leases that it did not give.
    ImpatientSuccessor,
    /// A controller that was deposed goes on granting.
    DeposedGrants,
    /// A watchdog closes the gate, instead of a look at the clock with every answer.
    Watchdog,
    /// The clock stops in the pause, as in a snapshot, and nothing but the gate is there.
    StoppedClock,
    /// As before, with a proxy that is told how much of the lease is left, counted from its ping.
    RelayRemaining,
    /// As before, with a proxy that believes only grants for reports sent after its ping. This one is safe.
    RelayChained,
    /// As before, with a proxy that is told how much is left, counted from the arrival.
    RelayFromArrival,
}

impl Mutant {
    fn clock_stops(self) -> bool {
        matches!(self, Mutant::StoppedClock | Mutant::RelayRemaining | Mutant::RelayChained | Mutant::RelayFromArrival)
    }

    fn relays(self) -> bool {
        self.clock_stops() && self != Mutant::StoppedClock
    }
}

/// The machine.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    pub mutant: Mutant,
    /// Ticks that the run lasts.
    pub horizon: u8,
    pub ttl: u8,
}

/// A report on its way up or its grant on its way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flight {
    /// When the report was sent, on the primary's clock.
    sent: u8,
    /// The newest ping of the proxy that it covers.
    ping: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    now: u8,
    /// The primary's clock.
    clock: u8,
    lagged: u8,
    paused: bool,
    pauses: u8,
    lease_end: u8,
    closed: bool,
    reports: [Option<Flight>; 2],
    grants: [Option<Flight>; 2],
    second_leads: bool,
    second_since: u8,
    last_grant: u8,
    promoted_at: Option<u8>,
    ping: Option<u8>,
    ping_seen: Option<u8>,
    proxy_until: u8,
    /// An answer went out after a promotion.
    late: bool,
}

impl Machine for Lease {
    type State = State;

    fn start(&self) -> State {
        State {
            now: 0,
            clock: 0,
            lagged: 0,
            paused: false,
            pauses: 0,
            lease_end: self.ttl,
            closed: false,
            reports: [None; 2],
            grants: [None; 2],
            second_leads: false,
            second_since: 0,
            last_grant: 0,
            promoted_at: None,
            ping: None,
            ping_seen: None,
            proxy_until: self.ttl,
            late: false,
        }
    }

    fn next(&self, s: &State, step: &mut dyn FnMut(String, State)) {
        self.time_passes(s, step);
        if !s.paused {
            self.primary_acts(s, step);
        }
        self.controllers_act(s, step);
        if self.mutant.relays() && s.ping != Some(s.now) {
            step(format!("t={}: the proxy pings", s.now), State { ping: Some(s.now), ..*s });
        }
    }

    fn wrong(&self, s: &State) -> Option<String> {
        s.late.then(|| format!("an answer left at {} though another was promoted at {:?}", s.now, s.promoted_at))
    }
}

impl Lease {
    fn time_passes(&self, s: &State, step: &mut dyn FnMut(String, State)) {
        if s.now < self.horizon {
            let stands_still = s.paused && self.mutant.clock_stops();
            step("a tick".to_owned(), State { now: s.now + 1, clock: s.clock + u8::from(!stands_still), ..*s });
            if !s.paused && s.lagged < DRIFT {
                step(
                    "a tick that the primary's clock misses".to_owned(),
                    State { now: s.now + 1, lagged: s.lagged + 1, ..*s },
                );
            }
        }
        if s.paused {
            step(format!("t={}: the primary goes on", s.now), State { paused: false, ..*s });
        } else if s.pauses == 0 {
            step(format!("t={}: the primary is paused", s.now), State { paused: true, pauses: 1, ..*s });
        }
    }

    fn primary_acts(&self, s: &State, step: &mut dyn FnMut(String, State)) {
        // With a relay, one report at a time keeps the machine small.
        let lanes = if self.mutant.relays() { 1 } else { 2 };
        let free = (0..lanes).find(|&i| s.reports[i].is_none() && s.grants[i].is_none());
        if let Some(lane) = free.filter(|_| !s.closed) {
            let mut next = *s;
            next.reports[lane] = Some(Flight { sent: s.clock, ping: s.ping_seen });
            step(format!("t={}: the primary reports", s.now), next);
        }
        for lane in 0..2 {
            if let Some(grant) = s.grants[lane] {
                let from = if self.mutant == Mutant::FromArrival { s.clock } else { grant.sent };
                let mut next = *s;
                next.grants[lane] = None;
                if !s.closed {
                    next.lease_end = s.lease_end.max(from + self.ttl);
                }
                if let (Mutant::RelayChained, Some(ping)) = (self.mutant, grant.ping) {
                    next.proxy_until = s.proxy_until.max(ping + self.ttl);
                }
                step(format!("t={}: a grant arrives", s.now), next);
            }
        }
        if s.clock >= s.lease_end && !s.closed {
            step(format!("t={}: the primary closes its gate", s.now), State { closed: true, ..*s });
        }
        if let Some(ping) = s.ping.filter(|_| s.ping != s.ping_seen) {
            let mut next = State { ping_seen: s.ping, ..*s };
            let left = s.lease_end.saturating_sub(s.clock);
            if left > 0 && !s.closed {
                match self.mutant {
                    Mutant::RelayRemaining => next.proxy_until = s.proxy_until.max(ping + left),
                    Mutant::RelayFromArrival => next.proxy_until = s.proxy_until.max(s.now + left),
                    _ => {}
                }
            }
            step(format!("t={}: the ping reaches the primary", s.now), next);
        }
        let in_time = self.mutant == Mutant::Watchdog || s.clock < s.lease_end;
        let relayed = !self.mutant.relays() || s.now < s.proxy_until;
        let open = !s.closed && in_time && relayed;
        if open && s.promoted_at.is_some_and(|at| s.now >= at) {
            step(format!("t={}: an answer reaches a client", s.now), State { late: true, ..*s });
        }
    }

    fn controllers_act(&self, s: &State, step: &mut dyn FnMut(String, State)) {
        for lane in 0..2 {
            let Some(report) = s.reports[lane] else { continue };
            let mut answered = *s;
            answered.reports[lane] = None;
            step("a report is lost".to_owned(), answered);
            answered.grants[lane] = Some(report);
            if !s.second_leads && s.promoted_at.is_none() {
                step(format!("t={}: the first controller grants", s.now), State { last_grant: s.now, ..answered });
            }
            if s.second_leads && self.mutant == Mutant::DeposedGrants {
                step(format!("t={}: the first controller, deposed, grants", s.now), answered);
            }
        }
        if !s.second_leads {
            let next = State { second_leads: true, second_since: s.now, ..*s };
            step(format!("t={}: the second controller takes over", s.now), next);
        }
        let waited = |since: u8| s.now >= since + self.ttl + MARGIN;
        let over = match (s.second_leads, self.mutant) {
            (true, Mutant::ImpatientSuccessor) => true,
            (true, _) => waited(s.second_since),
            (false, Mutant::DeposedGrants) => false,
            (false, _) => waited(s.last_grant),
        };
        if over && s.promoted_at.is_none() {
            step(format!("t={}: another node is promoted", s.now), State { promoted_at: Some(s.now), ..*s });
        }
    }
}
