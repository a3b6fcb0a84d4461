//! Doing: one [`Action`] at a time, as calls of the Machines API, an agent or the record.

mod prove;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use flypg_core::Timestamp;
use flypg_core::decree::Decree;
use flypg_core::digest;
use flypg_core::keys::Key;
use flypg_core::names::ClusterName;
use flypg_core::observed::Heard;
use flypg_core::plan::{Action, Subject};
use flypg_core::protocol::env;
use flypg_machines::types::{self as fly, Secret};
use flypg_machines::{
    Client, Error, Reason, Removal, Request, apps, ips, leases, lifecycle, machines, metadata, secrets, volumes,
};

use crate::agent::{AgentClient, AgentError, Seat};
use crate::clock;
use crate::store::{Doubt, Known, Records, Store, StoreError, Swap, Term, Thing};
use crate::translate;
use crate::vigil::Vigil;

/// Seconds. Long enough for one call with its repeats, short enough that a lease we died with is soon over.
const LEASE_TTL: u64 = 20;

/// The door through which the world is changed.
pub trait Actuator: Send + Sync {
    fn act(&self, action: &Action) -> impl Future<Output = Result<(), ActError>> + Send;
}

/// Why an action was not carried out, sorted by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// It certainly did not happen: try again.
    #[error(transparent)]
    NotDone(Trouble),
    /// It may have happened: look first.
    #[error(transparent)]
    MaybeDone(Trouble),
    /// The answer is no: plan again.
    #[error(transparent)]
    Refused(Trouble),
}

/// What stood in the way.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Fly(Box<Error>),
    #[error(transparent)]
    Agent(AgentError),
    #[error(transparent)]
    Store(StoreError),
    #[error("{} holds a lease on Machine {machine}{}", owner.as_deref().unwrap_or("somebody"), until(expires_at.as_deref()))]
    Leased { machine: String, owner: Option<String>, expires_at: Option<String> },
    /// Somebody else decided first.
    #[error("the record is not what this plan was made for")]
    RecordDiffers { found: Option<Box<Decree>> },
    /// What the plan counted on is not there any more.
    #[error("a Machine that this was planned for is being stopped")]
    Overtaken,
    /// Another controller leads with this store's record, or this one only looks.
    #[error("this controller may not decide and grant any more")]
    Deposed,
    /// The Machine may have stopped; what was seen does not prove it.
    #[error("it is not proven that Machine {machine} has stopped: {lacks}")]
    Unproven { machine: String, lacks: &'static str },
    #[error("there is no master key to derive the cluster's key from")]
    NoMasterKey,
}

fn until(expires_at: Option<&str>) -> String {
    expires_at.map(|at| format!(" until {at}")).unwrap_or_default()
}

impl ActError {
    pub fn trouble(&self) -> &Trouble {
        match self {
            Self::NotDone(trouble) | Self::MaybeDone(trouble) | Self::Refused(trouble) => trouble,
        }
    }

    /// `not done`, `maybe done` or `refused`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotDone(_) => "not done",
            Self::MaybeDone(_) => "maybe done",
            Self::Refused(_) => "refused",
        }
    }

    /// It passes by itself: the next turns will get there, and nobody needs to hear of it.
    pub fn is_passing(&self) -> bool {
        match self.trouble() {
            Trouble::Fly(error) => error.reason().is_some_and(Reason::is_passing) || self.is_volume_still_bound(),
            Trouble::Leased { .. } | Trouble::RecordDiffers { .. } | Trouble::Overtaken | Trouble::Unproven { .. } => {
                true
            }
            Trouble::Agent(
                AgentError::Unreachable { .. } | AgentError::NoAnswer { .. } | AgentError::NotCalled { .. },
            ) => true,
            Trouble::Agent(_) | Trouble::Store(_) | Trouble::Deposed | Trouble::NoMasterKey => false,
        }
    }

    /// A volume stays bound until its Machine is really gone.
    fn is_volume_still_bound(&self) -> bool {
        matches!(self.trouble(), Trouble::Fly(error)
            if matches!(error.reason(), Some(Reason::VolumeBound { .. } | Reason::NotDestroyable | Reason::NotStartable { .. })))
    }

    /// What a person can do about it.
    pub fn suggestion(&self) -> Option<&'static str> {
        match self.trouble() {
            Trouble::Fly(error) => error.suggestion(),
            Trouble::Agent(AgentError::WrongKey { .. }) => {
                Some("use the state directory, or FLYPG_MASTER_KEY, that the cluster was made with")
            }
            Trouble::Leased { .. } => Some("wait for the lease to end, or see `fly machine leases view`"),
            Trouble::NoMasterKey => Some("set FLYPG_MASTER_KEY, or give the state directory with --state"),
            Trouble::Deposed => Some("see who else runs with this state directory, or a copy of it"),
            Trouble::Agent(_)
            | Trouble::Store(_)
            | Trouble::RecordDiffers { .. }
            | Trouble::Overtaken
            | Trouble::Unproven { .. } => None,
        }
    }
}

