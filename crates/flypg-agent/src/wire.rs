//! What a gate must understand of what Postgres says: where its messages begin, which backend says it, whether a session
//! is between two transactions, and whether a wait for a standby was cancelled.
//!
//! PostgreSQL documentation, "Message Formats": one byte of type, four of length, the body; BackendKeyData (`K`),
//! ReadyForQuery (`Z`), NoticeResponse (`N`). Nothing is copied, and of a body nothing is looked at but of these three.

/// The function of PostgreSQL that waits for standbys. It warns when it stops waiting before they have the commit; its
/// words are translated into the language of the server, this name is not (field `R` of a notice, sent to every client).
/// A session that keeps warnings from itself is given away by [`crate::server_log`].
const WAITS: &[u8] = b"SyncRepWaitForLSN";

/// Where one session is, as far as its answers have been read.
#[derive(Debug, Default)]
pub struct Answers {
    head: [u8; 5],
    /// How much of the head was read.
    have: usize,
    /// How much of the body is still to come.
    left: usize,
    notice: Notice,
    backend: Backend,
    /// The last ReadyForQuery: `I` between transactions, `T` in one, `E` in a failed one.
    ready: Option<u8>,
}

/// Why nothing more of a session may be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("a wait for a standby was cancelled: what follows would report a commit that may be lost")]
    WaitCancelled,
    #[error("a message of an impossible length")]
    Length,
    #[error("it is not known which backend this is: nobody could tell whether it gave up waiting for a standby")]
    Nameless,
}

impl Answers {
    /// Reads on. `Err`: of these bytes, and of what follows, nothing may be passed on (rule R12).
    pub fn read(&mut self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            if self.have < self.head.len() {
                let took = bytes.len().min(self.head.len() - self.have);
                self.head[self.have..self.have + took].copy_from_slice(&bytes[..took]);
                self.have += took;
                bytes = &bytes[took..];
                if self.have < self.head.len() {
                    return Ok(());
                }
                let length = u32::from_be_bytes([self.head[1], self.head[2], self.head[3], self.head[4]]);
                self.left = (length as usize).checked_sub(4).ok_or(Broken::Length)?;
                self.notice = Notice::default();
            }
            let (body, rest) = bytes.split_at(bytes.len().min(self.left));
            match self.head[0] {
                b'K' => self.backend.read(body),
                b'Z' if self.backend().is_none() => return Err(Broken::Nameless),
                b'Z' => self.ready = body.first().copied().or(self.ready),
                b'N' if self.notice.is_of_a_cancelled_wait(body) => return Err(Broken::WaitCancelled),
                _ => {}
            }
            self.left -= body.len();
            bytes = rest;
            if self.left == 0 {
                self.have = 0;
            }
        }
        Ok(())
    }

    /// The process that answers; `None` before the session was let in.
    pub fn backend(&self) -> Option<u32> {
        (self.backend.bytes == 4).then_some(self.backend.pid)
    }

    /// No transaction runs, as far as has been read; `None` before the session was let in.
    pub fn idle(&self) -> Option<bool> {
        self.ready.map(|status| status == b'I')
    }
}

/// The first four bytes of BackendKeyData, as far as they were read.
#[derive(Debug, Default)]
struct Backend {
    pid: u32,
    bytes: u8,
}

impl Backend {
    fn read(&mut self, body: &[u8]) {
        for &byte in body.iter().take(usize::from(4 - self.bytes)) {
            self.pid = self.pid << 8 | u32::from(byte);
            self.bytes += 1;
        }
    }
}

/// The fields of a notice: a byte of type and a string that ends with a zero, each.
#[derive(Debug, Default)]
struct Notice {
    /// The type of the field that is being read.
    field: Option<u8>,
    /// How many bytes of the field are those of [`WAITS`]; `None` once one was not.
    alike: Option<usize>,
}

