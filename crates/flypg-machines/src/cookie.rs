//! The one cookie that matters: with `fly_flaps_affinity`, the calls for an app go to the server that created it,
//! which can read what it just wrote. Kept per path, as the server scopes it.

use std::collections::BTreeMap;

const NAME: &str = "fly_flaps_affinity";

/// More apps than this, and one is forgotten: it costs freshness only.
const MOST_PATHS: usize = 4096;

/// The affinity cookies, by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Affinity {
    by_path: BTreeMap<String, String>,
}

impl Affinity {
    /// Takes in a `Set-Cookie` that answered a request for `request_path`. Other cookies are ignored.
    pub(crate) fn store(&mut self, set_cookie: &str, request_path: &str) {
        let mut parts = set_cookie.split(';').map(str::trim);
        let Some((NAME, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let (mut path, mut expired) = (None, value.is_empty());
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            if name.eq_ignore_ascii_case("path") && value.starts_with('/') {
                path = Some(value);
            } else if name.eq_ignore_ascii_case("max-age") {
                expired |= value.parse::<i64>().is_ok_and(|seconds| seconds <= 0);
            }
        }
        // RFC 6265 §5.1.4: without a path, up to the last slash of the request's.
        let path = path.unwrap_or_else(|| request_path.rsplit_once('/').map_or("/", |(parent, _)| parent));
        let path = path.trim_end_matches('/').to_owned();
        if expired {
            self.by_path.remove(&path);
            return;
        }
        if self.by_path.len() >= MOST_PATHS && !self.by_path.contains_key(&path) {
            self.by_path.pop_first();
        }
        self.by_path.insert(path, value.to_owned());
    }

    /// The `Cookie` header for a request: that of the longest path that the request is under.
    pub(crate) fn header(&self, request_path: &str) -> Option<String> {
        let mut path = request_path.trim_end_matches('/');
        loop {
            if let Some(value) = self.by_path.get(path) {
                return Some(format!("{NAME}={value}"));
            }
            path = path.rsplit_once('/')?.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_stays_with_its_app() {
        let mut affinity = Affinity::default();
        affinity.store("fly_flaps_affinity=one; Path=/v1/apps/a; HttpOnly; Secure", "/v1/apps");
        affinity.store("fly_flaps_affinity=two; path=/v1/apps/b/", "/v1/apps");
        affinity.store("other=three; Path=/v1/apps/c", "/v1/apps");
        let header = |path: &str| affinity.header(path);
        assert_eq!(header("/v1/apps/a").as_deref(), Some("fly_flaps_affinity=one"));
        assert_eq!(header("/v1/apps/a/machines/m1").as_deref(), Some("fly_flaps_affinity=one"));
        assert_eq!(header("/v1/apps/b/volumes").as_deref(), Some("fly_flaps_affinity=two"));
        for path in ["/v1/apps", "/v1/apps/ab", "/v1/apps/c", "/", ""] {
            assert_eq!(header(path), None, "{path}");
        }
    }

    #[test]
    fn the_nearest_wins_and_the_expired_go() {
        let mut affinity = Affinity::default();
        affinity.store("fly_flaps_affinity=all; Path=/", "/v1/apps");
        affinity.store("fly_flaps_affinity=app", "/v1/apps/a/machines");
        assert_eq!(affinity.header("/v1/apps/b").as_deref(), Some("fly_flaps_affinity=all"));
        assert_eq!(affinity.header("/v1/apps/a/x").as_deref(), Some("fly_flaps_affinity=app"));
        affinity.store("fly_flaps_affinity=app; Max-Age=0; Path=/v1/apps/a", "/v1/apps");
        affinity.store("fly_flaps_affinity=; Path=/", "/v1/apps");
        assert_eq!(affinity.header("/v1/apps/a/x"), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut affinity = Affinity::default();
        for i in 0..2 * MOST_PATHS {
            affinity.store(&format!("fly_flaps_affinity=x; Path=/v1/apps/{i}"), "/v1/apps");
        }
        assert_eq!(affinity.by_path.len(), MOST_PATHS);
    }
}
