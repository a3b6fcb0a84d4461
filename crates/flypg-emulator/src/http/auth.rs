//! Who may ask: any token by default, or only those in a list, each with its reach.

use std::sync::Mutex;

use http::HeaderValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::world::machine::hex;
use crate::world::refusal::Refusal;

/// A token that is let in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// The bare token, without a scheme.
    pub token: String,
    /// Only this organisation.
    #[serde(default)]
    pub org: Option<String>,
    /// Only this app: no org-wide lists, no new apps.
    #[serde(default)]
    pub app: Option<String>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("org", &self.org).field("app", &self.app).finish_non_exhaustive()
    }
}

/// The doorkeeper.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    /// `None`: every token is let in everywhere.
    tokens: Option<Mutex<Vec<Token>>>,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// As a lease names its owner: `<uuid>@tokens.fly.io`.
    pub(crate) owner: String,
    pub(crate) org: Option<String>,
    pub(crate) app: Option<String>,
}

impl Caller {
    pub(crate) fn may_touch(&self, app: &str, org: Option<&str>) -> Result<(), Refusal> {
        let app_ok = self.app.as_deref().is_none_or(|own| own == app);
        let org_ok = self.org.as_deref().is_none_or(|own| org.is_none_or(|org| org == own));
        if app_ok && org_ok { Ok(()) } else { Err(Refusal::forbidden()) }
    }

    /// Org-wide calls and new apps.
    pub(crate) fn may_use_org(&self, org: &str) -> Result<(), Refusal> {
        let allowed = self.app.is_none() && self.org.as_deref().is_none_or(|own| own == org);
        if allowed { Ok(()) } else { Err(Refusal::forbidden()) }
    }
}

impl Auth {
    pub(crate) fn new(tokens: Option<Vec<Token>>) -> Self {
        Self { tokens: tokens.map(Mutex::new) }
    }

    /// # Errors
    /// 401.
    pub(crate) fn caller(&self, header: Option<&HeaderValue>) -> Result<Caller, Refusal> {
        let text = header.and_then(|value| value.to_str().ok()).ok_or_else(Refusal::unauthenticated)?;
        let (scheme, rest) = text.split_once(' ').ok_or_else(Refusal::unauthenticated)?;
        let rest = rest.trim();
        // Fly refuses a macaroon with its own scheme sent under `Bearer`.
        let nested = rest.starts_with("FlyV1") || rest.starts_with("Bearer");
        let known = scheme.eq_ignore_ascii_case("bearer") || scheme == "FlyV1";
        if rest.is_empty() || nested || !known {
            return Err(Refusal::unauthenticated());
        }
        let owner = owner_of(rest);
        let Some(tokens) = &self.tokens else { return Ok(Caller { owner, org: None, app: None }) };
        let tokens = tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let found = rest.split(',').find_map(|given| tokens.iter().find(|token| token.token == given.trim()));
        let token = found.ok_or_else(Refusal::unauthenticated)?;
        Ok(Caller { owner, org: token.org.clone(), app: token.app.clone() })
    }

    /// Lets a newly minted app token in.
    pub(crate) fn add(&self, token: Token) {
        if let Some(tokens) = &self.tokens {
            tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(token);
        }
    }
}

fn owner_of(token: &str) -> String {
    let digest = hex(&Sha256::digest(token.as_bytes())[..16]);
    let parts = [&digest[..8], &digest[8..12], &digest[12..16], &digest[16..20], &digest[20..]];
    format!("{}@tokens.fly.io", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(auth: &Auth, header: &str) -> Result<Caller, Refusal> {
        auth.caller(Some(&HeaderValue::from_str(header).unwrap()))
    }

    #[test]
    fn schemes() {
        let open = Auth::new(None);
        assert!(ask(&open, "Bearer x").is_ok());
        assert!(ask(&open, "bearer x").is_ok());
        assert!(ask(&open, "FlyV1 fm2_a,fm2_b").is_ok());
        for bad in ["Bearer ", "Bearer", "Basic eDp5", "Bearer FlyV1 fm2_a", "Bearer FlyV1fm2_a"] {
            assert_eq!(ask(&open, bad).unwrap_err().status, 401, "{bad}");
        }
        assert_eq!(open.caller(None).unwrap_err().status, 401);
    }

    #[test]
    fn reach() {
        let token = |token: &str, org: Option<&str>, app: Option<&str>| Token {
            token: token.into(),
            org: org.map(Into::into),
            app: app.map(Into::into),
        };
        let auth = Auth::new(Some(vec![
            token("all", None, None),
            token("acme", Some("acme"), None),
            token("one", None, Some("db")),
        ]));
        assert_eq!(ask(&auth, "Bearer other").unwrap_err().status, 401);
        let one = ask(&auth, "FlyV1 fm2_zz,one").unwrap();
        assert!(one.may_touch("db", Some("acme")).is_ok());
        assert_eq!(one.may_touch("other", Some("acme")).unwrap_err().status, 403);
        assert_eq!(one.may_use_org("acme").unwrap_err().status, 403);
        let acme = ask(&auth, "Bearer acme").unwrap();
        assert_eq!(acme.may_touch("db", Some("evil")).unwrap_err().status, 403);
        assert!(acme.may_touch("not-there", None).is_ok());
        assert!(acme.may_use_org("acme").is_ok());
    }
}
