//! The way of one connection: to this node's own Postgres, or to the gate of another node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::doors::{connect_from, tune};
use crate::gate::{Capacity, Term};
use crate::passage::Passage;
use crate::pump::Stream;
use crate::routes::{Here, Place, Routes};
use crate::shared::Shared;
use crate::startup::{Door, Refused, SessionStart};

/// How long a new connection waits for a primary (DESIGN §4).
const WAIT: Duration = Duration::from_secs(10);
/// How often it looks again meanwhile, where nothing told it that something changed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// `cannot_connect_now`: of a Postgres that starts or ends, and of a gate that is shut.
const CANNOT_NOW: &str = "57P03";
/// The longest refusal that is read; Postgres' are a few hundred bytes.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// Where a session goes.
#[derive(Debug)]
pub struct Way {
    pub upstream: Stream,
    /// What Postgres has answered so far.
    pub first: Vec<u8>,
    pub passage: Passage,
}

/// Why a place is of no use now.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it cannot be reached")]
    Io(#[from] io::Error),
    #[error("it takes no connections now")]
    NotNow,
    /// Another one is to be tried at once.
    #[error("the primary has changed")]
    Changed,
}

/// A session where this door leads, waiting for one to be had. `member`: the address of the node it comes from.
pub async fn find(
    door: Door,
    member: Option<IpAddr>,
    session: &SessionStart,
    client: &TcpStream,
    shared: &Shared,
) -> Result<Way, Refused> {
    let deadline = Instant::now() + WAIT;
    let (mut routes, mut here) = (shared.routes.subscribe(), shared.here.subscribe());
    let mut term = shared.gate.watch();
    loop {
        let (now, up) = (routes.borrow_and_update().clone(), *here.borrow_and_update());
        let answers = term.borrow_and_update().clone();
        for place in now.places(door, up) {
            let opened = tokio::select! {
                opened = open(&place, door, member, &now, &answers, session, shared, deadline) => opened,
                () = gone(client) => return Err(left()),
            };
            match opened {
                Ok(way) => return Ok(way),
                Err(Unfit::Changed) => break,
                Err(why) => tracing::debug!(?place, why = crate::words(&why), "no connection"),
            }
        }
        let hopeless = door == Door::Replication || is_hopeless(door, member, &answers, up);
        if hopeless || Instant::now() >= deadline || shared.ending.is_cancelled() {
            return Err(Refused::new(CANNOT_NOW, nowhere(door)));
        }
        tokio::select! {
            _ = routes.changed() => {}
            _ = here.changed() => {}
            _ = term.changed() => {}
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            () = gone(client) => return Err(left()),
        }
    }
}

/// The router of another node need not wait at the gate of a node that does not lead: it may have another way by now.
fn is_hopeless(door: Door, member: Option<IpAddr>, answers: &Term, here: Here) -> bool {
    let leads = matches!(answers.capacity, Capacity::Primary(_));
    door == Door::Node && member.is_some() && !leads && !(answers.takes_new() && here.open)
}

fn nowhere(door: Door) -> &'static str {
    match door {
        Door::ReadWrite => "the cluster has no primary now that this node can reach",
        Door::Node => "this node's Postgres takes no connections now",
        Door::Replication => "nobody replicates from this node now",
        Door::ReadOnly => "the cluster has no node now that can be read from",
    }
}

fn left() -> Refused {
    Refused::new(CANNOT_NOW, "the client went away")
}

/// Returns when a client that has not been answered yet closes its connection.
async fn gone(client: &TcpStream) {
    let mut byte = [0; 1];
    loop {
        if client.readable().await.is_err() || matches!(client.peek(&mut byte).await, Ok(0) | Err(_)) {
            return;
        }
        // It sent something before it was let in: that does not tell whether it is still there.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

#[allow(clippy::too_many_arguments)]
async fn open(
    place: &Place,
    door: Door,
    member: Option<IpAddr>,
    routes: &Routes,
    answers: &Arc<Term>,
    session: &SessionStart,
    shared: &Shared,
    deadline: Instant,
) -> Result<Way, Unfit> {
    let passage = match (place, door) {
        (_, Door::Replication) => {
            let cut = member.and_then(|member| shared.gate.feeds_to(member)).ok_or(Unfit::NotNow)?;
            Passage::until(cut)
        }
        (Place::Here, _) if !answers.takes_new() => return Err(Unfit::NotNow),
        (Place::Here, _) => Passage::of(answers.clone()),
        (Place::Gate(..), Door::ReadWrite) => Passage::until(routes.primary_changes.clone()),
        (Place::Gate(..), Door::Node | Door::ReadOnly) => Passage::open(),
    };
    let mut upstream = connect(place, door, shared).await?;
    upstream.write_all(&session.packet).await?;
    if door == Door::Replication {
        return Ok(Way { upstream, first: Vec::new(), passage });
    }
    let first = tokio::select! {
        first = timeout_at(deadline, first_answer(&mut upstream)) => first.map_err(|_| Unfit::NotNow)??,
        () = passage.is_cut() => return Err(Unfit::Changed),
    };
    let refused = first.first() == Some(&b'E') && sqlstate(&first) == Some(CANNOT_NOW.as_bytes());
    if refused && Instant::now() < deadline {
        return Err(Unfit::NotNow);
    }
    Ok(Way { upstream, first, passage })
}

/// Connects to where sessions are had.
pub(crate) async fn connect(place: &Place, door: Door, shared: &Shared) -> io::Result<Stream> {
    match place.address() {
        None => Ok(Stream::Unix(UnixStream::connect(shared.config.paths.postgres_socket()).await?)),
        Some((address, port)) => {
            let stream = connect_from(shared.config.address, SocketAddr::new(address, port)).await?;
            tune(&stream, door);
            Ok(Stream::Tcp(stream))
        }
    }
}

/// What Postgres says first; if it refuses, all of its words.
async fn first_answer(upstream: &mut Stream) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    loop {
        let whole = match first.as_slice() {
            [b'E', a, b, c, d, ..] => (u32::from_be_bytes([*a, *b, *c, *d]) as usize + 1).min(LONGEST_REFUSAL),
            [b'E', ..] | [] => 5,
            [_, ..] => 1,
        };
        if first.len() >= whole {
            return Ok(first);
        }
        if upstream.read_some(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The code of an ErrorResponse.
fn sqlstate(message: &[u8]) -> Option<&[u8]> {
    message.get(5..)?.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_by_their_code() {
        let refused = |code| Refused::new(code, "Code C").packet();
        assert_eq!(sqlstate(&refused("57P03")), Some(&b"57P03"[..]));
        assert_eq!(sqlstate(&refused("53300")), Some(&b"53300"[..]));
        assert_eq!(sqlstate(b"E"), None);
    }
}
