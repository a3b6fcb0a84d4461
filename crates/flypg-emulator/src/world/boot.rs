//! What a boot needs to know: the machine, its environment and its secrets.

use std::collections::BTreeMap;

use super::World;
use super::machine::Machine;
use super::shared::Shared;

/// One boot of one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    pub app: String,
    pub machine: Shared<Machine>,
    pub run: u64,
    /// Config's `env`, app secrets and the `FLY_*` variables.
    pub env: BTreeMap<String, String>,
    /// Every app secret, for files that are made of one.
    pub secrets: BTreeMap<String, String>,
}

impl World {
    /// What a boot of this machine needs to know; `None` for an unknown app.
    #[must_use]
    pub fn boot_of(&self, app: &str, machine: &Shared<Machine>) -> Option<Boot> {
        let app = self.apps.get(app)?;
        let secrets: BTreeMap<String, String> =
            app.secrets.values.iter().map(|(name, secret)| (name.clone(), secret.value.clone())).collect();
        let mut env = machine.config.env.clone();
        if !machine.skip_secrets {
            env.extend(secrets.clone());
        }
        env.extend(platform_env(&app.name, machine));
        Some(Boot { app: app.name.clone(), machine: machine.clone(), run: machine.run.number, env, secrets })
    }
}

/// The variables Fly sets itself.
fn platform_env(app: &str, machine: &Machine) -> impl Iterator<Item = (String, String)> {
    let group = machine.config.metadata_value("fly_process_group").unwrap_or_default().to_owned();
    [
        ("FLY_APP_NAME", app.to_owned()),
        ("FLY_MACHINE_ID", machine.id.clone()),
        ("FLY_ALLOC_ID", machine.id.clone()),
        ("FLY_REGION", machine.region.clone()),
        ("FLY_IMAGE_REF", machine.config.image.clone()),
        ("FLY_MACHINE_VERSION", machine.version.clone()),
        ("FLY_PRIVATE_IP", machine.address.clone()),
        ("FLY_PROCESS_GROUP", group),
        ("FLY_VM_MEMORY_MB", machine.config.guest.memory_mb.to_string()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
}
