//! What controllers do: take an epoch, recruit, decide by compare-and-set, promote, or forget.

use super::{Controller, ENTRIES, Entry, Mutant, NODES, Position, Report, Rule, Set, State, Wal, with};

impl Wal {
    pub(super) fn controller_acts(&self, s: &State, c: usize, step: &mut dyn FnMut(String, State)) {
        match s.controllers[c] {
            Controller::Idle => {
                if s.epoch < self.epochs {
                    let mut t = State { epoch: s.epoch + 1, ..*s };
                    t.controllers[c] = Controller::Recruiting { epoch: t.epoch, reports: [None; NODES] };
                    step(format!("controller {c} takes epoch {}", t.epoch), t);
                }
            }
            Controller::Recruiting { epoch, reports } => {
                for i in 0..NODES {
                    self.recruit(s, c, epoch, reports, i, step);
                }
                self.decide(s, c, epoch, reports, step);
                self.forget(s, c, step);
            }
            Controller::Promoting { epoch, candidate, rule } => {
                self.promote(s, c, epoch, candidate as usize, rule, step);
                self.forget(s, c, step);
            }
        }
    }

    fn forget(&self, s: &State, c: usize, step: &mut dyn FnMut(String, State)) {
        let mut t = *s;
        t.controllers[c] = Controller::Idle;
        step(format!("controller {c} forgets"), t);
    }

    /// A node promises and stops; then it says where it stands. The mutant says it first.
    fn recruit(
        &self,
        s: &State,
        c: usize,
        epoch: u8,
        mut reports: [Option<Report>; NODES],
        i: usize,
        step: &mut dyn FnMut(String, State),
    ) {
        let node = &s.nodes[i];
        if !node.up || node.promised >= epoch {
            return;
        }
        let early = self.mutant == Mutant::ReportBeforeStop;
        let mut t = *s;
        let name = match reports[i] {
            None if early => {
                reports[i] = Some(Report { position: node.position(), stopped: false });
                format!("n{i} reports to controller {c}, and will stop")
            }
            None => {
                reports[i] = Some(Report { position: node.position(), stopped: true });
                format!("n{i} promises epoch {epoch}, stops and reports to controller {c}")
            }
            Some(report) => {
                reports[i] = Some(Report { stopped: true, ..report });
                format!("n{i} promises epoch {epoch} and stops")
            }
        };
        if reports[i].is_some_and(|report| report.stopped) {
            t.nodes[i].promised = epoch;
            t.nodes[i].lay_down();
        }
        t.controllers[c] = Controller::Recruiting { epoch, reports };
        step(name, t);
    }

    fn decide(
        &self,
        s: &State,
        c: usize,
        epoch: u8,
        reports: [Option<Report>; NODES],
        step: &mut dyn FnMut(String, State),
    ) {
        let recruits: Vec<(usize, Position)> =
            (0..NODES).filter_map(|i| Some((i, reports[i].filter(|report| report.stopped)?.position))).collect();
        let set = recruits.iter().fold(0, |set: Set, (i, _)| set | with(*i));
        let current = s.epoch == epoch || self.mutant == Mutant::NoCompareAndSet;
        if recruits.is_empty() || !current || !self.permitted(s, set, &recruits) {
            return;
        }
        let rank = |position: Position| match self.mutant {
            Mutant::NoLineage => Position { epoch: 0, ..position },
            _ => position,
        };
        let best = recruits.iter().max_by_key(|(_, position)| rank(*position)).expect("there is one");
        let (candidate, position) = *best;
        for members in (1..1 << NODES).filter(|members| members & with(candidate) == 0) {
            let rule = Rule { acks: 1, members };
            let mut t = State { primary: candidate as u8, established: false, ..*s };
            t.controllers[c] = Controller::Promoting { epoch, candidate: candidate as u8, rule };
            if self.mutant == Mutant::SwitchAtDecide {
                t = State { rule, joint: None, established: true, ..t };
            } else {
                t.joint = Some(rule);
                t.seal = Some(position);
            }
            step(format!("controller {c} decides for n{candidate} in epoch {epoch}, recruits {set:03b}"), t);
        }
    }

    fn permitted(&self, s: &State, set: Set, recruits: &[(usize, Position)]) -> bool {
        let primary = s.primary as usize;
        match self.mutant {
            Mutant::AnyMember => set & (s.rule.members | with(primary)) != 0,
            Mutant::SwitchAtDecide => s.rule.is_revoked_by(set, primary),
            _ => {
                let old = match s.established {
                    true => s.rule.is_revoked_by(set, primary),
                    false => s.seal.is_some_and(|seal| recruits.iter().any(|(_, position)| *position >= seal)),
                };
                old && s.joint.is_none_or(|joint| joint.is_revoked_by(set, primary))
            }
        }
    }

    fn promote(&self, s: &State, c: usize, epoch: u8, i: usize, rule: Rule, step: &mut dyn FnMut(String, State)) {
        let node = &s.nodes[i];
        if !node.up || node.leads.is_some() || node.promised != epoch || node.length as usize >= ENTRIES {
            return;
        }
        let mut t = *s;
        t.controllers[c] = Controller::Idle;
        t.highest_promoted = s.highest_promoted.max(epoch);
        let node = &mut t.nodes[i];
        node.lay_down();
        node.leads = Some(epoch);
        (node.rule, node.file) = (rule, rule);
        node.ack = None;
        node.push(Entry::new(epoch, 0));
        node.durable = node.length;
        step(format!("n{i} is promoted in epoch {epoch}"), t);
    }
}
