//! What a controller knows of one cluster from one turn to the next: who is heard and what they last said, what it
//! granted, what was proven, what a person ordered. It outlives no process.
//!
//! Three write to it and none waits for another: the ears ([`crate::listen`]), the turns of leadership
//! ([`crate::lead`]) and the turns of everything else ([`crate::keeper`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::decree::{Decree, Epoch, Stage};
use flypg_core::failover::lease::Mono;
use flypg_core::names::{ClusterName, NodeName};
use flypg_core::observed::{Heard, Missed, Observed, Order, Power, Seen, Stopped, Unknown, Watch};
use flypg_core::protocol::NodeReport;
use tokio::sync::Notify;

use crate::store::{Reading, Term};

/// Questions without an answer after which a report does not say how things are now. What was said stays known to who
/// decides about leadership.
const STALE: u32 = 2;
/// An order that nothing came of is not carried out later, when nobody expects it any more.
pub const ORDER_STANDS: Duration = Duration::from_secs(60);

/// What is known of one cluster.
#[derive(Debug, Default)]
pub struct Vigil {
    notes: Mutex<Notes>,
    /// There is something that bears on leadership.
    lead: Notify,
    /// There is something new at all.
    news: Notify,
    /// Held while the record is changed, and while somebody makes sure that it is not.
    deciding: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Notes {
    watch: Watch,
    /// By Machine id: what its agent last said.
    said: BTreeMap<String, (Timestamp, NodeReport)>,
    /// By Machine id: when this controller first heard the boot that its agent last spoke in.
    boots: BTreeMap<String, Timestamp>,
    /// By Machine id: why the last question to its agent got no answer.
    silence: BTreeMap<String, Unknown>,
    /// The last that was known of each thing on the platform.
    platform: Observed,
    /// Machines that are being stopped or destroyed because the file says so.
    going: BTreeSet<String>,
    /// Goes up whenever one is added to those.
    goings: u64,
    /// Machines about which a proof is under way.
    proving: BTreeSet<String>,
    order: Option<Ordered>,
    /// The primary on record, whose every report is answered.
    primary: Option<NodeName>,
}

#[derive(Debug)]
struct Ordered {
    order: Order,
    since: Mono,
    /// Reign and revision of the record when it was given.
    from: Option<(Epoch, u64)>,
}

/// What was known at one instant, to plan leadership by.
#[derive(Debug)]
pub struct Scene {
    pub observed: Observed,
    /// What [`Vigil::decide`] wants back.
    pub goings: u64,
}

/// Every cluster's, by name. What was granted must not be forgotten while this process may decide: a task that breaks,
/// or a cluster that leaves the files and comes back, finds what it left.
#[derive(Debug, Default)]
pub struct Vigils {
    proof: bool,
    all: Mutex<BTreeMap<ClusterName, Arc<Vigil>>>,
}

impl Vigils {
    /// `proof`: whether the platform's word that a Machine has stopped is believed (fence F3).
    pub fn new(proof: bool) -> Self {
        Self { proof, all: Mutex::default() }
    }

    pub fn of(&self, cluster: &ClusterName) -> Arc<Vigil> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(cluster.clone()).or_insert_with(|| Arc::new(Vigil::new(self.proof))))
    }
}

impl Vigil {
    /// `proof`: whether the platform's word that a Machine has stopped is believed (fence F3).
    pub fn new(proof: bool) -> Self {
        let vigil = Self::default();
        vigil.notes().watch.proof_by_platform = proof;
        vigil
    }

    /// A report arrived, or what a node says once it was told something. Of two that arrive out of order the older one
    /// counts for nothing.
    pub fn hear(&self, machine: &str, report: NodeReport, at: Timestamp, heard: Heard) {
        let mut notes = self.notes();
        let before = notes.said.get(machine).map(|(_, report)| report);
        if before.is_some_and(|before| before.boot == report.boot && report.sent < before.sent) {
            return;
        }
        let is_news = notes.silence.contains_key(machine)
            || before.is_none_or(|before| (&before.boot, before.version) != (&report.boot, report.version));
        let is_primary = notes.primary.as_ref() == Some(&report.node);
        if before.is_none_or(|before| before.boot != report.boot) {
            notes.boots.insert(machine.to_owned(), at);
        }
        notes.watch.hear(machine, &report, heard);
        notes.silence.remove(machine);
        notes.said.insert(machine.to_owned(), (at, report));
        drop(notes);
        if is_news || is_primary {
            self.lead.notify_one();
        }
        if is_news {
            self.news.notify_one();
        }
    }

