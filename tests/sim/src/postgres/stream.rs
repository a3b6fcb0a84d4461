//! Streaming replication: who may stream what from whom, one stretch of the log at a time, and what comes back.

use flypg_core::mutant;
use flypg_core::names::NodeName;

use super::{Sender, ServerEvent, Stretch};
use crate::agent::AgentEvent;
use crate::time::{Time, ms, secs};
use crate::wal::lsn;
use crate::world::{Event, World};

/// One replication connection, from a walsender to a receiver, through the agents of both.
#[derive(Debug)]
pub struct Replication {
    pub from: usize,
    pub from_life: u64,
    pub to: usize,
    pub to_life: u64,
    /// So much of the log has been sent.
    pub sent: usize,
    /// A stretch is on its way.
    pub busy: bool,
    /// Acknowledged so far; an answer is on its way.
    pub acked: usize,
    pub answering: bool,
    /// When something last got through.
    pub alive: Time,
}

#[derive(Debug, Clone)]
pub enum StreamEvent {
    Deliver(Stretch),
    Answer {
        flushed: usize,
    },
    /// Either end looks whether the other is still there.
    Alive,
}

/// `wal_sender_timeout` and `wal_receiver_timeout` (protocol §2.7).
const TIMEOUT: Time = secs(5);

impl World {
    /// The receiver of a standby asks its upstream for what comes after what it has.
    pub(super) fn connect(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        let Some(upstream) = server.upstream.clone().filter(|_| server.recovery && server.receiver.is_none()) else {
            return;
        };
        if !server.is_up() {
            return;
        }
        server.connecting = false;
        let to_life = server.life;
        let again = |world: &mut World| {
            let Some(server) = world.nodes[node].server.as_mut() else { return };
            if !server.connecting {
                server.connecting = true;
                let delay = ms(400) + world.rng.tail(0..ms(200));
                world.to_server(node, delay, ServerEvent::Connect);
            }
        };
        let Some(from) = self.index_of(&upstream) else { return again(self) };
        if self.net.is_cut(node, from) || self.net.is_cut(from, node) || !self.replication_passes(from, node) {
            return again(self);
        }
        let Some(from_life) = self.nodes[from].server.as_ref().filter(|s| s.is_up()).map(|s| s.life) else {
            return again(self);
        };
        if self.nodes[from].postgres_paused > self.now || self.nodes[node].agent_paused > self.now {
            return again(self);
        }
        if !self.nodes[from].disk.pg().is_some_and(|pg| pg.slots.contains_key(&self.nodes[node].name.slot())) {
            return again(self);
        }
        match self.may_stream(from, node) {
            Ok(()) => {
                if let Some(server) = self.nodes[node].server.as_mut() {
                    server.stranded = false;
                }
            }
            Err(why) => {
                let name = self.nodes[node].name.clone();
                let first = self.nodes[node].server.as_mut().is_some_and(|s| !std::mem::replace(&mut s.stranded, true));
                if first {
                    self.tell(|| format!("{name}: {upstream} does not stream to it: {why}"));
                    self.to_agent(node, 0, AgentEvent::News);
                }
                return again(self);
            }
        }
        let connection = self.number();
        let Some(start) = self.nodes[node].disk.pg().map(|pg| pg.flushed) else { return };
        if let Some(pg) = self.nodes[node].disk.pg_mut() {
            pg.log.truncate(start);
        }
        // The first thing that a receiver says is where it is.
        let slot = self.nodes[node].name.slot();
        let slots = self.nodes[from].disk.pg_mut().map(|pg| &mut pg.slots);
        if let Some(Some(kept)) = slots.and_then(|slots| slots.get_mut(&slot)) {
            *kept = start;
        }
        let stream = Replication {
            from,
            from_life,
            to: node,
            to_life,
            sent: start,
            busy: false,
            acked: start,
            answering: false,
            alive: self.now,
        };
        self.streams.insert(connection, stream);
        let name = self.nodes[node].name.clone();
        let server = self.nodes[node].server.as_mut().expect("it asks");
        server.receiver = Some(connection);
        server.streamed = Some(start);
        let source = self.nodes[from].server.as_mut().expect("it is up");
        let sender = Sender { connection, view: source.loaded.clone(), flushed: start, paused: 0 };
        source.met.insert(name.clone());
        let old = source.senders.insert(name.clone(), sender);
        if let Some(old) = old {
            self.drop_stream(old.connection);
        }
        self.tell(|| format!("{name}: streams from {upstream} at {}", lsn(start)));
        self.after(ms(1_000), Event::Stream { connection, event: StreamEvent::Alive });
        self.to_agent(node, 0, AgentEvent::News);
        self.to_agent(from, 0, AgentEvent::News);
        self.send(connection);
        self.release(from, &name);
    }

