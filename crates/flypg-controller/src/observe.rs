//! Looking: the platform, the agents and the record, as one [`Observed`].
//!
//! One look is at most four calls of the Machines API, however many nodes there are, and one call per running agent.
//! More are made only where something known to exist is missing from a list: lists lag behind, and have been empty
//! when nothing was gone, so absence counts only once the thing itself was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flypg_core::Timestamp;
use flypg_core::decree::Decree;
use flypg_core::keys::Key;
use flypg_core::names::ClusterName;
use flypg_core::observed::{Address, App, Machine, Observed, Power, Seen, Unknown, Volume, Watch};
use flypg_core::plan::Subject;
use flypg_core::protocol::NodeReport;
use flypg_core::spec::ClusterSpec;
use flypg_machines::{Cause, Client, Error, Page, Request, apps, ips, machines, secrets, volumes};
use futures::future::join_all;
use jiff::SignedDuration;

use crate::agent::{AgentClient, AgentError, Seat};
use crate::clock;
use crate::store::{Doubt, Known, Reading, Recalled, Records, Store, StoreError, Thing};
use crate::translate;
use crate::vigil::{Scene, Vigil};
use crate::words::chain;

/// How long something just made may stay invisible: what Fly's own client allows. Once it was seen, it may be missing
/// for as long as lists lag behind.
const VISIBLE_AFTER: SignedDuration = SignedDuration::from_secs(60);
/// For a loop: the next turn looks again.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The door through which the world is seen.
pub trait Observer: Send {
    /// Looks at everything.
    fn observe(&mut self, spec: &ClusterSpec, now: Timestamp) -> impl Future<Output = Observed> + Send;

    /// Hears the agents again, and reads the record; the platform stays as it was `seen`.
    fn listen(&mut self, spec: &ClusterSpec, seen: Observed, now: Timestamp) -> impl Future<Output = Observed> + Send;

    /// All that leadership is decided by, without a question to anybody but the record.
    fn lead(&mut self, spec: &ClusterSpec, now: Timestamp) -> impl Future<Output = Scene> + Send;

    /// Whether the record still is what it was seen to be.
    fn is_current(&mut self, spec: &ClusterSpec, seen: &Observed) -> impl Future<Output = bool> + Send;
}

/// Looks at a real platform and real agents.
#[derive(Debug, Clone)]
pub struct LiveObserver {
    pub fly: Client,
    pub agents: AgentClient,
    pub store: Store,
    /// Without it no agent answers, and none is asked.
    pub master: Option<Key>,
    /// How long one read may take, repeats included.
    pub patience: Duration,
    /// How long after a call whose outcome is not known a read may still miss what it did.
    pub settle: SignedDuration,
    /// What is known of the cluster that is looked at. Agents that are listened to are not asked once more.
    pub vigil: Arc<Vigil>,
}

impl Observer for LiveObserver {
    async fn observe(&mut self, spec: &ClusterSpec, now: Timestamp) -> Observed {
        let recalled = match self.recall(&spec.name, now).await {
            Ok(recalled) => recalled,
            // Without its memory it cannot tell what is missing: it knows nothing.
            Err(error) => return nothing(&chain(&error)),
        };
        let look = Look { observer: self, cluster: &spec.name, recalled: &recalled, now };
        let (platform, volumes, secrets) = tokio::join!(
            look.machines_and_what_hangs_on_them(),
            look.volumes(),
            look.read(secrets::list(spec.name.as_str(), &secrets::ListSecrets::default()), translate::secrets),
        );
        let mut observed = Observed {
            record: Seen::default(),
            app: platform.app,
            secrets,
            addresses: platform.addresses,
            machines: platform.machines,
            volumes,
            reports: platform.reports,
            watch: Watch::default(),
        };
        if matches!(observed.app.known(), Some(None)) {
            // What is in an app that is not there is not there either, and said so with the same 404.
            observed.secrets = Seen::at(now, BTreeMap::new());
            observed.addresses = Seen::at(now, Vec::new());
            observed.machines = Seen::at(now, Vec::new());
            observed.volumes = Seen::at(now, Vec::new());
        }
        let resolved = cast_doubt(&mut observed, &recalled.doubts, now, self.settle);
        let (seen, gone) = notes(&observed, &spec.name, &recalled.known, now);
        let noted =
            tokio::try_join!(self.store.settle(&spec.name, resolved, None), self.store.note(&spec.name, seen, gone));
        if let Err(error) = noted {
            return nothing(&chain(&error));
        }
        self.vigil.looked(&observed);
        self.hear(&spec.name, observed, now).await
    }

