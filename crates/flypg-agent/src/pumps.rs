//! The threads that pass bytes.
//!
//! Each asks the kernel by itself and shares nothing with the others: what arrives is passed on by the thread that was
//! woken for it, which wakes no other one first. What the rest of the agent waits for, such as a disk, keeps none of
//! them.

use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use tokio::runtime::{Builder, Handle};

use crate::passage::Passage;
use crate::pump::{Stream, join};

/// Each passes some 50,000 messages and their answers a second. More of them would take the processors from Postgres.
const MOST: usize = 4;

/// They go on for as long as the process does.
#[derive(Debug)]
pub struct Pumps(Vec<Pump>);

#[derive(Debug)]
struct Pump {
    runtime: Handle,
    connections: AtomicUsize,
}

impl Pumps {
    /// One for each processor, up to a few.
    ///
    /// # Errors
    /// A thread, or what it asks the kernel with, could not be had.
    pub fn start() -> io::Result<Self> {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        (0..processors.min(MOST)).map(Pump::start).collect::<io::Result<_>>().map(Self)
    }

    /// Joins the two on the thread that has the fewest connections, until they end.
    ///
    /// # Errors
    /// They could not be moved there. Nothing was passed.
    pub async fn join(&self, client: Stream, postgres: Stream, first: Vec<u8>, passage: Passage) -> io::Result<()> {
        let (client, postgres) = (client.detach()?, postgres.detach()?);
        let pump = self.0.iter().min_by_key(|pump| pump.connections.load(Relaxed)).expect("there is a processor");
        pump.connections.fetch_add(1, Relaxed);
        let passed = pump.runtime.spawn(async move {
            let (mut client, mut postgres) = (client.attach()?, postgres.attach()?);
            join(&mut client, &mut postgres, &first, &passage).await;
            Ok(())
        });
        let passed = passed.await;
        pump.connections.fetch_sub(1, Relaxed);
        passed.map_err(io::Error::other)?
    }
}

impl Pump {
    fn start(n: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name(format!("pump-{n}"))
            .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        Ok(Self { runtime: handle, connections: AtomicUsize::new(0) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::pump::tests::pair;

    /// Two connections a thread, all open at once: none waits for another one, and each thread is used.
    #[tokio::test]
    async fn connections_are_spread_over_the_threads_and_end_by_themselves() {
        let pumps = Arc::new(Pumps::start().unwrap());
        let mut open = Vec::new();
        for n in 0..2 * pumps.0.len() {
            let (mut client, near) = pair().await;
            let (far, mut server) = pair().await;
            let pumps = pumps.clone();
            let joined = tokio::spawn(async move {
                pumps.join(Stream::Tcp(near), Stream::Tcp(far), b"hello ".to_vec(), Passage::open()).await
            });
            let byte = u8::try_from(n).unwrap();
            client.write_all(&[byte]).await.unwrap();
            assert_eq!(server.read_u8().await.unwrap(), byte);
            open.push((client, server, joined));
        }
        let counts = || pumps.0.iter().map(|pump| pump.connections.load(Relaxed)).collect::<Vec<_>>();
        assert_eq!(counts(), vec![2; pumps.0.len()]);
        for (mut client, mut server, joined) in open {
            server.write_all(b"bye").await.unwrap();
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer, "hello bye");
            joined.await.unwrap().unwrap();
        }
        assert_eq!(counts(), vec![0; pumps.0.len()]);
    }
}
