//! Passing bytes between a client and Postgres.
//!
//! Each chunk passes [`Passage::may_pass`] after it was read and before it is written: that is the place where a gate
//! decides, once the answer exists, whether it may still be given (rule R3).

use std::cell::RefCell;
use std::io;
use std::net::Shutdown;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_util::sync::CancellationToken;

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

/// Under which conditions bytes pass.
#[derive(Debug, Clone)]
pub struct Passage {
    cut: CancellationToken,
}

impl Passage {
    /// Open until `cut` is cancelled; then both ends are reset.
    pub fn until(cut: CancellationToken) -> Self {
        Self { cut }
    }

    /// Open as long as both ends are.
    pub fn open() -> Self {
        Self::until(CancellationToken::new())
    }

    pub fn may_pass(&self) -> bool {
        !self.cut.is_cancelled()
    }
}

impl Stream {
    async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(stream) => stream.readable().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.writable().await,
            Stream::Unix(stream) => stream.writable().await,
        }
    }

    fn try_read(&self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_read(into),
            Stream::Unix(stream) => stream.try_read(into),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Writes all of it, waiting as long as it takes.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.writable().await?;
            match self.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until the other side ends, and forgets what it said.
    pub async fn drain(&self) -> io::Result<()> {
        let mut scrap = [0; 512];
        loop {
            self.readable().await?;
            match self.try_read(&mut scrap) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn end_writing(&self) {
        // The other side may be gone already; its end is noticed by reading.
        let _ = match self {
            Stream::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Stream::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        };
    }

    /// Closing it discards what is unsent and tells the other side that this is no orderly end.
    fn will_reset(&self) {
        if let Stream::Tcp(stream) = self {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

/// Passes bytes both ways until Postgres ends, either side breaks, or the passage is cut.
///
/// A client that only ends writing still gets its answers. Postgres ending ends both: nothing can follow.
pub async fn join(client: &Stream, postgres: &Stream, passage: &Passage) {
    let both = async {
        let up = copy(client, postgres, passage);
        let down = copy(postgres, client, passage);
        tokio::pin!(up, down);
        tokio::select! {
            _ = &mut down => {}
            ended = &mut up => if ended.is_ok() {
                postgres.end_writing();
                let _ = down.await;
            }
        }
    };
    tokio::select! {
        () = both => {}
        () = passage.cut.cancelled() => {}
    }
    if !passage.may_pass() {
        client.will_reset();
        postgres.will_reset();
    }
}

enum Moved {
    All,
    Nothing,
    /// The receiver is slower: this is left.
    Part(Vec<u8>),
    End,
}

async fn copy(from: &Stream, to: &Stream, passage: &Passage) -> io::Result<()> {
    loop {
        from.readable().await?;
        match BUFFER.with_borrow_mut(|buffer| step(from, to, passage, buffer))? {
            Moved::All | Moved::Nothing => {}
            Moved::Part(rest) => to.write_all(&rest).await?,
            Moved::End => return Ok(()),
        }
        // A stream that is always ready must not starve the others of this thread.
        tokio::task::consume_budget().await;
    }
}

fn step(from: &Stream, to: &Stream, passage: &Passage, buffer: &mut [u8]) -> io::Result<Moved> {
    let read = match from.try_read(buffer) {
        Ok(0) => return Ok(Moved::End),
        Ok(read) => &buffer[..read],
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Moved::Nothing),
        Err(error) => return Err(error),
    };
    if !passage.may_pass() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    match to.try_write(read) {
        Ok(written) if written == read.len() => Ok(Moved::All),
        Ok(written) => Ok(Moved::Part(read[written..].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Moved::Part(read.to_vec())),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
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
        let task = tokio::spawn(async move { join(&Stream::Tcp(near), &Stream::Tcp(far), &passage).await });
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
}
