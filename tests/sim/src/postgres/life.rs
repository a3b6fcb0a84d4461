//! Starting, stopping, crashing, promoting.

use super::{Backend, Leftover, Phase, Server, ServerEvent};
use crate::agent::AgentEvent;
use crate::disk::Conf;
use crate::time::{Time, ms, secs};
use crate::wal::What;
use crate::world::{Event, World};

impl World {
    pub fn start_postgres(&mut self, node: usize) {
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        if pg.mixed {
            self.violate("I12", format!("Postgres was started on half-rewound data of {}", self.nodes[node].name));
            return;
        }
        // Without standby.signal it comes up writable, on the same timeline (E11).
        let (recovery, clean, records, conf) = (pg.standby_signal, pg.clean, pg.log.len(), pg.conf.clone());
        let life = self.number();
        let mut server = Server::new(life, recovery, records);
        server.upstream = conf.upstream;
        server.loaded = conf.rule.clone();
        server.defined = conf.rule;
        self.nodes[node].server = Some(server);
        if let Some(pg) = self.nodes[node].disk.pg_mut() {
            pg.clean = false;
        }
        let delay = self.rng.tail(ms(60)..if clean { ms(250) } else { ms(1_200) });
        self.to_server(node, delay, ServerEvent::Up);
    }

    pub(super) fn server_up(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.phase != Phase::Starting {
            return;
        }
        server.phase = Phase::Up;
        // Whatever was on disk is visible now, acknowledged or not (E4).
        if server.recovery {
            self.to_server(node, 0, ServerEvent::Connect);
        } else {
            let name = self.nodes[node].name.clone();
            self.tell(|| format!("{name}: Postgres is up, and would accept writes"));
        }
        self.to_agent(node, 0, AgentEvent::News);
    }

    /// All processes of Postgres end at once.
    pub fn kill_postgres(&mut self, node: usize) {
        if self.nodes[node].server.take().is_none() {
            return;
        }
        let mut rng = self.rng.clone();
        self.rng.word();
        if let Some(pg) = self.nodes[node].disk.pg_mut() {
            pg.crash(&mut rng);
        }
        self.drop_streams_of(node);
        self.to_agent(node, ms(1), AgentEvent::PostgresEnded { crashed: true });
    }

