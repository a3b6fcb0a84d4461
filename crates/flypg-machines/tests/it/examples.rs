//! Every documented example: we send what it sends, and understand what it answers.

use std::collections::BTreeMap;
use std::time::Duration;

use flypg_machines::lifecycle::{self, Started, Wait, Waited};
use flypg_machines::types::*;
use flypg_machines::{
    Cause, Error, Reason, Removal, Request, apps, leases, machines, metadata, platform, secrets, volumes,
};
use serde_json::Value;

use crate::server::{Answer, Seen, Server};

const APP: &str = "orders-db";
const MACHINE: &str = "3d8d413b29d089";
const VOLUME: &str = "vol_9vw681egy1jj5xm4";
const NONCE: &str = "5c35f65c9f95";
const VERSION: &str = "01HQ73A7BFFDF1B6WMGHFZZ4E7";

fn fixtures() -> BTreeMap<String, Value> {
    let all: Vec<Value> = serde_json::from_str(include_str!("../fixtures/examples.json")).unwrap();
    all.into_iter().map(|example| (example["name"].as_str().unwrap().to_owned(), example)).collect()
}

/// An example, played by a real server.
struct Play {
    example: Value,
}

impl Play {
    /// Sends the request to a server that gives the example's answer, and checks what arrived there.
    async fn send<T>(&self, request: Request<T>) -> Result<T, Error> {
        let response = &self.example["response"];
        let body = response.get("body").map(Value::to_string).unwrap_or_default();
        let mut answer = Answer::new(response["status"].as_u64().unwrap().try_into().unwrap(), body);
        for (name, value) in response["headers"].as_object().into_iter().flatten() {
            answer = answer.header(name, value.as_str().unwrap());
        }
        let server = Server::start([answer]).await;
        let outcome = server.client().send(request).await;
        let seen = server.seen();
        assert_eq!(seen.len(), 1, "sent once");
        self.check(&seen[0]);
        outcome
    }

    fn check(&self, seen: &Seen) {
        let wanted = &self.example["request"];
        assert_eq!(seen.method.as_str(), wanted["method"]);
        assert_eq!(seen.path_and_query, wanted["path"].as_str().unwrap());
        for (name, value) in wanted["headers"].as_object().into_iter().flatten() {
            assert_eq!(seen.headers.get(name).unwrap(), value.as_str().unwrap());
        }
        match wanted.get("body") {
            Some(body) => {
                assert_eq!(&serde_json::from_slice::<Value>(&seen.body).unwrap(), body);
                assert_eq!(seen.headers["content-type"], "application/json");
            }
            None => {
                assert!(seen.body.is_empty(), "{:?}", seen.body);
                assert!(!seen.headers.contains_key("content-type"));
            }
        }
    }

    async fn ok<T>(&self, request: Request<T>) -> T {
        self.send(request).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn refused<T: std::fmt::Debug>(&self, request: Request<T>) -> Reason {
        let error = self.send(request).await.unwrap_err();
        let response = &self.example["response"];
        let exchange = error.exchange();
        assert_eq!(u64::from(exchange.status.unwrap()), response["status"]);
        let text = [&response["body"]["error"], &response["body"]["message"]].into_iter().find_map(Value::as_str);
        assert_eq!(exchange.text.as_deref(), text);
        assert!(!error.may_have_happened());
        error.reason().unwrap_or_else(|| panic!("not a refusal: {error}")).clone()
    }

    /// The type holds everything that the answer says.
    fn lossless<T: serde::Serialize + serde::de::DeserializeOwned>(&self) {
        let body = &self.example["response"]["body"];
        let typed: T = serde_json::from_value(body.clone()).unwrap();
        let again = serde_json::to_value(&typed).unwrap();
        assert_eq!(without_nulls(again), without_nulls(body.clone()));
    }
}

/// `null` and absence are the same on this API.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn config(image: &str) -> MachineConfig {
    MachineConfig { image: text(image), ..MachineConfig::default() }
}

fn guest() -> Guest {
    Guest { cpu_kind: Some(CpuKind::Performance), cpus: Some(2), memory_mb: Some(4096), ..Guest::default() }
}

fn mount() -> Mount {
    Mount { volume: text(VOLUME), path: text("/data"), ..Mount::default() }
}

fn create_app() -> CreateApp {
    CreateApp { name: APP.to_owned(), org_slug: "personal".to_owned(), ..CreateApp::default() }
}

