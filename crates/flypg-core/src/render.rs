//! Plans in words. The only place where a [`crate::plan::Why`] or [`crate::plan::Until`] becomes a sentence.

use crate::observed::Observed;
use crate::plan::{Hold, Plan, Step};
use crate::spec::ClusterSpec;

/// All that is shown of one cluster's dry run.
#[derive(Debug, Clone)]
pub struct Preview<'a> {
    pub spec: &'a ClusterSpec,
    pub observed: &'a Observed,
    /// From [`crate::plan::forecast`]; the first is what would be done now.
    pub turns: &'a [Plan],
}

/// Whether text may carry ANSI colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colour,
}

/// Like Terraform's plan: `+ ~ -`, one line per step with its why, holds, a summary.
pub fn text(_preview: &Preview<'_>, _paint: Paint) -> String {
    String::new()
}

/// For a pull-request comment.
pub fn markdown(_preview: &Preview<'_>) -> String {
    String::new()
}

/// The object that `reconcile --dry-run -o json` prints for one cluster.
pub fn json(_preview: &Preview<'_>) -> serde_json::Value {
    serde_json::Value::Null
}

/// One step as one line, without its mark: what is done and why.
pub fn step(_step: &Step) -> String {
    String::new()
}

/// One hold as one line: what waits, and for what.
pub fn hold(_hold: &Hold) -> String {
    String::new()
}