    /// A fast shutdown begins: sessions end, then every walsender is waited for (E22).
    pub fn stop_postgres(&mut self, node: usize, budget: Time) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.phase == Phase::Stopping {
            return;
        }
        let writable = server.writes();
        server.phase = Phase::Stopping;
        server.unflushed.clear();
        server.waiters.clear();
        if writable {
            self.write(node, Backend::Probe, What::Noise);
        }
        let deadline = self.now + budget;
        let delay = self.rng.tail(ms(20)..ms(200));
        self.to_server(node, delay, ServerEvent::Shutdown { deadline });
    }

    pub(super) fn shut_down(&mut self, node: usize, deadline: Time) {
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let (records, done) = (pg.log.len(), pg.flushed == pg.log.len());
        let Some(server) = self.nodes[node].server.as_ref() else { return };
        let sent = server.senders.values().all(|sender| sender.flushed >= records);
        if !done || !sent {
            if self.now >= deadline {
                let name = self.nodes[node].name.clone();
                self.tell(|| format!("{name}: Postgres does not stop in time and is killed"));
                if flypg_core::mutant::off("R4") {
                    return self.kill_postmaster(node);
                }
                return self.kill_postgres(node);
            }
            return self.to_server(node, ms(20), ServerEvent::Shutdown { deadline });
        }
        self.nodes[node].server = None;
        if let Some(pg) = self.nodes[node].disk.pg_mut() {
            pg.clean = true;
            pg.checkpoint = pg.timeline;
        }
        self.drop_streams_of(node);
        self.to_agent(node, ms(1), AgentEvent::PostgresEnded { crashed: false });
    }

    /// The configuration on disk is read: by the postmaster now, by each process when it next looks (E25).
    pub fn reload(&mut self, node: usize) {
        let Some(Conf { upstream, rule }) = self.nodes[node].disk.pg().map(|pg| pg.conf.clone()) else { return };
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        let moved = server.upstream != upstream;
        server.upstream = upstream;
        server.loaded = rule;
        let standbys: Vec<_> = server.senders.iter().map(|(name, s)| (name.clone(), s.paused)).collect();
        if moved {
            let receiver = server.receiver;
            if let Some(receiver) = receiver {
                self.drop_stream(receiver);
            }
        }
        let delay = self.rng.tail(ms(1)..ms(40));
        self.to_server(node, delay, ServerEvent::Defined);
        for (standby, paused) in standbys {
            let delay = self.rng.tail(ms(1)..ms(60)) + paused.saturating_sub(self.now);
            self.to_server(node, delay, ServerEvent::Viewed { standby });
        }
        self.to_server(node, ms(2), ServerEvent::Connect);
    }

    /// The end of recovery, on a timeline of its own. The number it took.
    pub fn promote(&mut self, node: usize, stubs: &[u32]) -> Option<u32> {
        if !self.nodes[node].server.as_ref().is_some_and(|server| server.is_up() && server.recovery) {
            return None;
        }
        let receiver = self.nodes[node].server.as_ref().and_then(|server| server.receiver);
        if let Some(receiver) = receiver {
            self.drop_stream(receiver);
        }
        let pg = self.nodes[node].disk.pg_mut()?;
        for stub in stubs {
            pg.histories.entry(*stub).or_default();
        }
        pg.flushed = pg.log.len();
        pg.standby_signal = false;
        let timeline = pg.switch_timeline();
        let records = pg.log.len();
        let server = self.nodes[node].server.as_mut()?;
        server.recovery = false;
        server.replayed = records;
        server.visible = records;
        server.defined = server.loaded.clone();
        // Cascaded receivers have to ask again.
        let senders: Vec<u64> = server.senders.values().map(|sender| sender.connection).collect();
        for connection in senders {
            self.drop_stream(connection);
        }
        self.write(node, Backend::Probe, What::Noise);
        self.check_timeline(node, timeline);
        Some(timeline)
    }

    /// Only the first process of Postgres ends: its backends go on for a while (E14). PostgreSQL's own interlock keeps
    /// most postmasters from starting beside them; nothing here counts on that.
    pub fn kill_postmaster(&mut self, node: usize) {
        let Some(writes) = self.nodes[node].server.as_ref().map(|server| server.writes()) else { return };
        let place = self.nodes[node].disk.pg().map(|pg| (pg.log.len(), pg.timeline));
        self.kill_postgres(node);
        let Some((at, timeline)) = place.filter(|_| writes) else { return };
        let number = self.number();
        let until = self.now + self.rng.within(ms(500)..ms(6_000));
        self.nodes[node].leftover = Some(Leftover { number, at, timeline, until });
        self.after(ms(20), Event::Leftover { node, number });
    }

    /// A backend without a postmaster writes one more record where it thinks that the log ends.
    pub fn leftover_writes(&mut self, node: usize, number: u64) {
        let Some(leftover) = self.nodes[node].leftover.filter(|leftover| leftover.number == number) else { return };
        if self.now > leftover.until || self.nodes[node].disk.pg().is_none() {
            self.nodes[node].leftover = None;
            return self.to_agent(node, ms(1), AgentEvent::News);
        }
        let record = self.record(leftover.timeline, What::Noise);
        let alone = self.nodes[node].server.is_none();
        if let Some(pg) = self.nodes[node].disk.pg_mut() {
            let at = leftover.at.min(pg.log.len());
            pg.log.put(at, record);
            if alone {
                pg.flushed = pg.log.len();
            }
            self.nodes[node].leftover = Some(Leftover { at: at + 1, ..leftover });
        }
        let delay = self.rng.within(ms(20)..ms(400));
        self.after(delay, Event::Leftover { node, number });
    }

    /// All processes that a postmaster left behind end at once.
    pub fn end_leftover(&mut self, node: usize) {
        self.nodes[node].leftover = None;
    }

    /// A crash that leaves the disk as a pulled plug does.
    pub fn end_postgres_with_machine(&mut self, node: usize) {
        self.nodes[node].leftover = None;
        if self.nodes[node].server.take().is_some() {
            let mut rng = self.rng.clone();
            self.rng.word();
            if let Some(pg) = self.nodes[node].disk.pg_mut() {
                pg.crash(&mut rng);
            }
            self.drop_streams_of(node);
        }
    }

    pub const STOP_BUDGET: Time = secs(8);
}
