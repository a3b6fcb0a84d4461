//! Who may decide and grant with a store: one life of one controller at a time.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flypg_core::digest;
use flypg_core::failover::lease::Mono;
use flypg_core::ledger::Caller;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{Store, StoreError};
use crate::clock;

/// The right to decide and to grant, from when it was taken until another start takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// What nodes are told, so that they can tell a deposed controller, or a copied store, from this one.
    pub caller: Caller,
    /// When it began, read after it was on disk: whatever an earlier term granted was granted before (rule R2).
    pub since: Mono,
}

/// The computer that a store is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home(String);

impl Home {
    /// This computer: `fly_machine` (`FLY_MACHINE_ID`) on Fly, which a copy of the volume in another Machine does not
    /// share; elsewhere what the operating system is known by.
    pub fn here(fly_machine: Option<&str>) -> Self {
        let read = |path| std::fs::read_to_string(path).ok().map(|text: String| text.trim().to_owned());
        let read = |path| read(path).filter(|text| !text.is_empty());
        match fly_machine {
            Some(machine) => Self(format!("Fly Machine {machine}")),
            // machine-id(5): not to be told to others as it is.
            None => match (read("/etc/machine-id"), read("/proc/sys/kernel/hostname")) {
                (Some(id), _) => Self(format!("computer {}", digest::short(id.as_bytes()))),
                (None, Some(name)) => Self(format!("computer {name}")),
                (None, None) => Self("an unnamed computer".to_owned()),
            },
        }
    }
}

impl Store {
    /// Takes the right to decide and grant, durably: from now on nobody who took it before has it. Only who holds the
    /// [`StateLock`](super::StateLock) calls this.
    ///
    /// A store that is bound to another computer is not believed, as its original may still lead there: two copies
    /// would each decide on their own. With `adopt` it is bound to this one.
    ///
    /// # Errors
    /// [`StoreError::Bound`] if it is another computer's; else see [`StoreError`].
    pub async fn lead(&self, home: &Home, adopt: bool) -> Result<Store, StoreError> {
        let (id, boot, home) = (draw()?, draw()?, home.0.clone());
        let here = home.clone();
        let taken = self
            .run("written", move |db| {
                let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let bound: Option<Option<String>> =
                    change.query_row("SELECT home FROM leader", [], |row| row.get(0)).optional()?;
                if let Some(Some(bound)) = bound.filter(|bound| !adopt && bound.as_ref().is_some_and(|b| *b != home)) {
                    return Ok(Err(bound));
                }
                change.execute(
                    "INSERT INTO leader (only, id, generation, boot, home) VALUES (1, ?1, 1, ?2, ?3)
                     ON CONFLICT (only) DO UPDATE SET generation = generation + 1, boot = ?2, home = ?3",
                    params![id, boot, home],
                )?;
                let caller = caller(&change)?.expect("the row was written by this very transaction");
                change.commit()?;
                Ok(Ok(caller))
            })
            .await?;
        match taken {
            Ok(caller) => Ok(Store { term: Some(Term { caller, since: clock::mono() }), ..self.clone() }),
            Err(bound) => Err(StoreError::Bound { bound, here }),
        }
    }

    /// The right that this store was opened with, or took; `None` for one that only looks.
    pub fn term(&self) -> Option<&Term> {
        self.term.as_ref()
    }
}

/// Who has the right now.
pub(super) fn caller(db: &Connection) -> Result<Option<Caller>, rusqlite::Error> {
    db.prepare_cached("SELECT id, generation, boot FROM leader")?
        .query_row([], |row| {
            let generation: i64 = row.get(1)?;
            Ok(Caller { id: row.get(0)?, generation: generation.unsigned_abs(), boot: row.get(2)? })
        })
        .optional()
}

/// 16 random bytes, in hexadecimal.
fn draw() -> Result<String, StoreError> {
    let random = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    File::open(random).and_then(|mut file| file.read_exact(&mut bytes)).map_err(|source| StoreError::File {
        path: PathBuf::from(random),
        done: "read",
        source,
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> Home {
        Home(name.to_owned())
    }

    #[tokio::test]
    async fn each_start_is_a_generation_of_its_own_and_the_store_keeps_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut last: Option<Term> = None;
        for generation in 1..=3 {
            let store = Store::open(dir.path()).unwrap().lead(&home("here"), false).await.unwrap();
            let term = store.term().unwrap().clone();
            assert_eq!(term.caller.generation, generation);
            if let Some(last) = last {
                assert!(last.caller.id == term.caller.id && last.caller.boot != term.caller.boot);
                assert!(last.since <= term.since);
            }
            last = Some(term);
        }
    }

    #[tokio::test]
    async fn a_store_that_came_from_elsewhere_leads_only_once_it_is_adopted() {
        let dir = tempfile::tempdir().unwrap();
        let there = Store::open(dir.path()).unwrap().lead(&home("there"), false).await.unwrap();
        let copy = Store::open(dir.path()).unwrap();
        let refused = copy.lead(&home("here"), false).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Bound { bound, here } if bound == "there" && here == "here"));
        assert!(refused.suggestion().is_some());
        let adopted = copy.lead(&home("here"), true).await.unwrap();
        assert_eq!(adopted.term().unwrap().caller.generation, there.term().unwrap().caller.generation + 1);
        // From now on it is at home here, and a stranger there.
        copy.lead(&home("here"), false).await.unwrap();
        assert!(copy.lead(&home("there"), false).await.is_err());
    }

    #[test]
    fn on_fly_the_machine_counts_and_not_what_runs_in_it() {
        assert_eq!(Home::here(Some("148e")), Home("Fly Machine 148e".to_owned()));
        assert_eq!(Home::here(None), Home::here(None));
    }
}
