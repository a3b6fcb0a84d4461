use flypg_core::decree::Decree;
use flypg_core::names::ClusterName;
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{Store, StoreError, malformed};

/// What became of a compare-and-set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swap {
    /// The record is now what was asked for; also if it was that already.
    Done,
    /// The record is something else, and was left alone.
    Differs { found: Option<Decree> },
}

/// One compare-and-set cell per cluster: who may lead.
pub trait Records: Send + Sync {
    fn read(&self, cluster: &ClusterName) -> impl Future<Output = Result<Option<Decree>, StoreError>> + Send;

    /// Puts `decree` in the place of exactly `instead_of`; `None` is no record.
    fn swap(
        &self,
        cluster: &ClusterName,
        instead_of: Option<&Decree>,
        decree: Option<&Decree>,
    ) -> impl Future<Output = Result<Swap, StoreError>> + Send;
}

impl Records for Store {
    async fn read(&self, cluster: &ClusterName) -> Result<Option<Decree>, StoreError> {
        let cluster = cluster.to_string();
        self.run("read", move |db| decree(db, &cluster)).await
    }

    async fn swap(
        &self,
        cluster: &ClusterName,
        instead_of: Option<&Decree>,
        decree: Option<&Decree>,
    ) -> Result<Swap, StoreError> {
        let cluster = cluster.to_string();
        let (instead_of, wanted) = (instead_of.cloned(), decree.cloned());
        self.run("written", move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let found = self::decree(&change, &cluster)?;
            if found == wanted {
                return Ok(Swap::Done);
            }
            if found != instead_of {
                return Ok(Swap::Differs { found });
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
    use flypg_core::decree::{Epoch, Stage};

    use super::*;

    fn decree(epoch: u64) -> Decree {
        Decree {
            epoch: Epoch(epoch),
            primary: "ord-1".parse().unwrap(),
            stage: Stage::Bootstrapping { nonce: "n".to_owned() },
        }
    }

    #[tokio::test]
    async fn only_one_of_two_rivals_wins_and_it_survives() {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let (one, two) = (Store::open(dir.path()).unwrap(), Store::open(dir.path()).unwrap());
        assert_eq!(one.read(&cluster).await.unwrap(), None);

        let (first, second) = (decree(1), decree(2));
        let (a, b) = tokio::join!(one.swap(&cluster, None, Some(&first)), two.swap(&cluster, None, Some(&second)));
        let winner = match (a.unwrap(), b.unwrap()) {
            (Swap::Done, Swap::Differs { found }) => {
                assert_eq!(found.as_ref(), Some(&first));
                first
            }
            (Swap::Differs { found }, Swap::Done) => {
                assert_eq!(found.as_ref(), Some(&second));
                second
            }
            both => panic!("exactly one may win: {both:?}"),
        };
        drop((one, two));

        let again = Store::open(dir.path()).unwrap();
        assert_eq!(again.read(&cluster).await.unwrap().as_ref(), Some(&winner));
        assert_eq!(again.swap(&cluster, None, Some(&winner)).await.unwrap(), Swap::Done, "asked twice, done once");
        assert_eq!(again.swap(&cluster, Some(&winner), None).await.unwrap(), Swap::Done);
        assert_eq!(again.read(&cluster).await.unwrap(), None);
    }
}
