//! The ports that clients and replicas come in at, and what happens to each connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flypg_core::protocol::ports;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::account::give;
use crate::cancel;
use crate::passage::Passage;
use crate::pump::Stream;
use crate::pumps::Pumps;
use crate::shared::Shared;
use crate::startup::{self, Door, Refused, Startup};
use crate::way::{self, Seeker, Way};

/// Connections of clients at a time; more than Postgres can have, so that its own words are heard first.
const CLIENTS: u64 = 4000;
/// Connections of replicas, which clients never take the place of: two per walsender that Postgres allows.
const REPLICAS: u64 = 64;
/// Clients beyond the limit who are told so at a time; others find the door shut.
const TOLD: usize = 32;
/// Open files that are for the agent itself: callers of its API, sessions, the ledger, programs it runs.
const OWN_FILES: u64 = 512;
/// A client that says nothing for so long is sent away.
const SILENCE: Duration = Duration::from_secs(10);
pub(crate) const CONNECT: Duration = Duration::from_secs(3);
/// Replication notices a dead link in this time (failover-protocol §2.7).
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(3);

/// How many connections may be open, so that none of them ever keeps the agent from opening a file of its own.
#[derive(Debug)]
pub struct Rooms {
    clients: Arc<Semaphore>,
    replicas: Arc<Semaphore>,
}

impl Rooms {
    /// Each connection is two open files.
    pub fn within(files: u64) -> Self {
        let clients = (files.saturating_sub(OWN_FILES) / 2).saturating_sub(REPLICAS).clamp(64, CLIENTS);
        let room = |n| Arc::new(Semaphore::new(usize::try_from(n).unwrap_or(Semaphore::MAX_PERMITS)));
        Self { clients: room(clients), replicas: room(REPLICAS) }
    }

    pub fn of(&self, door: Door) -> Arc<Semaphore> {
        match door {
            Door::Replication => self.replicas.clone(),
            Door::ReadWrite | Door::Node | Door::ReadOnly => self.clients.clone(),
        }
    }
}

/// Connections through one door, for the metrics.
#[derive(Debug, Default)]
pub struct DoorCount {
    pub open: AtomicU64,
    pub total: AtomicU64,
    pub refused: AtomicU64,
}

pub fn port(door: Door) -> u16 {
    match door {
        Door::ReadWrite => ports::READ_WRITE,
        Door::Node => ports::NODE,
        Door::ReadOnly => ports::READ_ONLY,
        Door::Replication => ports::REPLICATION,
    }
}

/// Listens at once, so that a port in use is known before anything else happens.
pub fn bind(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // connections of the process before us may linger
    socket.bind(SocketAddr::new(address, port))?;
    socket.listen(1024)
}

/// Lets clients in until the agent is to end.
pub async fn serve(door: Door, listener: TcpListener, room: Arc<Semaphore>, pumps: Arc<Pumps>, shared: Arc<Shared>) {
    let telling = Arc::new(Semaphore::new(TOLD));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.ending.cancelled() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: others must end first.
                tracing::warn!(door = door.name(), %error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let shared = shared.clone();
        let count = shared.doors[door as usize].clone();
        let Ok(permit) = room.clone().try_acquire_owned() else {
            count.refused.fetch_add(1, Ordering::Relaxed);
            if let Ok(permit) = telling.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    turn_away(stream).await;
                    drop(permit);
                });
            }
            continue;
        };
        let pumps = pumps.clone();
        tokio::spawn(async move {
            count.total.fetch_add(1, Ordering::Relaxed);
            count.open.fetch_add(1, Ordering::Relaxed);
            if let Err(why) = pass(door, stream, from, &pumps, &shared).await {
                count.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(door = door.name(), %from, %why, "connection refused");
            }
            count.open.fetch_sub(1, Ordering::Relaxed);
            drop(permit);
        });
    }
}

