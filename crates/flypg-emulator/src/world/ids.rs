//! Where ids come from: a counter and a seed, so that the same commands give the same world.

use serde::{Deserialize, Serialize};

use super::time::Millis;

/// A seeded source of ids and of the other arbitrary choices the platform makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdSource {
    seed: u64,
    drawn: u64,
    last_ulid: (u64, u64),
}

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const LOWER: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const MIXED: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ADJECTIVES: [&str; 16] = [
    "autumn",
    "billowing",
    "cold",
    "damp",
    "dark",
    "divine",
    "falling",
    "fragrant",
    "late",
    "little",
    "misty",
    "morning",
    "quiet",
    "silent",
    "twilight",
    "wandering",
];
const NOUNS: [&str; 16] = [
    "breeze", "brook", "cloud", "dawn", "dew", "feather", "field", "fire", "leaf", "moon", "paper", "pine", "rain",
    "river", "smoke", "sun",
];

impl IdSource {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, drawn: 0, last_ulid: (0, 0) }
    }

    /// Leaves a gap, so that ids drawn after a reload cannot repeat ids drawn just before the last save.
    pub(crate) const fn skip_ahead(&mut self) {
        self.drawn += 1 << 20;
    }

    /// 64 arbitrary bits (splitmix64 over a counter).
    pub fn bits(&mut self) -> u64 {
        self.drawn += 1;
        let mut z = self.seed.wrapping_add(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn text(&mut self, alphabet: &[u8], length: usize) -> String {
        let size = alphabet.len() as u64;
        (0..length).map(|_| char::from(alphabet[(self.bits() % size) as usize])).collect()
    }

    /// 14 hexadecimal digits, like `3d8d413b29d089`.
    pub fn machine(&mut self) -> String {
        format!("{:014x}", self.bits() >> 8)
    }

    /// `vol_` and 16 characters.
    pub fn volume(&mut self) -> String {
        format!("vol_{}", self.text(LOWER, 16))
    }

    /// `vs_` and 25 characters.
    pub fn snapshot(&mut self) -> String {
        format!("vs_{}", self.text(MIXED, 25))
    }

    /// 16 characters.
    pub fn app(&mut self) -> String {
        self.text(LOWER, 16)
    }

    /// 12 hexadecimal digits, like `5c35f65c9f95`.
    pub fn nonce(&mut self) -> String {
        format!("{:012x}", self.bits() >> 16)
    }

    /// A name such as `quiet-moon-1234`.
    pub fn name(&mut self) -> String {
        let bits = self.bits();
        let adjective = ADJECTIVES[(bits % 16) as usize];
        let noun = NOUNS[(bits / 16 % 16) as usize];
        format!("{adjective}-{noun}-{}", 1000 + bits / 256 % 9000)
    }

    /// A ULID (26 characters), greater than every one drawn before, whatever the clock does.
    pub fn ulid(&mut self, now: Millis) -> String {
        let high = ((now.0 & 0xffff_ffff_ffff) << 16) | (self.bits() & 0xffff);
        let fresh = (high, self.bits());
        let next = match fresh > self.last_ulid {
            true => fresh,
            false => match self.last_ulid.1.checked_add(1) {
                Some(low) => (self.last_ulid.0, low),
                None => (self.last_ulid.0 + 1, 0),
            },
        };
        self.last_ulid = next;
        let value = (u128::from(next.0) << 64) | u128::from(next.1);
        (0..26).rev().map(|place| char::from(CROCKFORD[((value >> (5 * place)) & 31) as usize])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulids_only_grow_even_when_the_clock_steps_back() {
        let mut ids = IdSource::new(7);
        let mut last = String::new();
        for now in [5, 9, 9, 3, 3, 1_700_000_000_000, 2] {
            let ulid = ids.ulid(Millis(now));
            assert_eq!(ulid.len(), 26);
            assert!(ulid > last, "{ulid} after {last}");
            last = ulid;
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let draw = |seed| {
            let mut ids = IdSource::new(seed);
            [ids.machine(), ids.volume(), ids.snapshot(), ids.app(), ids.nonce(), ids.name()]
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1)[0].len(), 14);
        assert_eq!(draw(1)[1].len(), 20);
    }
}
