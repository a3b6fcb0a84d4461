//! Breadth first through every state, so that a counterexample is a shortest one.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher};

/// A machine with finitely many states.
pub trait Machine {
    type State: Copy + Hash;

    fn start(&self) -> Self::State;

    /// Hands every next state to `step`, with what happens on the way.
    fn next(&self, state: &Self::State, step: &mut dyn FnMut(String, Self::State));

    /// What is wrong with a state, if anything is.
    fn wrong(&self, state: &Self::State) -> Option<String>;
}

/// What came of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Every state was visited and none is wrong.
    Nothing { states: usize },
    /// No wrong state among the first so many.
    NothingYet { states: usize },
    /// The shortest way to something wrong.
    Wrong { what: String, steps: Vec<String>, states: usize },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::Nothing { states } => write!(f, "nothing wrong in all {states} states"),
            Found::NothingYet { states } => write!(f, "nothing wrong in the first {states} states"),
            Found::Wrong { what, steps, states } => {
                writeln!(f, "{what}, after {} steps ({states} states)", steps.len())?;
                steps.iter().try_for_each(|step| writeln!(f, "  {step}"))
            }
        }
    }
}

/// Visits states until one is wrong, none is left, or `limit` have been seen.
///
/// States are told apart by 64-bit fingerprints: with 5·10⁷ of them the chance that one hides another is below 10⁻⁴.
pub fn search<M: Machine>(machine: &M, limit: usize) -> Found {
    let start = machine.start();
    let mut came_from: HashMap<u64, u64, BuildHasherDefault<Prehashed>> = HashMap::default();
    came_from.insert(fingerprint(&start), 0);
    let mut waiting = VecDeque::from([start]);
    let mut found = Vec::new();
    while let Some(state) = waiting.pop_front() {
        let from = fingerprint(&state);
        let mut wrong = None;
        machine.next(&state, &mut |_, next| {
            let to = fingerprint(&next);
            if wrong.is_none()
                && let Entry::Vacant(new) = came_from.entry(to)
            {
                new.insert(from);
                match machine.wrong(&next) {
                    Some(what) => wrong = Some((to, what)),
                    None => found.push(next),
                }
            }
        });
        if let Some((last, what)) = wrong {
            return Found::Wrong { what, steps: retrace(machine, &came_from, last), states: came_from.len() };
        }
        waiting.extend(found.drain(..));
        if came_from.len() > limit {
            return Found::NothingYet { states: came_from.len() };
        }
    }
    Found::Nothing { states: came_from.len() }
}

/// The names of the steps that lead to `last`.
fn retrace<M: Machine>(
    machine: &M,
    came_from: &HashMap<u64, u64, BuildHasherDefault<Prehashed>>,
    last: u64,
) -> Vec<String> {
    let mut way = vec![last];
    while let Some(&before) = came_from.get(way.last().expect("there is a last")).filter(|before| **before != 0) {
        way.push(before);
    }
    let mut state = machine.start();
    let mut steps = Vec::new();
    for &to in way.iter().rev().skip(1) {
        let mut taken = None;
        machine.next(&state, &mut |name, next| {
            if taken.is_none() && fingerprint(&next) == to {
                taken = Some((name, next));
            }
        });
        let (name, next) = taken.expect("a step that was found is found again");
        steps.push(name);
        state = next;
    }
    steps
}

fn fingerprint(state: &impl Hash) -> u64 {
    BuildHasherDefault::<Mixer>::default().hash_one(state).max(1) // 0 stands for "from nowhere"
}

/// A quick mixing hash: states are not chosen by anyone who wants collisions.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ (mixed >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        let mixed = (self.0.rotate_left(5) ^ word).wrapping_mul(0xD6E8_FEB8_6659_FD93);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are keys");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}
