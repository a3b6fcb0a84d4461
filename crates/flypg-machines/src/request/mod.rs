//! Requests as values. This room sends nothing: each function says what would be sent, what the answer means, and
//! whether sending it twice is the same as sending it once.

pub mod apps;
pub mod ips;
pub mod leases;
pub mod lifecycle;
pub mod machines;
pub mod metadata;
pub mod orgs;
mod page;
mod path;
pub mod platform;
pub mod secrets;
pub mod volumes;

use std::fmt;
use std::time::Duration;

use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bucket::BucketKey;
use crate::error::Reason;

pub use page::{Page, Paged};
pub(crate) use path::{Path, is_sendable};

/// The header that proves a lease is ours.
pub const LEASE_NONCE: &str = "fly-machine-lease-nonce";

/// What happens when a request is sent again because its first answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotence {
    /// Changes nothing.
    Read,
    /// Leaves the world as sending it once would have.
    Repeatable,
    /// Could happen twice: look before sending it again.
    Once,
}

/// One call of the Machines API, ready to be sent, that answers with a `T`.
#[derive(Clone)]
pub struct Request<T> {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    lease_nonce: Option<String>,
    body: Option<Vec<u8>>,
    idempotence: Idempotence,
    bucket: BucketKey,
    min_timeout: Option<Duration>,
    read: fn(&Received<'_>) -> Result<T, serde_json::Error>,
    settle: fn(&Reason) -> Option<T>,
}

/// The parts of a successful answer that a request may read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) body: &'a [u8],
    /// `fly-next-cursor`.
    pub(crate) next_cursor: Option<&'a str>,
}

impl<T> Request<T> {
    fn new(
        method: Method,
        path: Path,
        idempotence: Idempotence,
        bucket: BucketKey,
        read: fn(&Received<'_>) -> Result<T, serde_json::Error>,
    ) -> Self {
        Self {
            method,
            path: path.into_string(),
            query: Vec::new(),
            lease_nonce: None,
            body: None,
            idempotence,
            bucket,
            min_timeout: None,
            read,
            settle: |_| None,
        }
    }

    fn with_body(mut self, body: &impl Serialize) -> Self {
        let body =
            serde_json::to_vec(body).expect("wire types have string keys and encode without errors of their own");
        self.body = Some(body);
        self
    }

    fn with_query(mut self, key: impl Into<String>, value: impl ToString) -> Self {
        self.query.push((key.into(), value.to_string()));
        self
    }

    fn with_query_if<V: ToString>(self, key: &str, value: Option<V>) -> Self {
        match value {
            Some(value) => self.with_query(key, value),
            None => self,
        }
    }

    fn with_flag(self, key: &str, on: bool) -> Self {
        self.with_query_if(key, on.then_some(true))
    }

    fn with_min_timeout(mut self, timeout: Duration) -> Self {
        self.min_timeout = Some(timeout);
        self
    }

    /// Takes some refusals for answers: what was asked for is already so.
    fn settling(mut self, settle: fn(&Reason) -> Option<T>) -> Self {
        self.settle = settle;
        self
    }

    /// Acts under a lease. Calls that no lease guards (create, reads, metadata) ignore it.
    pub fn lease(mut self, nonce: Option<&str>) -> Self {
        self.lease_nonce = nonce.map(str::to_owned);
        self
    }

    /// Overrides what a repeat would do, where the caller knows better: an `exec` of a command that only reads.
    pub fn idempotent(mut self, idempotence: Idempotence) -> Self {
        self.idempotence = idempotence;
        self
    }

    pub fn method(&self) -> &Method {
        &self.method
    }

    /// From `/v1` on, each segment percent-encoded, without the query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Not encoded yet.
    pub fn query(&self) -> &[(String, String)] {
        &self.query
    }

    pub fn lease_nonce(&self) -> Option<&str> {
        self.lease_nonce.as_deref()
    }

    /// JSON. May hold secrets.
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    pub fn idempotence(&self) -> Idempotence {
        self.idempotence
    }

    pub fn bucket(&self) -> &BucketKey {
        &self.bucket
    }

    /// The server may take this long by design; a shorter client timeout would mistake that for a fault.
    pub fn min_timeout(&self) -> Option<Duration> {
        self.min_timeout
    }

    /// Reads the body of a 2xx answer.
    ///
    /// # Errors
    /// When the body is not what this call answers with.
    pub fn read(&self, body: &[u8], next_cursor: Option<&str>) -> Result<T, serde_json::Error> {
        (self.read)(&Received { body, next_cursor })
    }

    /// The answer that a refusal amounts to, where it says that what was asked for is already so.
    pub fn settle(&self, reason: &Reason) -> Option<T> {
        (self.settle)(reason)
    }
}

/// Bodies and nonces stay out of it: they may be secret.
impl<T> fmt::Debug for Request<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("query", &self.query)
            .field("body_bytes", &self.body.as_ref().map(Vec::len))
            .field("idempotence", &self.idempotence)
            .finish_non_exhaustive()
    }
}

/// What removing something came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Removal<T> {
    /// Accepted; most removals go on in the background.
    Accepted(T),
    /// The server knows no such thing. Right after a create that may not be true yet.
    Gone,
}

fn json<T: DeserializeOwned>(received: &Received<'_>) -> Result<T, serde_json::Error> {
    serde_json::from_slice(received.body)
}

/// For answers that confirm and may do so without a word: not all of them are documented with a body.
fn json_or_empty<T: DeserializeOwned + Default>(received: &Received<'_>) -> Result<T, serde_json::Error> {
    if received.body.trim_ascii().is_empty() { Ok(T::default()) } else { json(received) }
}

/// For answers that say nothing, or nothing worth reading.
fn nothing(_: &Received<'_>) -> Result<(), serde_json::Error> {
    Ok(())
}

fn removed<T: DeserializeOwned + Default>(received: &Received<'_>) -> Result<Removal<T>, serde_json::Error> {
    json_or_empty(received).map(Removal::Accepted)
}

fn removed_silently(_: &Received<'_>) -> Result<Removal<()>, serde_json::Error> {
    Ok(Removal::Accepted(()))
}

fn gone<T>(reason: &Reason) -> Option<Removal<T>> {
    reason.is_not_found().then_some(Removal::Gone)
}
