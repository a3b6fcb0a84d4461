//! Recognising in PostgreSQL's log that a wait for a standby was cancelled, and in which backend.
//!
//! The log is a stream of bytes that many processes write to. A write of up to `PIPE_BUF` bytes stays in one piece, and
//! what is looked for is shorter, but for a context that somebody made long. A longer write is torn where the pipe is
//! full, and what other backends say then stands in the middle of it.

/// `SyncRepWaitForLSN` (syncrep.c) says it in two ways: "canceling wait for synchronous replication due to user request"
/// and, of a backend that says nothing more to its client, "canceling the wait for synchronous replication and …".
const WORDS: &[u8] = b"wait for synchronous replication";
const CANCELING: [&[u8]; 2] = [b"canceling ", b"canceling the "];
const SEVERITY: &[u8] = b"WARNING:  ";
/// Bytes before the words that are looked at: what a person has Postgres write before each line stands there.
const BEFORE: usize = 2048;

/// What must come first in each line, for `prefix` to be what a person sees before it: the backend's process id. A
/// client cannot begin a line with it, since Postgres indents what follows a newline in a message.
pub fn marked(prefix: &str) -> String {
    format!("<%p> {prefix}")
}

/// The process id at the beginning of a line, and what follows it.
pub(super) fn unmarked(line: &[u8]) -> Option<(u32, &[u8])> {
    let line = line.strip_prefix(b"<")?;
    let end = line.iter().position(|byte| !byte.is_ascii_digit())?;
    let rest = line[end..].strip_prefix(b"> ")?;
    Some((std::str::from_utf8(&line[..end]).ok()?.parse().ok()?, rest))
}

/// Where in the log one is.
#[derive(Debug)]
pub(super) struct Waits {
    /// The last bytes that were read.
    last: Vec<u8>,
    /// What is read next may go on in the middle of what another backend says.
    torn: bool,
}

impl Default for Waits {
    fn default() -> Self {
        Self { last: vec![b'\n'], torn: false }
    }
}

impl Waits {
    /// Reads on, and returns the backends whose waits were cancelled. `full`: the pipe may have been full since it was
    /// last read, so that writes may have been torn.
    ///
    /// As long as it was not, nobody can name another's backend: the words count at the beginning of a line only, or in
    /// a line that was begun by something else than Postgres, such as a program that it runs.
    pub(super) fn read(&mut self, bytes: &[u8], full: bool) -> Vec<u32> {
        let torn = full || self.torn;
        if !bytes.is_empty() {
            // The first thing that is said after a torn piece goes on in its line.
            self.torn = full;
        }
        let new = self.last.len().saturating_sub(WORDS.len() - 1);
        self.last.extend_from_slice(bytes);
        let mut from = new;
        let mut found = Vec::new();
        while let Some(at) = find(&self.last[from..], WORDS) {
            let before = &self.last[(from + at).saturating_sub(BEFORE)..from + at];
            found.extend(backend(before, torn));
            from += at + WORDS.len();
        }
        self.last.drain(..self.last.len().saturating_sub(BEFORE + WORDS.len()));
        found
    }
}

/// Of which backend it is said that its wait was cancelled, by what stands before [`WORDS`].
fn backend(before: &[u8], torn: bool) -> Option<u32> {
    let before = CANCELING.iter().find_map(|words| before.strip_suffix(*words))?;
    let before = without_code(before).strip_suffix(SEVERITY)?;
    let line = before.iter().rposition(|byte| *byte == b'\n').map(|end| &before[end + 1..]);
    match line {
        Some([b'\t', ..]) | None if !torn => None,
        Some(line) if !torn && unmarked(line).is_some() => unmarked(line).map(|(pid, _)| pid),
        line => last_mark(line.unwrap_or(before)),
    }
}

/// `log_error_verbosity = verbose` puts the code between severity and words.
fn without_code(before: &[u8]) -> &[u8] {
    match before.strip_suffix(b": ").and_then(|rest| rest.split_last_chunk::<5>()) {
        Some((rest, code)) if code.iter().all(u8::is_ascii_alphanumeric) => rest,
        _ => before,
    }
}

fn last_mark(line: &[u8]) -> Option<u32> {
    let starts = (0..line.len()).rev().filter(|at| line[*at] == b'<');
    starts.filter_map(|at| unmarked(&line[at..])).map(|(pid, _)| pid).next()
}

