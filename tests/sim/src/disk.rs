//! What survives on a volume: the agent's ledger in its two slots, and a data directory.

use std::collections::BTreeMap;

use flypg_core::decree::SystemId;
use flypg_core::failover::{History, Rule, Switch};
use flypg_core::ledger::{HighWater, Ledger, Recovered, Slot, Unreadable, encode, recover};
use flypg_core::names::NodeName;
use flypg_core::node::{DataDir, Origin};

use crate::rng::Rng;
use crate::wal::{self, Log, Markers, lsn};

pub const MAJOR: u32 = 15;

#[derive(Debug, Clone, Default)]
pub struct Disk {
    pub slots: [Option<Vec<u8>>; 2],
    pub high_water: HighWater,
    pub data: Data,
}

#[derive(Debug, Clone, Default)]
pub enum Data {
    #[default]
    Blank,
    Unfinished(Option<Origin>),
    Complete(Box<PgData>),
}

/// A whole data directory.
#[derive(Debug, Clone)]
pub struct PgData {
    pub system_id: SystemId,
    pub origin: Option<Origin>,
    pub log: Log,
    /// So many records of it survive a crash.
    pub flushed: usize,
    /// What came before this record is not in `pg_wal` any more.
    pub kept: usize,
    pub timeline: u32,
    /// The history files, by timeline. A stub is an empty one.
    pub histories: BTreeMap<u32, Vec<Switch>>,
    pub standby_signal: bool,
    /// Shut down cleanly.
    pub clean: bool,
    /// The timeline of the last checkpoint: all that `pg_rewind` up to 15 looks at.
    pub checkpoint: u32,
    /// A rewind has begun to overwrite it and did not come to its end.
    pub mixed: bool,
    pub conf: Conf,
    /// Physical slots, each with where its user has come to; `None` if it reserves nothing.
    pub slots: BTreeMap<String, Option<usize>>,
}

/// The part of the configuration that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conf {
    /// `primary_conninfo`.
    pub upstream: Option<NodeName>,
    /// `synchronous_standby_names`.
    pub rule: Rule,
}

impl Default for Conf {
    fn default() -> Self {
        Self { upstream: None, rule: Rule::alone() }
    }
}

impl PgData {
    /// What `initdb` leaves behind.
    pub fn initialised(system_id: SystemId, nonce: &str) -> Self {
        Self {
            system_id,
            origin: Some(Origin::Initdb { nonce: nonce.to_owned() }),
            log: Log::default(),
            flushed: 0,
            kept: 0,
            timeline: 1,
            histories: BTreeMap::new(),
            standby_signal: false,
            clean: true,
            checkpoint: 1,
            mixed: false,
            conf: Conf::default(),
            slots: BTreeMap::new(),
        }
    }

    /// What `pg_basebackup` brings from `source`.
    pub fn cloned(source: &PgData, from: &NodeName) -> Self {
        let mut log = source.log.clone();
        log.truncate(source.flushed);
        Self {
            origin: Some(Origin::Clone { from: from.clone() }),
            flushed: log.len(),
            log,
            standby_signal: true,
            clean: false,
            mixed: false,
            conf: Conf::default(),
            slots: BTreeMap::new(),
            ..source.clone()
        }
    }

    pub fn switches(&self) -> &[Switch] {
        self.histories.get(&self.timeline).map_or(&[], Vec::as_slice)
    }

    pub fn history(&self, length: usize, markers: &Markers) -> History {
        wal::history(&self.log, length, self.timeline, self.switches(), markers)
    }

    /// Postgres ended without a checkpoint: of what it had not flushed, any part may be there.
    pub fn crash(&mut self, rng: &mut Rng) {
        let kept = self.flushed + rng.index(self.log.len() - self.flushed + 1);
        self.log.truncate(kept);
        self.flushed = kept;
        self.clean = false;
    }

    /// The number that a promotion takes: the next one after the unbroken row of history files.
    pub fn next_timeline(&self) -> u32 {
        let newest = (self.timeline + 1..).take_while(|timeline| self.histories.contains_key(timeline)).last();
        newest.unwrap_or(self.timeline) + 1
    }