impl Notice {
    fn is_of_a_cancelled_wait(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            match (self.field, byte) {
                (None, kind) => (self.field, self.alike) = (Some(kind), Some(0)),
                (Some(kind), 0) => {
                    if kind == b'R' && self.alike == Some(WAITS.len()) {
                        return true;
                    }
                    self.field = None;
                }
                (Some(_), byte) => self.alike = self.alike.filter(|at| WAITS.get(*at) == Some(&byte)).map(|at| at + 1),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    fn notice(fields: &[(u8, &str)]) -> Vec<u8> {
        let mut body: Vec<u8> =
            fields.iter().flat_map(|(kind, text)| [&[*kind][..], text.as_bytes(), &[0]].concat()).collect();
        body.push(0);
        message(b'N', &body)
    }

    /// As PostgreSQL 15 sends it where its messages are German.
    fn cancelled() -> Vec<u8> {
        notice(&[
            (b'S', "WARNUNG"),
            (b'V', "WARNING"),
            (b'C', "01000"),
            (b'M', "storniere Warten auf synchrone Replikation wegen Benutzeraufforderung"),
            (b'F', "syncrep.c"),
            (b'L', "296"),
            (b'R', "SyncRepWaitForLSN"),
        ])
    }

    /// The same, however it is cut into pieces.
    fn read(bytes: &[u8], piece: usize) -> (Result<(), Broken>, Answers) {
        let mut answers = Answers::default();
        let result = bytes.chunks(piece).try_for_each(|piece| answers.read(piece));
        (result, answers)
    }

    #[test]
    fn sessions_are_followed_however_their_answers_are_cut() {
        let rows = message(b'D', &[b'Z'; 300]);
        let talk = [message(b'R', &[0; 4]), message(b'K', &[0, 0, 1, 2, 9, 9, 9, 9]), message(b'Z', b"I")].concat();
        let begun = [talk.clone(), message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat();
        let failed = [begun.clone(), rows.clone(), message(b'n', b""), message(b'Z', b"E")].concat();
        let done = [failed.clone(), rows, message(b'Z', b"I")].concat();
        for piece in [1, 2, 3, 5, 6, 7, 100, 1000] {
            let idle = |bytes: &[u8]| {
                let (result, answers) = read(bytes, piece);
                assert_eq!(result, Ok(()));
                answers.idle()
            };
            assert_eq!(idle(&talk[..talk.len() - 1]), None, "{piece}");
            assert_eq!(idle(&talk), Some(true), "{piece}");
            assert_eq!(read(&done, piece).1.backend(), Some(258), "{piece}");
            assert_eq!(read(&message(b'Z', b"I"), piece).0, Err(Broken::Nameless), "{piece}");
            assert_eq!(idle(&begun), Some(false), "{piece}");
            assert_eq!(idle(&failed), Some(false), "{piece}");
            assert_eq!(idle(&done), Some(true), "{piece}");
        }
        assert_eq!(read(&[b'D', 0, 0, 0, 3, 0], 6).0, Err(Broken::Length));
    }

    #[test]
    fn a_cancelled_wait_is_recognised_in_every_language_and_nothing_else_is() {
        let commit = message(b'C', b"COMMIT\0");
        for piece in [1, 2, 13, 1000] {
            assert_eq!(read(&[cancelled(), commit.clone()].concat(), piece).0, Err(Broken::WaitCancelled), "{piece}");
        }
        for other in [
            // A person's function that says the same words.
            notice(&[
                (b'C', "01000"),
                (b'M', "canceling wait for synchronous replication due to user request"),
                (b'R', "exec_stmt_raise"),
            ]),
            notice(&[(b'C', "01000"), (b'M', "SyncRepWaitForLSN"), (b'R', "SyncRepWaitForLSNs")]),
            notice(&[(b'R', "SyncRepWait")]),
            // In a row of a table.
            message(b'D', &cancelled()),
        ] {
            for piece in [1, 4, 1000] {
                assert_eq!(read(&[other.clone(), commit.clone()].concat(), piece).0, Ok(()), "{piece}");
            }
        }
    }
}
