//! Errors as one line of text.

use std::error::Error;

/// The error and everything below it: `it: because: because`.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        below = cause.source();
    }
    text
}

/// A sentence without what changes each time it is said: what stands in brackets, such as progress and errors with the
/// ids of their requests.
pub fn gist(text: &str) -> String {
    let mut depth = 0_usize;
    let mut keep = |c: &char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(|c| keep(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gist_stays_while_the_rest_changes() {
        let one = gist("ord-1: until ord-1 answers (503 upstream (fly-request-id 01M8A)), still");
        assert_eq!(one, gist("ord-1: until ord-1 answers (502 bad (fly-request-id 77B)), still"));
        assert_ne!(one, gist("ord-2: until ord-2 answers (503 upstream), still"));
    }
}