    /// The end of recovery on a timeline of its own.
    pub fn switch_timeline(&mut self) -> u32 {
        let next = self.next_timeline();
        let mut switches = self.switches().to_vec();
        switches.push(Switch { timeline: self.timeline, at: lsn(self.log.len()) });
        self.histories.insert(next, switches);
        self.timeline = next;
        next
    }

    /// Where `timeline` ended in this history; `None` if it is its own, or not in it.
    pub fn left(&self, timeline: u32) -> Option<usize> {
        let switch = self.switches().iter().find(|switch| switch.timeline == timeline)?;
        usize::try_from(switch.at.0 / wal::RECORD).ok()
    }
}

impl Disk {
    pub fn pg(&self) -> Option<&PgData> {
        match &self.data {
            Data::Complete(pg) => Some(pg),
            Data::Blank | Data::Unfinished(_) => None,
        }
    }

    pub fn pg_mut(&mut self) -> Option<&mut PgData> {
        match &mut self.data {
            Data::Complete(pg) => Some(pg),
            Data::Blank | Data::Unfinished(_) => None,
        }
    }

    pub fn seen(&self) -> DataDir {
        match &self.data {
            Data::Blank => DataDir::Blank,
            Data::Unfinished(origin) => DataDir::Unfinished(origin.clone()),
            Data::Complete(pg) => DataDir::Complete {
                major: MAJOR,
                system_id: pg.system_id.clone(),
                standby_signal: pg.standby_signal,
                origin: pg.origin.clone(),
            },
        }
    }

    pub fn recover(&self) -> Result<Option<Recovered<Ledger>>, Unreadable> {
        let [first, second] = &self.slots;
        recover([first, second].map(|slot| slot.as_deref().map_or(Slot::Absent, Slot::Bytes)))
    }

    pub fn write(&mut self, slot: usize, sequence: u64, ledger: &Ledger) {
        self.slots[slot] = Some(encode(sequence, ledger));
    }

    /// The crash came while a slot was being written.
    pub fn tear(&mut self, slot: usize, sequence: u64, ledger: &Ledger, rng: &mut Rng) {
        let mut bytes = encode(sequence, ledger);
        match rng.within(0..4) {
            0 => return,
            1 => {}
            2 => bytes.truncate(rng.index(bytes.len())),
            _ => {
                let at = rng.index(bytes.len());
                bytes[at] ^= 0x5A;
            }
        }
        self.slots[slot] = Some(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{Record, What};

    fn grow(pg: &mut PgData, serials: std::ops::Range<u64>) {
        for serial in serials {
            pg.log.push(Record { serial, timeline: pg.timeline, what: What::Write });
        }
        pg.flushed = pg.log.len();
    }

    /// What real PostgreSQL does: two promotions of the same past take the same number (E13), a stub keeps a number
    /// from being taken (E17), and files that are not in an unbroken row are not seen.
    #[test]
    fn promotions_take_the_next_number_in_the_row_of_history_files() {
        let mut first = PgData::initialised(SystemId("7".to_owned()), "n");
        grow(&mut first, 0..5);
        let mut second = PgData::cloned(&first, &"ord-1".parse().unwrap());
        assert_eq!((first.switch_timeline(), second.switch_timeline()), (2, 2));
        assert_eq!(first.switches(), second.switches());
        let mut third = PgData::cloned(&first, &"ord-1".parse().unwrap());
        third.histories.insert(3, Vec::new());
        third.histories.insert(5, Vec::new());
        assert_eq!(third.switch_timeline(), 4);
        assert_eq!(third.left(2), Some(5));
    }

    #[test]
    fn a_crash_keeps_what_was_flushed() {
        let mut rng = Rng::new(1);
        let mut pg = PgData::initialised(SystemId("7".to_owned()), "n");
        grow(&mut pg, 0..5);
        pg.log.push(Record { serial: 9, timeline: 1, what: What::Write });
        pg.crash(&mut rng);
        assert!(pg.log.len() >= 5 && pg.flushed == pg.log.len() && !pg.clean);
    }
}