    async fn listen(&mut self, spec: &ClusterSpec, seen: Observed, now: Timestamp) -> Observed {
        let recalled = Recalled::default();
        let look = Look { observer: self, cluster: &spec.name, recalled: &recalled, now };
        let reports = match seen.machines.known() {
            Some(machines) => look.reports(machines).await,
            None => BTreeMap::new(),
        };
        self.hear(&spec.name, Observed { reports, ..seen }, now).await
    }

    async fn lead(&mut self, spec: &ClusterSpec, now: Timestamp) -> Scene {
        let (record, watch) = self.read(&spec.name, now).await;
        self.vigil.scene(record, watch)
    }

    async fn is_current(&mut self, spec: &ClusterSpec, seen: &Observed) -> bool {
        let reading = Records::read(&self.store, &spec.name).await;
        reading.is_ok_and(|reading| reading.leads && seen.record.known() == Some(&reading.record))
    }
}

impl LiveObserver {
    /// The same eyes, for the cluster that `vigil` is about.
    pub fn of(&self, vigil: Arc<Vigil>) -> Self {
        Self { vigil, ..self.clone() }
    }

    /// The record as it is now, and what this controller knows beside it.
    async fn read(&self, cluster: &ClusterName, now: Timestamp) -> (Seen<Option<Decree>>, Watch) {
        let began = clock::mono();
        let (reading, record) = match Records::read(&self.store, cluster).await {
            Ok(reading) => (reading.clone(), Seen::at(now, reading.record)),
            // Nobody knows who leads: this controller does not act as if it did.
            Err(error) => {
                let why = Unknown::NoAnswer { error: chain(&error) };
                (Reading { record: None, leads: false }, Seen::Unknown { why })
            }
        };
        let watch = match record.known() {
            Some(_) => self.vigil.watch(&reading, self.store.term(), began, clock::mono()),
            None => self.vigil.watch_blindly(clock::mono()),
        };
        (record, watch)
    }

    /// `seen`, with the record as it is now and what was heard meanwhile.
    async fn hear(&self, cluster: &ClusterName, seen: Observed, now: Timestamp) -> Observed {
        let (record, watch) = self.read(cluster, now).await;
        let mut reports = seen.reports;
        let runs: Vec<&String> = seen
            .machines
            .known()
            .into_iter()
            .flatten()
            .filter(|machine| machine.power == Power::Started)
            .map(|machine| &machine.id)
            .collect();
        reports.extend(self.vigil.reports().into_iter().filter(|(machine, _)| runs.contains(&machine)));
        Observed { record, reports, watch, ..seen }
    }

    async fn recall(&self, cluster: &ClusterName, now: Timestamp) -> Result<Recalled, StoreError> {
        self.store.bring_back(cluster, self.store.recall(cluster).await?, now).await
    }
}

const SUBJECTS: [Subject; 6] =
    [Subject::Record, Subject::App, Subject::Secrets, Subject::Addresses, Subject::Machines, Subject::Volumes];

/// Everything unknown, for one reason.
fn nothing(error: &str) -> Observed {
    let mut observed = Observed::default();
    for subject in SUBJECTS {
        blur(&mut observed, subject, &Unknown::NoAnswer { error: error.to_owned() });
    }
    observed
}