/// One connection from its first byte to its last. `Err` says why it was not let in.
async fn pass(
    door: Door,
    mut client: TcpStream,
    from: SocketAddr,
    pumps: &Pumps,
    shared: &Shared,
) -> Result<(), String> {
    tune(&client, door);
    let from = from.ip().to_canonical();
    let member = shared.routes.borrow().members.contains(&from);
    if door == Door::Replication && !member {
        return Err("not a member of the cluster".to_owned());
    }
    let startup = match timeout(SILENCE, startup::read(&mut client)).await {
        Ok(Ok(startup)) => startup,
        Ok(Err(error)) => {
            if let Some(refused) = error.refused() {
                refuse(client, refused).await;
            }
            return Err(error.to_string());
        }
        Err(_) => return Err("it said nothing".to_owned()),
    };
    let session = match startup {
        Startup::Cancel { packet } => {
            cancel::pass_on(door, &packet, shared).await;
            return Ok(());
        }
        Startup::Session(session) => session,
    };
    let found = match startup::admit(door, &session) {
        Ok(()) => {
            let member = member.then_some(from);
            way::find(&Seeker { door, member, session: &session, client: &client, shared }).await
        }
        Err(refused) => Err(refused),
    };
    match found {
        Ok(Way { upstream, first, passage }) => {
            let passed = pumps.join(Stream::Tcp(client), upstream, first, passage).await;
            passed.map_err(|error| format!("it could not be passed on: {error}"))
        }
        Err(refused) => {
            let why = refused.message.clone();
            refuse(client, refused).await;
            Err(why)
        }
    }
}

/// Connects from this node's own address, by which other nodes know it.
pub(crate) async fn connect_from(own: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if own.is_ipv4() == to.is_ipv4() {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    timeout(CONNECT, socket.connect(to)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

pub(crate) fn tune(stream: &TcpStream, door: Door) {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10)).with_retries(3);
    let socket = SockRef::from(stream);
    let mut tuned = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_keepalive(&keepalive));
    if door == Door::Replication {
        tuned = tuned.and_then(|()| socket.set_tcp_user_timeout(Some(REPLICATION_TIMEOUT)));
    }
    if let Err(error) = tuned {
        tracing::debug!(%error, "a socket option was not set");
    }
}

/// Tells a client in its language why it is not let in.
async fn refuse(client: TcpStream, refused: Refused) {
    let mut stream = Stream::Tcp(client);
    let _ = timeout(Duration::from_secs(2), stream.write_all(&refused.packet())).await;
}

/// Refuses a client for whom there is no room. It is heard out first: closing on unread bytes would take the words
/// away from it.
async fn turn_away(mut client: TcpStream) {
    if let Ok(Ok(_)) = timeout(Duration::from_secs(2), startup::read(&mut client)).await {
        refuse(client, Refused::new("53300", "this node has too many connections")).await;
    }
}

/// The way of this node's own Postgres, and of its clone, to the upstream: through the agent, so that it can be cut
/// here, and so that the upstream sees this node's address.
pub async fn serve_upstream(listener: UnixListener, pumps: Arc<Pumps>, shared: Arc<Shared>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Not before Postgres has ended: a standby that stops says goodbye to its primary.
            () = shared.ended.cancelled() => return,
        };
        let Ok((replica, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (pumps, shared) = (pumps.clone(), shared.clone());
        tokio::spawn(async move {
            let routes = shared.routes.borrow().clone();
            let Some((node, address)) = routes.upstream else { return };
            match connect_from(shared.config.address, SocketAddr::new(address, ports::REPLICATION)).await {
                Ok(stream) => {
                    tune(&stream, Door::Replication);
                    let passage = Passage::until(routes.upstream_changes).hearing(shared.heard.clone());
                    let passed = pumps.join(Stream::Unix(replica), Stream::Tcp(stream), Vec::new(), passage).await;
                    if let Err(error) = passed {
                        tracing::warn!(%error, "the upstream could not be passed on");
                    }
                }
                Err(error) => tracing::info!(%node, %address, %error, "the upstream cannot be reached"),
            }
        });
    }
}

pub fn bind_upstream(shared: &Shared) -> io::Result<UnixListener> {
    let path = shared.config.paths.upstream.join(format!(".s.PGSQL.{}", ports::REPLICATION));
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    give(&path, shared.config.account)?;
    Ok(listener)
}