    /// A question was not answered.
    pub fn miss(&self, machine: &str, how: Missed, why: Unknown) {
        let mut notes = self.notes();
        let before = notes.watch.pulses.get(machine).map_or(0, |pulse| pulse.missed);
        notes.watch.miss(machine, how);
        notes.silence.insert(machine.to_owned(), why);
        drop(notes);
        self.lead.notify_one();
        if before < STALE {
            self.news.notify_one();
        }
    }

    /// The platform was looked at, by a look that began after everything that was asked of it had ended.
    pub fn looked(&self, observed: &Observed) {
        let mut notes = self.notes();
        let Observed { app, secrets, addresses, machines, volumes, .. } = observed;
        take(&mut notes.platform.app, app);
        take(&mut notes.platform.secrets, secrets);
        take(&mut notes.platform.addresses, addresses);
        take(&mut notes.platform.volumes, volumes);
        take(&mut notes.platform.machines, machines);
        let Some(machines) = machines.known() else { return };
        let here: BTreeSet<String> = machines.iter().map(|machine| machine.id.clone()).collect();
        notes.going.clear();
        notes.watch.retain(&here);
        notes.said.retain(|machine, _| here.contains(machine));
        notes.boots.retain(|machine, _| here.contains(machine));
        notes.silence.retain(|machine, _| here.contains(machine));
        drop(notes);
        self.lead.notify_one();
    }

    /// The last that was known of the platform, however old.
    pub fn platform(&self) -> Observed {
        self.notes().platform.clone()
    }

    /// The same, and what the agents say now.
    pub fn last_seen(&self) -> Observed {
        Observed { reports: self.reports(), ..self.platform() }
    }

    /// What the agents say now, of those that are listened to: nothing, where they do not answer.
    pub fn reports(&self) -> BTreeMap<String, Seen<NodeReport>> {
        let notes = self.notes();
        let machines: BTreeSet<&String> = notes.said.keys().chain(notes.silence.keys()).collect();
        let report = |machine: &String| {
            let missed = notes.watch.pulses.get(machine).map_or(0, |pulse| pulse.missed);
            match (notes.said.get(machine), notes.silence.get(machine)) {
                (Some((at, report)), silence) if missed < STALE || silence.is_none() => Seen::at(*at, report.clone()),
                (_, Some(why)) => Seen::Unknown { why: why.clone() },
                (_, None) => Seen::default(),
            }
        };
        machines.into_iter().map(|machine| (machine.clone(), report(machine))).collect()
    }

    /// Takes note of a read of the record, and says what this controller knows. `read`: when that read began.
    pub fn watch(&self, reading: &Reading, term: Option<&Term>, read: Mono, now: Mono) -> Watch {
        let mut notes = self.notes();
        let notes = &mut *notes;
        let record = reading.record.as_ref();
        notes.watch.see(record, notes.said.values().map(|(_, report)| report), now);
        notes.watch.leads_since = term.filter(|_| reading.leads).map(|term| term.since);
        notes.watch.record_read = read;
        notes.primary = record.map(|decree| decree.primary.clone());
        if notes.order.as_ref().is_some_and(|ordered| ordered.is_over(record, now)) {
            notes.order = None;
        }
        notes.watch.order = notes.order.as_ref().map(|ordered| ordered.order.clone());
        notes.watch.clone()
    }

    /// The record could not be read: whoever it says may lead, this controller does not know that it does itself.
    pub fn watch_blindly(&self, now: Mono) -> Watch {
        let notes = self.notes();
        Watch { now, leads_since: None, ..notes.watch.clone() }
    }

    /// Everything that leadership is decided by, with `watch` and the record that belongs to it: the platform as it was
    /// last known, the agents as they were last heard.
    pub fn scene(&self, record: Seen<Option<Decree>>, watch: Watch) -> Scene {
        let notes = self.notes();
        // Who was heard when, and what was said, are of one instant: a lease is counted from when the report arrived that
        // it answers, and one that has arrived since the record was read is not answered yet (rule R2).
        let Watch { pulses, stopped, granted, .. } = notes.watch.clone();
        let watch = Watch { pulses, stopped, granted, ..watch };
        let mut observed = Observed { record, ..notes.platform.clone() };
        observed.reports =
            notes.said.iter().map(|(machine, (at, report))| (machine.clone(), Seen::at(*at, report.clone()))).collect();
        for (machine, why) in &notes.silence {
            observed.reports.entry(machine.clone()).or_insert_with(|| Seen::Unknown { why: why.clone() });
        }
        for machine in observed.machines.known_mut().into_iter().flatten() {
            let answers = watch.pulses.get(&machine.id).is_some_and(|pulse| pulse.heard.is_some() && pulse.missed == 0);
            if notes.going.contains(&machine.id) {
                machine.power = Power::Changing;
                observed.reports.remove(&machine.id);
            } else if answers {
                // A list is older than an answer of who runs in it.
                machine.power = Power::Started;
            }
        }
        observed.watch = watch;
        Scene { observed, goings: notes.goings }
    }

