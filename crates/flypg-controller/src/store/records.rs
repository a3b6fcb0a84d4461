use flypg_core::decree::Decree;
use flypg_core::names::ClusterName;
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::term::{self, Term};
use super::{Store, StoreError, malformed};

/// What a read of the record showed, as of one instant after it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub record: Option<Decree>,
    /// Whoever read it is still the one that may decide and grant.
    pub leads: bool,
}

/// What became of a compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The record is now what was asked for; also if it was that already.
    Done,
    /// The record is something else, and was left alone.
    Differs { found: Option<Box<Decree>> },
    /// Another controller has taken over, and nothing was changed.
    Deposed,
}

/// One compare-and-set cell per cluster: who may lead.
///
/// Whoever implements it keeps two promises. A read is linearizable: it shows everything that was written before it
/// began, and whether the reader still leads. A swap compares the record and the right to write it in one step (rule
/// R1). An error of a swap may hide that it happened ([`StoreError::may_have_happened`]): reading again tells.
pub trait Records: Send + Sync {
    /// The right that reads and swaps are made under; `None` for who only looks.
    fn term(&self) -> Option<&Term>;

    fn read(&self, cluster: &ClusterName) -> impl Future<Output = Result<Reading, StoreError>> + Send;

    /// Puts `decree` in the place of exactly `instead_of`; `None` is no record.
    fn swap(
        &self,
        cluster: &ClusterName,
        instead_of: Option<&Decree>,
        decree: Option<&Decree>,
    ) -> impl Future<Output = Result<Swap, StoreError>> + Send;
}

impl Records for Store {
    fn term(&self) -> Option<&Term> {
        Store::term(self)
    }

    async fn read(&self, cluster: &ClusterName) -> Result<Reading, StoreError> {
        let (cluster, ours) = (cluster.to_string(), self.caller());
        self.run("read", move |db| {
            let read = db.transaction()?;
            let leads = ours.is_some() && term::caller(&read)? == ours;
            Ok(Reading { record: decree(&read, &cluster)?, leads })
        })
        .await
    }

    async fn swap(
        &self,
        cluster: &ClusterName,
        instead_of: Option<&Decree>,
        decree: Option<&Decree>,
    ) -> Result<Swap, StoreError> {
        let Some(ours) = self.caller() else { return Ok(Swap::Deposed) };
        let cluster = cluster.to_string();
        let (instead_of, wanted) = (instead_of.cloned(), decree.cloned());
        self.run("written", move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if term::caller(&change)?.as_ref() != Some(&ours) {
                return Ok(Swap::Deposed);
            }
            let found = self::decree(&change, &cluster)?;
            if found == wanted {
                return Ok(Swap::Done);
            }
            if found != instead_of {
                return Ok(Swap::Differs { found: found.map(Box::new) });
            }
            let text = wanted.map(|decree| serde_json::to_string(&decree).expect("a decree has string keys only"));
            change.execute(
                "INSERT INTO decree (cluster, revision, decree) VALUES (?1, 1, ?2)
                 ON CONFLICT (cluster) DO UPDATE SET revision = revision + 1, decree = ?2",
                params![cluster, text],
            )?;
            change.commit()?;
            Ok(Swap::Done)
        })
        .await
    }
}

pub(super) fn decree(db: &rusqlite::Connection, cluster: &str) -> Result<Option<Decree>, rusqlite::Error> {
    let row: Option<Option<String>> = db
        .prepare_cached("SELECT decree FROM decree WHERE cluster = ?1")?
        .query_row([cluster], |row| row.get(0))
        .optional()?;
    row.flatten().map(|text| serde_json::from_str(&text).map_err(|error| malformed(0, error))).transpose()
}

#[cfg(test)]
mod tests {
    use flypg_core::decree::{CommitMode, Epoch};
    use flypg_core::spec::Profile;

    use super::*;
    use crate::store::Home;

    fn decree(epoch: u64) -> Decree {
        let first = Decree::first("ord-1".parse().unwrap(), "n".to_owned(), CommitMode::Synchronous, Profile::Balanced);
        Decree { epoch: Epoch(epoch), ..first }
    }

    async fn leading(dir: &std::path::Path) -> Store {
        Store::open(dir).unwrap().lead(&Home::here(None), false).await.unwrap()
    }

    async fn record(store: &Store, cluster: &ClusterName) -> Option<Decree> {
        store.read(cluster).await.unwrap().record
    }

    #[tokio::test]
    async fn only_one_of_two_rivals_wins_and_it_survives() {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let one = leading(dir.path()).await;
        let two = one.clone();
        assert_eq!(one.read(&cluster).await.unwrap(), Reading { record: None, leads: true });

        let (first, second) = (decree(1), decree(2));
        let (a, b) = tokio::join!(one.swap(&cluster, None, Some(&first)), two.swap(&cluster, None, Some(&second)));
        let winner = match (a.unwrap(), b.unwrap()) {
            (Swap::Done, Swap::Differs { found }) => {
                assert_eq!(found.as_deref(), Some(&first));
                first
            }
            (Swap::Differs { found }, Swap::Done) => {
                assert_eq!(found.as_deref(), Some(&second));
                second
            }
            both => panic!("exactly one may win: {both:?}"),
        };
        drop((one, two));

        let again = leading(dir.path()).await;
        assert_eq!(record(&again, &cluster).await.as_ref(), Some(&winner));
        assert_eq!(again.swap(&cluster, None, Some(&winner)).await.unwrap(), Swap::Done, "asked twice, done once");
        assert_eq!(again.swap(&cluster, Some(&winner), None).await.unwrap(), Swap::Done);
        assert_eq!(record(&again, &cluster).await, None);
    }

    #[tokio::test]
    async fn who_was_followed_by_another_decides_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let old = leading(dir.path()).await;
        assert_eq!(old.swap(&cluster, None, Some(&decree(1))).await.unwrap(), Swap::Done);
        let new = leading(dir.path()).await;
        assert!(!old.read(&cluster).await.unwrap().leads && new.read(&cluster).await.unwrap().leads);
        assert_eq!(old.swap(&cluster, Some(&decree(1)), Some(&decree(2))).await.unwrap(), Swap::Deposed);
        // Not even what is so already: it must not believe that it still decides.
        assert_eq!(old.swap(&cluster, None, Some(&decree(1))).await.unwrap(), Swap::Deposed);
        assert_eq!(record(&new, &cluster).await, Some(decree(1)));
        assert_eq!(new.swap(&cluster, Some(&decree(1)), Some(&decree(2))).await.unwrap(), Swap::Done);
    }

    #[tokio::test]
    async fn who_only_looks_neither_leads_nor_decides() {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        leading(dir.path()).await.swap(&cluster, None, Some(&decree(1))).await.unwrap();
        for looks in [Store::open(dir.path()).unwrap(), Store::open_to_read(dir.path()).unwrap()] {
            assert_eq!(looks.read(&cluster).await.unwrap(), Reading { record: Some(decree(1)), leads: false });
            assert_eq!(looks.swap(&cluster, Some(&decree(1)), None).await.unwrap(), Swap::Deposed);
        }
    }
}
