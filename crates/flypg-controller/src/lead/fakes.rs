//! Agents that do nothing but answer, on addresses of their own: what a node says is put into their mouths.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Json;
use axum::routing::{get, put};
use flypg_core::failover::lease::{BootTime, Grant};
use flypg_core::protocol::{Assignment, NodeReport, ports};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::clock;

/// What one agent says, and was told.
pub(super) struct Agent {
    pub(super) address: IpAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    report: watch::Sender<NodeReport>,
    grants: Mutex<Vec<Grant>>,
    assignments: Mutex<Vec<Assignment>>,
    manner: Manner,
}

/// How an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Promptly,
    /// It takes assignments and never says so.
    Hanging,
    /// What is new in its report is not told before the time of the question is over.
    Late,
}

#[derive(Deserialize)]
struct After {
    after: u64,
    wait: f64,
}

#[derive(Deserialize)]
struct Assigned {
    assignment: Assignment,
}

#[derive(Deserialize)]
struct Granted {
    grant: Grant,
}

impl Agent {
    pub(super) async fn start(report: NodeReport, manner: Manner) -> Self {
        let (listener, address) = listen().await;
        let (report, _) = watch::channel(report);
        let shared = Arc::new(Shared { report, grants: Mutex::default(), assignments: Mutex::default(), manner });
        let router = Router::new()
            .route("/v1/report", get(tell))
            .route("/v1/assignment", put(assign))
            .route("/v1/lease", put(grant))
            .with_state(Arc::clone(&shared));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, serving }
    }

    pub(super) fn grants(&self) -> Vec<Grant> {
        self.shared.grants.lock().unwrap().clone()
    }

    pub(super) fn assignments(&self) -> Vec<Assignment> {
        self.shared.assignments.lock().unwrap().clone()
    }

    /// Ends it, and every connection to it.
    pub(super) fn kill(&self) {
        self.serving.abort();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn tell(State(shared): State<Arc<Shared>>, Query(after): Query<After>) -> Json<NodeReport> {
    let mut report = shared.report.subscribe();
    let newer = report.wait_for(|report| report.version > after.after && shared.manner != Manner::Late);
    let _ = tokio::time::timeout(Duration::from_secs_f64(after.wait), newer).await;
    Json(shared.answer())
}

impl Shared {
    /// Its report, as it is sent now.
    fn answer(&self) -> NodeReport {
        NodeReport { sent: BootTime(clock::mono().0), ..self.report.borrow().clone() }
    }
}

async fn assign(State(shared): State<Arc<Shared>>, Json(told): Json<Assigned>) -> Json<NodeReport> {
    shared.assignments.lock().unwrap().push(told.assignment.clone());
    if shared.manner == Manner::Hanging {
        std::future::pending::<()>().await;
    }
    shared.report.send_modify(|report| {
        report.assignment = Some(told.assignment.digest());
        report.promised = told.assignment.epoch;
        report.revision = told.assignment.revision;
        report.version += 1;
    });
    Json(shared.answer())
}

async fn grant(State(shared): State<Arc<Shared>>, Json(told): Json<Granted>) -> Json<Value> {
    shared.grants.lock().unwrap().push(told.grant);
    Json(json!({}))
}

/// On the agents' port of an address that nobody else has.
async fn listen() -> (TcpListener, IpAddr) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let base = std::process::id();
    loop {
        let mine = base.wrapping_mul(8).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)).to_be_bytes();
        let address = IpAddr::V4(Ipv4Addr::new(127, 64 | (mine[1] & 63), mine[2], mine[3].clamp(1, 254)));
        if let Ok(listener) = TcpListener::bind(SocketAddr::new(address, ports::API)).await {
            return (listener, address);
        }
    }
}
