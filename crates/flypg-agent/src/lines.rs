//! What another program says, line by line, however long its lines are.
//!
//! Postgres writes whole statements and their parameters into its log, each as long as a client likes. The agent passes
//! on the beginning of such a line: it must neither hold all of it, nor be busy with it when a lease is to be renewed.

/// Bytes of one line that are kept.
const LONGEST: usize = 16 * 1024;

/// What was read of a line that has not come to its end.
#[derive(Debug, Default)]
pub struct Lines {
    kept: Vec<u8>,
    length: usize,
}

impl Lines {
    /// Reads on, and passes each line that comes to its end to `line`, without that end and cut at 16 KiB.
    pub fn read(&mut self, bytes: &[u8], mut line: impl FnMut(&Line<'_>)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, ends) = part.strip_suffix(b"\n").map_or((part, false), |part| (part, true));
            self.kept.extend_from_slice(&part[..part.len().min(LONGEST - self.kept.len())]);
            self.length += part.len();
            if ends {
                line(&Line { kept: &self.kept, length: self.length });
                self.kept.clear();
                self.length = 0;
            }
        }
    }
}

/// A line, or the beginning of one that is too long.
#[derive(Debug)]
pub struct Line<'a> {
    pub kept: &'a [u8],
    /// Bytes that it had.
    pub length: usize,
}

impl Line<'_> {
    /// The same without its first bytes, of which `rest` is what was kept.
    pub fn without_beginning<'a>(&self, rest: &'a [u8]) -> Line<'a> {
        Line { kept: rest, length: self.length - (self.kept.len() - rest.len()) }
    }

    /// As a person reads it.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(self.kept);
        if self.kept.len() == self.length {
            return text.trim_end().to_owned();
        }
        // A character may have been cut in two.
        let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        format!("{text}… (the first {} KiB of {} bytes)", LONGEST / 1024, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &[u8]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for piece in bytes.chunks(64) {
            lines.read(piece, |line| all.push(line.text()));
        }
        all
    }

    #[test]
    fn lines_are_what_stands_between_ends() {
        assert_eq!(all(b""), Vec::<String>::new());
        assert_eq!(all(b"one \r\n\ntwo\nthr"), ["one", "", "two"]);
        assert_eq!(all(b"caf\xc3\xa9 \xff\n"), ["café \u{fffd}"]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let whole = "x".repeat(LONGEST);
        let lines = all(format!("{whole}\n{whole}y\nafter\n").as_bytes());
        assert_eq!(lines[0], whole);
        assert_eq!(lines[1], format!("{whole}… (the first 16 KiB of {} bytes)", LONGEST + 1));
        assert_eq!(lines[2], "after");
        let wide = format!("x{}\n", "é".repeat(LONGEST));
        let cut = all(wide.as_bytes()).remove(0);
        assert!(
            cut.contains("é… (the first") && !cut.contains(char::REPLACEMENT_CHARACTER),
            "{}",
            &cut[cut.len() - 60..]
        );
    }
}