/// One look.
struct Look<'a> {
    observer: &'a LiveObserver,
    cluster: &'a ClusterName,
    recalled: &'a Recalled,
    now: Timestamp,
}

struct Platform {
    app: Seen<Option<App>>,
    machines: Seen<Vec<Machine>>,
    addresses: Seen<Vec<Address>>,
    reports: BTreeMap<String, Seen<NodeReport>>,
}

/// Why there is no list.
struct Unlisted {
    /// The answer was that there is no such app.
    absent: bool,
    why: Unknown,
}

impl Look<'_> {
    async fn send<T>(&self, request: Request<T>) -> Result<T, Error> {
        self.observer.fly.send_within(request, self.observer.patience).await
    }

    async fn read<T, U>(&self, request: Request<T>, translate: impl FnOnce(T) -> U) -> Seen<U> {
        match self.send(request).await {
            Ok(answer) => Seen::at(self.now, translate(answer)),
            Err(error) => self.unknown(&error),
        }
    }

    fn unknown<T>(&self, error: &Error) -> Seen<T> {
        Seen::Unknown { why: self.why(error) }
    }

    fn why(&self, error: &Error) -> Unknown {
        let refused = matches!(error.cause(), Some(Cause::Unauthorized | Cause::Forbidden));
        match refused || error.is_not_found() {
            // A new app may be hidden from its own maker for a moment.
            true if self.is_new(Thing::App, self.cluster.as_str()) => Unknown::Changing,
            true if refused => Unknown::Forbidden { error: chain(error) },
            _ => Unknown::NoAnswer { error: chain(error) },
        }
    }

    fn is_new(&self, thing: Thing, id: &str) -> bool {
        let made = self.recalled.known.iter().find(|known| known.thing == thing && known.id == id);
        made.is_some_and(|known| {
            let hidden = if known.seen { self.observer.settle } else { VISIBLE_AFTER };
            self.now.duration_since(known.since) < hidden
        })
    }

    /// The list of Machines says whether the app exists, and which agents there are to ask.
    async fn machines_and_what_hangs_on_them(&self) -> Platform {
        let app = self.cluster.as_str();
        let list = |cursor| machines::list(app, &machines::ListMachines { cursor, ..Default::default() });
        match self.list(list).await {
            Ok(listed) => {
                let machines = self.confirm(listed, Thing::Machine, |id| machines::get(app, id), |wire| &wire.id).await;
                let translate = |wire| translate::machine(wire, self.cluster);
                let machines = machines.map(|list| list.into_iter().filter_map(translate).collect::<Vec<_>>());
                let known = machines.known().map_or(&[][..], Vec::as_slice);
                let (reports, addresses) = tokio::join!(self.reports(known), self.addresses());
                let here = App { organization: None };
                Platform { app: Seen::at(self.now, Some(here)), machines, addresses, reports }
            }
            Err(Unlisted { absent, why }) => {
                let app = if absent { self.confirm_app().await } else { Seen::Unknown { why: why.clone() } };
                Platform {
                    app,
                    machines: Seen::Unknown { why: why.clone() },
                    addresses: Seen::Unknown { why },
                    reports: BTreeMap::new(),
                }
            }
        }
    }

    /// Asks for the app itself, after a list said that there is none.
    async fn confirm_app(&self) -> Seen<Option<App>> {
        match self.send(apps::get(self.cluster.as_str())).await {
            Ok(app) => Seen::at(self.now, Some(translate::app(app))),
            Err(error) if error.is_not_found() && !self.is_new(Thing::App, self.cluster.as_str()) => {
                Seen::at(self.now, None)
            }
            Err(error) => self.unknown(&error),
        }
    }

    async fn addresses(&self) -> Seen<Vec<Address>> {
        let addresses = self.read(ips::list(self.cluster.as_str()), translate::addresses).await;
        let is_listed = |ip: &str| addresses.known().is_some_and(|list| list.iter().any(|address| address.ip == ip));
        // An address cannot be asked for by itself: one made just now that is not listed yet will be.
        let known = self.recalled.known.iter().filter(|known| known.thing == Thing::Address);
        let mut hidden = known.filter(|known| !is_listed(&known.id) && self.is_new(Thing::Address, &known.id));
        if addresses.known().is_some() && hidden.next().is_some() {
            return Seen::Unknown { why: Unknown::Changing };
        }
        addresses
    }

    async fn volumes(&self) -> Seen<Vec<Volume>> {
        let app = self.cluster.as_str();
        let list = |cursor| volumes::list(app, &volumes::ListVolumes { cursor, ..Default::default() });
        match self.list(list).await {
            Ok(listed) => self
                .confirm(listed, Thing::Volume, |id| volumes::get(app, id), |wire| &wire.id)
                .await
                .map(|list| list.into_iter().filter_map(translate::volume).collect()),
            Err(Unlisted { why, .. }) => Seen::Unknown { why },
        }
    }

    /// All of a list. Without a limit it comes on one page; if it does not, all of them are read in the time of one.
    async fn list<T>(&self, page: impl Fn(Option<String>) -> Request<Page<T>>) -> Result<Vec<T>, Unlisted> {
        let unlisted = |error: Error| Unlisted { absent: error.is_not_found(), why: self.why(&error) };
        let list = self.send(page(None)).await.map_err(unlisted)?;
        if list.next_cursor.is_none() {
            return Ok(list.items);
        }
        match tokio::time::timeout(self.observer.patience, self.observer.fly.all(page)).await {
            Ok(list) => list.map(|list| list.items).map_err(unlisted),
            Err(_) => {
                let error = "its pages take too long".to_owned();
                Err(Unlisted { absent: false, why: Unknown::NoAnswer { error } })
            }
        }
    }

    /// Asks for each thing that is known to have existed and is not in the list.
    async fn confirm<T>(
        &self,
        mut listed: Vec<T>,
        thing: Thing,
        get: impl Fn(&str) -> Request<T>,
        id_of: impl Fn(&T) -> &String,
    ) -> Seen<Vec<T>> {
        let is_listed = |known: &&Known| listed.iter().any(|item| *id_of(item) == known.id);
        let missing: Vec<&Known> =
            self.recalled.known.iter().filter(|known| known.thing == thing && !is_listed(known)).collect();
        for (known, answer) in missing.iter().zip(join_all(missing.iter().map(|known| self.send(get(&known.id)))).await)
        {
            match answer {
                Ok(item) => listed.push(item),
                Err(error) if error.is_not_found() && self.is_new(thing, &known.id) => {
                    return Seen::Unknown { why: Unknown::Changing };
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return self.unknown(&error),
            }
        }
        Seen::at(self.now, listed)
    }

    /// Asks the agent of every node that runs and is not listened to.
    async fn reports(&self, machines: &[Machine]) -> BTreeMap<String, Seen<NodeReport>> {
        let Some(master) = &self.observer.master else { return BTreeMap::new() };
        let key = master.of_cluster(self.cluster);
        let heard = self.observer.vigil.reports();
        let running =
            machines.iter().filter(|machine| machine.power == Power::Started && !heard.contains_key(&machine.id));
        let asked = running.filter_map(|machine| {
            let (node, address) = machine.node_of(self.cluster).zip(machine.address)?;
            let key = &key;
            let seat = Seat { app: self.cluster.clone(), machine: machine.id.clone(), address };
            Some(async move {
                let seen = match self.observer.agents.report(&seat, key).await {
                    Ok(report) if report.machine == machine.id && report.node == node => Seen::at(self.now, report),
                    Ok(report) => {
                        let error = format!(
                            "the agent at {address} is that of {} on Machine {}: the address has changed hands",
                            report.node, report.machine
                        );
                        Seen::Unknown { why: Unknown::NoAnswer { error } }
                    }
                    Err(error @ AgentError::WrongKey { .. }) => {
                        Seen::Unknown { why: Unknown::Forbidden { error: chain(&error) } }
                    }
                    Err(error) => Seen::Unknown { why: Unknown::NoAnswer { error: chain(&error) } },
                };
                (machine.id.clone(), seen)
            })
        });
        join_all(asked).await.into_iter().collect()
    }
}

