//! The `Authorization` header out of a token as people have it.

use http::HeaderValue;

use crate::types::Secret;

/// The token cannot be sent: it is empty, or has characters that no header can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the token is empty")]
    Empty,
    #[error("the token has spaces or characters beyond ASCII in it")]
    Characters,
}

/// Builds the header as fly-go does: schemes in front of a token, also nested ones, are taken off; the parts
/// between commas are sorted. Macaroons (`fm1r`, `fm1a`, `fm2`) go under `FlyV1`, all of them; without any, the
/// first other token goes under `Bearer`. The two kinds are never mixed.
///
/// # Errors
/// [`TokenError`], which does not show the token.
pub(crate) fn authorization(token: &Secret) -> Result<HeaderValue, TokenError> {
    let parts: Vec<&str> =
        strip_schemes(token.expose()).split(',').map(strip_schemes).filter(|part| !part.is_empty()).collect();
    if !parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(TokenError::Characters);
    }
    let macaroons: Vec<&str> = parts.iter().copied().filter(|part| is_macaroon(part)).collect();
    let text = match (macaroons.is_empty(), parts.first()) {
        (false, _) => format!("FlyV1 {}", macaroons.join(",")),
        (true, Some(token)) => format!("Bearer {token}"),
        (true, None) => return Err(TokenError::Empty),
    };
    let mut header = HeaderValue::try_from(text).map_err(|_| TokenError::Characters)?;
    header.set_sensitive(true);
    Ok(header)
}

fn is_macaroon(token: &str) -> bool {
    ["fm1r_", "fm1a_", "fm2_"].iter().any(|prefix| token.starts_with(prefix))
}

/// `Bearer FlyV1 fm2_…` and `FlyV1fm2_…` are both `fm2_…`.
fn strip_schemes(token: &str) -> &str {
    let mut rest = token.trim();
    loop {
        let stripped = strip_prefix_ignoring_case(rest, "FlyV1")
            .filter(|after| after.is_empty() || after.starts_with(char::is_whitespace) || is_macaroon(after))
            .or_else(|| {
                strip_prefix_ignoring_case(rest, "Bearer")
                    .filter(|after| after.is_empty() || after.starts_with(char::is_whitespace))
            });
        match stripped {
            Some(after) => rest = after.trim_start(),
            None => return rest,
        }
    }
}

fn strip_prefix_ignoring_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(token: &str) -> Result<String, TokenError> {
        authorization(&Secret::new(token)).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn both_schemes_however_they_are_written() {
        for (token, expected) in [
            ("abc", "Bearer abc"),
            ("Bearer abc", "Bearer abc"),
            ("bearer  abc\n", "Bearer abc"),
            ("fm2_x", "FlyV1 fm2_x"),
            ("FlyV1 fm2_x,fm2_y", "FlyV1 fm2_x,fm2_y"),
            ("Bearer FlyV1 fm2_x", "FlyV1 fm2_x"),
            ("FlyV1fm2_x", "FlyV1 fm2_x"),
            ("Bearer FlyV1 Bearer fm1r_x", "FlyV1 fm1r_x"),
            ("fm1r_x, fm1a_y ,,abc", "FlyV1 fm1r_x,fm1a_y"),
            ("FlyV1 fm2_x,FlyV1 fm2_y", "FlyV1 fm2_x,fm2_y"),
            ("abc,def", "Bearer abc"),
            ("bearerish", "Bearer bearerish"),
            ("FlyV1ish", "Bearer FlyV1ish"),
        ] {
            assert_eq!(header(token).as_deref(), Ok(expected), "{token:?}");
        }
        for token in ["", "  ", "Bearer", "FlyV1 ", "Bearer FlyV1", ",,"] {
            assert_eq!(header(token), Err(TokenError::Empty), "{token:?}");
        }
        for token in ["a\nb", "a b", "fm2_ä", "abc,\u{0}"] {
            assert_eq!(header(token), Err(TokenError::Characters), "{token:?}");
        }
    }

    #[test]
    fn the_header_does_not_show_itself() {
        let header = authorization(&Secret::new("fm2_verysecret")).unwrap();
        assert!(!format!("{header:?}").contains("verysecret"));
        assert!(!format!("{:?}", Secret::new("fm2_verysecret")).contains("verysecret"));
    }

    proptest! {
        #[test]
        fn macaroons_survive_any_wrapping(
            tokens in prop::collection::vec("fm(2|1r|1a)_[A-Za-z0-9+/=]{1,40}", 1..5),
            oauth in prop::option::of("[a-eg-z0-9]{8,40}"),
            schemes in prop::collection::vec(prop::sample::select(vec!["Bearer ", "FlyV1 ", "bearer ", " "]), 0..4),
        ) {
            let expected = format!("FlyV1 {}", tokens.join(","));
            let all = tokens.iter().cloned().chain(oauth).collect::<Vec<_>>().join(",");
            prop_assert_eq!(header(&format!("{}{all}", schemes.concat())), Ok(expected.clone()));
            prop_assert_eq!(header(&expected), Ok(expected));
        }

        #[test]
        fn anything_else_goes_under_bearer_or_is_refused(token in "\\PC{0,60}") {
            if let Ok(header) = header(&token) {
                let macaroon = token.contains("fm2_") || token.contains("fm1r_") || token.contains("fm1a_");
                prop_assert!(header.starts_with("Bearer ") || macaroon && header.starts_with("FlyV1 "));
            }
        }
    }
}
