//! The ledger's two slots on disk. Each write goes to the older slot, so that a torn write leaves the newer one.
//!
//! A slot is: 8 bytes of magic, the sequence number and the payload's length (u64, big-endian), the SHA-256 of
//! sequence number, length and payload, and the payload (JSON). What follows it does not count.

use sha2::{Digest, Sha256};

use super::Ledger;

const MAGIC: &[u8; 8] = b"flypg/L1";
const HEADER: usize = 8 + 8 + 8 + 32;

/// What was found where a slot should be.
#[derive(Debug, Clone, Copy)]
pub enum Slot<'a> {
    Absent,
    Bytes(&'a [u8]),
}

/// Why a slot does not count.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    #[error("it is not a ledger")]
    NotALedger,
    #[error("it is torn or damaged")]
    Damaged,
    #[error("its checksum is right, but this version of flypg-agent cannot read it")]
    Unknown(#[source] serde_json::Error),
}

/// Neither slot can be read and at least one is there: this node had promised something and does not know what.
#[derive(Debug, thiserror::Error)]
#[error("no slot of the ledger can be read (first: {first}; second: {second})")]
pub struct Unreadable {
    pub first: String,
    pub second: String,
}

/// The newest readable ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub ledger: Ledger,
    pub sequence: u64,
    /// 0 or 1: the slot that the next write goes to.
    pub next_slot: usize,
    /// The other slot was there and could not be read.
    pub damaged: bool,
}

/// The bytes of one slot.
pub fn encode(sequence: u64, ledger: &Ledger) -> Vec<u8> {
    let payload = serde_json::to_vec(ledger).expect("a ledger has string keys only");
    let length = payload.len() as u64;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&checksum(sequence, length, &payload));
    bytes.extend_from_slice(&payload);
    bytes
}

fn checksum(sequence: u64, length: u64, payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(sequence.to_be_bytes());
    hash.update(length.to_be_bytes());
    hash.update(payload);
    hash.finalize().into()
}

fn decode(bytes: &[u8]) -> Result<(u64, Ledger), SlotError> {
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or(SlotError::NotALedger)?;
    let word = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"));
    if &header[..8] != MAGIC {
        return Err(SlotError::NotALedger);
    }
    let (sequence, length) = (word(8), word(16));
    let payload = usize::try_from(length).ok().and_then(|length| payload.get(..length)).ok_or(SlotError::Damaged)?;
    if header[24..] != checksum(sequence, length, payload) {
        return Err(SlotError::Damaged);
    }
    Ok((sequence, serde_json::from_slice(payload).map_err(SlotError::Unknown)?))
}

/// The newest ledger of two slots; `None` if there never was one.
///
/// One damaged slot is a write that was cut short: it was not obeyed, and the other one counts. A slot whose checksum
/// is right but whose content is unknown was obeyed by a newer agent, so it is never passed over.
pub fn recover(slots: [Slot<'_>; 2]) -> Result<Option<Recovered>, Unreadable> {
    let read = slots.map(|slot| match slot {
        Slot::Absent => None,
        Slot::Bytes(bytes) => Some(decode(bytes)),
    });
    let unreadable = |read: &[Option<Result<(u64, Ledger), SlotError>>; 2]| {
        let words = |slot: &Option<Result<(u64, Ledger), SlotError>>| match slot {
            None => "absent".to_owned(),
            Some(Ok(_)) => "readable".to_owned(),
            Some(Err(error)) => error.to_string(),
        };
        Unreadable { first: words(&read[0]), second: words(&read[1]) }
    };
    if read.iter().any(|slot| matches!(slot, Some(Err(SlotError::Unknown(_))))) {
        return Err(unreadable(&read));
    }
    let damaged = read.iter().any(|slot| matches!(slot, Some(Err(_))));
    if damaged && !read.iter().any(|slot| matches!(slot, Some(Ok(_)))) {
        return Err(unreadable(&read));
    }
    let newest = read
        .into_iter()
        .enumerate()
        .filter_map(|(slot, read)| read?.ok().map(|(sequence, ledger)| (sequence, slot, ledger)))
        .max_by_key(|(sequence, ..)| *sequence);
    Ok(newest.map(|(sequence, slot, ledger)| Recovered { ledger, sequence, next_slot: 1 - slot, damaged }))
}