/// What a call may have changed is not known until a read that began `settle` after it. Returns the doubts that such
/// a read has resolved.
fn cast_doubt(observed: &mut Observed, doubts: &[Doubt], now: Timestamp, settle: SignedDuration) -> Vec<Doubt> {
    let (settled, open): (Vec<&Doubt>, Vec<&Doubt>) =
        doubts.iter().partition(|doubt| now.duration_since(doubt.since) >= settle);
    let resolved = settled.into_iter().filter(|doubt| is_known(observed, doubt.subject)).cloned().collect();
    for doubt in open {
        blur(observed, doubt.subject, &Unknown::Changing);
    }
    resolved
}

/// What was seen is not known any more.
fn blur(observed: &mut Observed, subject: Subject, why: &Unknown) {
    let why = why.clone();
    match subject {
        Subject::Record => observed.record = Seen::Unknown { why },
        Subject::App => observed.app = Seen::Unknown { why },
        Subject::Secrets => observed.secrets = Seen::Unknown { why },
        Subject::Addresses => observed.addresses = Seen::Unknown { why },
        Subject::Machines => observed.machines = Seen::Unknown { why },
        Subject::Volumes => observed.volumes = Seen::Unknown { why },
    }
}

fn is_known(observed: &Observed, subject: Subject) -> bool {
    match subject {
        Subject::Record => observed.record.known().is_some(),
        Subject::App => observed.app.known().is_some(),
        Subject::Secrets => observed.secrets.known().is_some(),
        Subject::Addresses => observed.addresses.known().is_some(),
        Subject::Machines => observed.machines.known().is_some(),
        Subject::Volumes => observed.volumes.known().is_some(),
    }
}

