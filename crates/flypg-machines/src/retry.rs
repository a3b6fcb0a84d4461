//! When to send again. The only module that knows the `backoff` crate.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};
use backoff::{SystemClock, future::retry_notify};

use crate::error::{Cause, Error};
use crate::request::Idempotence;

/// The first pause, before jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause, before jitter.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Pauses are drawn from this much around their length.
const JITTER: f64 = 0.5;

/// An attempt with less time than this is not begun: it would end in a doubt rather than in an answer.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// What to do about an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it to the caller.
    GiveUp,
    /// Send it again after a pause that grows with each attempt.
    Repeat,
    /// Send it again when the server said.
    RepeatAfter(Duration),
}

/// Decides whether a failed attempt is repeated: if it certainly did not happen, or if a repeat does no harm; and
/// if the cause is one that passes within the time `left`. Pure.
pub fn decide(error: &Error, idempotence: Idempotence, left: Duration) -> Decision {
    let (cause, harmless) = match error {
        Error::NotDone { cause, .. } => (*cause, true),
        Error::MaybeDone { cause, .. } => (*cause, idempotence != Idempotence::Once),
        Error::Refused { .. } => return Decision::GiveUp,
    };
    if !harmless || !passes(cause, idempotence) {
        return Decision::GiveUp;
    }
    match error.retry_after() {
        Some(pause) if pause.saturating_add(SHORTEST_ATTEMPT) > left => Decision::GiveUp,
        // "At once" is not what a server in trouble needs.
        Some(pause) if pause >= FIRST_PAUSE => Decision::RepeatAfter(pause),
        Some(_) | None => Decision::Repeat,
    }
}

/// Whether the same request may fare better a moment later.
fn passes(cause: Cause, idempotence: Idempotence) -> bool {
    match cause {
        Cause::Connect | Cause::Broken | Cause::Throttled | Cause::Unavailable => true,
        // The server may still be at it, or hold it back until a lease ends: more of the same pile up there.
        Cause::Timeout => idempotence == Idempotence::Read,
        Cause::Unauthorized
        | Cause::Forbidden
        | Cause::UnexpectedStatus
        | Cause::Undecodable
        | Cause::TooLarge
        | Cause::Unsendable
        | Cause::BucketShut
        | Cause::Deadline
        | Cause::TooManyPages => false,
    }
}

/// Runs `attempt` until it succeeds, is not to be repeated, or the deadline is near.
pub(crate) async fn repeat<T, F>(
    idempotence: Idempotence,
    deadline: Instant,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let history = History::default();
    let operation = || {
        history.begin();
        let attempt = attempt();
        let history = &history;
        async move {
            attempt.await.map_err(|error| {
                history.failed(&error);
                match decide(&error, idempotence, left(deadline)) {
                    Decision::GiveUp => backoff::Error::permanent(error),
                    Decision::Repeat => backoff::Error::transient(error),
                    Decision::RepeatAfter(pause) => backoff::Error::retry_after(error, pause),
                }
            })
        }
    };
    let notify = |error: Error, pause: Duration| {
        tracing::debug!(%error, ?pause, "sending again");
        history.keep(error);
    };
    retry_notify(pauses(left(deadline)), operation, notify).await.map_err(|error| history.close(error))
}

pub(crate) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

fn pauses(left: Duration) -> ExponentialBackoff<SystemClock> {
    ExponentialBackoffBuilder::new()
        .with_initial_interval(FIRST_PAUSE)
        .with_multiplier(2.0)
        .with_randomization_factor(JITTER)
        .with_max_interval(LONGEST_PAUSE)
        // The crate's own default is 15 minutes.
        .with_max_elapsed_time(Some(left.saturating_sub(SHORTEST_ATTEMPT)))
        .build()
}

/// The attempts so far.
#[derive(Default)]
struct History {
    attempts: AtomicU32,
    may_have_happened: AtomicBool,
    /// The same, without the last attempt.
    earlier: AtomicBool,
    /// The last error that was followed by another attempt.
    kept: Mutex<Option<Error>>,
}

