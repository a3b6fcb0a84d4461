//! Between the words of the Machines API and ours. Pure, both ways.

use std::collections::BTreeMap;

use flypg_core::names::ClusterName;
use flypg_core::observed::{Address, App, Machine, MachineConfig, Power, Volume};
use flypg_core::plan::MachineSpec;
use flypg_core::protocol::ports;
use flypg_core::spec::{CpuKind, Guest, SnapshotPolicy};
use flypg_machines::types as fly;

/// Where a node's volume is mounted.
pub const DATA: &str = "/data";
/// Seconds Fly waits between the stop signal and the kill: the longest it allows, for Postgres' shutdown checkpoint.
const STOP_SECONDS: i64 = 300;
/// Days Fly keeps snapshots of a volume that does not say otherwise.
const DEFAULT_RETENTION_DAYS: u32 = 5;

/// A Machine as its list entry shows it; `None` for one that is gone and only still listed.
///
/// The environment of a Machine that is not `cluster`'s is left out: it is none of our business, may hold secrets, and
/// would end up in the journal.
pub fn machine(wire: fly::Machine, cluster: &ClusterName) -> Option<Machine> {
    let power = power(&wire.state)?;
    let host_ok = host_ok(wire.host_status.as_ref());
    let config = wire.config.filter(|_| host_ok).map(machine_config);
    let mut machine = Machine {
        id: wire.id,
        name: wire.name,
        region: wire.region,
        power,
        host_ok,
        address: wire.private_ip.and_then(|ip| ip.parse().ok()),
        config,
    };
    if machine.node_of(cluster).is_none()
        && let Some(config) = &mut machine.config
    {
        config.env = BTreeMap::new();
    }
    Some(machine)
}

/// `None`: it is gone.
fn power(state: &fly::MachineState) -> Option<Power> {
    use fly::MachineState as State;
    Some(match state {
        State::Created => Power::Created,
        State::Started => Power::Started,
        State::Stopped => Power::Stopped,
        State::Suspended => Power::Suspended,
        State::Failed => Power::Failed,
        State::Destroying | State::LaunchFailed => Power::Destroying,
        State::Destroyed | State::Replaced | State::Migrated => return None,
        State::Creating
        | State::Starting
        | State::Stopping
        | State::Suspending
        | State::Restarting
        | State::Updating
        | State::Replacing
        | State::Other(_) => Power::Changing,
    })
}

fn host_ok(status: Option<&fly::HostStatus>) -> bool {
    status.is_none_or(|status| *status == fly::HostStatus::Ok)
}

fn machine_config(wire: fly::MachineConfig) -> MachineConfig {
    MachineConfig {
        image: wire.image.unwrap_or_default(),
        guest: wire.guest.and_then(guest),
        env: wire.env,
        metadata: wire.metadata,
        volume: wire.mounts.into_iter().next().and_then(|mount| mount.volume),
    }
}

/// `None` for a size that no file of ours can ask for.
fn guest(wire: fly::Guest) -> Option<Guest> {
    let cpu_kind = match wire.cpu_kind {
        None | Some(fly::CpuKind::Shared) => CpuKind::Shared,
        Some(fly::CpuKind::Performance) => CpuKind::Performance,
        Some(fly::CpuKind::Other(_)) => return None,
    };
    // Fly's defaults for what is left out: 1 CPU, 256 MB.
    Some(Guest {
        cpu_kind,
        cpus: wire.cpus.unwrap_or(1),
        memory_mb: u32::try_from(wire.memory_mb.unwrap_or(256)).ok()?,
    })
}

/// A volume as its list entry shows it; `None` for one that is on its way out.
pub fn volume(wire: fly::Volume) -> Option<Volume> {
    if wire.state.is_leaving() {
        return None;
    }
    Some(Volume {
        id: wire.id,
        name: wire.name,
        region: wire.region,
        size_gb: u32::try_from(wire.size_gb).unwrap_or(u32::MAX),
        attached_to: wire.attached_machine_id.filter(|id| !id.is_empty()),
        snapshots: SnapshotPolicy {
            daily: wire.auto_backup_enabled.unwrap_or(true),
            retention_days: wire.snapshot_retention.unwrap_or(DEFAULT_RETENTION_DAYS),
        },
        host_ok: host_ok(wire.host_status.as_ref()),
        created_at: wire.created_at.unwrap_or_default(),
    })
}

pub fn app(wire: fly::App) -> App {
    App { organization: wire.organization.and_then(|organization| organization.slug) }
}

/// Addresses that are one address; a pair for egress is not one that anything connects to.
pub fn addresses(wire: fly::IpAssignments) -> Vec<Address> {
    let address = |assignment: fly::IpAssignment| {
        let flycast = assignment.is_flycast();
        Some(Address { ip: assignment.ip?, flycast })
    };
    wire.ips.into_iter().filter_map(address).collect()
}

/// Names with Fly's digests; a digest Fly did not give is empty.
pub fn secrets(wire: fly::AppSecrets) -> BTreeMap<String, String> {
    wire.secrets.into_iter().map(|secret| (secret.name, secret.digest.unwrap_or_default())).collect()
}

