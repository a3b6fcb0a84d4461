//! The controller's own metrics, in Prometheus' text format.

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::board::Board;

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub turns: IntCounter,
    /// By `outcome`: `done`, `not done`, `maybe done`, `refused`.
    pub steps: IntCounterVec,
    pub turn_seconds: Histogram,
    clusters: IntGauge,
    ready: IntGauge,
    stuck: IntGauge,
    mistakes: IntGauge,
}

impl Metrics {
    /// # Errors
    /// If two metrics have one name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name, help| IntGauge::new(name, help);
        let buckets = vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let metrics = Self {
            registry: Registry::new(),
            turns: IntCounter::new("flypg_controller_turns_total", "Turns of all clusters.")?,
            steps: IntCounterVec::new(
                Opts::new("flypg_controller_steps_total", "Steps carried out, by what came of them."),
                &["outcome"],
            )?,
            turn_seconds: Histogram::with_opts(
                HistogramOpts::new("flypg_controller_turn_duration_seconds", "How long turns took.").buckets(buckets),
            )?,
            clusters: gauge("flypg_controller_clusters", "Clusters that are kept.")?,
            ready: gauge("flypg_controller_clusters_ready", "Clusters that are ready.")?,
            stuck: gauge("flypg_controller_clusters_stuck", "Clusters whose turns get nowhere.")?,
            mistakes: gauge("flypg_controller_source_mistakes", "Mistakes in the files; -1 until they were read.")?,
        };
        for outcome in ["done", "not done", "maybe done", "refused"] {
            metrics.steps.with_label_values(&[outcome]);
        }
        metrics.registry.register(Box::new(metrics.turns.clone()))?;
        metrics.registry.register(Box::new(metrics.steps.clone()))?;
        metrics.registry.register(Box::new(metrics.turn_seconds.clone()))?;
        for gauge in [&metrics.clusters, &metrics.ready, &metrics.stuck, &metrics.mistakes] {
            metrics.registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    /// All of them, as of now.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn text(&self, board: &Board) -> Result<String, prometheus::Error> {
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let clusters = board.clusters();
        let is_stuck = |kind: &str| kind == "Stuck";
        self.clusters.set(count(clusters.len()));
        self.ready.set(count(clusters.iter().filter(|posted| posted.status.ready).count()));
        let stuck = clusters.iter().filter(|posted| posted.status.conditions.iter().any(|c| is_stuck(&c.kind)));
        self.stuck.set(count(stuck.count()));
        self.mistakes.set(board.source().map_or(-1, |mistakes| count(mistakes.len())));
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}
