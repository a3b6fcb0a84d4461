//! Messages take time, get lost, come twice; links are cut, one direction at a time.

use crate::rng::Rng;
use crate::time::{Time, ms};

/// Nodes first, then controllers.
pub type Place = usize;

#[derive(Debug, Clone)]
pub struct Net {
    places: usize,
    cut: Vec<bool>,
    /// Of ten thousand messages, so many are lost.
    pub loss: u64,
    /// Of ten thousand requests, so many arrive twice.
    pub doubled: u64,
    /// The longest that a message takes.
    pub slowest: Time,
}

impl Net {
    pub fn new(places: usize) -> Self {
        Self { places, cut: vec![false; places * places], loss: 0, doubled: 0, slowest: ms(2) }
    }

    pub fn cut(&mut self, from: Place, to: Place) {
        self.cut[from * self.places + to] = true;
    }

    pub fn heal(&mut self) {
        self.cut.fill(false);
    }

    pub fn mend(&mut self, from: Place, to: Place) {
        self.cut[from * self.places + to] = false;
    }

    pub fn is_cut(&self, from: Place, to: Place) -> bool {
        from != to && self.cut[from * self.places + to]
    }

    /// How long a message takes; `None` if it never arrives.
    pub fn carries(&self, from: Place, to: Place, rng: &mut Rng) -> Option<Time> {
        let arrives = !self.is_cut(from, to) && !rng.chance(self.loss);
        arrives.then(|| rng.tail(ms(1) / 8..self.slowest))
    }
}