impl From<Error> for ActError {
    fn from(error: Error) -> Self {
        let maybe = error.may_have_happened();
        let refused = matches!(error, Error::Refused { .. });
        let trouble = Trouble::Fly(Box::new(error));
        match (maybe, refused) {
            (true, _) => Self::MaybeDone(trouble),
            (false, true) => Self::Refused(trouble),
            (false, false) => Self::NotDone(trouble),
        }
    }
}

impl From<AgentError> for ActError {
    fn from(error: AgentError) -> Self {
        let refused = matches!(error, AgentError::WrongKey { .. } | AgentError::Refused { .. });
        match (error.may_have_happened(), refused) {
            (true, _) => Self::MaybeDone(Trouble::Agent(error)),
            (false, true) => Self::Refused(Trouble::Agent(error)),
            (false, false) => Self::NotDone(Trouble::Agent(error)),
        }
    }
}

impl From<StoreError> for ActError {
    fn from(error: StoreError) -> Self {
        match error.may_have_happened() {
            true => Self::MaybeDone(Trouble::Store(error)),
            false => Self::NotDone(Trouble::Store(error)),
        }
    }
}

/// What an action did, as far as the memory must know.
#[derive(Debug, Default)]
struct Effect {
    made: Option<Known>,
    gone: Option<Known>,
}

/// Changes a real platform and real agents.
#[derive(Debug, Clone)]
pub struct LiveActuator {
    pub fly: Client,
    pub agents: AgentClient,
    pub store: Store,
    pub master: Option<Key>,
    pub clock: fn() -> Timestamp,
    /// By app, the version of its secrets that a new Machine must see. Forgotten with the process: by then they are
    /// old enough to be everywhere.
    pub secrets_versions: Arc<Mutex<BTreeMap<ClusterName, u64>>>,
    /// What is known of the cluster that is acted on.
    pub vigil: Arc<Vigil>,
}

impl Actuator for LiveActuator {
    /// What may create is noted before it is asked for, so that whoever goes on after a crash looks before creating
    /// again; any doubt about the outcome is noted after.
    async fn act(&self, action: &Action) -> Result<(), ActError> {
        let cluster = cluster_of(action);
        let doubt = doubt_about(action, (self.clock)());
        if let Some(doubt) = doubt.as_ref().filter(|_| action.creates()) {
            self.store.doubt(cluster, doubt.clone()).await?;
        }
        let result = self.carry_out(cluster, action).await;
        match (&result, doubt) {
            (Err(ActError::MaybeDone(_)), Some(doubt)) => {
                self.store.doubt(cluster, Doubt { since: (self.clock)(), ..doubt }).await?;
            }
            (Ok(effect), doubt) => {
                let doubts = doubt.into_iter().collect();
                self.store.settle(cluster, doubts, effect.made.clone()).await?;
                self.store.note(cluster, Vec::new(), effect.gone.clone().into_iter().collect()).await?;
            }
            (Err(_), Some(doubt)) => self.store.settle(cluster, vec![doubt], None).await?,
            (Err(_), None) => {}
        }
        result.map(drop)
    }
}

