//! Errors that say whether it may have happened.

mod reason;

use std::fmt;
use std::time::Duration;

use http::Method;

use crate::request::Idempotence;
use crate::types::{ErrorBody, StatusCode};

pub use reason::Reason;

/// Any error from below.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// The most of an answer that a message repeats, in characters.
const SAID: usize = 300;

/// The most of a body that is kept, in bytes.
pub const BODY_KEPT: usize = 4096;

/// Why a call of the Machines API did not end well, sorted by what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It certainly did not happen: it may be sent again once the cause is gone. Every failed read is this.
    #[error("{exchange} did not happen: {cause}{}", exchange.said())]
    NotDone {
        cause: Cause,
        exchange: Box<Exchange>,
        #[source]
        source: Option<Source>,
    },
    /// It may have happened: look at the thing itself before doing anything about it.
    #[error("{exchange} may have happened: {cause}{}", exchange.said())]
    MaybeDone {
        cause: Cause,
        exchange: Box<Exchange>,
        #[source]
        source: Option<Source>,
    },
    /// The server says no; the same request will get the same answer until something else changes.
    #[error("{exchange} was refused{}", exchange.said())]
    Refused { reason: Reason, exchange: Box<Exchange> },
}

/// What went wrong on the way to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    #[error("no connection")]
    Connect,
    #[error("no answer in time")]
    Timeout,
    #[error("the connection broke")]
    Broken,
    #[error("too many requests")]
    Throttled,
    #[error("the token is missing or not valid")]
    Unauthorized,
    #[error("the token does not allow it, or the app is another organisation's")]
    Forbidden,
    #[error("the server failed")]
    Unavailable,
    #[error("an answer that this API does not give")]
    UnexpectedStatus,
    #[error("it succeeded, but the answer cannot be read")]
    Undecodable,
    #[error("the answer is longer than this client reads")]
    TooLarge,
    #[error("an identifier in the path is empty or dots")]
    Unsendable,
    #[error("our own rate limit leaves no room before the deadline")]
    BucketShut,
    #[error("no time was left to send it")]
    Deadline,
    #[error("the list does not end")]
    TooManyPages,
}

/// What was sent and what came back, as far as it came.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Exchange {
    pub method: Method,
    pub path: String,
    /// HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// `fly-request-id`: what Fly's support asks for.
    pub request_id: Option<String>,
    /// Fly's own status enum.
    pub code: Option<StatusCode>,
    /// The error text of a JSON body, at most [`BODY_KEPT`] bytes.
    pub text: Option<String>,
    /// A body that is no error object, verbatim, at most [`BODY_KEPT`] bytes.
    pub raw_body: Option<String>,
    /// From `Retry-After`.
    pub retry_after: Option<Duration>,
    /// How often it was sent, this time included.
    pub attempts: u32,
    /// An earlier attempt may have happened, whatever became of the last one.
    pub earlier_may_have_happened: bool,
}

impl Exchange {
    pub(crate) fn new(method: &Method, path: &str) -> Self {
        Self {
            method: method.clone(),
            path: path.to_owned(),
            status: None,
            request_id: None,
            code: None,
            text: None,
            raw_body: None,
            retry_after: None,
            attempts: 1,
            earlier_may_have_happened: false,
        }
    }

    /// Keeps what an error's body says.
    pub(crate) fn with_body(mut self, body: &[u8]) -> Self {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(parsed) if parsed.text().is_some() || parsed.status.is_some() => {
                self.text = parsed.text().map(|text| clip(text).to_owned());
                self.code = parsed.status;
            }
            _ => self.raw_body = keep_raw(body),
        }
        self
    }

    /// A page for people. The Machines API gives none: a proxy does, or some other server at this address.
    fn is_page(&self) -> bool {
        self.raw_body.as_deref().is_some_and(|body| body.trim_start().starts_with('<'))
    }

    /// The end of an error message: the answer in brief.
    fn said(&self) -> String {
        let mut said = String::new();
        let text = self.text.as_deref().or(self.raw_body.as_deref()).map(one_line);
        match (self.status, text.filter(|text| !text.is_empty())) {
            (Some(status), Some(text)) => said = format!(": {status} {text}"),
            (Some(status), None) => said = format!(": {status}"),
            (None, _) => {}
        }
        if let Some(id) = &self.request_id {
            said.push_str(&format!(" (fly-request-id {id})"));
        }
        said
    }
}

impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