fn full_machine() -> CreateMachine {
    let image = "registry.fly.io/orders-db@sha256:c9cf959fd83770dfdefd8fb42cfef0761432af36a764c077aed54bbc5bb25368";
    CreateMachine {
        name: text("orders-db-1"),
        region: text("ord"),
        lease_ttl: Some(120),
        config: MachineConfig {
            guest: Some(guest()),
            mounts: vec![mount()],
            restart: Some(Restart { policy: Some(RestartPolicy::Always), ..Restart::default() }),
            stop_config: Some(StopConfig {
                signal: Some(Signal::Int),
                timeout: Some(GoDuration::from_secs(60)),
                ..StopConfig::default()
            }),
            metrics: Some(Metrics { port: Some(9187), path: text("/metrics"), ..Metrics::default() }),
            metadata: BTreeMap::from([("role".to_owned(), "replica".to_owned())]),
            ..config(image)
        },
        ..CreateMachine::default()
    }
}

#[tokio::test]
async fn apps() {
    played(APPS, |name, play| async move {
        match name.as_str() {
            "create_app" => {
                let app = CreateApp {
                    network: text("orders-net"),
                    idempotency_key: text("c3b1f0de-orders-db-1"),
                    ..create_app()
                };
                assert_eq!(play.ok(apps::create(&app)).await.created_at, Some(1_708_631_799_000));
                play.lossless::<CreatedApp>();
            }
            "create_app_name_taken" => {
                assert_eq!(play.refused(apps::create(&create_app())).await, Reason::NameTaken);
            }
            "get_app" => {
                assert_eq!(play.ok(apps::get(APP)).await.status, Some(AppStatus::Pending));
                play.lossless::<App>();
            }
            "get_app_missing" => assert_eq!(play.refused(apps::get(APP)).await, Reason::AppNotFound),
            "list_apps" => {
                assert_eq!(play.ok(apps::list("personal", &Default::default())).await.apps[0].name, APP);
                play.lossless::<AppList>();
            }
            "delete_app" => assert_eq!(play.ok(apps::delete(APP, true)).await, Removal::Accepted(())),
            "unauthorized" => {
                let error = play.send(machines::list(APP, &Default::default())).await.unwrap_err();
                assert!(matches!(error, Error::NotDone { cause: Cause::Unauthorized, .. }), "{error:?}");
                assert_eq!(error.exchange().request_id.as_deref(), Some("01JNRQ9VVKJ7HZFMJWJB3M3RYN-yyz"));
            }
            "regions" => {
                let regions = play.ok(platform::regions()).await;
                assert_eq!((regions.nearest.as_deref(), regions.regions.len()), (Some("ord"), 1));
                play.lossless::<Regions>();
            }
            "placements" => {
                let query = PlacementQuery {
                    org_slug: "personal".to_owned(),
                    region: text("ord"),
                    count: Some(1),
                    compute: Some(guest()),
                    volume_name: text("pgdata"),
                    volume_size_bytes: Some(10_737_418_240),
                    ..PlacementQuery::default()
                };
                assert_eq!(play.ok(platform::placements(&query)).await.regions[0].count, 1);
                play.lossless::<Placements>();
            }
            "secrets_update" => {
                let values = [("PG_PASSWORD", Some("<value>")), ("OLD_KEY", None)];
                let values = values.map(|(name, value)| (name.to_owned(), value.map(Secret::new)));
                let update = UpdateSecrets { values: BTreeMap::from(values) };
                assert_eq!(play.ok(secrets::update(APP, &update)).await.version(), Some(12));
                play.lossless::<SecretsUpdated>();
            }
            _ => return false,
        }
        true
    })
    .await;
}

