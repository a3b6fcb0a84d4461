//! One thing under several names, in several shapes, or not at all.

use std::collections::BTreeMap;

use flypg_machines::types::*;
use flypg_machines::{Request, lifecycle, machines, volumes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn write(value: impl Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

fn query<T>(request: &Request<T>) -> Vec<(&str, &str)> {
    request.query().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

#[test]
fn an_app_is_created_by_name_or_app_name() {
    for key in ["name", "app_name"] {
        let app: CreateApp = read(json!({ key: "orders-db", "org_slug": "personal", "app_role_id": "x" }));
        assert_eq!(app.name, "orders-db");
        assert_eq!(write(app), json!({ "name": "orders-db", "org_slug": "personal", "app_role_id": "x" }));
    }
}

#[test]
fn we_send_the_current_spellings() {
    assert_eq!(query(&machines::destroy("a", "m", true)), [("force", "true")]);
    assert_eq!(query(&machines::destroy("a", "m", false)), []);
    let wait = lifecycle::Wait {
        states: vec![WaitState::Stopped, WaitState::Failed],
        version: Some("01H".to_owned()),
        from_event_id: Some("01E".to_owned()),
        ..lifecycle::Wait::until(WaitState::Stopped, std::time::Duration::from_secs(90))
    };
    assert_eq!(
        query(&lifecycle::wait("a", "m", &wait)),
        [("state", "stopped,failed"), ("timeout", "60"), ("version", "01H"), ("from_event_id", "01E")]
    );
    let list = machines::ListMachines {
        metadata: BTreeMap::from([("flypg_cluster".to_owned(), "orders db".to_owned())]),
        state: vec![MachineState::Started, MachineState::Stopped],
        include_leases: true,
        ..Default::default()
    };
    assert_eq!(
        query(&machines::list("a", &list)),
        [("include_leases", "true"), ("state", "started,stopped"), ("metadata.flypg_cluster", "orders db")]
    );
    let restart = lifecycle::RestartMachine { timeout: Some(GoDuration::from_secs(90)), ..Default::default() };
    assert_eq!(query(&lifecycle::restart("a", "m", &restart)), [("timeout", "90s")]);
}

#[test]
fn a_version_may_be_called_instance_id() {
    for key in ["version", "instance_id"] {
        assert_eq!(read::<Machine>(json!({ "id": "m", key: "01H" })).version(), Some("01H"));
    }
    for key in ["version", "Version"] {
        assert_eq!(read::<SecretsUpdated>(json!({ "secrets": null, key: 3 })).version(), Some(3));
        assert_eq!(read::<SecretWritten>(json!({ key: 3 })).version(), Some(3));
    }
    let both = json!({ "secrets": [], "version": 3, "Version": 3 });
    assert_eq!(write(read::<SecretsUpdated>(both.clone())), both);
}

#[test]
fn regions_and_placements_come_in_both_cases() {
    let lower: Regions = read(json!({ "regions": [{ "code": "ord" }], "nearest": "ord" }));
    let pascal: Regions = read(json!({ "Regions": [{ "code": "ord" }], "Nearest": "ord" }));
    assert_eq!(lower, pascal);
    assert_eq!(lower.regions[0].code, "ord");
    let lower: Placements = read(json!({ "regions": [{ "region": "fra", "count": 1, "concurrency": 2 }] }));
    let pascal: Placements = read(json!({ "Regions": [{ "Region": "fra", "Count": 1, "Concurrency": 2 }] }));
    assert_eq!(lower, pascal);
    assert_eq!(lower.regions[0].concurrency, Some(2));
}

#[test]
fn autostop_is_written_as_text_and_read_back_as_bool() {
    for (answered, autostop, written) in [
        (json!(false), Autostop::Off, "off"),
        (json!(true), Autostop::Stop, "stop"),
        (json!("suspend"), Autostop::Suspend, "suspend"),
        (json!("later"), Autostop::Other("later".to_owned()), "later"),
    ] {
        let service: Service = read(json!({ "autostop": answered }));
        assert_eq!(service.autostop, Some(autostop.clone()));
        assert_eq!(autostop.as_answered(), answered);
        assert_eq!(write(service), json!({ "autostop": written }));
        assert_eq!(read::<Service>(json!({ "autostop": written })).autostop, Some(autostop));
    }
}

#[test]
fn durations_are_text_or_nanoseconds_and_written_as_text() {
    for (spelling, written) in [
        (json!("15s"), "15s"),
        (json!("1m30s"), "90s"),
        (json!(15_000_000_000_i64), "15s"),
        (json!(1_500_000_000), "1500ms"),
        (json!(0), "0s"),
    ] {
        let check: Check = read(json!({ "type": "tcp", "interval": spelling }));
        assert_eq!(write(check), json!({ "type": "tcp", "interval": written }));
        assert_eq!(write(read::<StopConfig>(json!({ "timeout": spelling }))), json!({ "timeout": written }));
    }
    assert!(serde_json::from_value::<Check>(json!({ "interval": "soon" })).is_err());
}

#[test]
fn exited_at_is_a_number_or_text_and_may_be_nested() {
    let millis: EventRequest = read(json!({ "exit_event": { "exited_at": 1_653_047_897_299_i64 } }));
    assert_eq!(millis.exit().unwrap().exited_at, Some(EventTime::Millis(1_653_047_897_299)));
    let nested = json!({ "MonitorEvent": { "exit_event": { "exited_at": "2026-11-20T11:58:18Z" } } });
    let text: EventRequest = read(nested.clone());
    assert_eq!(text.exit().unwrap().exited_at, Some(EventTime::Text("2026-11-20T11:58:18Z".to_owned())));
    assert_eq!(write(text), nested);
}

#[test]
fn a_detail_of_an_unknown_shape_does_not_hide_the_machine() {
    for request in [json!("x"), json!([1]), json!({ "exit_event": "gone" }), json!({ "exit_event": { "signal": 1.5 } })]
    {
        let machine: Machine = read(json!({ "id": "m", "events": [{ "type": "exit", "request": request }] }));
        assert_eq!(machine.events[0].request, None);
    }
}

#[test]
fn leases_come_flat_and_in_an_envelope() {
    let flat = json!({ "nonce": "n", "expires_at": 1, "owner": "o", "description": "d", "version": "v" });
    let envelope = json!({ "status": "success", "data": flat });
    let (a, b): (LeaseAnswer, LeaseAnswer) = (read(flat), read(envelope.clone()));
    assert_eq!((a.0.nonce.as_str(), a.0.expires_at), ("n", Some(1)));
    assert_eq!(a, b);
    assert_eq!(write(a), envelope);
}

#[test]
fn signals_have_names_and_numbers() {
    assert_eq!(read::<SignalMachine>(json!({ "signal": 9 })).signal, Signal::Kill);
    assert_eq!(write(SignalMachine { signal: Signal::Kill }), json!({ "signal": "SIGKILL" }));
    assert_eq!(read::<Signal>(json!("SIGWINCH")), Signal::Other("SIGWINCH".to_owned()));
    assert!(serde_json::from_value::<Signal>(json!(99)).is_err());
}

#[test]
fn errors_in_their_three_shapes() {
    for (body, text) in [
        (json!({ "error": "a", "status": "name_taken", "details": {} }), Some("a")),
        (json!({ "message": "Unauthorized" }), Some("Unauthorized")),
        (json!({ "status": "error", "message": "held", "code": "invalid" }), Some("held")),
        (json!({ "error": "a", "message": "b" }), Some("b")),
        (json!({ "error": "a", "message": "" }), Some("a")),
        (json!({}), None),
    ] {
        let parsed: ErrorBody = read(body.clone());
        assert_eq!(parsed.text(), text);
        assert_eq!(write(parsed), body);
    }
}

#[test]
fn a_snapshot_job_may_have_no_body() {
    let request = volumes::create_snapshot("a", "vol_1");
    assert_eq!(request.read(b"", None).unwrap(), SnapshotJobAnswer::default());
    assert_eq!(request.read(b"\n", None).unwrap(), SnapshotJobAnswer::default());
    assert!(request.read(b"<html>", None).is_err());
}

#[test]
fn a_confirmation_may_have_no_body() {
    assert_eq!(lifecycle::cordon("a", "m").read(b"", None).unwrap(), Ack::default());
    assert_eq!(lifecycle::restart("a", "m", &Default::default()).read(b"\n", None).unwrap(), Ack::default());
    assert!(machines::destroy("a", "m", true).read(b"", None).is_ok());
    assert!(lifecycle::start("a", "m").read(b"", None).is_ok());
    assert!(lifecycle::stop("a", "m", &Default::default()).read(b"<html>", None).is_err());
    // A Machine must be one, and so must a volume.
    assert!(volumes::delete("a", "v").read(b"", None).is_err());
    assert!(machines::get("a", "m").read(b"", None).is_err());
}

#[test]
fn an_empty_list_may_be_null() {
    assert_eq!(machines::list("a", &Default::default()).read(b"null", Some("")).unwrap().items, []);
    assert_eq!(machines::list("a", &Default::default()).read(b"[]", Some("")).unwrap().next_cursor, None);
    assert_eq!(volumes::snapshots("a", "v").read(b"null", None).unwrap(), []);
    // Something else is no list.
    assert!(machines::list("a", &Default::default()).read(b"{}", None).is_err());
}

#[test]
fn unknown_values_keep_their_spelling() {
    let machine: Machine = read(json!({ "id": "m", "state": "hibernating", "host_status": "on_fire" }));
    assert_eq!(machine.state, MachineState::Other("hibernating".to_owned()));
    assert!(!machine.state.is_resting());
    assert_eq!(write(machine)["state"], "hibernating");
    assert_eq!(read::<Machine>(json!({ "id": "m" })).state, MachineState::default());
    assert!(!read::<Volume>(json!({ "id": "v", "state": "attached" })).state.is_leaving());
}

#[test]
fn an_answer_without_an_id_is_no_machine() {
    assert!(serde_json::from_value::<Machine>(json!({ "error": "no" })).is_err());
    assert!(serde_json::from_value::<Volume>(json!({})).is_err());
}

#[test]
fn a_secret_shows_in_the_body_and_nowhere_else() {
    let values = BTreeMap::from([("PG_PASSWORD".to_owned(), Some(Secret::new("hunter2")))]);
    let update = UpdateSecrets { values };
    let request = flypg_machines::secrets::update("a", &update);
    assert!(String::from_utf8_lossy(request.body().unwrap()).contains("hunter2"));
    let secret: AppSecret = read(json!({ "name": "PG_PASSWORD", "value": "hunter2" }));
    for shown in [format!("{update:?}"), format!("{request:?}"), format!("{secret:#?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
