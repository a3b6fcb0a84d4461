//! What another program says, line by line, however long its lines are.
//!
//! Postgres writes whole statements and their parameters into its log, each as long as a client likes. The agent passes
//! on the beginning of such a line: it must neither hold all of it, nor be busy with it when a lease is to be renewed.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

/// Bytes of one line that are kept.
const LONGEST: usize = 16 * 1024;

/// The next line, without its end, cut at 16 KiB; `None` at the end of what is said.
///
/// Not to be dropped before it returns: what it has read of a line would be lost.
///
/// # Errors
/// As the reader has them.
pub async fn next<R: AsyncBufRead + Unpin>(reader: &mut R) -> io::Result<Option<String>> {
    let mut kept = Vec::new();
    let mut length = 0;
    loop {
        let bytes = reader.fill_buf().await?;
        if bytes.is_empty() {
            return Ok((length > 0).then(|| text(&kept, length)));
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let part = &bytes[..end.unwrap_or(bytes.len())];
        kept.extend_from_slice(&part[..part.len().min(LONGEST - kept.len())]);
        length += part.len();
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(Some(text(&kept, length)));
        }
    }
}

/// What was kept of a line of `length` bytes.
fn text(kept: &[u8], length: usize) -> String {
    let text = String::from_utf8_lossy(kept);
    if kept.len() == length {
        return text.trim_end().to_owned();
    }
    // A character may have been cut in two.
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
    format!("{text}… (the first {} KiB of {length} bytes)", LONGEST / 1024)
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    async fn all(bytes: &[u8]) -> Vec<String> {
        let mut reader = BufReader::with_capacity(64, bytes);
        let mut lines = Vec::new();
        while let Some(line) = next(&mut reader).await.unwrap() {
            lines.push(line);
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_what_stands_between_ends() {
        assert_eq!(all(b"").await, Vec::<String>::new());
        assert_eq!(all(b"one \r\n\ntwo").await, ["one", "", "two"]);
        assert_eq!(all(b"caf\xc3\xa9 \xff\n").await, ["café \u{fffd}"]);
    }

    #[tokio::test]
    async fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let whole = "x".repeat(LONGEST);
        let lines = all(format!("{whole}\n{whole}y\nafter\n").as_bytes()).await;
        assert_eq!(lines[0], whole);
        assert_eq!(lines[1], format!("{whole}… (the first 16 KiB of {} bytes)", LONGEST + 1));
        assert_eq!(lines[2], "after");
        let wide = format!("x{}\n", "é".repeat(LONGEST));
        let cut = all(wide.as_bytes()).await.remove(0);
        assert!(
            cut.contains("é… (the first") && !cut.contains(char::REPLACEMENT_CHARACTER),
            "{}",
            &cut[cut.len() - 60..]
        );
    }
}
