use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::plan::Subject;
use rusqlite::{Connection, TransactionBehavior, params};

use super::{Store, StoreError, malformed};

/// Something of a cluster that is known to have existed, so that a list without it does not count as proof.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    pub thing: Thing,
    /// Fly's id; an app's name; an address itself.
    pub id: String,
    /// When it was made, or first seen.
    pub since: Timestamp,
    /// A look has shown it. What was only made may not be visible anywhere yet.
    pub seen: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    App,
    Machine,
    Volume,
    /// Only those made here.
    Address,
}

/// Something was asked for that may have changed `subject`, and no later read has shown it yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doubt {
    pub subject: Subject,
    /// What it was about, such as a volume's name: several of one subject may be open at once.
    pub name: String,
    /// When it was last possibly under way.
    pub since: Timestamp,
}

/// What is remembered about one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recalled {
    pub known: Vec<Known>,
    pub doubts: Vec<Doubt>,
}

impl Store {
    /// All that is remembered about `cluster`, as of one instant.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn recall(&self, cluster: &ClusterName) -> Result<Recalled, StoreError> {
        let cluster = cluster.to_string();
        self.run("read", move |db| {
            let read = db.transaction()?;
            Ok(Recalled { known: known(&read, &cluster)?, doubts: doubts(&read, &cluster)? })
        })
        .await
    }

    /// Notes what was seen to exist, and what was seen, or made, to be gone.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note(&self, cluster: &ClusterName, seen: Vec<Known>, gone: Vec<Known>) -> Result<(), StoreError> {
        if !self.writes || (seen.is_empty() && gone.is_empty()) {
            return Ok(());
        }
        let cluster = cluster.to_string();
        self.run("written", move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for known in seen {
                insert_known(&change, &cluster, &known)?;
            }
            for known in gone {
                change
                    .prepare_cached("DELETE FROM known WHERE cluster = ?1 AND thing = ?2 AND id = ?3")?
                    .execute(params![cluster, thing_word(known.thing), known.id])?;
            }
            change.commit()
        })
        .await
    }

    /// Takes over from a process that may have died during a call: what it had begun may be under way until `now`. Only
    /// who holds the [`super::StateLock`] calls this.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn resume(&self, now: Timestamp) -> Result<(), StoreError> {
        self.run("written", move |db| db.execute("UPDATE doubt SET since = ?1", [now.to_string()]).map(drop)).await
    }

    /// The clock was set back: notes from what is now the future count from now, or they would count for as long as it
    /// was set back.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn bring_back(
        &self,
        cluster: &ClusterName,
        recalled: Recalled,
        now: Timestamp,
    ) -> Result<Recalled, StoreError> {
        let Recalled { mut known, mut doubts } = recalled;
        let ahead =
            known.iter_mut().map(|known| &mut known.since).chain(doubts.iter_mut().map(|doubt| &mut doubt.since));
        let ahead: Vec<&mut Timestamp> = ahead.filter(|since| **since > now).collect();
        if !ahead.is_empty() {
            ahead.into_iter().for_each(|since| *since = now);
            if self.writes {
                let (cluster, known, doubts) = (cluster.to_string(), known.clone(), doubts.clone());
                self.run("written", move |db| date(db, &cluster, &known, &doubts)).await?;
            }
        }
        Ok(Recalled { known, doubts })
    }

    /// Notes, before a call, that it may change `doubt.subject`; or, after it, that nobody knows whether it did.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn doubt(&self, cluster: &ClusterName, doubt: Doubt) -> Result<(), StoreError> {
        let cluster = cluster.to_string();
        self.run("written", move |db| {
            db.prepare_cached(
                "INSERT INTO doubt (cluster, subject, name, since) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (cluster, subject, name) DO UPDATE SET since = ?4",
            )?
            .execute(params![cluster, subject_word(doubt.subject), doubt.name, doubt.since.to_string()])
            .map(drop)
        })
        .await
    }

    /// The doubts are resolved: by an answer that said what happened (with what it made, if anything), or by a later
    /// read. One that was raised again since stays.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn settle(
        &self,
        cluster: &ClusterName,
        doubts: Vec<Doubt>,
        made: Option<Known>,
    ) -> Result<(), StoreError> {
        if !self.writes || (doubts.is_empty() && made.is_none()) {
            return Ok(());
        }
        let cluster = cluster.to_string();
        self.run("written", move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for doubt in doubts {
                change
                    .prepare_cached(
                        "DELETE FROM doubt WHERE cluster = ?1 AND subject = ?2 AND name = ?3 AND since = ?4",
                    )?
                    .execute(params![cluster, subject_word(doubt.subject), doubt.name, doubt.since.to_string()])?;
            }
            if let Some(made) = made {
                insert_known(&change, &cluster, &made)?;
            }
            change.commit()
        })
        .await
    }
}