    /// What `START_REPLICATION` refuses. The content is not compared: two logs that went different ways under the same
    /// numbers go unnoticed (E13, E15).
    pub fn may_stream(&self, from: usize, to: usize) -> Result<(), String> {
        let (Some(source), Some(copy)) = (self.nodes[from].disk.pg(), self.nodes[to].disk.pg()) else {
            return Err("there are no data".to_owned());
        };
        if source.system_id != copy.system_id {
            return Err("another system".to_owned());
        }
        let start = copy.flushed;
        if start < source.kept {
            return Err("the WAL that it needs is removed".to_owned());
        }
        if source.timeline == copy.timeline {
            return if start <= source.flushed {
                Ok(())
            } else {
                Err(format!("{} is ahead of {}", lsn(start), lsn(source.flushed)))
            };
        }
        match source.left(copy.timeline) {
            None => Err(format!("timeline {} is not in its history", copy.timeline)),
            Some(left) if start > left => {
                Err(format!("it left timeline {} at {}, before {}", copy.timeline, lsn(left), lsn(start)))
            }
            Some(_) => Ok(()),
        }
    }

    pub fn send_all(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_ref() else { return };
        let connections: Vec<u64> = server.senders.values().map(|sender| sender.connection).collect();
        for connection in connections {
            self.send(connection);
        }
    }

    fn send(&mut self, connection: u64) {
        let Some(stream) = self.streams.get(&connection) else { return };
        let (from, to, sent) = (stream.from, stream.to, stream.sent);
        if stream.busy {
            return;
        }
        let Some(pg) = self.nodes[from].disk.pg() else { return };
        if pg.flushed <= sent {
            return;
        }
        let upto = pg.flushed.min(sent + 512);
        let records = pg.log.slice(sent, upto).to_vec();
        let name = self.nodes[to].name.clone();
        let sender = self.nodes[from].server.as_ref().and_then(|server| server.senders.get(&name));
        let late = sender.map_or(0, |sender| sender.paused.saturating_sub(self.now));
        let late = late.max(self.nodes[from].postgres_paused.saturating_sub(self.now));
        let delay = self.rng.tail(ms(1) / 8..self.net.slowest) + late;
        let stretch = Stretch { from: sent, records };
        if let Some(stream) = self.streams.get_mut(&connection) {
            stream.busy = true;
            stream.sent = upto;
        }
        self.after(delay, Event::Stream { connection, event: StreamEvent::Deliver(stretch) });
    }

    pub fn stream_event(&mut self, connection: u64, event: StreamEvent) {
        let Some(stream) = self.streams.get(&connection) else { return };
        let (from, to, alive) = (stream.from, stream.to, stream.alive);
        let backward = matches!(event, StreamEvent::Answer { .. });
        let (source, target) = if backward { (to, from) } else { (from, to) };
        // It passes both agents, and the process at its end must run.
        let stopped = [self.nodes[from].agent_paused, self.nodes[to].agent_paused, self.nodes[target].postgres_paused];
        let until = stopped.into_iter().max().unwrap_or(0);
        let passes = until <= self.now && !self.net.is_cut(source, target) && self.replication_passes(from, to);
        match event {
            StreamEvent::Alive => {
                let round =
                    passes && !self.net.is_cut(target, source) && self.nodes[source].postgres_paused <= self.now;
                if round && let Some(stream) = self.streams.get_mut(&connection) {
                    stream.alive = self.now;
                }
                let given_up = !self.replication_passes(from, to) || self.now.saturating_sub(alive) > TIMEOUT;
                if !round && given_up {
                    return self.drop_stream(connection);
                }
                self.after(ms(1_000), Event::Stream { connection, event: StreamEvent::Alive });
            }
            event if !passes => {
                let at = until.max(self.now + ms(200));
                self.at(at, Event::Stream { connection, event });
            }
            StreamEvent::Deliver(stretch) => self.deliver(connection, stretch),
            StreamEvent::Answer { flushed } => self.acknowledged(connection, flushed),
        }
    }

    fn deliver(&mut self, connection: u64, stretch: Stretch) {
        let Some(stream) = self.streams.get_mut(&connection) else { return };
        stream.busy = false;
        stream.alive = self.now;
        let (to, from) = (stream.to, stream.from);
        if let Some(pg) = self.nodes[to].disk.pg_mut() {
            if pg.log.len() != stretch.from {
                return;
            }
            for record in stretch.records {
                pg.log.push(record);
            }
            let (length, timeline) = (pg.log.len(), pg.timeline);
            if let Some(server) = self.nodes[to].server.as_mut() {
                server.streamed = Some(length);
            }
            self.follow_timeline(from, to, timeline);
        }
        self.heard_primary(to, from);
        if mutant::off("R14") {
            // What is written is acknowledged, on disk or not.
            self.answer_stream(to);
        }
        self.flush_soon(to);
        self.send(connection);
    }

