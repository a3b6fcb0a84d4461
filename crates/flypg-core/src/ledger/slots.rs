//! Two slots on disk. Each write goes to the older one, so that a torn write leaves the newer one.
//!
//! A slot is: 8 bytes of magic, the sequence number and the payload's length (u64, big-endian), the SHA-256 of
//! sequence number, length and payload, and the payload (JSON). What follows it does not count.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::{HighWater, Ledger};

/// What is kept in two slots, and how a slot of it begins.
pub trait Kept: Serialize + DeserializeOwned {
    const MAGIC: &'static [u8; 8];
}

impl Kept for Ledger {
    const MAGIC: &'static [u8; 8] = b"flypg/L1";
}

impl Kept for HighWater {
    const MAGIC: &'static [u8; 8] = b"flypg/H1";
}

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
    #[error("it is something else")]
    Other,
    #[error("it is torn or damaged")]
    Damaged,
    #[error("its checksum is right, but this version of flypg-agent cannot read it")]
    Unknown(#[source] serde_json::Error),
}

/// Neither slot can be read and at least one is there: this node had promised something and does not know what.
#[derive(Debug, thiserror::Error)]
#[error("neither slot can be read (first: {first}; second: {second})")]
pub struct Unreadable {
    pub first: String,
    pub second: String,
}

/// The newest that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered<T> {
    pub kept: T,
    pub sequence: u64,
    /// 0 or 1: the slot that the next write goes to.
    pub next_slot: usize,
    /// The other slot was there and could not be read.
    pub damaged: bool,
}

/// The bytes of one slot.
pub fn encode<T: Kept>(sequence: u64, kept: &T) -> Vec<u8> {
    let payload = serde_json::to_vec(kept).expect("what is kept has string keys only");
    let length = payload.len() as u64;
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(T::MAGIC);
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

fn decode<T: Kept>(bytes: &[u8]) -> Result<(u64, T), SlotError> {
    let (header, payload) = bytes.split_at_checked(HEADER).ok_or(SlotError::Other)?;
    let word = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes of the header"));
    if &header[..8] != T::MAGIC {
        return Err(SlotError::Other);
    }
    let (sequence, length) = (word(8), word(16));
    let payload = usize::try_from(length).ok().and_then(|length| payload.get(..length)).ok_or(SlotError::Damaged)?;
    if header[24..] != checksum(sequence, length, payload) {
        return Err(SlotError::Damaged);
    }
    Ok((sequence, serde_json::from_slice(payload).map_err(SlotError::Unknown)?))
}

/// The newest of two slots; `None` if there never was one.
///
/// One damaged slot is a write that was cut short: it was not obeyed, and the other one counts. A slot whose checksum
/// is right but whose content is unknown was obeyed by a newer agent, so it is never passed over.
pub fn recover<T: Kept>(slots: [Slot<'_>; 2]) -> Result<Option<Recovered<T>>, Unreadable> {
    let read = slots.map(|slot| match slot {
        Slot::Absent => None,
        Slot::Bytes(bytes) => Some(decode(bytes)),
    });
    let unreadable = |read: &[Option<Result<(u64, T), SlotError>>; 2]| {
        let words = |slot: &Option<Result<(u64, T), SlotError>>| match slot {
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
        .filter_map(|(slot, read)| read?.ok().map(|(sequence, kept)| (sequence, slot, kept)))
        .max_by_key(|(sequence, ..)| *sequence);
    Ok(newest.map(|(sequence, slot, kept)| Recovered { kept, sequence, next_slot: 1 - slot, damaged }))
}
