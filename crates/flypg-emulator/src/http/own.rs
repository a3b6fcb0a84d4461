//! The emulator's own routes: faults, knobs, the whole world, health. They need no token.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use http::StatusCode;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::faults::{Rule, RuleEffect};
use crate::world::faults::Fault;
use crate::world::knobs::Knobs;
use crate::world::refusal::Refusal;

use super::reply::Reply;

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Refusal> {
    serde_json::from_value(value).map_err(|error| Refusal::bad_request(&error.to_string()))
}

fn json_body(bytes: &[u8]) -> Result<Value, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| Refusal::bad_request(&error.to_string()))
}

pub(crate) async fn faults(State(engine): State<Arc<Engine>>) -> Reply {
    Reply::ok(&engine.rules(|rules| rules.all().to_vec()))
}

/// A rule (with `effect`) is added, a fault (with `fault`) happens.
pub(crate) async fn add_fault(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Reply, Refusal> {
    let body = json_body(&body)?;
    if body.get("fault").is_some() {
        let fault: Fault = parse(body)?;
        engine.write(|world, now| world.befall(now, &fault))?;
        engine.runtime().settled().await;
        return Ok(Reply::done());
    }
    let rule: Rule = parse(body)?;
    if let RuleEffect::Status { code, .. } = rule.effect
        && !(200..=599).contains(&code)
    {
        return Err(Refusal::bad_request(&format!("{code} is no status of an answer")));
    }
    Ok(Reply::json(StatusCode::CREATED, &engine.rules(|rules| rules.add(rule))))
}

pub(crate) async fn clear_faults(State(engine): State<Arc<Engine>>) -> Reply {
    engine.rules(crate::faults::Rules::clear);
    Reply::empty(StatusCode::NO_CONTENT)
}

pub(crate) async fn remove_fault(State(engine): State<Arc<Engine>>, Path(id): Path<String>) -> Result<Reply, Refusal> {
    match engine.rules(|rules| rules.remove(&id)) {
        true => Ok(Reply::empty(StatusCode::NO_CONTENT)),
        false => Err(Refusal { status: 404, error: format!("no fault rule '{id}'"), code: None }),
    }
}

pub(crate) async fn knobs(State(engine): State<Arc<Engine>>) -> Reply {
    Reply::ok(&engine.read(|world, _| world.knobs.clone()))
}

/// Merges the given knobs over the present ones.
pub(crate) async fn set_knobs(State(engine): State<Arc<Engine>>, body: Bytes) -> Result<Reply, Refusal> {
    let Value::Object(changes) = json_body(&body)? else { return Err(Refusal::bad_request("knobs are an object")) };
    let mut merged = serde_json::to_value(engine.read(|world, _| world.knobs.clone())).unwrap_or_default();
    for (name, value) in changes {
        merged[&name] = value;
    }
    let knobs: Knobs = parse(merged)?;
    engine.write(|world, _| world.knobs = knobs.clone());
    // What the past is kept for may have changed.
    engine.rules(|_| ());
    Ok(Reply::ok(&knobs))
}

pub(crate) async fn world(State(engine): State<Arc<Engine>>) -> Reply {
    let world = engine.read(|world, _| world.clone());
    Reply::ok(&world)
}

pub(crate) async fn health(State(engine): State<Arc<Engine>>) -> Reply {
    let (apps, machines) =
        engine.read(|world, _| (world.apps.len(), world.apps.values().map(|app| app.machines.len()).sum::<usize>()));
    Reply::ok(&json!({ "ok": true, "apps": apps, "machines": machines, "pid": std::process::id() }))
}