    /// A lease is about to be given. What may be out there is never more than what is known here.
    pub fn grant(&self, epoch: Epoch, arrived: Mono) {
        self.notes().watch.grant(epoch, arrived);
    }

    /// Waits until something bears on leadership.
    pub async fn called_to_lead(&self) {
        self.lead.notified().await;
    }

    /// Waits until a node has said something new, or stopped or begun to answer.
    pub async fn heard(&self) {
        self.news.notified().await;
    }

    /// A turn of everything is due: leadership has changed what it goes by.
    pub fn tell(&self) {
        self.news.notify_one();
    }

    /// A person ordered this, while the record was `record`. Takes the place of any order before it.
    pub fn order(&self, order: Order, record: Option<&Decree>, now: Mono) {
        let from = record.map(|decree| (decree.reign, decree.revision));
        self.notes().order = Some(Ordered { order, since: now, from });
        self.lead.notify_one();
    }

    /// Carries out `swap`, which changes the record by a plan that was made on a scene with these `goings`; `None` if a
    /// Machine that this plan may count on has begun to go since.
    pub async fn decide<T>(&self, goings: u64, swap: impl Future<Output = T>) -> Option<T> {
        let _only = self.deciding.lock().await;
        if self.notes().goings != goings {
            return None;
        }
        Some(swap.await)
    }

    /// These Machines are about to be stopped or destroyed, unless `unchanged` finds that the record is not what that was
    /// planned for. From then on leadership does not count on them.
    pub async fn go(&self, machines: &[&str], unchanged: impl Future<Output = bool>) -> bool {
        let _only = self.deciding.lock().await;
        {
            let mut notes = self.notes();
            notes.going.extend(machines.iter().map(|machine| (*machine).to_owned()));
            notes.goings += 1;
        }
        let goes = unchanged.await;
        if !goes {
            let mut notes = self.notes();
            notes.going.retain(|machine| !machines.contains(&machine.as_str()));
            notes.goings += 1;
        }
        goes
    }

    /// A proof about this Machine is under way: it is not to be started meanwhile.
    pub fn prove(&self, machine: &str) -> Proof<'_> {
        self.notes().proving.insert(machine.to_owned());
        Proof { vigil: self, machine: machine.to_owned() }
    }

    pub fn is_proving(&self, machine: &str) -> bool {
        self.notes().proving.contains(machine)
    }

    /// When this controller first heard the boot that this Machine's agent last spoke in.
    pub fn first_heard(&self, machine: &str) -> Option<Timestamp> {
        self.notes().boots.get(machine).copied()
    }

    fn was_heard_since(&self, machine: &str, since: Mono) -> bool {
        self.notes().watch.pulses.get(machine).and_then(|pulse| pulse.heard).is_some_and(|heard| heard >= since)
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proof under way; dropping it ends it without a result.
#[derive(Debug)]
pub struct Proof<'a> {
    vigil: &'a Vigil,
    machine: String,
}

impl Proof<'_> {
    /// It succeeded: whatever had begun to run there by `at` has ended. Not if its agent was heard since.
    pub fn succeeded(self, at: Mono) {
        if !self.vigil.was_heard_since(&self.machine, at) {
            self.vigil.notes().watch.stopped.insert(self.machine.clone(), Stopped { at });
        }
        self.vigil.lead.notify_one();
    }
}

impl Drop for Proof<'_> {
    fn drop(&mut self) {
        self.vigil.notes().proving.remove(&self.machine);
    }
}

impl Ordered {
    /// The record shows that it was taken up, or it has stood for too long.
    fn is_over(&self, record: Option<&Decree>, now: Mono) -> bool {
        let taken_up = match (record, self.from) {
            (Some(decree), Some((reign, revision))) if decree.revision > revision => {
                let handing = matches!(decree.stage, Stage::HandingOver { .. });
                match &self.order {
                    Order::Switchover { .. } => handing || decree.reign > reign,
                    Order::Failover { .. } => decree.reign > reign,
                }
            }
            (None, Some(_)) => true,
            _ => false,
        };
        taken_up || now.since(self.since) >= ORDER_STANDS
    }
}

fn take<T: Clone>(old: &mut Seen<T>, new: &Seen<T>) {
    if new.known().is_some() || old.known().is_none() {
        old.clone_from(new);
    }
}

#[cfg(test)]
mod tests;
