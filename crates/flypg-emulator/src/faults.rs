//! Fault rules: what goes wrong with which requests, how often.

use std::collections::BTreeSet;

use http::Method;
use serde::{Deserialize, Serialize};

use crate::world::ids::IdSource;

/// Something that goes wrong with requests that match. The JSON form of one rule:
///
/// ```json
/// {"id": "lost-create", "match": {"method": "POST", "path": "/v1/apps/*/machines"}, "effect": "lose_answer", "count": 1}
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Given by the emulator if left out. A rule with the id of an older one replaces it.
    #[serde(default)]
    pub id: String,
    #[serde(default, rename = "match")]
    pub matching: Match,
    pub effect: RuleEffect,
    /// How often it strikes; without a number, until it is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Lets this many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// Chance per matching request, 0 to 1. Drawn from the emulator's seed, once per rule and matching request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// Matching requests so far, and how many of them were struck. Kept by the emulator.
    #[serde(default)]
    pub seen: u64,
    #[serde(default)]
    pub hits: u64,
}

/// Which requests a rule is about; what is left out matches everything below `/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// A path with `*` for one segment and `**` at the end for any rest: `/v1/apps/*/machines/**`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Machine id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RuleEffect {
    /// The connection closes before anything is done.
    LoseRequest,
    /// It is done, then the connection closes without an answer.
    LoseAnswer,
    /// This status instead of the right answer.
    Status {
        code: u16,
        /// Whether the request is carried out all the same.
        #[serde(default)]
        performed: bool,
        /// Seconds.
        #[serde(default)]
        retry_after: Option<u64>,
        /// The whole body, JSON or not; a plausible one by default.
        #[serde(default)]
        body: Option<String>,
    },
    /// The request is held back before it is carried out.
    Delay { ms: u64 },
    /// Placements are refused, in one region or all.
    NoCapacity {
        #[serde(default)]
        region: Option<String>,
    },
    /// Lists are empty.
    EmptyList,
    /// Reads answer with the world as it was this long ago (at most since the rule was added).
    Stale { ms: u64 },
}

/// What rules do to one request on its way in and out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Strike {
    pub(crate) delay_ms: u64,
    pub(crate) lose_request: bool,
    pub(crate) lose_answer: bool,
    pub(crate) status: Option<(u16, bool, Option<u64>, Option<String>)>,
    pub(crate) bent: Bent,
}

/// What rules do to the reads and placements of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bent {
    pub(crate) empty_list: bool,
    pub(crate) stale_ms: u64,
    /// Regions without capacity; `*` for all.
    pub(crate) full: BTreeSet<String>,
}

impl Match {
    fn fits(&self, method: &Method, path: &str) -> bool {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let at = |n: usize, name: &str| segments.get(n) == Some(&name);
        let method_ok = self.method.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method.as_str()));
        let app_ok = self.app.as_ref().is_none_or(|app| at(1, "apps") && at(2, app));
        let machine_ok = self.machine.as_ref().is_none_or(|machine| at(3, "machines") && at(4, machine));
        let path_ok = self.path.as_ref().is_none_or(|pattern| path_fits(pattern, &segments));
        method_ok && app_ok && machine_ok && path_ok
    }
}

fn path_fits(pattern: &str, segments: &[&str]) -> bool {
    let mut rest = segments;
    for part in pattern.trim_matches('/').split('/') {
        if part == "**" {
            return true;
        }
        match rest.split_first() {
            Some((first, tail)) if part == "*" || part == *first => rest = tail,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// The rules in force, in the order they were added.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    added: u64,
    /// Apart from the world's ids, so that the same requests meet the same faults in an old world, too.
    chances: IdSource,
}

impl Rules {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), added: 0, chances: IdSource::new(seed) }
    }

    /// Adds or replaces a rule, and returns it with its id.
    pub(crate) fn add(&mut self, mut rule: Rule) -> Rule {
        self.added += 1;
        if rule.id.is_empty() {
            rule.id = format!("fault-{}", self.added);
        }
        self.rules.retain(|old| old.id != rule.id);
        self.rules.push(rule.clone());
        rule
    }

    pub(crate) fn remove(&mut self, id: &str) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| rule.id != id);
        self.rules.len() < before
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(crate) fn all(&self) -> &[Rule] {
        &self.rules
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How stale reads may become, so that enough of the past is kept.
    pub(crate) fn longest_stale_ms(&self) -> u64 {
        let stale = |rule: &Rule| if let RuleEffect::Stale { ms } = rule.effect { ms } else { 0 };
        self.rules.iter().map(stale).max().unwrap_or(0)
    }

    /// What happens to this request; counts.
    pub(crate) fn strike(&mut self, method: &Method, path: &str) -> Strike {
        let mut strike = Strike::default();
        for rule in self.rules.iter_mut().filter(|rule| rule.matching.fits(method, path)) {
            rule.seen += 1;
            let spent = rule.count.is_some_and(|count| rule.hits >= count);
            if spent || rule.seen <= rule.skip {
                continue;
            }
            if let Some(chance) = rule.probability
                && (self.chances.bits() >> 11) as f64 / (1u64 << 53) as f64 >= chance
            {
                continue;
            }
            rule.hits += 1;
            match &rule.effect {
                RuleEffect::LoseRequest => strike.lose_request = true,
                RuleEffect::LoseAnswer => strike.lose_answer = true,
                RuleEffect::Status { code, performed, retry_after, body } => {
                    strike.status = Some((*code, *performed, *retry_after, body.clone()));
                }
                RuleEffect::Delay { ms } => strike.delay_ms += ms,
                RuleEffect::NoCapacity { region } => {
                    strike.bent.full.insert(region.clone().unwrap_or_else(|| "*".to_owned()));
                }
                RuleEffect::EmptyList => strike.bent.empty_list = true,
                RuleEffect::Stale { ms } => strike.bent.stale_ms = strike.bent.stale_ms.max(*ms),
            }
        }
        strike
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> Rule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn paths() {
        let fits =
            |pattern: &str, path: &str| path_fits(pattern, &path.trim_matches('/').split('/').collect::<Vec<_>>());
        assert!(fits("/v1/apps/*/machines", "/v1/apps/db/machines"));
        assert!(!fits("/v1/apps/*/machines", "/v1/apps/db/machines/1"));
        assert!(fits("/v1/apps/*/machines/**", "/v1/apps/db/machines/1/stop"));
        assert!(fits("/v1/**", "/v1/apps"));
        assert!(!fits("/v1/apps/*", "/v1/apps"));
    }

    #[test]
    fn counts_skips_and_chances() {
        let mut rules = Rules::new(3);
        rules.add(rule(r#"{"match":{"method":"POST","app":"db"},"effect":"lose_answer","count":1,"skip":1}"#));
        let mut lost = |path: &str| rules.strike(&Method::POST, path).lose_answer;
        assert_eq!(
            [
                lost("/v1/apps/db/machines"),
                lost("/v1/apps/x/machines"),
                lost("/v1/apps/db/machines"),
                lost("/v1/apps/db/machines")
            ],
            [false, false, true, false]
        );
        assert_eq!((rules.all()[0].seen, rules.all()[0].hits, rules.all()[0].id.as_str()), (3, 1, "fault-1"));
        rules.clear();
        rules.add(rule(r#"{"effect":{"status":{"code":503}},"probability":0.25}"#));
        let hits = (0..4000).filter(|_| rules.strike(&Method::GET, "/v1/apps").status.is_some()).count();
        assert!((850..1150).contains(&hits), "{hits}");
    }
}
