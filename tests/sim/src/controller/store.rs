//! The store: one record and one leader key, linearizable; any answer may get lost.

use flypg_core::decree::{Decree, Epoch};
use flypg_core::mutant;
use flypg_core::protocol::Lsn;

use super::ControllerEvent;
use crate::nemesis::Blow;
use crate::setup::Fault;
use crate::time::{Time, ms};
use crate::world::{Event, World};

#[derive(Debug, Default)]
pub struct Store {
    pub record: Option<Decree>,
    term: u64,
    holder: u64,
    renewed: Time,
    /// How far the primary of a reign had come when that was last written down, and when. Where there is one controller,
    /// its next life reads it.
    pub noted: Option<(Epoch, Lsn, Time)>,
    /// It answers nobody until then.
    pub outage: Time,
    /// So many answers of ten thousand get lost, whatever came of the question.
    pub loses: u64,
}

#[derive(Debug, Clone)]
pub enum Op {
    Read,
    Decide {
        term: u64,
        instead_of: Option<Decree>,
        decree: Box<Decree>,
    },
    /// Take the leader key, or keep it.
    Lead {
        holder: u64,
    },
}

#[derive(Debug, Clone)]
pub enum Answer {
    Record {
        record: Option<Box<Decree>>,
        term: u64,
    },
    Decided(bool),
    Leads {
        term: u64,
        mine: bool,
    },
    /// Nothing came back: it may have happened.
    Unknown,
}

/// How often the last position is written down (rule R7).
pub const NOTED_EVERY: Time = ms(5_000);
/// A leader key that was not renewed for so long is free.
const KEY_TTL: Time = ms(3_000);

impl World {
    /// The store takes up a question.
    pub fn store_event(&mut self, id: usize, life: u64, turn: u64, op: Op) {
        if self.store.outage > self.now {
            let event = ControllerEvent::Stored { turn, answer: Answer::Unknown };
            return self.after(ms(1_000), Event::Controller { id, life, event });
        }
        if self.store.loses > 0 && matches!(op, Op::Decide { .. }) && self.rng.chance(self.store.loses / 4) {
            // It gives no answer, and takes effect much later, if it still may.
            let event = ControllerEvent::Stored { turn, answer: Answer::Unknown };
            self.after(ms(1_000), Event::Controller { id, life, event });
            let late = self.rng.tail(ms(500)..ms(15_000));
            return self.after(late, Event::Store { id, life, turn: u64::MAX, op });
        }
        let lost_before = self.rng.chance(self.store.loses / 2);
        let lost_after = self.rng.chance(self.store.loses);
        let answer = if lost_before { Answer::Unknown } else { self.carry_out(op) };
        let delay = self.rng.tail(ms(1)..ms(10));
        let (delay, answer) = if lost_after { (ms(1_000), Answer::Unknown) } else { (delay, answer) };
        self.after(delay, Event::Controller { id, life, event: ControllerEvent::Stored { turn, answer } });
    }

    fn carry_out(&mut self, op: Op) -> Answer {
        match op {
            Op::Read => Answer::Record { record: self.store.record.clone().map(Box::new), term: self.store.term },
            Op::Lead { holder } => {
                let free = self.now.saturating_sub(self.store.renewed) > KEY_TTL || self.store.holder == 0;
                let before = self.controllers.iter().any(|c| c.life == self.store.holder && c.up);
                if self.store.holder != holder && (free || !before) {
                    self.store.term += 1;
                    self.store.holder = holder;
                }
                let mine = self.store.holder == holder;
                if mine {
                    self.store.renewed = self.now;
                }
                Answer::Leads { term: self.store.term, mine }
            }
            Op::Decide { term, instead_of, decree } => {
                let same = term == self.store.term && self.store.record == instead_of;
                let taken = same || mutant::off("R1");
                if taken {
                    let promotes = decree.promotion().is_some();
                    let before = self.store.record.replace(*decree);
                    if promotes && self.setup.meddles && self.now < self.setup.quiet {
                        let soon = self.rng.within(0..ms(400));
                        self.after(soon, Event::Nemesis(Blow::Begin(Fault::PromotedByHand)));
                    }
                    self.check_record(before.as_ref());
                }
                Answer::Decided(taken)
            }
        }
    }
}
