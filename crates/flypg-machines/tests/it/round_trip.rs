//! Read, change one thing, write back: nothing else changes.

use flypg_machines::types::*;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A configuration with every key of the documentation, and one nobody knows in every object.
fn full_config() -> Value {
    serde_json::from_str(include_str!("../fixtures/machine-config.json")).unwrap()
}

fn again<T: Serialize + DeserializeOwned>(value: &Value) -> Value {
    serde_json::to_value(serde_json::from_value::<T>(value.clone()).unwrap()).unwrap()
}

#[test]
fn every_known_and_unknown_field_of_a_configuration_survives() {
    assert_eq!(again::<MachineConfig>(&full_config()), full_config());
}

#[test]
fn one_change_is_one_change() {
    let mut config: MachineConfig = serde_json::from_value(full_config()).unwrap();
    config.guest.as_mut().unwrap().memory_mb = Some(8192);
    let mut expected = full_config();
    expected["guest"]["memory_mb"] = json!(8192);
    assert_eq!(serde_json::to_value(&config).unwrap(), expected);
}

#[test]
fn machines_and_volumes_keep_what_they_do_not_know() {
    let machine = json!({
        "id": "m", "name": "n", "state": "started", "region": "ord", "version": "v", "instance_id": "v",
        "image_ref": { "registry": "r", "labels": { "a": "b" }, "new": 1 }, "private_ip": "fdaa::1",
        "config": full_config(), "incomplete_config": full_config(), "host_status": "unreachable",
        "events": [{ "id": "e", "type": "reboot", "status": "odd", "source": "flyd", "timestamp": 1,
                     "request": { "restart_count": 2, "exit_event": { "exit_code": -1, "new": 1 }, "new": 1 },
                     "new": 1 }],
        "checks": [{ "name": "c", "status": "critical", "output": "o", "updated_at": "t", "new": 1 }],
        "host_features": ["f"], "cordoned": true, "nonce": "n",
        "lease": { "owner": "o", "description": "d", "expires_at": 1, "new": 1 },
        "containers": [{ "name": "c", "state": "healthy", "new": 1 }], "new": { "x": null }
    });
    assert_eq!(again::<Machine>(&machine), machine);
    let volume = json!({
        "id": "vol_1", "name": "n", "state": "hydrating", "size_gb": 1, "region": "ord",
        "attached_machine_id": null, "attached_alloc_id": null, "bytes_used": 1, "bytes_total": 2,
        "host_status": "ok", "type": "local", "host_features": ["f"], "host_dedication_id": "h", "new": 1
    });
    assert_eq!(again::<Volume>(&volume), volume);
}

/// Puts `null` in the place of each field in turn.
fn nulls_are_absence<T: DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value, required: &[&str]) {
    let fields: &Map<String, Value> = value.as_object().unwrap();
    for key in fields.keys().filter(|key| !required.contains(&key.as_str())) {
        let (mut null, mut absent) = (fields.clone(), fields.clone());
        null.insert(key.clone(), Value::Null);
        absent.remove(key);
        let null: T = serde_json::from_value(null.into()).unwrap_or_else(|error| panic!("{key}: {error}"));
        let absent: T = serde_json::from_value(absent.into()).unwrap();
        assert_eq!(null, absent, "{key}");
    }
}

#[test]
fn null_is_absence_for_every_field() {
    let mut config = full_config();
    let unknown = ["cache_drive", "spot", "disable_machine_autostart", "key_of_tomorrow"];
    nulls_are_absence::<MachineConfig>(&config, &unknown);
    nulls_are_absence::<Guest>(&config["guest"], &["new", "persist_rootfs"]);
    nulls_are_absence::<Mount>(&config["mounts"][0], &["new"]);
    nulls_are_absence::<Init>(&config["init"], &["new"]);
    nulls_are_absence::<Check>(&config["checks"]["ready"], &["new"]);
    nulls_are_absence::<StopConfig>(&config["stop_config"], &["new"]);
    let service = config["services"][0].take();
    nulls_are_absence::<Service>(&service, &["new", "force_instance_key", "force_instance_description"]);
    nulls_are_absence::<CreateVolume>(
        &json!({ "name": "n", "region": "r", "size_gb": 1, "encrypted": true, "fstype": "ext4",
                 "require_unique_zone": true, "unique_zone_app_wide": false, "snapshot_retention": 5,
                 "auto_backup_enabled": true, "snapshot_id": "s", "source_volume_id": "v",
                 "compute": { "cpus": 1 }, "compute_image": "i" }),
        &[],
    );
    nulls_are_absence::<CreateMachine>(
        &json!({ "name": "n", "region": "r", "config": { "image": "i" }, "skip_launch": true,
                 "skip_service_registration": true, "skip_secrets": true, "min_secrets_version": 1,
                 "lease_ttl": 60 }),
        &[],
    );
    nulls_are_absence::<Machine>(
        &json!({ "id": "m", "name": "n", "state": "started", "region": "r", "version": "v", "config": {},
                 "events": [], "checks": [], "host_status": "ok", "cordoned": true, "nonce": "n",
                 "image_ref": {}, "lease": {}, "containers": [], "host_features": ["x"] }),
        &["id"],
    );
    nulls_are_absence::<OrgMachines>(
        &json!({ "machines": [], "next_cursor": "c", "last_machine_id": "m", "error_regions": ["x"] }),
        &[],
    );
}

proptest! {
    #[test]
    fn any_duration_survives(nanos in any::<i64>(), shift in 0_u32..60) {
        let span = GoDuration::from_nanos(nanos >> shift);
        prop_assert_eq!(span.to_string().parse(), Ok(span));
        prop_assert_eq!(serde_json::from_value::<GoDuration>(json!(span.as_nanos())).unwrap(), span);
        prop_assert_eq!(serde_json::from_value::<GoDuration>(json!(span)).unwrap(), span);
    }

    #[test]
    fn durations_add_up(h in 0_i64..1000, m in 0_i64..100_000, s in 0_i64..100_000, ms in 0_i64..100_000) {
        let text = format!("{h}h{m}m{s}.5s{ms}ms");
        let expected = ((h * 60 + m) * 60 + s) * 1_000_000_000 + 500_000_000 + ms * 1_000_000;
        prop_assert_eq!(text.parse(), Ok(GoDuration::from_nanos(expected)));
        prop_assert_eq!(format!("-{text}").parse(), Ok(GoDuration::from_nanos(-expected)));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[-+0-9.hmsnuµ ]{0,40}|\\PC{0,20}") {
        let _ = text.parse::<GoDuration>();
    }
}

#[test]
fn durations_as_go_reads_them() {
    for (text, nanos) in [
        ("0", 0),
        ("-0", 0),
        ("+5s", 5_000_000_000),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("1µs1μs1us", 3_000),
        ("0.9ns", 0),
        ("-9223372036854775808ns", i64::MIN),
        ("9223372036854775807ns", i64::MAX),
    ] {
        assert_eq!(text.parse(), Ok(GoDuration::from_nanos(nanos)), "{text}");
    }
    for text in ["", "-", "5", "s", ".s", "1.1.1s", "1 s", "1d", "1s ", "9223372036854775808ns", "99999999999999h"] {
        assert!(text.parse::<GoDuration>().is_err(), "{text:?}");
    }
    assert_eq!(GoDuration::from_secs(-1).to_std(), None);
    assert_eq!(GoDuration::from_secs(2).to_std(), Some(std::time::Duration::from_secs(2)));
    assert_eq!(GoDuration::from(std::time::Duration::MAX), GoDuration::MAX);
}