fn fly_guest(guest: &Guest) -> fly::Guest {
    fly::Guest {
        cpu_kind: Some(match guest.cpu_kind {
            CpuKind::Shared => fly::CpuKind::Shared,
            CpuKind::Performance => fly::CpuKind::Performance,
        }),
        cpus: Some(guest.cpus),
        memory_mb: Some(guest.memory_mb.into()),
        ..fly::Guest::default()
    }
}

/// The body that creates a node's volume. On a server of its own among the cluster's volumes: two nodes that share a
/// host are lost together.
pub fn create_volume(
    name: &str,
    region: &str,
    size_gb: u32,
    snapshots: SnapshotPolicy,
    guest: &Guest,
) -> fly::CreateVolume {
    fly::CreateVolume {
        name: name.to_owned(),
        region: Some(region.to_owned()),
        size_gb: Some(size_gb.into()),
        encrypted: Some(true),
        fstype: Some("ext4".to_owned()),
        unique_zone_app_wide: Some(true),
        snapshot_retention: Some(snapshots.retention_days),
        auto_backup_enabled: Some(snapshots.daily),
        compute: Some(fly_guest(guest)),
        ..fly::CreateVolume::default()
    }
}

pub fn update_volume(snapshots: SnapshotPolicy) -> fly::UpdateVolume {
    fly::UpdateVolume {
        snapshot_retention: Some(snapshots.retention_days),
        auto_backup_enabled: Some(snapshots.daily),
        ..fly::UpdateVolume::default()
    }
}

/// The body that creates a node's Machine.
pub fn create_machine(spec: &MachineSpec) -> fly::CreateMachine {
    let mount = fly::Mount { volume: Some(spec.volume.clone()), path: Some(DATA.to_owned()), ..fly::Mount::default() };
    let config = fly::MachineConfig {
        image: Some(spec.image.clone()),
        env: spec.env.clone(),
        guest: Some(fly_guest(&spec.guest)),
        metadata: spec.metadata.clone(),
        mounts: vec![mount],
        services: services(),
        checks: BTreeMap::from([("agent".to_owned(), agent_check())]),
        metrics: Some(fly::Metrics {
            port: Some(ports::METRICS),
            path: Some("/metrics".to_owned()),
            ..fly::Metrics::default()
        }),
        restart: Some(fly::Restart { policy: Some(fly::RestartPolicy::Always), ..fly::Restart::default() }),
        // SIGINT is PostgreSQL's fast shutdown, and the agent's clean stop.
        stop_config: Some(fly::StopConfig {
            signal: Some(fly::Signal::Int),
            timeout: Some(fly::GoDuration::from_secs(STOP_SECONDS)),
            ..fly::StopConfig::default()
        }),
        auto_destroy: false,
        ..fly::MachineConfig::default()
    };
    fly::CreateMachine {
        name: Some(spec.node.to_string()),
        region: Some(spec.region.to_string()),
        config,
        ..fly::CreateMachine::default()
    }
}

/// What Fly's proxy serves for a node: on every Machine, used only while the app has a Flycast address, so that
/// switching Flycast on or off restarts nothing. The ports and `pg_tls` are those that Fly Postgres declares, and so
/// are what existing connection strings expect; behind 5433 stands the read-only router, as a bare node may be the
/// primary. The proxy never stops or starts a database.
fn services() -> Vec<fly::Service> {
    let service = |public: u16, internal: u16| fly::Service {
        protocol: Some("tcp".to_owned()),
        internal_port: Some(internal),
        ports: vec![fly::Port { port: Some(public), handlers: vec!["pg_tls".to_owned()], ..fly::Port::default() }],
        autostart: Some(false),
        autostop: Some(fly::Autostop::Off),
        concurrency: Some(fly::Concurrency {
            kind: Some("connections".to_owned()),
            soft_limit: Some(1000),
            hard_limit: Some(1000),
            ..fly::Concurrency::default()
        }),
        ..fly::Service::default()
    };
    vec![service(5432, ports::READ_WRITE), service(5433, ports::READ_ONLY)]
}

