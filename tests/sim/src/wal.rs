//! The write-ahead log as a tree: every record has a serial of its own, so that two logs can be told apart where
//! PostgreSQL's positions cannot.

use flypg_core::decree::Epoch;
use flypg_core::failover::{History, Switch};
use flypg_core::protocol::Lsn;

/// A record takes so many bytes.
pub const RECORD: u64 = 256;

/// The position behind so many records.
pub fn lsn(records: usize) -> Lsn {
    Lsn(records as u64 * RECORD)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Never the same twice in a run.
    pub serial: u64,
    pub timeline: u32,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A client's commit.
    Write,
    /// The row of a promotion, by its number in [`Markers`].
    Marker(usize),
    /// Everything else: probes, checkpoints, ends of recovery.
    Noise,
}

/// Every marker row that was ever written.
#[derive(Debug, Default)]
pub struct Markers(Vec<(Epoch, String)>);

impl Markers {
    pub fn note(&mut self, epoch: Epoch, nonce: &str) -> usize {
        let known = self.0.iter().position(|(e, n)| *e == epoch && n == nonce);
        known.unwrap_or_else(|| {
            self.0.push((epoch, nonce.to_owned()));
            self.0.len() - 1
        })
    }
}

/// The records of one copy, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Log {
    records: Vec<Record>,
    /// Where the marker rows are.
    marks: Vec<(usize, usize)>,
}

impl Log {
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub fn push(&mut self, record: Record) {
        if let What::Marker(number) = record.what {
            self.marks.push((self.records.len(), number));
        }
        self.records.push(record);
    }

    /// Writes over what is there.
    pub fn put(&mut self, at: usize, record: Record) {
        match self.records.get_mut(at) {
            Some(old) => {
                *old = record;
                self.marks.retain(|(mark, _)| *mark != at);
            }
            None => self.push(record),
        }
    }

    pub fn truncate(&mut self, length: usize) {
        self.records.truncate(length);
        self.marks.retain(|(at, _)| *at < length);
    }

    pub fn slice(&self, from: usize, to: usize) -> &[Record] {
        &self.records[from.min(to)..to.min(self.records.len())]
    }

    /// Whether this very record stands at this very place.
    pub fn has(&self, at: usize, serial: u64) -> bool {
        self.records.get(at).is_some_and(|record| record.serial == serial)
    }

    /// How many records two logs share from the beginning.
    pub fn common(&self, other: &Log) -> usize {
        self.records.iter().zip(&other.records).take_while(|(a, b)| a.serial == b.serial).count()
    }

    /// The marker rows among the first `length` records. A row is replaced when it is written again.
    pub fn markers(&self, length: usize, markers: &Markers) -> Vec<(Epoch, String)> {
        let mut found: Vec<(Epoch, String)> = Vec::new();
        for (_, number) in self.marks.iter().filter(|(at, _)| *at < length) {
            let (epoch, nonce) = &markers.0[*number];
            found.retain(|(other, _)| other != epoch);
            found.push((*epoch, nonce.clone()));
        }
        found.sort();
        found
    }
}

/// The history of a copy that has come to `length` on `timeline`.
pub fn history(log: &Log, length: usize, timeline: u32, switches: &[Switch], markers: &Markers) -> History {
    History { timeline, switches: switches.to_vec(), markers: log.markers(length, markers) }
}
