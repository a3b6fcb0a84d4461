//! A write per second through a backend of its own: what proves that a primary can write, and what its standbys hear
//! of it while nobody else writes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flypg_core::protocol::Probe;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::shared::Shared;
use crate::sql::{Session, SqlError};

const EACH: Duration = Duration::from_secs(1);
/// One that takes longer is late.
const LATE: Duration = Duration::from_secs(1);

const WRITE: &str = "INSERT INTO flypg.probe VALUES (true, pg_catalog.clock_timestamp())
    ON CONFLICT (one) DO UPDATE SET at = EXCLUDED.at";

/// Writes as long as this value lives.
#[derive(Debug)]
pub struct WriteProbe {
    seen: Arc<Mutex<Seen>>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    took: Option<Duration>,
    /// When the write that has not come to its end began.
    begun: Option<Instant>,
}

impl WriteProbe {
    pub fn begin(shared: Arc<Shared>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let writing = seen.clone();
        let task = tokio::spawn(async move {
            let mut each = interval(EACH);
            each.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                each.tick().await;
                write_once(&shared, &writing).await;
            }
        });
        Self { seen, _task: AbortOnDropHandle::new(task) }
    }

    /// Absent until one write came to its end or is late.
    pub fn report(&self) -> Option<Probe> {
        let seen = self.seen.lock().expect("no holder of this lock panics");
        let hangs = seen.begun.map(|begun| begun.elapsed()).filter(|hangs| *hangs >= LATE);
        match (seen.took, hangs) {
            (None, None) => None,
            (took, hangs) => Some(Probe { took: took.unwrap_or_default(), hangs }),
        }
    }
}

/// One write, however often it has to be begun: a backend that cannot even be had counts as one that hangs.
async fn write_once(shared: &Shared, seen: &Mutex<Seen>) {
    let begun = Instant::now();
    seen.lock().expect("no holder of this lock panics").begun = Some(begun);
    let attempts = async {
        loop {
            match write(shared).await {
                Err(SqlError::TooSlow(_)) => {}
                done => break done,
            }
        }
    };
    tokio::pin!(attempts);
    let done = match timeout(LATE, &mut attempts).await {
        Ok(done) => done,
        Err(_) => {
            tracing::warn!("a write of one row takes longer than {LATE:?}");
            shared.wake.notify_one();
            attempts.await
        }
    };
    let mut seen = seen.lock().expect("no holder of this lock panics");
    seen.begun = None;
    match done {
        Ok(()) => seen.took = Some(begun.elapsed()),
        // It answers: a disk that is full and a limit of connections are told of elsewhere, and are no hang.
        Err(error) => tracing::debug!(error = crate::words(&error), "the probe's write was refused"),
    }
}

async fn write(shared: &Shared) -> Result<(), SqlError> {
    let session = Session::connect(&shared.config).await?;
    session.execute_patiently(WRITE).await.map(drop)
}