    /// The history files of the upstream come with its records.
    fn follow_timeline(&mut self, from: usize, to: usize, timeline: u32) {
        let Some(source) = self.nodes[from].disk.pg() else { return };
        let length = self.nodes[to].disk.pg().map_or(0, |pg| pg.log.len());
        if source.timeline == timeline || source.left(timeline).is_none_or(|left| length <= left) {
            return;
        }
        let later = source.switches().iter().map(|switch| switch.timeline).chain([source.timeline]);
        let reached = later.filter(|t| *t > timeline).find(|t| source.left(*t).is_none_or(|left| length <= left));
        let Some(reached) = reached else { return };
        let histories = source.histories.clone();
        if let Some(pg) = self.nodes[to].disk.pg_mut() {
            for (number, switches) in histories {
                pg.histories.entry(number).or_insert(switches);
            }
            pg.timeline = reached;
        }
    }

    pub(super) fn standby_flushed(&mut self, node: usize) {
        let replaying = self.nodes[node].server.as_mut().map(|s| std::mem::replace(&mut s.replaying, true));
        if replaying == Some(false) {
            let delay = self.rng.tail(ms(1) / 2..ms(8));
            self.to_server(node, delay, ServerEvent::Replay);
        }
        self.answer_stream(node);
    }

    fn answer_stream(&mut self, node: usize) {
        let Some(pg) = self.nodes[node].disk.pg() else { return };
        let flushed = if mutant::off("R14") { pg.log.len() } else { pg.flushed };
        let Some(connection) = self.nodes[node].server.as_ref().and_then(|server| server.receiver) else { return };
        let Some(stream) = self.streams.get_mut(&connection) else { return };
        if stream.answering || stream.acked >= flushed {
            return;
        }
        stream.answering = true;
        let delay = self.rng.tail(ms(1) / 8..self.net.slowest);
        self.after(delay, Event::Stream { connection, event: StreamEvent::Answer { flushed } });
    }

    fn acknowledged(&mut self, connection: u64, flushed: usize) {
        let Some(stream) = self.streams.get_mut(&connection) else { return };
        stream.answering = false;
        stream.acked = flushed;
        stream.alive = self.now;
        let (from, to) = (stream.from, stream.to);
        let name: NodeName = self.nodes[to].name.clone();
        let Some(pg) = self.nodes[from].disk.pg_mut() else { return };
        if let Some(Some(kept)) = pg.slots.get_mut(&name.slot()) {
            *kept = flushed;
        }
        let paused = self.nodes[from].server.as_ref().and_then(|s| s.senders.get(&name)).map_or(0, |s| s.paused);
        if paused > self.now {
            // Its walsender does not run: it takes the answer later, with the view it has then.
            if let Some(stream) = self.streams.get_mut(&connection) {
                stream.answering = true;
            }
            return self.at(paused, Event::Stream { connection, event: StreamEvent::Answer { flushed } });
        }
        if let Some(sender) = self.nodes[from].server.as_mut().and_then(|s| s.senders.get_mut(&name)) {
            sender.flushed = flushed;
        }
        self.check_counts(from, to);
        self.release(from, &name);
        self.rule_progress(from);
        self.answer_stream(to);
    }

    pub(super) fn replay(&mut self, node: usize) {
        let Some(flushed) = self.nodes[node].disk.pg().map(|pg| pg.flushed) else { return };
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.replaying = false;
        server.replayed = flushed;
    }

    /// A connection ends. What was on its way is lost.
    pub fn drop_stream(&mut self, connection: u64) {
        let Some(stream) = self.streams.remove(&connection) else { return };
        let name = self.nodes[stream.to].name.clone();
        let now = self.now;
        if let Some(server) = self.nodes[stream.from].server.as_mut().filter(|s| s.life == stream.from_life)
            && server.senders.get(&name).is_some_and(|sender| sender.connection == connection)
        {
            server.senders.remove(&name);
            self.to_agent(stream.from, 0, AgentEvent::News);
        }
        let paused = self.nodes[stream.to].postgres_paused.max(now);
        if let Some(server) = self.nodes[stream.to].server.as_mut().filter(|s| s.life == stream.to_life) {
            server.receiver = None;
            if !server.connecting {
                server.connecting = true;
                let delay = paused - now + ms(5) + self.rng.tail(0..ms(500));
                self.to_server(stream.to, delay, ServerEvent::Connect);
            }
            self.to_agent(stream.to, 0, AgentEvent::News);
        }
    }

    pub fn drop_streams_of(&mut self, node: usize) {
        let all = self.streams.iter().filter(|(_, stream)| stream.from == node || stream.to == node);
        let connections: Vec<u64> = all.map(|(connection, _)| *connection).collect();
        for connection in connections {
            self.drop_stream(connection);
        }
    }
}