pub(crate) fn keep_raw(body: &[u8]) -> Option<String> {
    if body.is_empty() {
        return None;
    }
    let kept = &body[..body.len().min(BODY_KEPT)];
    Some(clip(&String::from_utf8_lossy(kept)).to_owned())
}

/// Words with one space between them, and not too many of them.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SAID) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// The first [`BODY_KEPT`] bytes, or a little less so as not to cut a character.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(BODY_KEPT)]
}

impl Error {
    /// The error that an attempt without a readable answer amounts to.
    pub(crate) fn unclear(idempotence: Idempotence, cause: Cause, exchange: Exchange, source: Option<Source>) -> Self {
        let exchange = Box::new(exchange);
        match idempotence {
            Idempotence::Read => Self::NotDone { cause, exchange, source },
            Idempotence::Repeatable | Idempotence::Once => Self::MaybeDone { cause, exchange, source },
        }
    }

    pub(crate) fn not_done(cause: Cause, exchange: Exchange, source: Option<Source>) -> Self {
        Self::NotDone { cause, exchange: Box::new(exchange), source }
    }

    /// Sorts an answer whose status is not 2xx. `exchange` has its status and body.
    pub(crate) fn from_answer(idempotence: Idempotence, status: u16, exchange: Exchange) -> Self {
        match status {
            429 => Self::not_done(Cause::Throttled, exchange, None),
            401 => Self::not_done(Cause::Unauthorized, exchange, None),
            403 => Self::not_done(Cause::Forbidden, exchange, None),
            // A page that is not found says nothing about an app that is not found.
            400..=499 if status != 408 && exchange.is_page() => Self::not_done(Cause::UnexpectedStatus, exchange, None),
            400..=499 => match Reason::of(status, &exchange) {
                // A request timeout says nothing about what was begun; a wait that ran out does.
                Reason::Other if status == 408 => Self::unclear(idempotence, Cause::Unavailable, exchange, None),
                reason => Self::Refused { reason, exchange: Box::new(exchange) },
            },
            500..=599 => Self::unclear(idempotence, Cause::Unavailable, exchange, None),
            _ => Self::unclear(idempotence, Cause::UnexpectedStatus, exchange, None),
        }
    }

    /// Remembers the attempts before this one. What may have happened then, may have happened.
    pub(crate) fn after(self, attempts: u32, earlier_may_have_happened: bool) -> Self {
        let mut error = match self {
            Self::NotDone { cause, exchange, source } if earlier_may_have_happened => {
                Self::MaybeDone { cause, exchange, source }
            }
            other => other,
        };
        let exchange = error.exchange_mut();
        exchange.attempts = attempts;
        exchange.earlier_may_have_happened = earlier_may_have_happened;
        error
    }

    /// What was sent and what came back.
    pub fn exchange(&self) -> &Exchange {
        match self {
            Self::NotDone { exchange, .. } | Self::MaybeDone { exchange, .. } | Self::Refused { exchange, .. } => {
                exchange
            }
        }
    }

    fn exchange_mut(&mut self) -> &mut Exchange {
        match self {
            Self::NotDone { exchange, .. } | Self::MaybeDone { exchange, .. } | Self::Refused { exchange, .. } => {
                exchange
            }
        }
    }

    /// Absent for a refusal.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::NotDone { cause, .. } | Self::MaybeDone { cause, .. } => Some(*cause),
            Self::Refused { .. } => None,
        }
    }

    /// Present for a refusal only.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Refused { reason, .. } => Some(reason),
            Self::NotDone { .. } | Self::MaybeDone { .. } => None,
        }
    }

    /// The server says that there is no such thing. Right after a create that may not be true yet; a path that the
    /// server does not know is something else.
    pub fn is_not_found(&self) -> bool {
        self.reason().is_some_and(Reason::is_not_found)
    }

    /// Whether any attempt of this call may have changed something.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::MaybeDone { .. }) || self.exchange().earlier_may_have_happened
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        self.exchange().retry_after
    }

    /// What a person can do about it, where there is something to do.
    pub fn suggestion(&self) -> Option<&'static str> {
        match self {
            Self::Refused { reason, .. } => reason.suggestion(),
            Self::NotDone { cause, .. } | Self::MaybeDone { cause, .. } => cause.suggestion(),
        }
    }
}

