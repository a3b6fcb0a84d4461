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
    #[error("it has as many sessions as it may have")]
    Full,
}

/// Who looks for a way.
#[derive(Debug)]
pub struct Seeker<'a> {
    pub door: Door,
    /// The address of the node that it comes from.
    pub member: Option<IpAddr>,
    pub session: &'a SessionStart,
    pub client: &'a TcpStream,
    pub shared: &'a Shared,
}

/// A session where this door leads, waiting for one to be had.
pub async fn find(seeker: &Seeker<'_>) -> Result<Way, Refused> {
    let Seeker { door, member, client, shared, .. } = *seeker;
    let deadline = Instant::now() + WAIT;
    let (mut routes, mut here) = (shared.routes.subscribe(), shared.here.subscribe());
    let mut term = shared.gate.watch();
    loop {
        let (now, up) = (routes.borrow_and_update().clone(), *here.borrow_and_update());
        let answers = term.borrow_and_update().clone();
        for place in now.places(door, up) {
            let opened = match seeker.passage(&place, &now, &answers) {
                Some(passage) => tokio::select! {
                    opened = seeker.open(&place, passage, deadline) => opened,
                    () = gone(client) => return Err(left()),
                },
                None => Err(Unfit::NotNow),
            };
            match opened {
                Ok(way) => return Ok(way),
                Err(Unfit::Changed) => break,
                // As Postgres: nobody waits for somebody else to leave.
                Err(Unfit::Full) => return Err(full()),
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

impl Seeker<'_> {
    /// Under which conditions bytes would pass, if any may now.
    fn passage(&self, place: &Place, routes: &Routes, answers: &Arc<Term>) -> Option<Passage> {
        match (place, self.door) {
            (_, Door::Replication) => {
                self.member.and_then(|member| self.shared.gate.feeds_to(member)).map(Passage::until)
            }
            (Place::Here, _) => answers.takes_new().then(|| Passage::of(answers.clone(), self.shared.log.clone())),
            (Place::Gate(..), Door::ReadWrite) => Some(Passage::until(routes.primary_changes.clone())),
            (Place::Gate(..), Door::Node | Door::ReadOnly) => Some(Passage::open()),
        }
    }

    async fn open(&self, place: &Place, passage: Passage, deadline: Instant) -> Result<Way, Unfit> {
        let passage = match (place, self.door) {
            (Place::Here, Door::ReadWrite | Door::Node | Door::ReadOnly) => {
                passage.seated(self.shared.seats.take().ok_or(Unfit::Full)?)
            }
            // Members come by the seats that are not for clients.
            (Place::Here, Door::Replication) | (Place::Gate(..), _) => passage,
        };
        let (upstream, first) = tokio::select! {
            begun = timeout_at(deadline, self.begin(place)) => begun.map_err(|_| Unfit::NotNow)??,
            () = passage.is_cut() => return Err(Unfit::Changed),
        };
        let refused = first.first() == Some(&b'E') && sqlstate(&first) == Some(CANNOT_NOW.as_bytes());
        match refused && Instant::now() < deadline {
            true => Err(Unfit::NotNow),
            false => Ok(Way { upstream, first, passage }),
        }
    }

    /// Connects, says what the client said, and waits for the first answer; a walsender's is nobody's business.
    async fn begin(&self, place: &Place) -> io::Result<(Stream, Vec<u8>)> {
        let mut upstream = connect(place, self.door, self.shared).await?;
        upstream.write_all(&self.session.packet).await?;
        let first = match self.door {
            Door::Replication => Vec::new(),
            Door::ReadWrite | Door::Node | Door::ReadOnly => first_answer(&mut upstream).await?,
        };
        Ok((upstream, first))
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

/// In the words of Postgres, which people look for.
fn full() -> Refused {
    Refused::new("53300", "sorry, too many clients already")
        .with_detail("Some of max_connections are kept for the node itself.")
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
