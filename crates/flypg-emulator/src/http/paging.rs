//! `limit` and `cursor`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::world::refusal::Refusal;
use crate::world::time::Millis;

/// Cursors die half an hour after the first page.
const CURSOR_LIFE_MS: u64 = 30 * 60 * 1000;

/// One page asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    limit: usize,
    /// Continue after this key.
    after: Option<String>,
    /// When the first page was asked for.
    begun: Millis,
}

impl Page {
    /// `None` when everything was asked for at once.
    ///
    /// # Errors
    /// 400 for a bad limit, a bad or expired cursor, or a cursor without a limit.
    pub(crate) fn asked(
        limit: Option<&str>,
        cursor: Option<&str>,
        most: usize,
        now: Millis,
    ) -> Result<Option<Self>, Refusal> {
        let Some(limit) = limit else {
            return match cursor {
                Some(_) => Err(Refusal::invalid("cursor needs limit")),
                None => Ok(None),
            };
        };
        let limit = limit.parse::<usize>().ok().filter(|limit| (1..=most).contains(limit));
        let limit = limit.ok_or_else(|| Refusal::invalid(&format!("limit must be inside range [1, {most}]")))?;
        let Some(cursor) = cursor else { return Ok(Some(Self { limit, after: None, begun: now })) };
        let bad = || Refusal::invalid("invalid or expired cursor");
        let text =
            URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)?;
        let (begun, after) = text.split_once(' ').ok_or_else(bad)?;
        let begun = Millis(begun.parse().map_err(|_| bad())?);
        if now.since(begun) > CURSOR_LIFE_MS {
            return Err(bad());
        }
        Ok(Some(Self { limit, after: Some(after.to_owned()), begun }))
    }

    /// When the first page was asked for: younger things are not shown.
    pub(crate) const fn begun(&self) -> Millis {
        self.begun
    }

    /// Cuts `items`, sorted by `key`, to this page; the cursor of the next one, if there is any.
    pub(crate) fn cut<T>(&self, items: Vec<T>, key: impl Fn(&T) -> String) -> (Vec<T>, Option<String>) {
        let rest = items.into_iter().filter(|item| self.after.as_ref().is_none_or(|after| key(item) > *after));
        let mut page: Vec<T> = rest.take(self.limit + 1).collect();
        if page.len() <= self.limit {
            return (page, None);
        }
        page.truncate(self.limit);
        let next = page.last().map(|last| URL_SAFE_NO_PAD.encode(format!("{} {}", self.begun.0, key(last))));
        (page, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let items: Vec<u32> = (100..110).collect();
        let mut cursor: Option<String> = None;
        let mut seen = Vec::new();
        loop {
            let page = Page::asked(Some("3"), cursor.as_deref(), 1000, Millis(5)).unwrap().unwrap();
            let (part, next) = page.cut(items.clone(), ToString::to_string);
            seen.extend(part);
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        assert_eq!(seen, items);
    }

    #[test]
    fn refusals() {
        let ask = |limit, cursor, now| Page::asked(limit, cursor, 1000, Millis(now)).map_err(|refusal| refusal.status);
        assert_eq!(ask(None, None, 0), Ok(None));
        assert_eq!(ask(None, Some("x"), 0), Err(400));
        assert_eq!(ask(Some("0"), None, 0), Err(400));
        assert_eq!(ask(Some("1001"), None, 0), Err(400));
        assert_eq!(ask(Some("5"), Some("?"), 0), Err(400));
        let old = URL_SAFE_NO_PAD.encode("0 a");
        assert!(ask(Some("5"), Some(&old), 1000).is_ok());
        assert_eq!(ask(Some("5"), Some(&old), CURSOR_LIFE_MS + 1), Err(400));
    }
}
