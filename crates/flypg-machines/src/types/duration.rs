//! Go's durations, as the Machines API writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A span of time in Go's text form: `15s`, `1m30s`, `1.5h`, `-2ms`.
///
/// Reads a string, or a bare number as **nanoseconds** (fly-go's decoder does the same); always writes a string,
/// in the largest of `s`, `ms`, `us`, `ns` that divides it (`90s`, `1500ms`), so one value has one spelling.
/// Signed 64-bit nanoseconds, like Go: about ±292 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration {
    nanos: i64,
}

const MICROSECOND: i64 = 1_000;
const MILLISECOND: i64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;

impl GoDuration {
    pub const ZERO: Self = Self { nanos: 0 };
    /// The longest one.
    pub const MAX: Self = Self { nanos: i64::MAX };

    pub const fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// Longer than [`GoDuration::MAX`] becomes that.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis.saturating_mul(MILLISECOND) }
    }

    /// Longer than [`GoDuration::MAX`] becomes that.
    pub const fn from_secs(secs: i64) -> Self {
        Self { nanos: secs.saturating_mul(SECOND) }
    }

    pub const fn as_nanos(self) -> i64 {
        self.nanos
    }

    /// As the standard library's duration; `None` if it is negative.
    pub fn to_std(self) -> Option<Duration> {
        u64::try_from(self.nanos).ok().map(Duration::from_nanos)
    }
}

impl From<Duration> for GoDuration {
    /// Longer than [`GoDuration::MAX`] becomes that.
    fn from(span: Duration) -> Self {
        Self { nanos: i64::try_from(span.as_nanos()).unwrap_or(i64::MAX) }
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, name) = [(SECOND, "s"), (MILLISECOND, "ms"), (MICROSECOND, "us")]
            .into_iter()
            .find(|(unit, _)| self.nanos % unit == 0)
            .unwrap_or((1, "ns"));
        write!(f, "{}{name}", self.nanos / unit)
    }
}

/// Why a text is not a Go duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a duration like 15s, 1m30s or 500ms: {problem}")]
pub struct ParseDurationError {
    text: String,
    problem: &'static str,
}

impl FromStr for GoDuration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text)
            .map(Self::from_nanos)
            .map_err(|problem| ParseDurationError { text: text.chars().take(64).collect(), problem })
    }
}

/// Go's grammar: an optional sign, then one or more decimal numbers, each with a unit; or a bare `0`.
fn parse(text: &str) -> Result<i64, &'static str> {
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err("it is empty");
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let (number, after) = split_while(rest, |c| c.is_ascii_digit() || c == '.');
        let (unit, after) = split_while(after, |c| !c.is_ascii_digit() && c != '.');
        nanos += i128::from(part(number, unit)?);
        if nanos > i128::from(i64::MAX) + 1 {
            return Err("it is longer than 292 years");
        }
        rest = after;
    }
    i64::try_from(if negative { -nanos } else { nanos }).map_err(|_| "it is longer than 292 years")
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

/// One number with its unit, in nanoseconds. Digits beyond the nanosecond are dropped, as in Go.
fn part(number: &str, unit: &str) -> Result<u64, &'static str> {
    const TOO_LONG: &str = "it is longer than 292 years";
    let scale: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => MICROSECOND as u64,
        "ms" => MILLISECOND as u64,
        "s" => SECOND as u64,
        "m" => 60 * SECOND as u64,
        "h" => 3600 * SECOND as u64,
        "" => return Err("a unit is missing (ns, us, ms, s, m or h)"),
        _ => return Err("the unit is not one of ns, us, ms, s, m and h"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return Err("the number is malformed");
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| TOO_LONG)? };
    let mut nanos = whole.checked_mul(scale).ok_or(TOO_LONG)?;
    // Exact long division of the fraction; 18 digits reach below one nanosecond of an hour.
    let (mut numerator, mut denominator) = (0_u128, 1_u128);
    for digit in fraction.bytes().take(18) {
        numerator = numerator * 10 + u128::from(digit - b'0');
        denominator *= 10;
    }
    let fraction = numerator * u128::from(scale) / denominator;
    nanos = nanos.checked_add(u64::try_from(fraction).map_err(|_| TOO_LONG)?).ok_or(TOO_LONG)?;
    Ok(nanos)
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = GoDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration like \"15s\", or a whole number of nanoseconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<GoDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, nanos: i64) -> Result<GoDuration, E> {
                Ok(GoDuration::from_nanos(nanos))
            }

            fn visit_u64<E: de::Error>(self, nanos: u64) -> Result<GoDuration, E> {
                i64::try_from(nanos)
                    .map(GoDuration::from_nanos)
                    .map_err(|_| E::invalid_value(de::Unexpected::Unsigned(nanos), &self))
            }
        }

        from.deserialize_any(Text)
    }
}
