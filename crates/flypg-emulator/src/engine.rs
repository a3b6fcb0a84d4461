//! The world under a lock, with a clock, a runtime, watchers and a disk around it.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Method;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::faults::{Rules, Strike};
use crate::history::History;
use crate::http::auth::Auth;
use crate::limits::Limits;
use crate::runtime::Runtime;
use crate::store::Store;
use crate::world::World;
use crate::world::app::App;
use crate::world::hosts::HostStatus;
use crate::world::refusal::Refusal;
use crate::world::report::Report;
use crate::world::shared::Shared;
use crate::world::time::Millis;

/// Everything one emulator is made of.
#[derive(Debug)]
pub(crate) struct Engine {
    world: Mutex<World>,
    runtime: Arc<dyn Runtime>,
    store: Option<Store>,
    pub(crate) auth: Auth,
    rules: Mutex<Rules>,
    limits: Mutex<Limits>,
    history: Mutex<History>,
    waiters: Mutex<HashMap<String, Arc<Notify>>>,
    agenda: Notify,
    pub(crate) closing: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under a lock is a bug that was already reported; the others go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(crate) fn new(
        mut world: World,
        runtime: Arc<dyn Runtime>,
        store: Option<Store>,
        auth: Auth,
        rules: Rules,
    ) -> Arc<Self> {
        let _ = world.take_touched();
        let history = History::new(&world, rules.longest_stale_ms());
        Arc::new(Self {
            world: Mutex::new(world),
            runtime,
            store,
            auth,
            rules: Mutex::new(rules),
            limits: Mutex::default(),
            history: Mutex::new(history),
            waiters: Mutex::default(),
            agenda: Notify::new(),
            closing: CancellationToken::new(),
        })
    }

    pub(crate) fn now(&self) -> Millis {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// An id for an HTTP request.
    pub(crate) fn request_id(&self) -> String {
        let now = self.now();
        lock(&self.world).request_id(now)
    }

    pub(crate) fn runtime(&self) -> &dyn Runtime {
        &*self.runtime
    }

    /// Looks at the world. Keep it short: clone records, render them outside.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&World, Millis) -> R) -> R {
        let world = lock(&self.world);
        look(&world, self.now())
    }

    /// Changes the world, performs what follows from it, and wakes whoever waits for it.
    pub(crate) fn write<R>(&self, command: impl FnOnce(&mut World, Millis) -> R) -> R {
        let mut world = lock(&self.world);
        let now = self.now();
        world.advance(now);
        let due_before = world.next_due();
        let result = command(&mut world, now);
        loop {
            let effects = world.take_effects();
            if effects.is_empty() {
                break;
            }
            for report in effects.into_iter().flat_map(|effect| self.runtime.perform(effect)) {
                world.report(now, report);
            }
        }
        let due = world.next_due();
        if world.is_touched() {
            let touched = world.take_touched();
            lock(&self.history).record(&world, now, &touched.apps);
            if let Some(store) = &self.store {
                store.dirty(&touched.apps);
            }
            let waiters = lock(&self.waiters);
            touched.machines.iter().filter_map(|id| waiters.get(id)).for_each(|notify| notify.notify_waiters());
        }
        drop(world);
        if due.is_some() && due != due_before {
            self.agenda.notify_one();
        }
        result
    }

    pub(crate) fn report(&self, report: Report) {
        self.write(|world, now| world.report(now, report));
    }

    /// Does what time brings, until the emulator closes.
    pub(crate) async fn run_agenda(self: Arc<Self>) {
        loop {
            let due = self.read(|world, now| world.next_due().map(|at| at.since(now)));
            let wait = Duration::from_millis(due.unwrap_or(3_600_000));
            tokio::select! {
                () = tokio::time::sleep(wait), if !wait.is_zero() => {}
                () = self.agenda.notified(), if !wait.is_zero() => continue,
                () = self.closing.cancelled() => return,
                () = std::future::ready(()), if wait.is_zero() => {}
            }
            self.write(|_, _| ());
        }
    }

