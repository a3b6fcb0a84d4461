//! Points in time, as the world counts them. Nothing in [`crate::world`] reads a clock.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment plus `ms` milliseconds.
    #[must_use]
    pub const fn after(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to here; 0 if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since the epoch, as leases count.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// RFC 3339 with milliseconds, UTC: `2026-11-20T21:47:06.837Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        self.timestamp().map_or_else(String::new, |at| format!("{at:.3}"))
    }

    /// RFC 3339 in whole seconds, UTC: `2026-11-20T21:47:06Z`.
    #[must_use]
    pub fn rfc3339_seconds(self) -> String {
        self.timestamp().map_or_else(String::new, |at| format!("{at:.0}"))
    }

    fn timestamp(self) -> Option<Timestamp> {
        Timestamp::from_millisecond(i64::try_from(self.0).ok()?).ok()
    }

    /// Reads an RFC 3339 time.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let at: Timestamp = text.parse().ok()?;
        Some(Self(u64::try_from(at.as_millisecond()).unwrap_or(0)))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}