impl History {
    fn begin(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.earlier.store(self.may_have_happened.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn failed(&self, error: &Error) {
        if error.may_have_happened() {
            self.may_have_happened.store(true, Ordering::Relaxed);
        }
    }

    fn keep(&self, error: Error) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn close(&self, last: Error) -> Error {
        let attempts = self.attempts.load(Ordering::Relaxed);
        let earlier = self.earlier.load(Ordering::Relaxed);
        if matches!(last.cause(), Some(Cause::BucketShut | Cause::Deadline))
            && let Some(told) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // The last attempt was not even sent: what became of the one before is worth more.
            return told.after(attempts - 1, earlier);
        }
        last.after(attempts, earlier)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::Method;

    use super::*;
    use crate::error::Exchange;
    use Idempotence::{Once, Read, Repeatable};

    const LONG: Duration = Duration::from_secs(60);

    fn answered(idempotence: Idempotence, status: u16, retry_after: Option<u64>) -> Error {
        let mut exchange = Exchange::new(&Method::POST, "/v1/apps");
        exchange.status = Some(status);
        exchange.retry_after = retry_after.map(Duration::from_secs);
        Error::from_answer(idempotence, status, exchange)
    }

    fn failed(idempotence: Idempotence, cause: Cause) -> Error {
        let exchange = Exchange::new(&Method::POST, "/v1/apps");
        match cause {
            Cause::Connect | Cause::BucketShut | Cause::Deadline => Error::not_done(cause, exchange, None),
            _ => Error::unclear(idempotence, cause, exchange, None),
        }
    }

    #[test]
    fn what_cannot_have_happened_is_repeated() {
        for idempotence in [Read, Repeatable, Once] {
            let refused_connection = failed(idempotence, Cause::Connect);
            assert_eq!(decide(&refused_connection, idempotence, LONG), Decision::Repeat);
            let throttled = answered(idempotence, 429, None);
            assert_eq!(decide(&throttled, idempotence, LONG), Decision::Repeat);
        }
    }

    #[test]
    fn what_may_have_happened_is_repeated_only_where_that_is_harmless() {
        for status in [408, 500, 502, 503, 504] {
            let decided = [Read, Repeatable, Once]
                .map(|idempotence| decide(&answered(idempotence, status, None), idempotence, LONG));
            assert_eq!(decided, [Decision::Repeat, Decision::Repeat, Decision::GiveUp], "{status}");
        }
        assert_eq!(decide(&failed(Once, Cause::Broken), Once, LONG), Decision::GiveUp);
        assert_eq!(decide(&failed(Repeatable, Cause::Broken), Repeatable, LONG), Decision::Repeat);
        assert_eq!(decide(&failed(Read, Cause::Timeout), Read, LONG), Decision::Repeat);
        assert_eq!(decide(&failed(Repeatable, Cause::Timeout), Repeatable, LONG), Decision::GiveUp);
    }

    #[test]
    fn what_does_not_pass_is_not_repeated() {
        for status in [400, 401, 403, 404, 409, 412, 422, 302] {
            assert_eq!(decide(&answered(Read, status, Some(1)), Read, LONG), Decision::GiveUp, "{status}");
        }
        for cause in [Cause::Undecodable, Cause::TooLarge, Cause::BucketShut, Cause::Unsendable] {
            assert_eq!(decide(&failed(Read, cause), Read, LONG), Decision::GiveUp, "{cause}");
        }
    }

    #[test]
    fn retry_after_is_honoured_within_the_deadline() {
        let throttled = answered(Once, 429, Some(7));
        let seven = Duration::from_secs(7);
        assert_eq!(decide(&throttled, Once, LONG), Decision::RepeatAfter(seven));
        assert_eq!(decide(&throttled, Once, seven), Decision::GiveUp);
        assert_eq!(decide(&answered(Once, 429, Some(u64::MAX)), Once, LONG), Decision::GiveUp);
        assert_eq!(decide(&answered(Once, 429, Some(0)), Once, LONG), Decision::Repeat);
        // It does not make a create repeatable.
        assert_eq!(decide(&answered(Once, 503, Some(1)), Once, LONG), Decision::GiveUp);
    }

    #[test]
    fn pauses_grow_from_a_tenth_of_a_second_to_one_and_end() {
        use backoff::backoff::Backoff;
        let mut pauses = pauses(LONG);
        let ms = |pause: Duration| pause.as_millis();
        let first = pauses.next_backoff().unwrap();
        assert!((50..=151).contains(&ms(first)), "{first:?}");
        for _ in 0..100 {
            assert!(ms(pauses.next_backoff().unwrap()) <= 1501);
        }
        assert_eq!(super::pauses(Duration::ZERO).next_backoff(), None);
    }

    /// Runs through scripted outcomes.
    async fn run(idempotence: Idempotence, script: Vec<Result<u32, Error>>) -> Result<u32, Error> {
        let mut script = VecDeque::from(script);
        repeat(idempotence, Instant::now() + LONG, || {
            let outcome = script.pop_front().expect("no more attempts than the script has");
            async move { outcome }
        })
        .await
    }

    #[tokio::test]
    async fn an_attempt_that_was_not_sent_does_not_hide_the_one_before() {
        for unsent in [Cause::BucketShut, Cause::Deadline] {
            let script = vec![Err(answered(Repeatable, 502, None)), Err(failed(Repeatable, unsent))];
            let error = run(Repeatable, script).await.unwrap_err();
            assert!(matches!(error, Error::MaybeDone { cause: Cause::Unavailable, .. }), "{error}");
            assert_eq!(error.exchange().attempts, 1);
            let error = run(Once, vec![Err(failed(Once, unsent))]).await.unwrap_err();
            assert_eq!((error.cause(), error.exchange().attempts), (Some(unsent), 1));
        }
    }

    #[tokio::test]
    async fn attempts_are_counted_and_doubts_kept() {
        let outcome = run(Once, vec![Err(failed(Once, Cause::Connect)), Ok(7)]).await;
        assert_eq!(outcome.ok(), Some(7));

        let script = vec![Err(answered(Repeatable, 502, None)), Err(answered(Repeatable, 401, None))];
        let error = run(Repeatable, script).await.unwrap_err();
        assert!(matches!(error, Error::MaybeDone { cause: Cause::Unauthorized, .. }), "{error}");
        assert_eq!(error.exchange().attempts, 2);

        let error = run(Once, vec![Err(answered(Once, 502, None))]).await.unwrap_err();
        assert_eq!((error.exchange().attempts, error.exchange().earlier_may_have_happened), (1, false));
    }
}
