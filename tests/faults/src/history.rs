//! What clients did and were told.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One operation of one client. Times are [`crate::clock::now`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    pub client: u32,
    /// Where the client is: a node's name if beside that node, otherwise `outside`.
    pub side: String,
    /// Before the request left.
    pub sent: u64,
    pub what: What,
    /// After the answer was read; `None` where nobody knows what became of it.
    pub answer: Option<Answer>,
}

/// Rows are `(client, n)`. A client writes 1, 2, 3, …, never one of them twice, and nobody deletes anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Write(u64),
    /// The highest `n` that was seen of each client; empty until there is an answer.
    Read(BTreeMap<u32, u64>),
}

/// Success, and who told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub at: u64,
    pub node: String,
    /// The timeline on which that node wrote.
    pub timeline: u32,
}

/// The rows of one node.
pub type Rows = BTreeSet<(u32, u64)>;

/// Everything that the checker looks at.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    /// What the primary has in the end.
    pub primary: Rows,
    /// What each other node has in the end, once it has caught up.
    pub others: BTreeMap<String, Rows>,
}

impl History {
    /// Operations that were answered.
    pub fn answered(&self) -> impl Iterator<Item = (&Op, &Answer)> {
        self.ops.iter().filter_map(|op| Some((op, op.answer.as_ref()?)))
    }

    /// Acknowledged writes, with their row.
    pub fn acks(&self) -> impl Iterator<Item = (&Op, &Answer, (u32, u64))> {
        self.answered().filter_map(|(op, answer)| match op.what {
            What::Write(n) => Some((op, answer, (op.client, n))),
            What::Read(_) => None,
        })
    }
}

/// The complete lines of a client's log from byte `from` on, and where they end. A client that was killed may leave half
/// a line: the operation it belongs to was never told to anyone.
///
/// # Errors
/// The log cannot be read, or holds what no client writes.
pub fn read_log(path: &Path, from: usize) -> io::Result<(Vec<Op>, usize)> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let fresh = text.get(from..).unwrap_or_default();
    let whole = fresh.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines = fresh[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let ops = lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect::<io::Result<_>>()?;
    Ok((ops, from + whole))
}
