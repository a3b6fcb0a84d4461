//! What a person orders that no file can say: another primary. An order is tried against what is known, stands in the
//! watch until the record shows it, and has come about when somebody else leads.

use flypg_core::observed::Order;
use flypg_core::status::{ClusterStatus, Leadership};
use serde::{Deserialize, Serialize};

/// What an order is about, and how it began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goal {
    pub order: Order,
    /// Who led when it was given, and in which epoch.
    pub primary: String,
    pub reign: u64,
}

/// Why an order is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("nobody leads `{cluster}` yet, so there is nobody to take over from")]
    NobodyLeads { cluster: String },
    #[error("`{cluster}` has no node {node}; there are {}", .known.join(", "))]
    UnknownNode { cluster: String, node: String, known: Vec<String> },
    #[error("{node} leads `{cluster}` already")]
    LeadsAlready { cluster: String, node: String },
    #[error("`{cluster}` has one node: there is nobody to take over")]
    Alone { cluster: String },
    #[error("a failover to {node} may lose what was acknowledged, and that was not accepted")]
    LossNotAccepted { node: String },
}

impl Goal {
    /// # Errors
    /// If the order makes no sense for the cluster as it is; nothing was changed.
    pub fn of(order: Order, status: &ClusterStatus) -> Result<Self, OrderError> {
        let cluster = || status.cluster.clone();
        let (Some(primary), Some(leadership)) = (status.primary.clone(), &status.leadership) else {
            return Err(OrderError::NobodyLeads { cluster: cluster() });
        };
        let to = match &order {
            Order::Switchover { to } => to.as_ref(),
            Order::Failover { to, accept_data_loss: false } => {
                return Err(OrderError::LossNotAccepted { node: to.to_string() });
            }
            Order::Failover { to, .. } => Some(to),
        };
        // Somebody leads and no node is listed: they cannot be seen now, which does not say that there are none. An order
        // stands for a while, and they are looked at again meanwhile.
        let known: Vec<String> = status.nodes.iter().map(|node| node.node.clone()).collect();
        if known.len() == 1 {
            return Err(OrderError::Alone { cluster: cluster() });
        }
        if let Some(node) = to.map(ToString::to_string) {
            if !known.is_empty() && !known.contains(&node) {
                return Err(OrderError::UnknownNode { cluster: cluster(), node, known });
            }
            // A primary that was never heard of again may be the one to go on with, after an attempt that found nobody.
            if node == primary && leadership.stage == "established" {
                return Err(OrderError::LeadsAlready { cluster: cluster(), node });
            }
        }
        Ok(Self { order, primary, reign: leadership.reign })
    }

    /// Whoever was ordered leads by now; or, where nobody was named, somebody else.
    pub fn came_about(&self, status: &ClusterStatus) -> bool {
        let (Some(primary), Some(leadership)) = (&status.primary, &status.leadership) else { return false };
        let is_meant = match &self.order {
            Order::Switchover { to: None } => *primary != self.primary,
            Order::Switchover { to: Some(to) } | Order::Failover { to, .. } => *primary == to.to_string(),
        };
        is_meant && leadership.reign > self.reign && leadership.stage == "established"
    }

    /// Somebody leads in a later epoch, and not whoever was meant: something else came first, and the order is over.
    pub fn went_otherwise(&self, status: &ClusterStatus) -> bool {
        let settled = |leadership: &Leadership| leadership.reign > self.reign && leadership.stage == "established";
        status.leadership.as_ref().is_some_and(settled) && !self.came_about(status)
    }

