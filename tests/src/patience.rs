//! Waiting on a condition, with a deadline. No test sleeps to make itself pass.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `look` gives something; panics with what it last saw when `limit` is over.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        let last = match look().await {
            Ok(found) => return found,
            Err(last) => last,
        };
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}; last seen: {last}");
        tokio::time::sleep(LOOK).await;
    }
}
