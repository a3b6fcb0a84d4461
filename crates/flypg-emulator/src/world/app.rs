//! Apps: create, delete, and what belongs to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ips::IpAssignment;
use super::machine::{Machine, MachineState};
use super::refusal::Refusal;
use super::secrets::Secrets;
use super::shared::Shared;
use super::time::Millis;
use super::volume::{Volume, VolumeState};
use super::{Due, Effect, World};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    pub id: String,
    pub number: u64,
    pub name: String,
    pub org: String,
    pub network: String,
    pub created_at: Millis,
    pub idempotency_key: Option<String>,
    /// Set once the deletion was accepted; the app is invisible from then on.
    pub gone_at: Option<Millis>,
    pub machines: BTreeMap<String, Shared<Machine>>,
    pub volumes: BTreeMap<String, Shared<Volume>>,
    pub secrets: Secrets,
    pub ips: Vec<IpAssignment>,
}

/// The body of `POST /v1/apps`.
#[derive(Clone, Debug, Default)]
pub struct CreateApp {
    pub name: String,
    pub org: String,
    pub network: Option<String>,
    pub idempotency_key: Option<String>,
}

impl App {
    /// Machines that are not destroyed.
    pub fn living(&self) -> impl Iterator<Item = &Shared<Machine>> {
        self.machines.values().filter(|machine| machine.state != MachineState::Destroyed)
    }

    /// `pending`, `deployed` or `suspended`.
    #[must_use]
    pub fn status(&self) -> &'static str {
        let mut any = false;
        for machine in self.living() {
            if !matches!(machine.state, MachineState::Stopped | MachineState::Suspended | MachineState::Failed) {
                return "deployed";
            }
            any = true;
        }
        if any { "suspended" } else { "pending" }
    }

    pub(crate) fn machine_named(&self, name: &str) -> Option<&Shared<Machine>> {
        self.living().find(|machine| machine.name == name)
    }
}

/// Fewer than 63 characters of digits, lower-case letters and dashes.
fn app_name_ok(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=63).contains(&name.len()) && name.chars().all(allowed) && !name.starts_with('-') && !name.ends_with('-')
}

impl World {
    /// # Errors
    /// 422 for a bad or taken name, 400 without an organisation.
    pub fn create_app(&mut self, now: Millis, create: CreateApp) -> Result<Shared<App>, Refusal> {
        if create.org.is_empty() {
            return Err(Refusal::invalid("org_slug is required"));
        }
        if let Some(key) = &create.idempotency_key {
            let first =
                self.apps.values().find(|app| app.org == create.org && app.idempotency_key.as_ref() == Some(key));
            if let Some(first) = first {
                return match create.name.is_empty() || create.name == first.name {
                    true => Ok(first.clone()),
                    false => Err(Refusal::idempotency_key_used()),
                };
            }
        }
        let name = match (create.name.is_empty(), &create.idempotency_key) {
            (false, _) => create.name,
            // Only with a key can the caller find out what it was called.
            (true, Some(_)) => self.ids.name(),
            (true, None) => return Err(Refusal::bad_app_name()),
        };
        if !app_name_ok(&name) {
            return Err(Refusal::bad_app_name());
        }
        if self.apps.contains_key(&name) {
            return Err(Refusal::name_taken());
        }
        self.counter += 1;
        let app = App {
            id: self.ids.app(),
            number: 1_700_000 + self.counter,
            name: name.clone(),
            org: create.org,
            network: create.network.filter(|network| !network.is_empty()).unwrap_or_else(|| "default".to_owned()),
            created_at: now,
            idempotency_key: create.idempotency_key,
            gone_at: None,
            machines: BTreeMap::new(),
            volumes: BTreeMap::new(),
            secrets: Secrets::default(),
            ips: Vec::new(),
        };
        let app = Shared::new(app);
        self.apps.insert(name.clone(), app.clone());
        self.touch_app(&name);
        Ok(app)
    }

    /// The app, unless it was never made or is being deleted.
    ///
    /// # Errors
    /// 404.
    pub fn app(&self, name: &str) -> Result<&Shared<App>, Refusal> {
        self.apps.get(name).filter(|app| app.gone_at.is_none()).ok_or_else(Refusal::app_not_found)
    }

    /// Deletes an app with all its machines and volumes.
    ///
    /// # Errors
    /// 404.
    pub fn delete_app(&mut self, now: Millis, name: &str) -> Result<(), Refusal> {
        let machines: Vec<String> = self.app(name)?.living().map(|machine| machine.id.clone()).collect();
        self.edit_app(name)?.gone_at = Some(now);
        for id in machines {
            self.tear_down(now, name, &id);
        }
        self.set_due(now.after(self.knobs.app_delete_ms), Due::App(name.to_owned()));
        Ok(())
    }

    /// Frees the name of a deleted app once its machines are gone; otherwise looks again later.
    pub(crate) fn finish_app(&mut self, now: Millis, name: &str) {
        let Some(app) = self.apps.get(name).filter(|app| app.gone_at.is_some()) else { return };
        if app.living().next().is_some() {
            self.set_due(now.after(self.knobs.app_delete_ms.max(20)), Due::App(name.to_owned()));
            return;
        }
        let app = app.clone();
        for volume in app.volumes.values() {
            if volume.state != VolumeState::Destroyed {
                self.drop_volume(volume);
            }
            for snapshot in volume.snapshots.values() {
                self.effects.push(Effect::DropSnapshot { snapshot: snapshot.id.clone() });
            }
        }
        self.touch_app(name);
        self.apps.remove(name);
    }
}