/// Whether the agent lives, for people who look at Fly: a check never stops or restarts a Machine.
fn agent_check() -> fly::Check {
    fly::Check {
        check_type: Some(fly::CheckType::Http),
        port: Some(ports::API),
        interval: Some(fly::GoDuration::from_secs(15)),
        timeout: Some(fly::GoDuration::from_secs(5)),
        grace_period: Some(fly::GoDuration::from_secs(30)),
        method: Some("GET".to_owned()),
        path: Some("/v1/health".to_owned()),
        ..fly::Check::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster() -> ClusterName {
        "orders-db".parse().unwrap()
    }

    fn wire_machine(change: serde_json::Value) -> fly::Machine {
        let mut body = json!({
            "id": "148e000000000a", "name": "ord-1", "state": "started", "region": "ord", "private_ip": "fdaa:0:1::3",
            "config": {
                "image": "flypg/postgres:15",
                "guest": { "cpu_kind": "shared", "cpus": 2, "memory_mb": 4096 },
                "env": { "FLYPG_NODE": "ord-1" },
                "metadata": { "flypg_cluster": "orders-db", "flypg_node": "ord-1" },
                "mounts": [{ "volume": "vol_1", "path": "/data" }],
            },
        });
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn a_machine_is_read_as_what_it_means() {
        let machine = machine(wire_machine(json!({})), &cluster()).unwrap();
        assert_eq!(machine.node_of(&cluster()), Some("ord-1".parse().unwrap()));
        assert_eq!(machine.address, Some("fdaa:0:1::3".parse().unwrap()));
        let config = machine.config.unwrap();
        assert_eq!(config.volume.as_deref(), Some("vol_1"));
        assert_eq!(config.guest, Some(Guest { cpu_kind: CpuKind::Shared, cpus: 2, memory_mb: 4096 }));
        assert_eq!(config.env["FLYPG_NODE"], "ord-1");
    }

    #[test]
    fn every_machine_state_means_something() {
        let power = |state: &str| machine(wire_machine(json!({ "state": state })), &cluster()).map(|m| m.power);
        assert_eq!(power("created"), Some(Power::Created));
        assert_eq!(power("started"), Some(Power::Started));
        assert_eq!(power("stopped"), Some(Power::Stopped));
        assert_eq!(power("suspended"), Some(Power::Suspended));
        assert_eq!(power("failed"), Some(Power::Failed));
        for changing in ["creating", "starting", "stopping", "restarting", "updating", "replacing", "something-new"] {
            assert_eq!(power(changing), Some(Power::Changing), "{changing}");
        }
        for leaving in ["destroying", "launch_failed"] {
            assert_eq!(power(leaving), Some(Power::Destroying), "{leaving}");
        }
        for gone in ["destroyed", "replaced", "migrated"] {
            assert_eq!(power(gone), None, "{gone}");
        }
    }

    #[test]
    fn a_host_that_does_not_answer_hides_the_configuration() {
        for status in ["unknown", "unreachable", "something-new"] {
            let machine = machine(wire_machine(json!({ "host_status": status })), &cluster()).unwrap();
            assert!(!machine.host_ok, "{status}");
            assert_eq!(machine.config, None, "{status}: what is shown is only what was last known");
            assert_eq!(machine.node_of(&cluster()), Some("ord-1".parse().unwrap()), "{status}: its name still says it");
        }
    }

    #[test]
    fn the_environment_of_other_peoples_machines_is_not_kept() {
        let mut wire = wire_machine(json!({}));
        wire.config.as_mut().unwrap().metadata.clear();
        wire.config.as_mut().unwrap().env.insert("API_TOKEN".to_owned(), "s3cr3t".to_owned());
        assert!(machine(wire, &cluster()).unwrap().config.unwrap().env.is_empty());
    }

    #[test]
    fn volumes_on_their_way_out_do_not_count() {
        let volume = |state: &str| {
            let wire = json!({ "id": "vol_1", "name": "pg_ord_1", "state": state, "region": "ord", "size_gb": 40 });
            super::volume(serde_json::from_value(wire).unwrap())
        };
        for kept in ["creating", "created", "extending", "restoring", "hydrating", "recovering", "something-new"] {
            let volume = volume(kept).unwrap_or_else(|| panic!("{kept} counts"));
            assert_eq!(volume.node(), Some("ord-1".parse().unwrap()));
            assert_eq!(volume.snapshots, SnapshotPolicy { daily: true, retention_days: 5 });
        }
        for leaving in ["scheduling_destroy", "pending_destroy", "waiting_for_detach", "destroying", "destroyed"] {
            assert_eq!(volume(leaving), None, "{leaving}");
        }
    }

    #[test]
    fn a_machine_that_is_made_is_recognised_when_it_is_read() {
        let spec = MachineSpec {
            node: "ord-1".parse().unwrap(),
            region: "ord".parse().unwrap(),
            image: "flypg/postgres:15".to_owned(),
            guest: Guest { cpu_kind: CpuKind::Performance, cpus: 1, memory_mb: 2048 },
            env: BTreeMap::from([("FLYPG_NODE".to_owned(), "ord-1".to_owned())]),
            metadata: BTreeMap::from([
                ("flypg_cluster".to_owned(), "orders-db".to_owned()),
                ("flypg_node".to_owned(), "ord-1".to_owned()),
            ]),
            volume: "vol_1".to_owned(),
        };
        let body = create_machine(&spec);
        let wire = fly::Machine {
            id: "148e000000000a".to_owned(),
            name: body.name.unwrap(),
            state: fly::MachineState::Started,
            region: body.region.unwrap(),
            config: Some(body.config),
            ..fly::Machine::default()
        };
        let machine = machine(wire, &cluster()).unwrap();
        assert_eq!(machine.node_of(&cluster()), Some(spec.node));
        let config = machine.config.unwrap();
        assert_eq!(config.image, spec.image);
        assert_eq!(config.guest, Some(spec.guest));
        assert_eq!(config.env, spec.env);
        assert_eq!(config.metadata, spec.metadata);
        assert_eq!(config.volume, Some(spec.volume));
    }
}