impl Cause {
    fn suggestion(self) -> Option<&'static str> {
        Some(match self {
            Self::Connect => "check the API's address, and that it can be reached from here",
            Self::Unauthorized => {
                "check FLY_API_TOKEN: make one with `fly tokens create`, and pass it as it was printed"
            }
            Self::Forbidden => "use a token of the organisation that owns the app; a deploy token reaches one app only",
            Self::Throttled | Self::BucketShut => "wait; Fly allows one request a second per action and Machine",
            Self::Unavailable => "look at https://status.flyio.net, then try again",
            Self::UnexpectedStatus | Self::Undecodable => {
                "check that the address is that of a Machines API and not of a proxy before it"
            }
            Self::TooLarge => "list with a limit, page by page",
            Self::Timeout | Self::Broken | Self::Unsendable | Self::Deadline | Self::TooManyPages => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Exchange {
        let mut exchange = Exchange::new(&Method::POST, "/v1/apps/orders-db/machines");
        exchange.status = Some(status);
        exchange.request_id = Some("01J-yyz".to_owned());
        exchange.with_body(body.as_bytes())
    }

    fn error(idempotence: Idempotence, status: u16, body: &str) -> Error {
        Error::from_answer(idempotence, status, answered(status, body))
    }

    #[test]
    fn a_server_error_on_a_mutation_may_have_happened_and_on_a_read_has_not() {
        for status in [408, 500, 502, 503, 504] {
            let body = r#"{"error":"upstream"}"#;
            for mutation in [Idempotence::Once, Idempotence::Repeatable] {
                assert!(error(mutation, status, body).may_have_happened(), "{status}");
            }
            let read = error(Idempotence::Read, status, body);
            assert!(matches!(read, Error::NotDone { cause: Cause::Unavailable, .. }), "{status}");
        }
    }

    #[test]
    fn what_was_turned_away_at_the_door_did_not_happen() {
        for (status, cause) in [(401, Cause::Unauthorized), (403, Cause::Forbidden), (429, Cause::Throttled)] {
            let error = error(Idempotence::Once, status, "{}");
            assert!(matches!(error, Error::NotDone { .. }), "{status}");
            assert_eq!(error.cause(), Some(cause));
            assert!(error.suggestion().is_some());
        }
    }

    #[test]
    fn an_earlier_attempt_is_not_forgotten() {
        let refused = error(Idempotence::Repeatable, 412, r#"{"error":"no"}"#).after(2, true);
        assert!(matches!(refused, Error::Refused { .. }) && refused.may_have_happened());
        let throttled = error(Idempotence::Repeatable, 429, "{}").after(3, true);
        assert!(matches!(throttled, Error::MaybeDone { .. }));
        assert_eq!(throttled.exchange().attempts, 3);
        assert!(!error(Idempotence::Repeatable, 429, "{}").after(3, false).may_have_happened());
    }

    #[test]
    fn the_message_says_what_happened_and_whom_to_ask() {
        expect_test::expect!["POST /v1/apps/orders-db/machines may have happened: the server failed: 502 upstream (fly-request-id 01J-yyz)"]
            .assert_eq(&error(Idempotence::Once, 502, r#"{"message":"upstream"}"#).to_string());
        expect_test::expect![
            "POST /v1/apps/orders-db/machines was refused: 404 404 page not found (fly-request-id 01J-yyz)"
        ]
        .assert_eq(&error(Idempotence::Once, 404, "404 page not found\n").to_string());
    }

    #[test]
    fn the_page_of_another_server_says_nothing_about_what_was_asked_for() {
        let page = "<!DOCTYPE html>\n<html>\n  <body>Not Found</body>\n</html>";
        for idempotence in [Idempotence::Read, Idempotence::Once] {
            let error = error(idempotence, 404, page);
            assert!(!error.is_not_found() && error.cause() == Some(Cause::UnexpectedStatus), "{error:?}");
            assert!(error.to_string().contains("404 <!DOCTYPE html> <html> <body>Not Found"), "{error}");
        }
        let long = error(Idempotence::Read, 502, &format!("<p>{}", "word ".repeat(500)));
        assert!(long.to_string().chars().count() < 2 * SAID, "{long}");
    }

    #[test]
    fn bodies_that_are_no_error_object_are_kept_and_bounded() {
        for body in ["<html>502</html>", "[1,2]", "{}", "\"text\"", "null"] {
            let exchange = answered(502, body);
            assert_eq!((exchange.raw_body.as_deref(), exchange.text), (Some(body), None));
        }
        assert_eq!(answered(502, "").raw_body, None);
        let long = "é".repeat(BODY_KEPT);
        assert!(answered(502, &long).raw_body.is_some_and(|kept| kept.len() <= BODY_KEPT));
        let long = format!(r#"{{"error":"x{long}"}}"#);
        assert!(answered(502, &long).text.is_some_and(|kept| kept.len() <= BODY_KEPT));
    }
}