#[tokio::test]
async fn volumes() {
    played(VOLUMES, |name, play| async move {
        match name.as_str() {
            "create_volume" => {
                let volume = CreateVolume {
                    name: "pgdata".to_owned(),
                    region: text("ord"),
                    size_gb: Some(10),
                    snapshot_retention: Some(5),
                    auto_backup_enabled: Some(true),
                    require_unique_zone: Some(true),
                    compute: Some(guest()),
                    ..CreateVolume::default()
                };
                assert_eq!(play.ok(volumes::create(APP, &volume)).await.state, VolumeState::Created);
                play.lossless::<Volume>();
            }
            "volume_in_use_list_item" => {
                let list = play.ok(volumes::list(APP, &Default::default())).await;
                assert_eq!(list.items[0].attached_machine_id.as_deref(), Some("908057ef21e487"));
                play.lossless::<Vec<Volume>>();
            }
            "extend_volume" => {
                let extended = play.ok(volumes::extend(APP, VOLUME, 20)).await;
                assert_eq!((extended.volume.size_gb, extended.needs_restart), (20, false));
                play.lossless::<ExtendedVolume>();
            }
            "restore_volume" => {
                let volume = CreateVolume {
                    name: "pgdata".to_owned(),
                    region: text("yyz"),
                    size_gb: Some(10),
                    snapshot_id: text("vs_evl65mZQ937tQ16xGGDX8BN"),
                    ..CreateVolume::default()
                };
                assert_eq!(play.ok(volumes::create(APP, &volume)).await.state, VolumeState::Restoring);
                play.lossless::<Volume>();
            }
            "create_snapshot" => {
                let job = play.ok(volumes::create_snapshot(APP, VOLUME)).await.msg.unwrap().backup.unwrap();
                assert_eq!(job.graph_id.as_deref(), Some("vs_gwMAXwwLjOVuo7jL96v2kGXU2"));
                play.lossless::<SnapshotJobAnswer>();
            }
            "snapshot_refused" => {
                let at = text("2026-11-20T19:30:43Z");
                let reason = play.refused(volumes::create_snapshot(APP, VOLUME)).await;
                assert_eq!(reason, Reason::SnapshotScheduled { at });
            }
            "list_snapshots" => {
                let list = play.ok(volumes::snapshots(APP, VOLUME)).await;
                let statuses: Vec<_> = list.into_iter().filter_map(|snapshot| snapshot.status).collect();
                assert_eq!(statuses, [SnapshotStatus::Created, SnapshotStatus::Running]);
                play.lossless::<Vec<Snapshot>>();
            }
            "delete_volume" => {
                let removal = play.ok(volumes::delete(APP, VOLUME)).await;
                assert!(matches!(removal, Removal::Accepted(volume) if volume.state.is_leaving()));
                play.lossless::<Volume>();
            }
            "delete_volume_bound" => {
                let machine_id = text(MACHINE);
                assert_eq!(play.refused(volumes::delete(APP, VOLUME)).await, Reason::VolumeBound { machine_id });
            }
            _ => return false,
        }
        true
    })
    .await;
}

#[tokio::test]
async fn machines() {
    played(MACHINES, |name, play| async move {
        let create = |create: CreateMachine| machines::create(APP, &create);
        let image = config("registry.fly.io/orders-db:1");
        let on_volume = MachineConfig { mounts: vec![mount()], ..image.clone() };
        let region = text("ord");
        match name.as_str() {
            "create_machine" => {
                let machine = play.ok(create(full_machine())).await;
                assert_eq!((machine.state.clone(), machine.nonce.as_deref()), (MachineState::Created, Some(NONCE)));
                assert_eq!(machine.version(), Some(VERSION));
                play.lossless::<Machine>();
            }
            "create_machine_duplicate" => {
                let request = create(CreateMachine { name: text("orders-db-1"), config: image, ..Default::default() });
                assert_eq!(play.refused(request).await, Reason::AlreadyExists { machine_id: text(MACHINE) });
            }
            "create_machine_no_region_capacity" => {
                let request = create(CreateMachine { region, config: image, ..Default::default() });
                assert_eq!(play.refused(request).await, Reason::RegionFull);
            }
            "create_machine_volume_host_full" => {
                let request = create(CreateMachine { region, config: on_volume, ..Default::default() });
                assert_eq!(play.refused(request).await, Reason::VolumeHostFull);
            }
            "create_machine_volume_claimed" => {
                let request = create(CreateMachine { config: on_volume, ..Default::default() });
                let machine_id = text("908057ef21e487");
                assert_eq!(play.refused(request).await, Reason::VolumeClaimed { machine_id });
            }
            "get_machine_after_exit" => {
                let machine = play.ok(machines::get(APP, MACHINE)).await;
                let exit = machine.events[0].request.as_ref().unwrap().exit().unwrap();
                assert_eq!(exit.exit_code, Some(127));
                assert_eq!(exit.exited_at, Some(EventTime::Millis(1_653_047_897_299)));
                let events = machine.events.iter().map(|event| event.event_type.clone());
                let expected = [EventType::Exit, EventType::Update, EventType::Start, EventType::Launch];
                assert_eq!(events.collect::<Vec<_>>(), expected);
                play.lossless::<Machine>();
            }
            "start_machine" => {
                let started = play.ok(lifecycle::start(APP, MACHINE).lease(Some(NONCE))).await;
                let Started::Accepted(answer) = started else { panic!("{started:?}") };
                assert_eq!(answer.previous_state, Some(MachineState::Stopped));
                play.lossless::<StartResponse>();
            }
            "start_machine_not_ready" => {
                let from = Some(MachineState::Created);
                let reason = play.refused(lifecycle::start(APP, MACHINE)).await;
                assert!(reason.is_passing());
                assert_eq!(reason, Reason::NotStartable { from });
            }
            "start_machine_already" => {
                assert_eq!(play.ok(lifecycle::start(APP, MACHINE)).await, Started::Already);
            }
            "stop_machine" => {
                let timeout = Some(GoDuration::from_secs(30));
                let stop = StopMachine { signal: Some(Signal::Int), timeout, ..StopMachine::default() };
                assert_eq!(play.ok(lifecycle::stop(APP, MACHINE, &stop)).await, Ack::ok());
                play.lossless::<Ack>();
            }
            "wait_ok" => {
                let wait = Wait::until(WaitState::Started, Duration::from_secs(60));
                let waited = play.ok(lifecycle::wait(APP, MACHINE, &wait)).await;
                let Waited::Reached(answer) = waited else { panic!("{waited:?}") };
                assert_eq!(answer.state, Some(MachineState::Started));
                play.lossless::<WaitResponse>();
            }
            "wait_timeout" => {
                let wait = Wait::until(WaitState::Started, Duration::from_secs(10));
                let currently = Some(MachineState::Stopped);
                assert_eq!(play.ok(lifecycle::wait(APP, MACHINE, &wait)).await, Waited::NotYet { currently });
            }
            "destroy_running_refused" => {
                assert_eq!(play.refused(machines::destroy(APP, MACHINE, false)).await, Reason::NotDestroyable);
            }
            "destroy_forced" => {
                let removal = play.ok(machines::destroy(APP, MACHINE, true)).await;
                assert_eq!(removal, Removal::Accepted(Ack::ok()));
                play.lossless::<Ack>();
            }
            "exec" => {
                let exec = ExecRequest {
                    command: ["pg_isready", "-h", "localhost"].map(str::to_owned).to_vec(),
                    timeout: Some(5),
                    ..ExecRequest::default()
                };
                assert_eq!(play.ok(lifecycle::exec(APP, MACHINE, &exec)).await.exit_code, 2);
                play.lossless::<ExecResponse>();
            }
            _ => return false,
        }
        true
    })
    .await;
}

