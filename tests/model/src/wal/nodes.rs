//! What primaries and standbys do.

use super::{Ack, ENTRIES, Entry, Mutant, NODES, Rule, State, Wal, size, with};

impl Wal {
    pub(super) fn primary_acts(&self, s: &State, i: usize, epoch: u8, step: &mut dyn FnMut(String, State)) {
        let node = &s.nodes[i];
        let written = node.entries().iter().filter(|entry| entry.epoch() == epoch).count() as u8;
        if (node.length as usize) < ENTRIES && (1..=self.writes).contains(&written) {
            let mut t = *s;
            t.nodes[i].push(Entry::new(epoch, written));
            t.nodes[i].durable = t.nodes[i].length;
            step(format!("a client writes on n{i}"), t);
        }
        if node.visible < node.length {
            self.primary_releases(s, i, step);
        }
        if node.rule != node.file && node.old_walsender.is_none() {
            let mut t = *s;
            t.nodes[i].old_walsender = Some(node.rule);
            t.nodes[i].rule = node.file;
            step(format!("a fresh session of n{i} shows the new rule"), t);
        }
        if node.old_walsender.is_some() {
            let mut t = *s;
            t.nodes[i].old_walsender = None;
            step(format!("the last old walsender of n{i} is gone"), t);
        }
        if s.primary == i as u8 && epoch == s.epoch {
            self.record_follows(s, i, epoch, step);
        }
    }

    /// The oldest commit that waits is let go if enough standbys have it.
    fn primary_releases(&self, s: &State, i: usize, step: &mut dyn FnMut(String, State)) {
        let node = &s.nodes[i];
        let met = |rule: Rule| {
            let have = (0..NODES).filter(|&x| x != i && rule.members & with(x) != 0 && node.flushed[x] > node.visible);
            have.count() as u8 >= rule.acks
        };
        if met(node.rule) || node.old_walsender.is_some_and(met) {
            let mut t = *s;
            t.nodes[i].visible += 1;
            t.acknowledge(node.wal[node.visible as usize]);
            step(format!("n{i} acknowledges its entry {}", node.visible), t);
        }
    }

    /// What the record learns from the primary that it names.
    fn record_follows(&self, s: &State, i: usize, epoch: u8, step: &mut dyn FnMut(String, State)) {
        let node = &s.nodes[i];
        if !s.established {
            let marker = Entry::new(epoch, 0);
            if node.wal[..node.visible as usize].contains(&marker) {
                let mut t = *s;
                t.established = true;
                t.seal = None;
                if let Some(rule) = t.joint.take() {
                    t.rule = rule;
                }
                step(format!("n{i} is established in epoch {epoch}"), t);
            }
            return;
        }
        let steady = s.joint.is_none() && node.rule == node.file && node.rule == s.rule;
        if s.rule_changes < self.rule_changes && steady {
            self.rule_changes(s, i, step);
        }
        if self.mutant == Mutant::ConfigureThenRecord && node.rule == node.file && node.rule != s.rule {
            step("the rule in effect is recorded".to_owned(), State { rule: node.rule, ..*s });
        }
        if self.mutant == Mutant::RecordThenConfigure && node.file != s.rule {
            let mut t = *s;
            t.nodes[i].file = s.rule;
            step(format!("n{i} is configured"), t);
        }
        let Some(joint) = s.joint else { return };
        if node.file != joint {
            let mut t = *s;
            t.nodes[i].file = joint;
            step(format!("n{i} is configured"), t);
        }
        let in_effect = node.rule == joint && (self.mutant == Mutant::FreshSession || node.old_walsender.is_none());
        let have = (0..NODES).filter(|&x| joint.members & with(x) != 0 && node.flushed[x] >= node.length).count() as u8;
        if in_effect && (self.mutant == Mutant::UncoveredChange || have >= joint.acks) {
            step("the new rule is final".to_owned(), State { rule: joint, joint: None, ..*s });
        }
    }

    fn rule_changes(&self, s: &State, i: usize, step: &mut dyn FnMut(String, State)) {
        for members in (0..1 << NODES).filter(|members| members & with(i) == 0) {
            for acks in 0..=size(members) {
                let rule = Rule { acks, members };
                if (acks == 0) != (members == 0) || rule == s.rule {
                    continue;
                }
                let mut t = State { rule_changes: s.rule_changes + 1, ..*s };
                match self.mutant {
                    Mutant::RecordThenConfigure => t.rule = rule,
                    Mutant::ConfigureThenRecord => t.nodes[i].file = rule,
                    _ => t.joint = Some(rule),
                }
                step(format!("the rule is to be {acks} of {members:03b}"), t);
            }
        }
    }

