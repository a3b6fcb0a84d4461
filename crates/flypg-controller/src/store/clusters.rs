use std::path::{Path, PathBuf};

use flypg_core::Timestamp;
use flypg_core::names::ClusterName;
use flypg_core::spec::ClusterSpec;
use flypg_core::status::Condition;
use rusqlite::{OptionalExtension, TransactionBehavior, params};

use super::{Store, StoreError};

/// The last good spec of a cluster, and the file it stood in. If the cluster leaves the files, this says how it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownSpec {
    pub spec: ClusterSpec,
    /// Absolute.
    pub file: PathBuf,
}

impl KnownSpec {
    /// Whether the file stands at or below `path`.
    pub fn is_below(&self, path: &Path) -> bool {
        self.file.starts_with(path)
    }
}

impl Store {
    /// Every cluster that was ever wanted and not yet removed, by name.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn specs(&self) -> Result<Vec<KnownSpec>, StoreError> {
        let rows = self
            .run("read", |db| {
                db.prepare_cached("SELECT spec, file FROM spec ORDER BY cluster")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<Result<Vec<(String, String)>, _>>()
            })
            .await?;
        rows.into_iter()
            .map(|(spec, file)| {
                let spec = serde_json::from_str(&spec)
                    .map_err(|source| StoreError::Unreadable { what: "the spec of a cluster", source })?;
                Ok(KnownSpec { spec, file: PathBuf::from(file) })
            })
            .collect()
    }

    /// Takes these as the clusters' last good specs.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note_specs(&self, specs: Vec<KnownSpec>) -> Result<(), StoreError> {
        if !self.writes || specs.is_empty() {
            return Ok(());
        }
        self.run("written", move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for KnownSpec { spec, file } in specs {
                let text = serde_json::to_string(&spec).expect("a spec has string keys only");
                change
                    .prepare_cached(
                        "INSERT INTO spec (cluster, file, spec) VALUES (?1, ?2, ?3)
                         ON CONFLICT (cluster) DO UPDATE SET file = ?2, spec = ?3",
                    )?
                    .execute(params![spec.name.as_str(), file.to_string_lossy(), text])?;
            }
            change.commit()
        })
        .await
    }

    /// The cluster is gone, and wanted by nobody.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn forget(&self, cluster: &ClusterName) -> Result<(), StoreError> {
        if !self.writes {
            return Ok(());
        }
        let cluster = cluster.to_string();
        self.run("written", move |db| {
            let change = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for table in ["spec", "known", "doubt", "progress", "condition"] {
                change.execute(&format!("DELETE FROM {table} WHERE cluster = ?1"), [&cluster])?;
            }
            change.commit()
        })
        .await
    }

    /// The generation for which nothing was left to do.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn observed_generation(&self, cluster: &ClusterName) -> Result<Option<String>, StoreError> {
        let cluster = cluster.to_string();
        self.run("read", move |db| {
            db.prepare_cached("SELECT generation FROM progress WHERE cluster = ?1")?
                .query_row([cluster], |row| row.get(0))
                .optional()
        })
        .await
    }

    /// Nothing was left to do for this generation.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn note_generation(&self, cluster: &ClusterName, generation: &str) -> Result<(), StoreError> {
        if !self.writes {
            return Ok(());
        }
        let (cluster, generation) = (cluster.to_string(), generation.to_owned());
        self.run("written", move |db| {
            db.prepare_cached(
                "INSERT INTO progress (cluster, generation) VALUES (?1, ?2)
                 ON CONFLICT (cluster) DO UPDATE SET generation = ?2 WHERE generation <> ?2",
            )?
            .execute([cluster, generation])
            .map(drop)
        })
        .await
    }

    /// Fills in since when each condition holds: since `now`, unless it was the same already.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn date(
        &self,
        cluster: &ClusterName,
        mut conditions: Vec<Condition>,
        now: Timestamp,
    ) -> Result<Vec<Condition>, StoreError> {
        let (cluster, writes) = (cluster.to_string(), self.writes);
        self.run("written", move |db| {
            let change = db.transaction()?;
            for condition in &mut conditions {
                let since: Option<String> = change
                    .prepare_cached(
                        "SELECT since FROM condition
                         WHERE cluster = ?1 AND kind = ?2 AND status = ?3 AND reason = ?4",
                    )?
                    .query_row(params![cluster, condition.kind, condition.status, condition.reason], |row| row.get(0))
                    .optional()?;
                if since.is_none() && writes {
                    change
                        .prepare_cached(
                            "INSERT INTO condition (cluster, kind, status, reason, since) VALUES (?1, ?2, ?3, ?4, ?5)
                             ON CONFLICT (cluster, kind) DO UPDATE SET status = ?3, reason = ?4, since = ?5",
                        )?
                        .execute(params![
                            cluster,
                            condition.kind,
                            condition.status,
                            condition.reason,
                            now.to_string()
                        ])?;
                }
                condition.since = Some(since.unwrap_or_else(|| now.to_string()));
            }
            change.commit()?;
            Ok(conditions)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_condition_keeps_its_date_until_it_changes() {
        let store = Store::in_memory().unwrap();
        let cluster: ClusterName = "orders-db".parse().unwrap();
        let ready = |status: bool, reason: &str| {
            vec![Condition {
                kind: "Ready".to_owned(),
                status,
                reason: reason.to_owned(),
                message: String::new(),
                since: None,
            }]
        };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let since = |conditions: Vec<Condition>| conditions[0].since.clone().unwrap();
        let first = store.date(&cluster, ready(false, "Waiting"), at(10)).await.unwrap();
        assert_eq!(since(first), at(10).to_string());
        let same = store.date(&cluster, ready(false, "Waiting"), at(20)).await.unwrap();
        assert_eq!(since(same), at(10).to_string());
        let changed = store.date(&cluster, ready(true, "Converged"), at(30)).await.unwrap();
        assert_eq!(since(changed), at(30).to_string());
    }

    #[tokio::test]
    async fn what_was_wanted_is_remembered_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let spec = crate::tests::spec("orders-db");
        let known = KnownSpec { spec: spec.clone(), file: PathBuf::from("/etc/flypg/orders.yaml") };
        store.note_specs(vec![known.clone()]).await.unwrap();
        store.note_generation(&spec.name, "abc").await.unwrap();
        drop(store);

        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.specs().await.unwrap(), std::slice::from_ref(&known));
        assert!(known.is_below(Path::new("/etc/flypg")) && !known.is_below(Path::new("/etc/fly")));
        assert_eq!(store.observed_generation(&spec.name).await.unwrap().as_deref(), Some("abc"));
        store.forget(&spec.name).await.unwrap();
        assert_eq!(store.specs().await.unwrap(), []);
        assert_eq!(store.observed_generation(&spec.name).await.unwrap(), None);
    }
}