    /// Notified at each change of a machine. A `notified()` made before a look at the world misses none after it.
    pub(crate) fn changes_of(&self, machine: &str) -> Arc<Notify> {
        let mut waiters = lock(&self.waiters);
        // Whoever waits holds a second reference; the rest may go.
        if waiters.len() > 256 {
            waiters.retain(|_, notify| Arc::strong_count(notify) > 1);
        }
        Arc::clone(waiters.entry(machine.to_owned()).or_default())
    }

    /// Resolves once everything changed so far is on disk.
    pub(crate) async fn saved(&self) {
        if let Some(store) = &self.store {
            store.saved().await;
        }
    }

    pub(crate) const fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    pub(crate) fn org_of(&self, app: &str) -> Option<String> {
        self.read(|world, _| world.apps.get(app).map(|app| app.org.clone()))
    }

    /// The app as it was `lag_ms` ago; as it is, for 0.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn app_at(&self, name: &str, lag_ms: u64) -> Result<Shared<App>, Refusal> {
        self.read(|world, now| {
            if lag_ms == 0 {
                return world.app(name).cloned();
            }
            let past = lock(&self.history).app(name, Millis(now.0.saturating_sub(lag_ms)));
            match past {
                Some(past) => past.filter(|app| app.gone_at.is_none()).ok_or_else(Refusal::app_not_found),
                None => world.app(name).cloned(),
            }
        })
    }

    /// The hosts that do not answer.
    pub(crate) fn unreachable(&self) -> BTreeSet<String> {
        self.read(|world, _| {
            let lost = world.hosts.iter().filter(|host| host.status != HostStatus::Ok);
            lost.map(|host| host.id.clone()).collect()
        })
    }

    pub(crate) fn strike(&self, method: &Method, path: &str) -> Strike {
        let mut rules = lock(&self.rules);
        if rules.is_empty() {
            return Strike::default();
        }
        rules.strike(method, path)
    }

    pub(crate) fn rules<R>(&self, change: impl FnOnce(&mut Rules) -> R) -> R {
        let mut rules = lock(&self.rules);
        let result = change(&mut rules);
        let longest = rules.longest_stale_ms();
        drop(rules);
        let world = lock(&self.world);
        lock(&self.history).keep(&world, longest);
        result
    }

    /// # Errors
    /// The seconds to tell in `Retry-After`, if any, when there is no token.
    pub(crate) fn limit(&self, method: &Method, route: &[&str], identity: &str) -> Result<(), Option<u64>> {
        let (limit, retry_after) = self.read(|world, _| (world.knobs.rate_limit, world.knobs.retry_after_s));
        let Some(limit) = limit else { return Ok(()) };
        let admitted = lock(&self.limits).admit(&limit, self.now(), method, route, identity);
        if admitted { Ok(()) } else { Err(retry_after) }
    }

    /// Writes changed apps to disk, until the emulator closes.
    pub(crate) async fn run_store(self: Arc<Self>) {
        let engine = Arc::downgrade(&self);
        drop(self);
        let collect = move || Weak::upgrade(&engine);
        let mut failed = false;
        loop {
            let Some(engine) = collect() else { return };
            let Some(store) = engine.store() else { return };
            let last = tokio::select! {
                () = store.woken() => false,
                // The disk may have room again.
                () = tokio::time::sleep(Duration::from_secs(1)), if failed => false,
                () = engine.closing.cancelled() => true,
            };
            failed = !engine.flush().await;
            if last {
                return;
            }
        }
    }

    /// Writes what changed since the last time. False when it could not be written and has to be tried again.
    pub(crate) async fn flush(&self) -> bool {
        let Some(store) = &self.store else { return true };
        let batch = {
            let world = lock(&self.world);
            store.batch(&world)
        };
        store.write(batch).await
    }
}