    pub(super) fn node_acts(&self, s: &State, i: usize, step: &mut dyn FnMut(String, State)) {
        let node = &s.nodes[i];
        if let Some(from) = node.follows {
            self.standby_receives(s, i, from as usize, step);
        }
        if let Some(ack) = node.ack {
            let mut t = *s;
            t.nodes[i].ack = None;
            let primary = &mut t.nodes[ack.to as usize];
            if primary.up && primary.leads == Some(ack.epoch) && primary.flushed[i] < ack.length {
                primary.flushed[i] = ack.length;
                step(format!("n{} hears that n{i} has {}", ack.to, ack.length), t);
            } else {
                step(format!("an acknowledgement of n{i} is lost"), t);
            }
        }
        if node.leads.is_none() {
            (0..NODES).filter(|&from| from != i).for_each(|from| self.standby_follows(s, i, from, step));
        }
        if s.crashes < self.crashes {
            self.node_crashes(s, i, step);
        }
    }

    fn standby_receives(&self, s: &State, i: usize, from: usize, step: &mut dyn FnMut(String, State)) {
        let (node, primary) = (&s.nodes[i], &s.nodes[from]);
        let lazy = self.mutant == Mutant::AckOnWrite;
        let prefix = node.entries().iter().zip(primary.entries()).all(|(mine, theirs)| mine == theirs);
        if let Some(epoch) = primary.leads.filter(|_| primary.up && node.length < primary.length && prefix) {
            let mut t = *s;
            let entry = primary.wal[node.length as usize];
            let standby = &mut t.nodes[i];
            standby.push(entry);
            if !lazy {
                standby.durable = standby.length;
            }
            standby.ack = Some(Ack { to: from as u8, epoch, length: standby.length });
            step(format!("n{i} receives from n{from}"), t);
        }
        if lazy && node.durable < node.length {
            let mut t = *s;
            t.nodes[i].durable = node.length;
            step(format!("n{i} flushes"), t);
        }
    }

    /// A promise forbids what is older; what went another way is rewound.
    fn standby_follows(&self, s: &State, i: usize, from: usize, step: &mut dyn FnMut(String, State)) {
        let (node, primary) = (&s.nodes[i], &s.nodes[from]);
        let Some(epoch) = primary.leads.filter(|epoch| primary.up && *epoch >= node.promised) else { return };
        if node.follows == Some(from as u8) {
            return;
        }
        let common = node.entries().iter().zip(primary.entries()).take_while(|(mine, theirs)| mine == theirs).count();
        let mut t = *s;
        let standby = &mut t.nodes[i];
        standby.promised = epoch;
        standby.follows = Some(from as u8);
        standby.truncate(common as u8);
        standby.ack = Some(Ack { to: from as u8, epoch, length: common as u8 });
        step(format!("n{i} follows n{from} in epoch {epoch}"), t);
    }

    fn node_crashes(&self, s: &State, i: usize, step: &mut dyn FnMut(String, State)) {
        let mut t = State { crashes: s.crashes + 1, ..*s };
        let node = &mut t.nodes[i];
        node.up = false;
        node.ack = None;
        node.flushed = [0; NODES];
        node.old_walsender = None;
        node.truncate(node.durable);
        match self.mutant {
            Mutant::VolatilePromise => node.promised = 0, // and what it followed is configuration, which stays
            _ => node.follows = None,
        }
        if self.mutant != Mutant::OpenAfterCrash {
            node.leads = None;
            node.visible = 0;
        }
        step(format!("n{i} crashes"), t);
    }

    pub(super) fn node_starts(&self, s: &State, i: usize, step: &mut dyn FnMut(String, State)) {
        let mut t = *s;
        let node = &mut t.nodes[i];
        node.up = true;
        if self.mutant == Mutant::OpenAfterCrash && node.leads.is_some() {
            node.visible = node.length;
            t.shown |= s.nodes[i].holds();
        }
        step(format!("n{i} starts"), t);
    }
}
