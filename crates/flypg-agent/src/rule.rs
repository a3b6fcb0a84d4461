//! Bringing a rule of acknowledgement into effect, and knowing that it is (rule R13).

use std::collections::BTreeSet;

use flypg_core::failover::Rule;
use flypg_core::protocol::{Lsn, ReplicaReport};
use serde::Deserialize;

use crate::config::Config;
use crate::sql::{Session, SqlError};

/// That a rule is in effect in every walsender of the Postgres that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    pub rule: Rule,
    /// When the agent's own session had last read Postgres' files, at its first look since. Each process has a time of
    /// its own, so that what a fresh session says cannot be compared with it.
    pub loaded_at: Option<String>,
    /// All that was acknowledged under another rule is before this.
    pub at: Lsn,
    /// The rule is met by all WAL before `at`.
    pub covered: bool,
}

#[derive(Debug, Deserialize)]
struct Effect {
    waits_for: String,
    loaded_at: String,
    old: Option<Vec<i32>>,
    at: Option<Lsn>,
}

/// A walsender decides by the rule that it last read, and may hold on to it for long after a fresh session shows
/// another one (protocol, experiment E25). A postmaster that has read its files once only has no older children; a
/// child knows the time of its start a moment after it was begun.
const EFFECT: &str = "SELECT json_build_object(
    'waits_for', current_setting('synchronous_standby_names'), 'loaded_at', pg_conf_load_time(),
    'old', (SELECT json_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE backend_type = 'walsender'
        AND pg_conf_load_time() > pg_postmaster_start_time()
        AND backend_start <= pg_conf_load_time() + interval '50 ms'),
    'at', CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END)::text";

/// Ends every walsender that is older than the configuration, one after the other, so that the others go on. `None` if
/// that is not done yet: one of them does not end, or Postgres does not show the rule.
pub async fn prove(config: &Config, rule: &Rule) -> Result<Option<Proof>, SqlError> {
    // What a session of long ago shows is what it last read.
    let session = Session::connect(config).await?;
    let found: Effect = session.json(EFFECT).await?;
    if found.waits_for != rule.synchronous_standby_names() {
        return Ok(None);
    }
    for pid in found.old.iter().flatten() {
        tracing::info!(pid, "ending a walsender that may acknowledge by an earlier rule");
        let gone: bool = session.json(&format!("SELECT to_json(pg_terminate_backend({pid}, 1000))::text")).await?;
        if !gone {
            tracing::warn!(pid, "this walsender does not end: the rule is not in effect yet");
            return Ok(None);
        }
    }
    let now: Effect = session.json(EFFECT).await?;
    if now.old.is_some() || now.loaded_at != found.loaded_at {
        return Ok(None);
    }
    let Some(at) = now.at else { return Ok(None) };
    Ok(Some(Proof { rule: rule.clone(), loaded_at: None, at, covered: false }))
}

impl Proof {
    /// Whether enough members have flushed all that came before the rule.
    pub fn is_met_by(&self, replicas: &[ReplicaReport]) -> bool {
        let has_it =
            |replica: &&ReplicaReport| replica.state == "streaming" && replica.flushed.is_some_and(|at| at >= self.at);
        let flushed: BTreeSet<_> = replicas.iter().filter(has_it).map(|replica| replica.node.clone()).collect();
        self.rule.is_met_by(&flushed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_members_that_stream_and_have_flushed_enough_count() {
        let node = |n| format!("ord-{n}").parse().unwrap();
        let rule = Rule::any(1, [node(2), node(3)].into()).unwrap();
        let proof = Proof { rule, loaded_at: None, at: Lsn(100), covered: false };
        let replica = |n, state: &str, flushed| ReplicaReport {
            node: node(n),
            state: state.to_owned(),
            sent: None,
            flushed,
            replayed: None,
        };
        assert!(proof.is_met_by(&[replica(2, "streaming", Some(Lsn(100)))]));
        for short in [
            replica(2, "streaming", Some(Lsn(99))),
            replica(2, "streaming", None),
            replica(2, "catchup", Some(Lsn(100))),
            replica(4, "streaming", Some(Lsn(100))),
        ] {
            assert!(!proof.is_met_by(std::slice::from_ref(&short)), "{short:?}");
        }
        let alone = Proof { rule: Rule::alone(), ..proof };
        assert!(alone.is_met_by(&[]));
    }
}