#[tokio::test]
async fn leases_and_metadata() {
    played(LEASES_AND_METADATA, |name, play| async move {
        match name.as_str() {
            "lease_create" => {
                let lease = play.ok(leases::acquire(APP, MACHINE, 60, Some("failover 1"))).await;
                assert_eq!((lease.nonce.as_str(), lease.expires_at), (NONCE, Some(1_763_640_000)));
                play.lossless::<LeaseAnswer>();
            }
            "lease_held" => {
                let update = UpdateMachine { config: config("registry.fly.io/orders-db:2"), ..Default::default() };
                let owner = text("9af60c27-ee17-55df-bb0a-4f369e59839a@tokens.fly.io");
                let expires_at = text("2026-11-20T10:41:08Z");
                let reason = play.refused(machines::update(APP, MACHINE, &update)).await;
                assert_eq!(reason, Reason::LeaseHeld { owner, expires_at });
            }
            "lease_held_2022" => {
                let reason = play.refused(leases::acquire(APP, MACHINE, 60, None)).await;
                let (owner, expires_at) = (text("ops@example.com"), text("2022-10-20 19:59:06 +0000 UTC"));
                assert_eq!(reason, Reason::LeaseHeld { owner, expires_at });
            }
            "lease_release" => {
                let removal = play.ok(leases::release(APP, MACHINE, NONCE)).await;
                assert!(matches!(removal, Removal::Accepted(released) if released.data == Some(Ack::ok())));
                play.lossless::<LeaseReleased>();
            }
            "metadata_get" => {
                assert_eq!(play.ok(metadata::get(APP, MACHINE)).await["role"], "primary");
                play.lossless::<BTreeMap<String, String>>();
            }
            "metadata_patch" => {
                let patch = PatchMetadata {
                    metadata: [("role", "primary"), ("old_key", "")]
                        .map(|(key, value)| (key.to_owned(), Some(value.to_owned())))
                        .into(),
                    machine_version: text(VERSION),
                    updated_at: None,
                };
                play.ok(metadata::patch(APP, MACHINE, &patch)).await;
            }
            _ => return false,
        }
        true
    })
    .await;
}

/// How many examples each test above plays. Together they must be all.
const APPS: usize = 10;
const VOLUMES: usize = 9;
const MACHINES: usize = 15;
const LEASES_AND_METADATA: usize = 6;

#[test]
fn no_example_is_left_out() {
    assert_eq!(fixtures().len(), APPS + VOLUMES + MACHINES + LEASES_AND_METADATA);
}

/// Plays every example that `one` knows, which must be as many as `expected`.
async fn played<F: Future<Output = bool>>(expected: usize, one: impl Fn(String, Play) -> F) {
    let mut count = 0;
    for (name, example) in fixtures() {
        count += usize::from(one(name, Play { example }).await);
    }
    assert_eq!(count, expected);
}