    /// Nothing shows that it was taken up.
    pub fn is_idle(&self, status: &ClusterStatus) -> bool {
        status
            .leadership
            .as_ref()
            .is_none_or(|leadership| leadership.reign == self.reign && leadership.stage == "established")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use flypg_core::status::{Endpoints, NodeStatus};

    use super::*;

    pub(crate) fn status(primary: Option<&str>, reign: u64, stage: &str, nodes: &[&str]) -> ClusterStatus {
        let node = |name: &&str| NodeStatus {
            node: (*name).to_owned(),
            machine: None,
            region: "ord".to_owned(),
            role: "replica".to_owned(),
            state: "streaming".to_owned(),
            lsn: None,
            lag_bytes: None,
            lag_seconds: None,
            volume: None,
            version: None,
            since: None,
        };
        ClusterStatus {
            cluster: "orders-db".to_owned(),
            app: "orders-db".to_owned(),
            generation: String::new(),
            observed_generation: None,
            ready: true,
            epoch: Some(reign),
            primary: primary.map(str::to_owned),
            leadership: primary.map(|_| Leadership {
                reign,
                stage: stage.to_owned(),
                mode: "synchronous".to_owned(),
                acknowledged_by: String::new(),
                acks: 1,
                standbys: Vec::new(),
                gate: None,
                survives: None,
                last_failover: None,
            }),
            endpoints: Endpoints { read_write: None, read_only: None },
            nodes: nodes.iter().map(node).collect(),
            conditions: Vec::new(),
        }
    }

    fn switchover(to: Option<&str>) -> Order {
        Order::Switchover { to: to.map(|to| to.parse().unwrap()) }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let three = ["ord-1", "ord-2", "ord-3"];
        let led = status(Some("ord-1"), 4, "established", &three);
        let refused = |order, status: &ClusterStatus| Goal::of(order, status).unwrap_err();
        let reckless = |accept| Order::Failover { to: "ord-2".parse().unwrap(), accept_data_loss: accept };
        assert!(matches!(refused(switchover(Some("ord-1")), &led), OrderError::LeadsAlready { .. }));
        assert!(
            matches!(refused(switchover(Some("ord-9")), &led), OrderError::UnknownNode { known, .. } if known == three)
        );
        assert!(matches!(refused(reckless(false), &led), OrderError::LossNotAccepted { .. }));
        let unled = status(None, 0, "", &three);
        assert!(matches!(refused(switchover(None), &unled), OrderError::NobodyLeads { .. }));
        let alone = status(Some("ord-1"), 4, "established", &three[..1]);
        assert!(matches!(refused(switchover(None), &alone), OrderError::Alone { .. }));
        assert!(Goal::of(reckless(true), &led).is_ok());
    }

    #[test]
    fn nodes_that_cannot_be_seen_now_are_not_taken_for_absent() {
        let unseen = status(Some("ord-1"), 4, "established", &[]);
        for order in [switchover(None), switchover(Some("ord-2"))] {
            assert_eq!(Goal::of(order.clone(), &unseen).map(|goal| goal.order), Ok(order));
        }
        let itself = Goal::of(switchover(Some("ord-1")), &unseen);
        assert!(matches!(itself, Err(OrderError::LeadsAlready { .. })), "{itself:?}");
    }

    #[test]
    fn it_has_come_about_once_whoever_was_meant_leads_in_a_later_epoch() {
        let nodes = ["ord-1", "ord-2", "ord-3"];
        let before = status(Some("ord-1"), 4, "established", &nodes);
        let to_two = Goal::of(switchover(Some("ord-2")), &before).unwrap();
        let to_any = Goal::of(switchover(None), &before).unwrap();
        for (primary, reign, stage, two, any) in [
            ("ord-1", 4, "established", false, false),
            ("ord-1", 4, "handing-over", false, false),
            ("ord-2", 5, "promoting", false, false),
            ("ord-3", 5, "established", false, true),
            ("ord-2", 5, "established", true, true),
            ("ord-1", 5, "established", false, false),
        ] {
            let now = status(Some(primary), reign, stage, &nodes);
            assert_eq!((to_two.came_about(&now), to_any.came_about(&now)), (two, any), "{primary} {stage}");
            let settled = (reign, stage) == (5, "established");
            assert_eq!((to_two.went_otherwise(&now), to_any.went_otherwise(&now)), (settled && !two, settled && !any));
            assert_eq!(to_two.is_idle(&now), (reign, stage) == (4, "established"));
        }
    }
}