fn date(db: &mut Connection, cluster: &str, known: &[Known], doubts: &[Doubt]) -> Result<(), rusqlite::Error> {
    let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for Known { thing, id, since, .. } in known {
        change
            .prepare_cached("UPDATE known SET since = ?4 WHERE cluster = ?1 AND thing = ?2 AND id = ?3")?
            .execute(params![cluster, thing_word(*thing), id, since.to_string()])?;
    }
    for Doubt { subject, name, since } in doubts {
        change
            .prepare_cached("UPDATE doubt SET since = ?4 WHERE cluster = ?1 AND subject = ?2 AND name = ?3")?
            .execute(params![cluster, subject_word(*subject), name, since.to_string()])?;
    }
    change.commit()
}

fn insert_known(db: &Connection, cluster: &str, known: &Known) -> Result<(), rusqlite::Error> {
    db.prepare_cached(
        "INSERT INTO known (cluster, thing, id, since, seen) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (cluster, thing, id) DO UPDATE SET seen = max(seen, ?5)",
    )?
    .execute(params![cluster, thing_word(known.thing), known.id, known.since.to_string(), known.seen])
    .map(drop)
}

fn known(db: &Connection, cluster: &str) -> Result<Vec<Known>, rusqlite::Error> {
    db.prepare_cached("SELECT thing, id, since, seen FROM known WHERE cluster = ?1 ORDER BY thing, id")?
        .query_map([cluster], |row| {
            let word: String = row.get(0)?;
            let thing = [Thing::App, Thing::Machine, Thing::Volume, Thing::Address]
                .into_iter()
                .find(|thing| thing_word(*thing) == word);
            Ok(Known {
                thing: thing.ok_or_else(|| malformed(0, UnknownWord(word)))?,
                id: row.get(1)?,
                since: timestamp(row, 2)?,
                seen: row.get(3)?,
            })
        })?
        .collect()
}

fn doubts(db: &Connection, cluster: &str) -> Result<Vec<Doubt>, rusqlite::Error> {
    db.prepare_cached("SELECT subject, name, since FROM doubt WHERE cluster = ?1 ORDER BY subject, name")?
        .query_map([cluster], |row| {
            let word: String = row.get(0)?;
            let subject = SUBJECTS.into_iter().find(|subject| subject_word(*subject) == word);
            Ok(Doubt {
                subject: subject.ok_or_else(|| malformed(0, UnknownWord(word)))?,
                name: row.get(1)?,
                since: timestamp(row, 2)?,
            })
        })?
        .collect()
}

fn timestamp(row: &rusqlite::Row<'_>, column: usize) -> Result<Timestamp, rusqlite::Error> {
    let text: String = row.get(column)?;
    text.parse().map_err(|error: jiff::Error| malformed(column, error))
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a word this flypg knows")]
struct UnknownWord(String);

fn thing_word(thing: Thing) -> &'static str {
    match thing {
        Thing::App => "app",
        Thing::Machine => "machine",
        Thing::Volume => "volume",
        Thing::Address => "address",
    }
}

const SUBJECTS: [Subject; 6] =
    [Subject::Record, Subject::App, Subject::Secrets, Subject::Addresses, Subject::Machines, Subject::Volumes];

