//! How many sessions clients may have, so that Postgres always has room for those of the node itself.
//!
//! `superuser_reserved_connections` does not do that: clients come as superusers too, and take what is reserved. Without
//! a session of its own the agent could neither pass on a cancel request, nor probe, nor change whom commits wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Sessions that a node keeps for itself: the agent's (its look, probe, metrics, one that acts, and those that ask whom a
/// cancel request means), and the ones by which other nodes are rewound to this one.
const OWN: usize = 8;

#[derive(Debug)]
pub struct Seats {
    taken: AtomicUsize,
    most: AtomicUsize,
}

/// The right to one session, until it is dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Default for Seats {
    /// Without a limit, as long as nobody has said how many Postgres has.
    fn default() -> Self {
        Self { taken: AtomicUsize::new(0), most: AtomicUsize::new(usize::MAX) }
    }
}

impl Seats {
    /// Postgres was started with this `max_connections`. Sessions that are there stay.
    pub fn limit(&self, max_connections: usize) {
        let own = OWN.min(max_connections / 4);
        self.most.store(max_connections.saturating_sub(own), Ordering::Relaxed);
    }

    /// `None` if all are taken.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        let most = self.most.load(Ordering::Relaxed);
        let one_more = |taken| (taken < most).then_some(taken + 1);
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Seat(self.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_some_for_itself() {
        for (max_connections, most) in [(100, 92), (20, 15), (4, 3), (1, 1)] {
            let seats = Arc::new(Seats::default());
            seats.limit(max_connections);
            let mut taken: Vec<Seat> = std::iter::from_fn(|| seats.take()).collect();
            assert_eq!(taken.len(), most, "of {max_connections}");
            taken.pop();
            assert!(seats.take().is_some(), "one has left");
        }
    }

    #[test]
    fn those_who_are_there_stay_when_there_are_fewer() {
        let seats = Arc::new(Seats::default());
        let taken: Vec<Seat> = (0..50).filter_map(|_| seats.take()).collect();
        assert_eq!(taken.len(), 50);
        seats.limit(40);
        assert!(seats.take().is_none());
        drop(taken);
        assert!(seats.take().is_some());
    }
}
