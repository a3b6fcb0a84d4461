//! Passing bytes between a client and Postgres.
//!
//! Each chunk passes [`Passage::may_pass`] after it was read and before it is written: that is the place where a gate
//! decides, once the answer exists, whether it may still be given (rule R3).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::passage::Passage;

/// Read at once into memory that all connections of a thread share: an idle connection has no buffer.
const CHUNK: usize = 64 * 1024;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// One end of a connection.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The same, of no runtime.
#[derive(Debug)]
pub enum Detached {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Detached {
    /// Of the runtime that this runs in.
    pub fn attach(self) -> io::Result<Stream> {
        Ok(match self {
            Detached::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            Detached::Unix(stream) => Stream::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl Stream {
    /// Lets it be moved to another runtime.
    pub fn detach(self) -> io::Result<Detached> {
        Ok(match self {
            Stream::Tcp(stream) => Detached::Tcp(stream.into_std()?),
            Stream::Unix(stream) => Detached::Unix(stream.into_std()?),
        })
    }

    fn split(&mut self) -> (Reader<'_>, Writer<'_>) {
        match self {
            Stream::Tcp(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
            Stream::Unix(stream) => {
                let (reader, writer) = stream.split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
        }
    }

    /// Writes all of it, waiting as long as it takes.
    pub async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.split().1.write_all(bytes).await
    }

    /// Reads what there is; 0 bytes are the end.
    pub async fn read_some(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        let (mut reader, _writer) = self.split();
        let mut some = [0; 1024];
        let mut some = ReadBuf::new(&mut some);
        poll_fn(|cx| reader.poll_read(cx, &mut some)).await?;
        into.extend_from_slice(some.filled());
        Ok(some.filled().len())
    }

    /// Reads until the other side ends, and forgets what it said.
    pub async fn drain(&mut self) -> io::Result<()> {
        let (mut reader, _writer) = self.split();
        loop {
            let mut scrap = [0; 256];
            let mut scrap = ReadBuf::new(&mut scrap);
            poll_fn(|cx| reader.poll_read(cx, &mut scrap)).await?;
            if scrap.filled().is_empty() {
                return Ok(());
            }
        }
    }

    /// Closing it discards what is unsent and tells the other side that this is no orderly end.
    fn will_reset(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Passes bytes both ways until Postgres ends, either side breaks, or the passage is cut. `first` was read from
/// Postgres already.
///
/// A client that only ends writing still gets its answers. Postgres ending ends both: nothing can follow.
pub async fn join(client: &mut Stream, postgres: &mut Stream, first: &[u8], passage: &Passage) {
    {
        let ((from_client, to_client), (from_postgres, to_postgres)) = (client.split(), postgres.split());
        let both = async {
            let up = copy(from_client, &to_postgres, Way::Up, passage);
            let down = async {
                if !first.is_empty() {
                    passage.down(first)?;
                    to_client.write_all(first).await?;
                }
                copy(from_postgres, &to_client, Way::Down, passage).await
            };
            tokio::pin!(up, down);
            tokio::select! {
                _ = &mut down => {}
                ended = &mut up => if ended.is_ok() {
                    to_postgres.end();
                    let _ = down.await;
                }
            }
        };
        tokio::select! {
            () = both => {}
            () = passage.is_cut() => {}
        }
    }
    if !passage.may_pass() {
        client.will_reset();
        postgres.will_reset();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the client to Postgres.
    Up,
    Down,
}

enum Reader<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
}

enum Writer<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
}

impl Reader<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Reader::Tcp(half) => Pin::new(half).poll_read(cx, into),
            Reader::Unix(half) => Pin::new(half).poll_read(cx, into),
        }
    }
}

impl Writer<'_> {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Writer::Tcp(half) => half.try_write(bytes),
            Writer::Unix(half) => half.try_write(bytes),
        }
    }

    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self {
                Writer::Tcp(half) => half.writable().await?,
                Writer::Unix(half) => half.writable().await?,
            }
            match self.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn end(&self) {
        // The other side may be gone already; its end is noticed by reading.
        let _ = match self {
            Writer::Tcp(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
            Writer::Unix(half) => SockRef::from(half.as_ref()).shutdown(Shutdown::Write),
        };
    }
}

enum Moved {
    All,
    /// The receiver is slower: this is left.
    Part(Vec<u8>),
    /// Would begin something new, which may not begin now.
    Held(Vec<u8>),
    End,
}

async fn copy(mut from: Reader<'_>, to: &Writer<'_>, way: Way, passage: &Passage) -> io::Result<()> {
    loop {
        // The buffer is borrowed within one poll only, never while this task waits.
        let moved = poll_fn(|cx| BUFFER.with_borrow_mut(|buffer| step(cx, &mut from, to, way, passage, buffer)));
        match moved.await? {
            Moved::All => {}
            Moved::Part(rest) => to.write_all(&rest).await?,
            Moved::Held(bytes) => {
                passage.held().await?;
                to.write_all(&bytes).await?;
            }
            Moved::End => return Ok(()),
        }
    }
}

/// Reads what there is and writes what goes.
fn step(
    cx: &mut Context<'_>,
    from: &mut Reader<'_>,
    to: &Writer<'_>,
    way: Way,
    passage: &Passage,
    buffer: &mut [u8],
) -> Poll<io::Result<Moved>> {
    let mut buffer = ReadBuf::new(buffer);
    // Also what keeps a stream that is always ready from starving the others: tokio gives it a budget.
    ready!(from.poll_read(cx, &mut buffer))?;
    let read = buffer.filled();
    if read.is_empty() {
        return Poll::Ready(Ok(Moved::End));
    }
    match way {
        Way::Down => passage.down(read)?,
        Way::Up if passage.up()? => {}
        Way::Up => return Poll::Ready(Ok(Moved::Held(read.to_vec()))),
    }
    Poll::Ready(match to.try_write(read) {
        Ok(written) if written == read.len() => Ok(Moved::All),
        Ok(written) => Ok(Moved::Part(read[written..].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Moved::Part(read.to_vec())),
        Err(error) => Err(error),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use flypg_core::decree::Epoch;
    use flypg_core::failover::lease::BootTime;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock;
    use crate::gate::{Capacity, Gate, Leave};
    use crate::server_log::ServerLog;

    /// Both ends of a connection.
    pub(crate) async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// A client and a server joined, and the switch that cuts them.
    async fn joined() -> (TcpStream, TcpStream, CancellationToken, tokio::task::JoinHandle<()>) {
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        let cut = CancellationToken::new();
        let passage = Passage::until(cut.clone());
        let task =
            tokio::spawn(async move { join(&mut Stream::Tcp(near), &mut Stream::Tcp(far), &[], &passage).await });
        (client, server, cut, task)
    }

    #[tokio::test]
    async fn megabytes_arrive_whole_while_nobody_reads_for_a_while() {
        let (mut client, mut server, _cut, task) = joined().await;
        let sent: Vec<u8> = (0..8_000_000u32).map(|n| (n % 251) as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert!(got == expected);
        // The client ended writing only, so it still gets an answer.
        server.write_all(b"done").await.unwrap();
        drop(server);
        assert_eq!(writer.await.unwrap(), "done");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn when_postgres_ends_the_client_is_cut() {
        let (mut client, mut server, _cut, task) = joined().await;
        server.write_all(b"bye").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "bye");
        task.await.unwrap();
    }

    #[tokio::test]
    async fn a_cut_resets_both_ends() {
        let (mut client, mut server, cut, task) = joined().await;
        cut.cancel();
        task.await.unwrap();
        for end in [&mut client, &mut server] {
            let error = end.read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    /// A session at a primary's gate, let in and between two transactions, and the gate that it belongs to.
    async fn session(
        until: Option<BootTime>,
        holding: bool,
    ) -> (TcpStream, TcpStream, Gate, tokio::task::JoinHandle<()>) {
        session_of(until, holding, ServerLog::new().unwrap().into()).await
    }

    async fn session_of(
        until: Option<BootTime>,
        holding: bool,
        log: Arc<ServerLog>,
    ) -> (TcpStream, TcpStream, Gate, tokio::task::JoinHandle<()>) {
        let gate = Gate::shut();
        put(&gate, Some(BootTime::MAX), false);
        let (mut client, near) = pair().await;
        let (far, server) = pair().await;
        let passage = Passage::of(gate.term(), log);
        put(&gate, until, holding);
        let welcome = [&BACKEND[..], &READY].concat();
        let first = welcome.clone();
        let task =
            tokio::spawn(async move { join(&mut Stream::Tcp(near), &mut Stream::Tcp(far), &first, &passage).await });
        if until.is_some() {
            client.read_exact(&mut vec![0; welcome.len()]).await.unwrap();
        }
        (client, server, gate, task)
    }

    /// BackendKeyData of process 17.
    const BACKEND: [u8; 13] = [b'K', 0, 0, 0, 12, 0, 0, 0, 17, 9, 9, 9, 9];

    const READY: [u8; 6] = [b'Z', 0, 0, 0, 5, b'I'];
    const BEGUN: [u8; 6] = [b'Z', 0, 0, 0, 5, b'T'];

    fn put(gate: &Gate, until: Option<BootTime>, holding: bool) {
        let capacity = Capacity::Primary(Epoch(1));
        gate.put(Leave { capacity, until, refuse_before: Duration::from_millis(200), holding }, clock::now());
    }

    fn soon(millis: u64) -> Option<BootTime> {
        Some(BootTime(clock::now().0 + Duration::from_millis(millis)))
    }

    async fn until_past(end: BootTime) {
        while clock::now() <= end {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn is_reset(end: &mut TcpStream) {
        let mut bytes = [0; 8];
        let read = tokio::time::timeout(Duration::from_secs(5), end.read(&mut bytes)).await.expect("it is left open");
        let error = read.expect_err("nothing passes, not even an orderly end");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// Nobody but the pump looks at the clock here, as when the rest of the agent was frozen.
    #[tokio::test]
    async fn an_answer_that_is_there_after_the_end_of_the_lease_does_not_pass() {
        let end = soon(400);
        let (mut client, mut server, _gate, task) = session(end, false).await;
        client.write_all(b"Q").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'Q');
        server.write_all(&BEGUN).await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        until_past(end.unwrap()).await;
        server.write_all(b"C").await.unwrap();
        is_reset(&mut client).await;
        task.await.unwrap();
    }

    #[tokio::test]
    async fn the_client_is_not_heard_either_after_the_end() {
        let end = soon(300);
        let (mut client, mut server, _gate, task) = session(end, false).await;
        until_past(end.unwrap()).await;
        client.write_all(b"Q").await.unwrap();
        is_reset(&mut client).await;
        is_reset(&mut server).await;
        task.await.unwrap();
    }

    /// Nothing arrives at `server` while `what` goes on. It would arrive before what is written afterwards.
    async fn nothing_arrives(server: &mut TcpStream) {
        let arrived = tokio::time::timeout(Duration::from_millis(100), server.read_u8()).await;
        assert!(arrived.is_err(), "{arrived:?}");
    }

    #[tokio::test]
    async fn nothing_begins_while_transactions_are_held_and_what_has_begun_goes_on() {
        let (mut client, mut server, gate, _task) = session(Some(BootTime::MAX), true).await;
        assert!(gate.is_drained());
        client.write_all(b"1").await.unwrap();
        nothing_arrives(&mut server).await;
        assert!(gate.is_drained());
        put(&gate, Some(BootTime::MAX), false);
        assert_eq!(server.read_u8().await.unwrap(), b'1');
        server.write_all(&BEGUN).await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        put(&gate, Some(BootTime::MAX), true);
        assert!(!gate.is_drained());
        client.write_all(b"2").await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'2');
        server.write_all(&READY).await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        assert!(gate.is_drained());
        client.write_all(b"3").await.unwrap();
        nothing_arrives(&mut server).await;
        // Of a client that sent its next statement early, the first answer came late: the transaction has begun.
        server.write_all(&BEGUN).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'3');
        drop(client);
        drop(server);
        _task.await.unwrap();
        assert!(gate.is_drained(), "one who is gone does not count");
    }

    #[tokio::test]
    async fn nothing_begins_shortly_before_the_end_of_a_lease_unless_it_is_renewed() {
        let (mut client, mut server, gate, _task) = session(soon(150), false).await;
        client.write_all(b"1").await.unwrap();
        nothing_arrives(&mut server).await;
        put(&gate, soon(60_000), false);
        assert_eq!(server.read_u8().await.unwrap(), b'1');
    }

    #[tokio::test]
    async fn a_commit_whose_wait_was_cancelled_is_not_reported() {
        let (mut client, mut server, _gate, task) = session(Some(BootTime::MAX), false).await;
        let fields = b"SWARNING\0C01000\0RSyncRepWaitForLSN\0\0";
        let notice = [b"N", &u32::try_from(fields.len() + 4).unwrap().to_be_bytes()[..], fields].concat();
        client.write_all(b"Q").await.unwrap();
        server.write_all(&[&notice[..], b"C\0\0\0\x0bCOMMIT\0", &READY].concat()).await.unwrap();
        is_reset(&mut client).await;
        task.await.unwrap();
    }

    /// The log is read by nobody else here, as when the rest of the agent was frozen.
    #[tokio::test]
    async fn a_commit_is_not_reported_once_the_log_says_that_its_wait_was_cancelled() {
        let cancelled = "<17> WARNING:  canceling wait for synchronous replication due to user request\n";
        let log = Arc::new(ServerLog::new().unwrap());
        // Of an earlier backend with the same id.
        log.say(cancelled);
        assert!(log.has_cancelled(17, &mut 0));
        let (mut client, mut server, _gate, task) = session_of(Some(BootTime::MAX), false, log.clone()).await;
        log.say(&cancelled.replace("17", "18"));
        server.write_all(&READY).await.unwrap();
        client.read_exact(&mut [0; READY.len()]).await.unwrap();
        log.say(cancelled);
        server.write_all(&[&b"C\0\0\0\x0bCOMMIT\0"[..], &READY].concat()).await.unwrap();
        is_reset(&mut client).await;
        task.await.unwrap();
    }
}