fn subject_word(subject: Subject) -> &'static str {
    match subject {
        Subject::Record => "record",
        Subject::App => "app",
        Subject::Secrets => "secrets",
        Subject::Addresses => "addresses",
        Subject::Machines => "machines",
        Subject::Volumes => "volumes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubt(name: &str, second: i64) -> Doubt {
        Doubt { subject: Subject::Volumes, name: name.to_owned(), since: Timestamp::from_second(second).unwrap() }
    }

    #[tokio::test]
    async fn notes_outlive_the_process_and_a_doubt_raised_again_stays() {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.doubt(&cluster, doubt("pg_ord_1", 1)).await.unwrap();
        store.doubt(&cluster, doubt("pg_ord_2", 1)).await.unwrap();
        store.doubt(&cluster, doubt("pg_ord_2", 2)).await.unwrap();
        drop(store);

        let store = Store::open(dir.path()).unwrap();
        let since = Timestamp::from_second(1).unwrap();
        let made = Known { thing: Thing::Volume, id: "vol_1".to_owned(), since, seen: false };
        let settled = vec![doubt("pg_ord_1", 1), doubt("pg_ord_2", 1)];
        store.settle(&cluster, settled, Some(made.clone())).await.unwrap();
        let recalled = store.recall(&cluster).await.unwrap();
        assert_eq!(recalled.doubts, [doubt("pg_ord_2", 2)]);
        assert_eq!(recalled.known, std::slice::from_ref(&made));

        let seen = Known { seen: true, ..made.clone() };
        store.note(&cluster, vec![seen.clone()], vec![]).await.unwrap();
        store.settle(&cluster, vec![], Some(made.clone())).await.unwrap();
        assert_eq!(store.recall(&cluster).await.unwrap().known, [seen], "what was seen stays seen");
        store.note(&cluster, vec![], vec![made]).await.unwrap();
        assert_eq!(store.recall(&cluster).await.unwrap().known, []);
        let other: ClusterName = "users-db".parse().unwrap();
        assert_eq!(store.recall(&other).await.unwrap(), Recalled::default());
    }

    #[tokio::test]
    async fn a_doubt_counts_from_when_its_maker_was_gone_and_never_from_the_future() {
        let store = Store::in_memory().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        store.doubt(&cluster, doubt("pg_ord_1", 10)).await.unwrap();
        let known = Known { thing: Thing::Volume, id: "vol_1".to_owned(), since: at(1000), seen: false };
        store.note(&cluster, vec![known.clone()], vec![]).await.unwrap();
        store.resume(at(1000)).await.unwrap();
        assert_eq!(store.recall(&cluster).await.unwrap().doubts, [doubt("pg_ord_1", 1000)]);

        let recalled = store.recall(&cluster).await.unwrap();
        assert_eq!(store.bring_back(&cluster, recalled.clone(), at(1000)).await.unwrap(), recalled);
        let back = store.bring_back(&cluster, recalled, at(400)).await.unwrap();
        assert_eq!((back.doubts[0].since, back.known[0].since), (at(400), at(400)));
        assert_eq!(store.recall(&cluster).await.unwrap(), back);
    }

    #[tokio::test]
    async fn a_reader_sees_all_and_leaves_no_trace() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("never-made");
        let cluster: ClusterName = "orders-db".parse().unwrap();
        assert_eq!(Store::open_to_read(&empty).unwrap().recall(&cluster).await.unwrap(), Recalled::default());
        assert!(!empty.exists());

        let since = Timestamp::from_second(1).unwrap();
        let known = |id: &str| Known { thing: Thing::Machine, id: id.to_owned(), since, seen: true };
        let writer = Store::open(dir.path()).unwrap();
        writer.note(&cluster, vec![known("a")], vec![]).await.unwrap();
        let reader = Store::open_to_read(dir.path()).unwrap();
        reader.note(&cluster, vec![known("b")], vec![known("a")]).await.unwrap();
        assert_eq!(reader.recall(&cluster).await.unwrap().known, [known("a")]);
        assert!(reader.doubt(&cluster, doubt("x", 1)).await.is_err(), "a reader may not act, so it cannot doubt");
    }
}
