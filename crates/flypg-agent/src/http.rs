//! Serving HTTP to many callers, some of whom may be slow, stuck or hostile.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// A request's head is whole within this, or its connection is closed; and so long a connection may be idle.
const HEAD: Duration = Duration::from_secs(15);

/// Serves at most `most` connections at a time; further ones wait until one of those ends.
pub async fn serve(listener: TcpListener, router: Router, most: usize) {
    let room = Arc::new(Semaphore::new(most));
    while let Ok(permit) = room.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a call could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEAD);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a caller's connection broke");
            }
            drop(permit);
        });
    }
}