impl LiveActuator {
    async fn carry_out(&self, cluster: &ClusterName, action: &Action) -> Result<Effect, ActError> {
        let made = |thing, id: String| Effect { made: Some(self.known(thing, id)), gone: None };
        let gone = |thing, id: &str| Effect { made: None, gone: Some(self.known(thing, id.to_owned())) };
        let nothing = Effect::default();
        Ok(match action {
            Action::CreateApp { app, organization } => {
                let body =
                    fly::CreateApp { name: app.to_string(), org_slug: organization.clone(), ..Default::default() };
                self.fly.send(apps::create(&body)).await?;
                made(Thing::App, app.to_string())
            }
            Action::SetClusterKey { app } => {
                self.set_cluster_key(app).await?;
                nothing
            }
            Action::AllocateFlycast { app } => {
                let body = fly::AssignIp {
                    ip_type: fly::IpType::PrivateV6,
                    region: None,
                    org_slug: None,
                    network: None,
                    service_name: None,
                    extra: fly::Extra::new(),
                };
                let assigned = self.fly.send(ips::create(app.as_str(), &body)).await?;
                assigned.ip.map_or(nothing, |ip| made(Thing::Address, ip))
            }
            Action::ReleaseFlycast { app, ip } => {
                self.fly.send(ips::delete(app.as_str(), ip)).await?;
                gone(Thing::Address, ip)
            }
            Action::CreateVolume { app, name, region, size_gb, snapshots, guest, .. } => {
                let body = translate::create_volume(name, region.as_str(), *size_gb, *snapshots, guest);
                let volume = self.fly.send(volumes::create(app.as_str(), &body)).await?;
                made(Thing::Volume, volume.id)
            }
            Action::SetSnapshotPolicy { app, volume, snapshots, .. } => {
                let body = translate::update_volume(*snapshots);
                self.fly.send(volumes::update(app.as_str(), volume, &body)).await?;
                nothing
            }
            Action::CreateMachine { app, machine } => {
                let mut body = translate::create_machine(machine);
                body.min_secrets_version = self.secrets_version(app);
                match self.fly.send(machines::create(app.as_str(), &body)).await {
                    Ok(machine) => made(Thing::Machine, machine.id),
                    // It is there, whoever made it: the next look says whether it is the one that was meant.
                    Err(Error::Refused { reason: Reason::AlreadyExists { machine_id: Some(id) }, .. }) => {
                        made(Thing::Machine, id)
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            Action::StartMachine { app, machine, .. } => {
                self.fly.send(lifecycle::start(app.as_str(), machine)).await?;
                nothing
            }
            Action::SetMetadata { app, machine, metadata, .. } => {
                let metadata = metadata.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
                let body = fly::PatchMetadata { metadata, ..Default::default() };
                self.fly.send(metadata::patch(app.as_str(), machine, &body)).await?;
                nothing
            }
            Action::Decide { cluster, instead_of, decree } => {
                self.swap(cluster, instead_of.as_deref(), Some(decree)).await?;
                nothing
            }
            Action::Assign { machine, address, assignment } => {
                let seat = seat(cluster, machine, *address);
                let asked = clock::mono();
                let report = self.agents.assign(&seat, &self.key(cluster)?, &self.term()?.caller, assignment).await?;
                // So that nobody tells it the same again before it is asked the next time.
                if report.machine == *machine && report.node == assignment.node {
                    self.vigil.hear(machine, report, (self.clock)(), Heard { asked, arrived: clock::mono() });
                }
                nothing
            }
            Action::Renew { machine, address, grant, arrived, .. } => {
                let (seat, key, term) = (seat(cluster, machine, *address), self.key(cluster)?, self.term()?);
                // Known here before it may be out there (rule R2).
                self.vigil.grant(grant.epoch, *arrived);
                self.agents.grant(&seat, &key, &term.caller, grant).await?;
                nothing
            }
            Action::ProveStopped { app, machine, .. } => {
                self.prove_stopped(app, machine).await?;
                nothing
            }
            Action::RestartPostgres { machine, address, .. } => {
                self.agents.restart(&seat(cluster, machine, *address), &self.key(cluster)?).await?;
                nothing
            }
            Action::StopMachine { app, machine, .. } => {
                // How it is stopped stands in its configuration.
                let stop = lifecycle::stop(app.as_str(), machine, &fly::StopMachine::default());
                self.under_lease(app, machine, stop).await?;
                nothing
            }
            Action::DestroyMachine { app, machine, .. } => {
                let destroy = machines::destroy(app.as_str(), machine, false);
                match self.under_lease(app, machine, destroy).await {
                    Ok(Removal::Accepted(_) | Removal::Gone) => {}
                    Err(ActError::Refused(Trouble::Fly(error))) if error.is_not_found() => {}
                    Err(error) => return Err(error),
                }
                gone(Thing::Machine, machine)
            }
            Action::DeleteVolume { app, volume, .. } => {
                self.fly.send(volumes::delete(app.as_str(), volume)).await?;
                gone(Thing::Volume, volume)
            }
            Action::DeleteApp { app } => {
                self.fly.send(apps::delete(app.as_str(), false)).await?;
                gone(Thing::App, app.as_str())
            }
            Action::Forget { cluster, decree } => {
                self.swap(cluster, Some(decree), None).await?;
                nothing
            }
        })
    }

    fn known(&self, thing: Thing, id: String) -> Known {
        Known { thing, id, since: (self.clock)(), seen: false }
    }

    fn key(&self, cluster: &ClusterName) -> Result<Key, ActError> {
        match &self.master {
            Some(master) => Ok(master.of_cluster(cluster)),
            None => Err(ActError::Refused(Trouble::NoMasterKey)),
        }
    }

    fn term(&self) -> Result<&Term, ActError> {
        self.store.term().ok_or(ActError::Refused(Trouble::Deposed))
    }

    async fn set_cluster_key(&self, app: &ClusterName) -> Result<(), ActError> {
        let key = Secret::new(self.key(app)?.expose());
        let body = fly::UpdateSecrets { values: BTreeMap::from([(env::CLUSTER_KEY.to_owned(), Some(key))]) };
        let written = self.fly.send(secrets::update(app.as_str(), &body)).await?;
        if let Some(version) = written.version() {
            self.secrets_versions.lock().unwrap_or_else(PoisonError::into_inner).insert(app.clone(), version);
        }
        Ok(())
    }

    fn secrets_version(&self, app: &ClusterName) -> Option<u64> {
        self.secrets_versions.lock().unwrap_or_else(PoisonError::into_inner).get(app).copied()
    }

    async fn swap(
        &self,
        cluster: &ClusterName,
        instead_of: Option<&Decree>,
        decree: Option<&Decree>,
    ) -> Result<(), ActError> {
        match self.store.swap(cluster, instead_of, decree).await? {
            Swap::Done => Ok(()),
            Swap::Deposed => Err(ActError::Refused(Trouble::Deposed)),
            Swap::Differs { found } => Err(ActError::Refused(Trouble::RecordDiffers { found })),
        }
    }

    /// Sends under a lease of our own, which keeps flyctl and other controllers out while we act. Without one, a stop
    /// or destroy of a Machine that somebody leased would hang until their lease ends.
    async fn under_lease<T>(&self, app: &ClusterName, machine: &str, request: Request<T>) -> Result<T, ActError> {
        let nonce = self.lease(app, machine).await?;
        let result = self.fly.send(request.lease(Some(&nonce))).await;
        if let Err(error) = self.fly.send(leases::release(app.as_str(), machine, &nonce)).await {
            tracing::debug!(machine, %error, "the lease was not released and will end by itself");
        }
        Ok(result?)
    }

    /// The nonce of a lease that is ours: a new one, or one that we held when we died. The description tells: nobody
    /// without the master key can write it, and no two processes with one memory act at the same time.
    async fn lease(&self, app: &ClusterName, machine: &str) -> Result<String, ActError> {
        let ours = format!("flypg {}", digest::short(self.key(app)?.expose().as_bytes()));
        match self.fly.send(leases::acquire(app.as_str(), machine, LEASE_TTL, Some(&ours))).await {
            Ok(lease) => Ok(lease.nonce),
            Err(Error::Refused { reason: Reason::LeaseHeld { owner, expires_at }, .. }) => {
                match self.fly.send(leases::get(app.as_str(), machine)).await {
                    Ok(lease) if lease.description.as_deref() == Some(&ours) => Ok(lease.nonce),
                    _ => Err(ActError::Refused(Trouble::Leased { machine: machine.to_owned(), owner, expires_at })),
                }
            }
            // The lease may be ours by now; what it was for has not been asked yet.
            Err(error @ Error::MaybeDone { .. }) => Err(ActError::NotDone(Trouble::Fly(Box::new(error)))),
            Err(error) => Err(error.into()),
        }
    }
}

fn seat(app: &ClusterName, machine: &str, address: IpAddr) -> Seat {
    Seat { app: app.clone(), machine: machine.to_owned(), address }
}

/// Whose cluster it is about.
pub fn cluster_of(action: &Action) -> &ClusterName {
    match action {
        Action::CreateApp { app, .. }
        | Action::SetClusterKey { app }
        | Action::AllocateFlycast { app }
        | Action::ReleaseFlycast { app, .. }
        | Action::CreateVolume { app, .. }
        | Action::SetSnapshotPolicy { app, .. }
        | Action::CreateMachine { app, .. }
        | Action::StartMachine { app, .. }
        | Action::SetMetadata { app, .. }
        | Action::ProveStopped { app, .. }
        | Action::StopMachine { app, .. }
        | Action::DestroyMachine { app, .. }
        | Action::DeleteVolume { app, .. }
        | Action::DeleteApp { app } => app,
        Action::Decide { cluster, .. }
        | Action::Renew { cluster, .. }
        | Action::Forget { cluster, .. }
        | Action::RestartPostgres { cluster, .. } => cluster,
        Action::Assign { assignment, .. } => &assignment.cluster,
    }
}

/// What an action changes of what is observed. Nothing: an agent's report, which is read afresh every time.
pub fn touches(action: &Action) -> &'static [Subject] {
    match action {
        Action::CreateApp { .. } | Action::DeleteApp { .. } => &[Subject::App],
        Action::SetClusterKey { .. } => &[Subject::Secrets],
        Action::AllocateFlycast { .. } | Action::ReleaseFlycast { .. } => &[Subject::Addresses],
        Action::CreateVolume { .. } | Action::SetSnapshotPolicy { .. } | Action::DeleteVolume { .. } => {
            &[Subject::Volumes]
        }
        // A Machine claims its volume and lets go of it.
        Action::CreateMachine { .. } | Action::DestroyMachine { .. } => &[Subject::Machines, Subject::Volumes],
        Action::StartMachine { .. }
        | Action::SetMetadata { .. }
        | Action::ProveStopped { .. }
        | Action::StopMachine { .. } => &[Subject::Machines],
        Action::Decide { .. } | Action::Forget { .. } => &[Subject::Record],
        Action::Assign { .. } | Action::Renew { .. } | Action::RestartPostgres { .. } => &[],
    }
}

/// The doubt that carrying this out raises. The record and the agents are read from themselves, not from a list that
/// lags, and need none.
fn doubt_about(action: &Action, since: Timestamp) -> Option<Doubt> {
    let subject = touches(action).first().copied().filter(|subject| *subject != Subject::Record)?;
    let name = match action {
        Action::CreateVolume { name, .. } => name.clone(),
        Action::CreateMachine { machine, .. } => machine.node.to_string(),
        Action::SetSnapshotPolicy { volume, .. } | Action::DeleteVolume { volume, .. } => volume.clone(),
        Action::StartMachine { machine, .. }
        | Action::SetMetadata { machine, .. }
        | Action::ProveStopped { machine, .. }
        | Action::StopMachine { machine, .. }
        | Action::DestroyMachine { machine, .. } => machine.clone(),
        Action::ReleaseFlycast { ip, .. } => ip.clone(),
        Action::CreateApp { .. }
        | Action::SetClusterKey { .. }
        | Action::AllocateFlycast { .. }
        | Action::DeleteApp { .. }
        | Action::Decide { .. }
        | Action::Forget { .. }
        | Action::Assign { .. }
        | Action::Renew { .. }
        | Action::RestartPostgres { .. } => String::new(),
    };
    Some(Doubt { subject, name, since })
}