/// What to remember of a look: ours that are seen for the first time, and known ones that are gone.
fn notes(observed: &Observed, cluster: &ClusterName, known: &[Known], now: Timestamp) -> (Vec<Known>, Vec<Known>) {
    let mut seen: BTreeMap<Thing, Vec<&str>> = BTreeMap::new();
    if let Some(app) = observed.app.known() {
        seen.insert(Thing::App, app.iter().map(|_| cluster.as_str()).collect());
    }
    if let Some(machines) = observed.machines.known() {
        let ours = machines.iter().filter(|machine| machine.node_of(cluster).is_some());
        seen.insert(Thing::Machine, ours.map(|machine| machine.id.as_str()).collect());
    }
    if let Some(volumes) = observed.volumes.known() {
        let ours = volumes.iter().filter(|volume| volume.node().is_some());
        seen.insert(Thing::Volume, ours.map(|volume| volume.id.as_str()).collect());
    }
    let made: Vec<&Known> = known.iter().filter(|known| known.thing == Thing::Address).collect();
    if let Some(addresses) = observed.addresses.known() {
        let listed = made.iter().filter(|known| addresses.iter().any(|address| address.ip == known.id));
        seen.insert(Thing::Address, listed.map(|known| known.id.as_str()).collect());
    }
    let was_seen =
        |thing: Thing, id: &str| known.iter().any(|known| known.thing == thing && known.id == id && known.seen);
    let new = seen.iter().flat_map(|(thing, ids)| ids.iter().map(move |id| (*thing, *id)));
    let new = new.filter(|(thing, id)| !was_seen(*thing, id));
    let new = new.map(|(thing, id)| Known { thing, id: id.to_owned(), since: now, seen: true }).collect();
    let gone = known.iter().filter(|known| seen.get(&known.thing).is_some_and(|ids| !ids.contains(&known.id.as_str())));
    (new, gone.cloned().collect())
}
