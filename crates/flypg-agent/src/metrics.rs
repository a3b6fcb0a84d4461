//! Prometheus metrics on port 9187: what Postgres counts, under the names that postgres_exporter gave them, and what
//! the agent itself knows, as `flypg_agent_*`.

mod agent;
mod postgres;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::core::Collector;
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::shared::Shared;

/// Scrapers at a time. One is answered after the other, so that however many there are cost Postgres one session.
pub const SCRAPERS: usize = 16;

pub async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let turn = Arc::new(Mutex::new(()));
    let router = Router::new().route("/metrics", get(scrape)).with_state((shared, turn));
    crate::http::serve(listener, router, SCRAPERS).await;
}

async fn scrape(State((shared, turn)): State<(Arc<Shared>, Arc<Mutex<()>>)>) -> Response {
    let _turn = turn.lock().await;
    let mut page = Page::default();
    let scraped = agent::add(&mut page, &shared).and(postgres::add(&mut page, &shared).await);
    match scraped.and_then(|()| page.text()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "the metrics could not be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n").into_response()
        }
    }
}

/// One scrape: a registry of its own, so that what is gone now is gone from it.
#[derive(Debug, Default)]
struct Page {
    registry: Registry,
    /// Names of postgres_exporter that break Prometheus' naming rules for their type. They go out without a type, as
    /// the rules allow, so that dashboards made for that exporter go on working.
    untyped: Vec<String>,
}

/// How a value behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
    Untyped,
}

impl Page {
    /// One metric with its labels, and a value for each set of label values.
    fn add(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: &[&str],
        values: impl IntoIterator<Item = (Vec<String>, f64)>,
    ) -> prometheus::Result<()> {
        let opts = Opts::new(name, help);
        let collector: Box<dyn Collector> = match kind {
            Kind::Gauge | Kind::Untyped => {
                let gauge = GaugeVec::new(opts, labels)?;
                for (labels, value) in values {
                    gauge.get_metric_with_label_values(&labels)?.set(value);
                }
                Box::new(gauge)
            }
            Kind::Counter => {
                let counter = CounterVec::new(opts, labels)?;
                for (labels, value) in values {
                    // A statistic that was reset may be read as less than nothing; it is nothing.
                    counter.get_metric_with_label_values(&labels)?.inc_by(value.max(0.0));
                }
                Box::new(counter)
            }
        };
        if kind == Kind::Untyped {
            self.untyped.push(name.to_owned());
        }
        self.registry.register(collector)
    }

    fn one(&mut self, kind: Kind, name: &str, help: &str, value: f64) -> prometheus::Result<()> {
        self.add(kind, name, help, &[], [(vec![], value)])
    }

    fn text(&self) -> prometheus::Result<String> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        let mut text = String::from_utf8(bytes).map_err(|error| prometheus::Error::Msg(error.to_string()))?;
        for name in &self.untyped {
            // The encoder knows no untyped metrics.
            text = text.replace(&format!("# TYPE {name} gauge\n"), &format!("# TYPE {name} untyped\n"));
        }
        Ok(text)
    }
}
