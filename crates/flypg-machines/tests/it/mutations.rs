//! Answers with one thing wrong or new in them: read or refused, never a panic, and nothing is lost on the way back.

use flypg_machines::types::*;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Every place in a JSON value, the root included.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(map) => {
            let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
            map.iter().for_each(|(key, value)| places(value, &format!("{at}/{}", escape(key)), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, value)| places(value, &format!("{at}/{n}"), found));
        }
        _ => {}
    }
}

/// Where `after` lacks something of `before` that is not empty.
fn lost(before: &Value, after: &Value, at: &str) -> Option<String> {
    let here = || Some(format!("{at}: {before} became {after}"));
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => before.iter().find_map(|(key, value)| {
            let at = format!("{at}/{key}");
            match after.get(key) {
                Some(after) => lost(value, after, &at),
                None => (!empty(value)).then_some(at),
            }
        }),
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => before
            .iter()
            .zip(after)
            .enumerate()
            .find_map(|(n, (before, after))| lost(before, after, &format!("{at}/{n}"))),
        _ if before == after || empty(before) && empty(after) => None,
        // Read back as a flag, written as a word.
        (Value::Bool(_), Value::String(_)) if at.ends_with("/autostop") => None,
        // Durations have one spelling.
        (Value::Number(nanos), Value::String(text))
            if text.parse().ok().map(GoDuration::as_nanos) == Some(nanos.as_i64().unwrap_or_default()) =>
        {
            None
        }
        _ => here(),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(empty),
        _ => false,
    }
}

fn machine() -> Value {
    let config: Value = serde_json::from_str(include_str!("../fixtures/machine-config.json")).unwrap();
    json!({
        "id": "m", "name": "n", "state": "started", "region": "ord", "version": "v", "instance_id": "v",
        "image_ref": { "registry": "r", "repository": "p", "labels": { "a": "b" } }, "private_ip": "fdaa::1",
        "config": config, "created_at": "t", "updated_at": "t", "host_status": "ok", "cordoned": true,
        "events": [{ "id": "e", "type": "exit", "status": "stopped", "source": "flyd", "timestamp": 1,
                     "request": { "restart_count": 2, "exit_event": { "exit_code": -1, "exited_at": 5 } } }],
        "checks": [{ "name": "c", "status": "critical", "output": "o", "updated_at": "t" }],
        "lease": { "owner": "o", "description": "d", "expires_at": 1 }
    })
}

fn volume() -> Value {
    json!({
        "id": "vol_1", "name": "n", "state": "created", "size_gb": 1, "region": "ord", "zone": "z", "encrypted": true,
        "attached_machine_id": "m", "created_at": "t", "blocks": 1, "block_size": 4096, "blocks_free": 1,
        "blocks_avail": 1, "bytes_used": 1, "bytes_total": 2, "fstype": "ext4", "snapshot_retention": 5,
        "auto_backup_enabled": true, "host_status": "ok", "type": "local"
    })
}

fn odd() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        Just(json!({ "Time": { "nested": [null, 1e308] } })),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("5s")),
    ]
}

fn mutated(mut value: Value, place: prop::sample::Index, odd: &Value, add: bool) -> Value {
    let mut found = Vec::new();
    places(&value, "", &mut found);
    let at = value.pointer_mut(place.get::<String>(&found)).unwrap();
    match at {
        Value::Object(map) if add => drop(map.insert("key_of_tomorrow".to_owned(), odd.clone())),
        at => *at = odd.clone(),
    }
    value
}

/// What can be read can be written back with everything in it.
fn nothing_is_lost<T: Serialize + DeserializeOwned>(sent: &Value) -> Result<(), TestCaseError> {
    let Ok(read) = serde_json::from_value::<T>(sent.clone()) else { return Ok(()) };
    let back = serde_json::to_value(&read).unwrap();
    prop_assert_eq!(lost(sent, &back, ""), None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn machines(place in any::<prop::sample::Index>(), odd in odd(), add in any::<bool>()) {
        // Its events only inform: what they say in ways nobody knows is left out.
        let _ = serde_json::from_value::<Machine>(mutated(machine(), place, &odd, add));
        nothing_is_lost::<MachineConfig>(&mutated(machine()["config"].take(), place, &odd, add))?;
    }

    #[test]
    fn volumes(place in any::<prop::sample::Index>(), odd in odd(), add in any::<bool>()) {
        nothing_is_lost::<Volume>(&mutated(volume(), place, &odd, add))?;
    }

    #[test]
    fn a_new_key_anywhere_stops_nobody(place in any::<prop::sample::Index>(), odd in odd()) {
        let (mut sent, mut found) = (machine(), Vec::new());
        places(&sent, "", &mut found);
        // Keys of these maps mean something, and their values have a type.
        let typed = |at: &str| at.ends_with("/env") || at.ends_with("/metadata") || at.ends_with("/labels")
            || at.ends_with("/checks") || at.ends_with("/headers");
        found.retain(|at| sent.pointer(at).unwrap().is_object() && !typed(at));
        sent.pointer_mut(place.get::<String>(&found)).unwrap()["key_of_tomorrow"] = odd;
        let read = serde_json::from_value::<Machine>(sent.clone());
        prop_assert!(read.is_ok(), "{}", read.unwrap_err());
        nothing_is_lost::<Machine>(&sent)?;
    }

    #[test]
    fn bytes_of_any_kind(body in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..4000) {
        let text = machine().to_string();
        let cut = text.floor_char_boundary(cut.min(text.len()));
        for body in [body.as_slice(), &text.as_bytes()[..cut]] {
            let _ = serde_json::from_slice::<Machine>(body);
            let _ = serde_json::from_slice::<LeaseAnswer>(body);
            let _ = serde_json::from_slice::<ErrorBody>(body);
            let _ = serde_json::from_slice::<OrgMachines>(body);
        }
    }
}