/// Boyer, Moore and Horspool's search: most bytes are never looked at.
fn find(bytes: &[u8], words: &[u8]) -> Option<usize> {
    let last = words.len() - 1;
    let mut end = last;
    while let Some(byte) = bytes.get(end) {
        let start = end - last;
        if bytes[start..=end] == *words {
            return Some(start);
        }
        end += words[..last].iter().rev().position(|known| known == byte).map_or(words.len(), |before| before + 1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANCELLED: &str = "<17> 2026-11-22 10:00:00 UTC [17] ada@orders WARNING:  canceling wait for synchronous \
                             replication due to user request\n<17> 2026-11-22 10:00:00 UTC [17] ada@orders DETAIL:  \
                             The transaction has already committed locally, but might not have been replicated to the \
                             standby.\n";

    /// What is found, however the log is cut into pieces.
    fn found(log: &str, full: bool) -> Vec<u32> {
        let whole = Waits::default().read(log.as_bytes(), full);
        for piece in [1, 7, 100] {
            let mut waits = Waits::default();
            let found: Vec<u32> = log.as_bytes().chunks(piece).flat_map(|bytes| waits.read(bytes, full)).collect();
            assert_eq!(found, whole, "in pieces of {piece}: {log}");
        }
        whole
    }

    #[test]
    fn every_cancelled_wait_is_found() {
        assert_eq!(found(CANCELLED, false), [17]);
        assert_eq!(found(CANCELLED, true), [17]);
        assert_eq!(found(&format!("<3> LOG:  a\n{CANCELLED}<4> LOG:  b\n{CANCELLED}"), false), [17, 17]);
        for other in [
            "<5> WARNING:  canceling wait for synchronous replication due to user request\n",
            "<5> x WARNING:  01000: canceling wait for synchronous replication due to user request\n",
            "<5> WARNING:  57P01: canceling the wait for synchronous replication and terminating connection due to",
            // A program's own words, without the end of a line, came before.
            "gzip: oops<5> [5] WARNING:  canceling wait for synchronous replication due to user request\n",
            "gzip: <9>oops<5> [5] WARNING:  canceling wait for synchronous replication due to user request\n",
        ] {
            assert_eq!(found(other, false), [5], "{other}");
            assert_eq!(found(other, true), [5], "{other}");
        }
        let long = format!("<5> {}WARNING:  canceling wait for synchronous replication due", "p".repeat(1900));
        assert_eq!(found(&long, false), [5]);
    }

    #[test]
    fn nobody_names_the_backend_of_another() {
        for other in [
            "<5> LOG:  statement: SELECT '\n\t<17> WARNING:  canceling wait for synchronous replication due'\n",
            "<5> LOG:  wait for synchronous replication\n<17> LOG:  canceling wait for synchronous replication\n",
            "<x> WARNING:  canceling wait for synchronous replication\n",
            "WARNING:  canceling wait for synchronous replication\n",
            "<17 WARNING:  canceling wait for synchronous replication\n",
            "<99999999999> WARNING:  canceling wait for synchronous replication\n",
        ] {
            assert_eq!(found(other, false), Vec::<u32>::new(), "{other}");
        }
        let own = "<5> ERROR:  <17> WARNING:  canceling wait for synchronous replication\n";
        assert_eq!(found(own, false), [5]);
        let deep = format!("<5> LOG:  {}<17> WARNING:  canceling wait for synchronous replication", "x".repeat(BEFORE));
        assert!(found(&deep, false).is_empty());
    }

    #[test]
    fn what_is_said_in_the_middle_of_a_torn_line_is_found() {
        let torn = "<5> ERROR:  something\n<5> STATEMENT:  INSERT\n\tVALUES ('aaaa";
        let mut waits = Waits::default();
        assert!(waits.read(torn.as_bytes(), true).is_empty());
        assert!(waits.read(b"", false).is_empty());
        assert_eq!(waits.read(CANCELLED.as_bytes(), false), [17]);
        assert!(waits.read(b"bbb')\n", false).is_empty());
        // From there on it is as before.
        assert!(waits.read(torn.as_bytes(), false).is_empty());
        assert!(waits.read(CANCELLED.as_bytes(), false).is_empty());
        let mut waits = Waits::default();
        let deep = format!("{torn}{}{CANCELLED}bbb')\n", "a".repeat(10_000));
        assert_eq!(waits.read(deep.as_bytes(), true), [17]);
    }

    #[test]
    fn words_are_found_wherever_they_are() {
        for (bytes, at) in
            [("abcab", None), ("abcabd", Some(0)), ("abcabcabd", Some(3)), ("xabcabd", Some(1)), ("", None)]
        {
            assert_eq!(find(bytes.as_bytes(), b"abcabd"), at, "{bytes}");
        }
    }

    #[test]
    fn marks_are_taken_off_again() {
        assert_eq!(unmarked(b"<17> 2026 LOG:  x"), Some((17, &b"2026 LOG:  x"[..])));
        for other in [&b""[..], b"17> x", b"<> x", b"<17>x", b"<17", b"\t<17> x"] {
            assert_eq!(unmarked(other), None);
        }
        assert_eq!(marked("%m "), "<%p> %m ");
    }
}
