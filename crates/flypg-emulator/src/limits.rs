//! Token buckets per action and machine or app.

use std::collections::HashMap;

use http::Method;

use crate::world::knobs::RateLimit;
use crate::world::time::Millis;

/// A bucket that fills at a steady rate. Levels are in thousandths of a token.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: u64,
    at: Millis,
}

/// The buckets that are not full.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    buckets: HashMap<(String, String), Bucket>,
}

/// Buckets are swept once there are this many.
const SWEEP_AT: usize = 10_000;

impl Limits {
    /// Takes a token; false when there is none. `route` are the path's segments after `/v1/apps`, with the identity
    /// replaced by `*`.
    pub(crate) fn admit(
        &mut self,
        limit: &RateLimit,
        now: Millis,
        method: &Method,
        route: &[&str],
        identity: &str,
    ) -> bool {
        let action = format!("{method} {}", route.join("/"));
        // Tokens per 1000 s, burst, identity.
        let (rate, burst, identity) = match (method, route) {
            (&Method::DELETE, ["*"]) => {
                (limit.app_deletes_per_minute.saturating_mul(1000) / 60, limit.app_deletes_per_minute, "")
            }
            (&Method::GET, [_, "machines", "*"]) => {
                (limit.get_machine_per_second.saturating_mul(1000), limit.get_machine_burst, identity)
            }
            _ => (limit.per_second.saturating_mul(1000), limit.burst, identity),
        };
        if self.buckets.len() > SWEEP_AT {
            self.buckets.retain(|_, bucket| now.since(bucket.at) < 60_000);
        }
        let full = u64::from(burst) * 1000;
        let bucket = self.buckets.entry((action, identity.to_owned())).or_insert(Bucket { level: full, at: now });
        let gained = now.since(bucket.at).saturating_mul(u64::from(rate)) / 1000;
        if gained > 0 {
            bucket.level = (bucket.level + gained).min(full);
            bucket.at = now;
        }
        let admitted = bucket.level >= 1000;
        if admitted {
            bucket.level -= 1000;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fly_limits() {
        let mut limits = Limits::default();
        let mut admit = |ms, method: Method, route: &[&str], id: &str| {
            limits.admit(&RateLimit::FLY, Millis(ms), &method, route, id)
        };
        let stop = ["db", "machines", "*", "stop"];
        let burst: Vec<bool> = (0..4).map(|_| admit(0, Method::POST, &stop, "m1")).collect();
        assert_eq!(burst, [true, true, true, false]);
        assert!(admit(0, Method::POST, &stop, "m2"), "another machine has its own bucket");
        assert!(!admit(900, Method::POST, &stop, "m1"));
        assert!(admit(1900, Method::POST, &stop, "m1"));
        let get = ["db", "machines", "*"];
        assert_eq!((0..20).filter(|_| admit(0, Method::GET, &get, "m1")).count(), 10);
    }
}
