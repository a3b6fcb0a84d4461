//! Machines: every call on one, and their list.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::runtime::{ExecCommand, ExecError};
use crate::world::config::{check_stop_signal, stop_timeout_ms};
use crate::world::decode::{self, Object};
use crate::world::lease::TakeLease;
use crate::world::machine::{Machine, MachineState};
use crate::world::refusal::{Gate, Refusal};
use crate::world::shared::Shared;
use crate::world::wait::{Progress, WAITABLE, Wanted};
use crate::world::{CreateMachine, UpdateMachine};

use super::call::Call;
use super::paging::Page;
use super::reply::Reply;
use super::views;

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    let page = Page::asked(call.query("limit"), call.query("cursor"), 1000, call.engine.now())?;
    let app = call.engine.app_at(call.app(), call.lag_of_lists())?;
    let states: Option<Vec<&str>> = call.query("state").map(|states| states.split(',').map(str::trim).collect());
    let metadata: Vec<(&str, &str)> =
        call.query_all().filter_map(|(key, value)| Some((key.strip_prefix("metadata.")?, value))).collect();
    let deleted = call.flag("include_deleted");
    let region = call.query("region");
    let wanted = |machine: &&Shared<Machine>| {
        (deleted || machine.state != MachineState::Destroyed)
            && region.is_none_or(|region| machine.region == region)
            && states.as_ref().is_none_or(|states| states.contains(&machine.state.word()))
            && metadata.iter().all(|(key, value)| machine.config.metadata_value(key) == Some(*value))
            && page.as_ref().is_none_or(|page| machine.created_at <= page.begun())
    };
    let machines: Vec<&Shared<Machine>> = match call.bent.empty_list {
        true => Vec::new(),
        false => app.machines.values().filter(wanted).collect(),
    };
    let (machines, next) = match &page {
        Some(page) => page.cut(machines, |machine| machine.id.clone()),
        None => (machines, None),
    };
    let look = call.look();
    let bodies: Vec<_> = machines.into_iter().map(|machine| views::machine(machine, &look)).collect();
    let reply = Reply::ok(&bodies);
    Ok(match next {
        Some(next) => reply.header("fly-next-cursor", &next),
        None => reply,
    })
}

fn config_of(body: &Object<'_>) -> Result<Map<String, Value>, Refusal> {
    let config = body.object("config", "fly.MachineConfig")?;
    config.cloned().ok_or_else(|| Refusal::invalid("config is required"))
}

pub(crate) async fn create(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.CreateMachineRequest")?;
    let body = Object::new(&body, "CreateMachineRequest", "");
    let flag = |key: &str| body.boolean(key).map(|flag| flag.unwrap_or(false));
    let create = CreateMachine {
        name: body.string("name")?.map(str::to_owned),
        region: body.string("region")?.map(str::to_owned),
        config: config_of(&body)?,
        skip_launch: flag("skip_launch")?,
        skip_service_registration: flag("skip_service_registration")?,
        skip_secrets: flag("skip_secrets")?,
        min_secrets_version: body.unsigned("min_secrets_version")?,
        lease_ttl_s: body.integer("lease_ttl")?.filter(|ttl| *ttl > 0),
        owner: call.caller.owner.clone(),
    };
    let machine = call.placed(|world, now| world.create_machine(now, call.app(), create))?;
    let nonce = machine.lease.as_ref().map(|lease| lease.nonce.as_str());
    Ok(Reply::ok(&views::machine(&machine, &call.look()).with_nonce(nonce)))
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    let (machine, look) = call.machine()?;
    let body = views::machine(&machine, &look);
    match call.query("version").filter(|version| *version != machine.version) {
        None => Ok(Reply::ok(&body)),
        Some(version) => {
            let old = machine.older.iter().find(|old| old.version == version);
            old.map(|old| Reply::ok(&body.at(old))).ok_or_else(Refusal::machine_not_found)
        }
    }
}

pub(crate) async fn update(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.UpdateMachineRequest")?;
    let body = Object::new(&body, "UpdateMachineRequest", "");
    let flag = |key: &str| body.boolean(key).map(|flag| flag.unwrap_or(false));
    let update = UpdateMachine {
        config: config_of(&body)?,
        current_version: body.string("current_version")?.map(str::to_owned),
        skip_launch: flag("skip_launch")?,
        skip_secrets: flag("skip_secrets")?,
        min_secrets_version: body.unsigned("min_secrets_version")?,
        lease_ttl_s: body.integer("lease_ttl")?.filter(|ttl| *ttl > 0),
        owner: call.caller.owner.clone(),
    };
    let leased = update.lease_ttl_s.is_some();
    let machine = call
        .gated(|world, now| world.update_machine(now, call.app(), call.id(), call.nonce.as_deref(), update.clone()))
        .await?;
    let nonce = machine.lease.as_ref().filter(|_| leased).map(|lease| lease.nonce.as_str());
    Ok(Reply::ok(&views::machine(&machine, &call.look()).with_nonce(nonce)))
}

pub(crate) async fn destroy(call: Call) -> Result<Reply, Refusal> {
    let force = call.flag("force") || call.flag("kill");
    let nonce = call.nonce.as_deref();
    call.gated(|world, now| world.destroy_machine(now, call.app(), call.id(), nonce, force)).await?;
    Ok(Reply::done())
}

pub(crate) async fn start(call: Call) -> Result<Reply, Refusal> {
    let nonce = call.nonce.as_deref();
    let previous = call.gated(|world, now| world.start_machine(now, call.app(), call.id(), nonce)).await?;
    Ok(Reply::ok(&json!({ "previous_state": previous.word(), "migrated": false, "new_host": "" })))
}

/// `signal` and `timeout` of stop and restart, from the body or the query.
fn stop_parameters(call: &Call) -> Result<(Option<String>, Option<u64>), Refusal> {
    let map = decode::body(&call.body, "main.stopRequest")?.unwrap_or_default();
    let body = Object::new(&map, "stopRequest", "");
    let signal = body.string("signal")?.filter(|signal| !signal.is_empty()).or(call.query("signal"));
    signal.map(check_stop_signal).transpose()?;
    let timeout = match body.duration_ms("timeout") {
        Ok(found) => found,
        // A bare number in a string is read as seconds, as in the query.
        Err(refusal) => Some(stop_timeout_ms(body.string("timeout")?.unwrap_or_default()).map_err(|_| refusal)?),
    };
    let timeout = timeout.map(|ms| ms.min(300_000));
    let in_query = call.query("timeout").map(stop_timeout_ms).transpose()?;
    Ok((signal.map(str::to_owned), timeout.or(in_query)))
}

pub(crate) async fn stop(call: Call) -> Result<Reply, Refusal> {
    let (signal, timeout_ms) = stop_parameters(&call)?;
    let nonce = call.nonce.as_deref();
    call.gated(|world, now| world.stop_machine(now, call.app(), call.id(), nonce, signal.as_deref(), timeout_ms))
        .await?;
    Ok(Reply::done())
}

pub(crate) async fn restart(call: Call) -> Result<Reply, Refusal> {
    let (signal, timeout_ms) = stop_parameters(&call)?;
    let (signal, timeout_ms) = match call.flag("force_stop") {
        true => (Some("SIGKILL".to_owned()), timeout_ms),
        false => (signal, timeout_ms),
    };
    let nonce = call.nonce.as_deref();
    call.gated(|world, now| world.restart_machine(now, call.app(), call.id(), nonce, signal.as_deref(), timeout_ms))
        .await?;
    Ok(Reply::done())
}

pub(crate) async fn suspend(call: Call) -> Result<Reply, Refusal> {
    let nonce = call.nonce.as_deref();
    call.gated(|world, now| world.suspend_machine(now, call.app(), call.id(), nonce)).await?;
    Ok(Reply::done())
}

const SIGNALS: [(&str, i64); 14] = [
    ("SIGABRT", 6),
    ("SIGALRM", 14),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", 2),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGQUIT", 3),
    ("SIGSEGV", 11),
    ("SIGTERM", 15),
    ("SIGTRAP", 5),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
];

pub(crate) async fn signal(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.signalRequest")?;
    // fly-go sends the number.
    let wanted = body.get("signal").filter(|signal| !signal.is_null());
    let wanted = wanted.ok_or_else(|| Refusal::invalid("signal is required"))?;
    let fits = |(name, number): &&(&str, i64)| wanted.as_str() == Some(*name) || wanted.as_i64() == Some(*number);
    let found = SIGNALS.iter().find(fits);
    let (signal, _) = found.ok_or_else(|| Refusal::invalid(&format!("unsupported signal {wanted}")))?;
    call.gated(|world, now| world.signal_machine(now, call.app(), call.id(), signal)).await?;
    Ok(Reply::done())
}

pub(crate) async fn cordon(call: Call) -> Result<Reply, Refusal> {
    set_cordon(&call, true).await
}

pub(crate) async fn uncordon(call: Call) -> Result<Reply, Refusal> {
    set_cordon(&call, false).await
}

async fn set_cordon(call: &Call, cordoned: bool) -> Result<Reply, Refusal> {
    let nonce = call.nonce.as_deref();
    call.gated(|world, now| world.cordon_machine(now, call.app(), call.id(), nonce, cordoned)).await?;
    Ok(Reply::done())
}

pub(crate) async fn wait(call: Call) -> Result<Reply, Refusal> {
    let mut states: Vec<String> = Vec::new();
    for (_, value) in call.query_all().filter(|(key, value)| *key == "state" && !value.is_empty()) {
        states.extend(value.split(',').map(|state| state.trim().to_owned()));
    }
    if let Some(state) = states.iter().find(|state| !WAITABLE.contains(&state.as_str())) {
        return Err(Refusal::invalid(&format!("invalid state '{state}', must be one of {}", WAITABLE.join(", "))));
    }
    if states.is_empty() {
        states.push("started".to_owned());
    }
    let timeout_ms = wait_timeout_ms(call.query("timeout"))?;
    let version = call.query("version").or(call.query("instance_id")).map(str::to_owned);
    let wanted = Wanted { states, version, from_event: call.query("from_event_id").map(str::to_owned) };
    let deadline = tokio::time::Instant::now() + Duration::from_millis(timeout_ms);
    let refuses = call.engine.read(|world, _| world.knobs.wait_refuses_hopeless);
    call.machine()?;
    let changes = call.engine.changes_of(call.id());
    loop {
        let changed = changes.notified();
        let machine = call.engine.read(|world, now| world.machine(now, call.app(), call.id()).cloned())?;
        match wanted.progress(&machine) {
            Progress::Reached => {
                let event = machine.events.front().map(|event| event.id.as_str());
                let (state, version) = (machine.state.word(), &machine.version);
                return Ok(Reply::ok(&json!({ "ok": true, "state": state, "version": version, "event_id": event })));
            }
            Progress::Hopeless if refuses => {
                return Err(Refusal::wait_hopeless(&wanted.states.join(","), machine.state.word()));
            }
            Progress::Hopeless | Progress::NotYet => {}
        }
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(deadline) => {
                return Err(Refusal::wait_timed_out(&wanted.states.join(","), machine.state.word()));
            }
            () = call.engine.closing.cancelled() => return Err(Refusal::closing()),
        }
    }
}

/// Seconds (or a Go duration), between 1 s and 60 s; 60 s by default.
fn wait_timeout_ms(text: Option<&str>) -> Result<u64, Refusal> {
    let Some(text) = text else { return Ok(60_000) };
    let seconds = text.parse::<i64>().ok().map(|seconds| u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
    let ms = seconds.or_else(|| decode::go_duration_ms(text));
    let ms = ms.ok_or_else(|| Refusal::invalid(&format!("invalid timeout '{text}'")))?;
    match ms {
        1_000..=60_000 => Ok(ms),
        _ => Err(Refusal::invalid("invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]")),
    }
}

pub(crate) async fn exec(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.MachineExecRequest")?;
    let body = Object::new(&body, "MachineExecRequest", "");
    let argv = match (body.strings("command")?, body.string("cmd")?) {
        (Some(argv), _) if !argv.is_empty() => argv,
        (_, Some(cmd)) if !cmd.trim().is_empty() => split_words(cmd),
        _ => return Err(Refusal::invalid("command is required")),
    };
    let timeout_s =
        body.integer("timeout")?.and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    let command = ExecCommand {
        argv,
        stdin: body.string("stdin")?.unwrap_or_default().to_owned(),
        timeout_ms: timeout_s.unwrap_or(60).saturating_mul(1000),
    };
    let nonce = call.nonce.as_deref();
    let boot = call
        .gated(|world, now| {
            let machine = world.may_exec(now, call.app(), call.id(), nonce, true)?;
            world.boot_of(call.app(), &machine).ok_or_else(|| Gate::Refused(Refusal::machine_not_found()))
        })
        .await?;
    match call.engine.runtime().exec(boot, command).await {
        Ok(output) => Ok(Reply::ok(&output)),
        Err(ExecError::Unsupported) => {
            Err(Refusal { status: 501, error: "unimplemented: this runtime runs no commands".to_owned(), code: None })
        }
        Err(ExecError::TimedOut(ms)) => {
            Err(Refusal { status: 408, error: format!("deadline_exceeded: command killed after {ms} ms"), code: None })
        }
        Err(ExecError::NotStarted(error)) => Err(Refusal::invalid(&format!("could not exec: {error}"))),
    }
}

/// Splits a command line at blanks; single and double quotes keep words together.
fn split_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut open) = (Vec::new(), String::new(), None, false);
    for c in text.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                open = true;
            }
            (None, c) if c.is_whitespace() => {
                if open || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                open = false;
            }
            (None, c) => word.push(c),
        }
    }
    if open || !word.is_empty() {
        words.push(word);
    }
    words
}

pub(crate) async fn ps(call: Call) -> Result<Reply, Refusal> {
    let machine = call.gated(|world, now| world.may_exec(now, call.app(), call.id(), None, false)).await?;
    let mut processes = call.engine.runtime().ps(&machine).await;
    match call.query("sort_by").unwrap_or("pid") {
        "pid" => {}
        "stime" => processes.sort_by_key(|process| process.stime),
        "rtime" => processes.sort_by_key(|process| process.rtime),
        "cpu" => processes.sort_by_key(|process| process.cpu),
        "rss" => processes.sort_by_key(|process| process.rss),
        other => return Err(Refusal::invalid(&format!("invalid sort_by '{other}'"))),
    }
    match call.query("order").unwrap_or("asc") {
        "asc" => {}
        "desc" => processes.reverse(),
        other => return Err(Refusal::invalid(&format!("invalid order '{other}'"))),
    }
    Ok(Reply::ok(&processes))
}

pub(crate) async fn events(call: Call) -> Result<Reply, Refusal> {
    let limit = call.number("limit")?.unwrap_or(20).min(50);
    let (machine, _) = call.machine()?;
    let events: Vec<_> = machine.events.iter().take(usize::try_from(limit).unwrap_or(50)).map(views::event).collect();
    Ok(Reply::ok(&events))
}

pub(crate) async fn versions(call: Call) -> Result<Reply, Refusal> {
    let (machine, _) = call.machine()?;
    let current = json!({ "version": machine.version, "user_config": machine.config.raw });
    let older = machine.older.iter().map(|old| json!({ "version": old.version, "user_config": old.config }));
    Ok(Reply::ok(&std::iter::once(current).chain(older).collect::<Vec<_>>()))
}

pub(crate) async fn memory(call: Call) -> Result<Reply, Refusal> {
    let (machine, _) = call.machine()?;
    let limit = machine.memory_limit_mb.unwrap_or(machine.config.guest.memory_mb);
    Ok(Reply::ok(&json!({ "limit_mb": limit, "available_mb": limit })))
}

pub(crate) async fn set_memory(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.setMemoryLimitRequest")?;
    let wanted = Object::new(&body, "setMemoryLimitRequest", "").unsigned("limit_mb")?.unwrap_or(0);
    let (limit, available) =
        call.engine.write(|world, now| world.set_memory_limit(now, call.app(), call.id(), wanted))?;
    Ok(Reply::ok(&json!({ "limit_mb": limit, "available_mb": available })))
}

pub(crate) async fn reclaim_memory(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.reclaimMemoryRequest")?;
    Object::new(&body, "reclaimMemoryRequest", "").unsigned("amount_mb")?;
    call.machine()?;
    // Nothing balloons here, so there is nothing to reclaim.
    Ok(Reply::ok(&json!({ "actual_mb": 0 })))
}

pub(crate) async fn metadata(call: Call) -> Result<Reply, Refusal> {
    let (machine, _) = call.machine()?;
    Ok(Reply::ok(&machine.config.metadata()))
}

pub(crate) async fn metadata_key(call: Call) -> Result<Reply, Refusal> {
    let (machine, _) = call.machine()?;
    let value = machine.config.metadata_value(call.path("key")).ok_or_else(Refusal::metadata_not_found)?;
    Ok(Reply::ok(&json!({ "value": value })))
}

pub(crate) async fn merge_metadata(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.updateMetadataRequest")?;
    let body = Object::new(&body, "updateMetadataRequest", "");
    let values = body.object("metadata", "map[string]string")?;
    let values = values.into_iter().flatten().map(|(key, value)| match value {
        Value::Null => Ok((key.clone(), None)),
        Value::String(text) => Ok((key.clone(), Some(text.clone()))),
        _ => Err(Refusal::bad_request(&format!(
            "json: cannot unmarshal non-string into Go struct field updateMetadataRequest.metadata.{key} of type string"
        ))),
    });
    write_metadata(&call, &values.collect::<Result<_, _>>()?, body.string("machine_version")?)
}

pub(crate) async fn set_metadata_key(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.upsertMetadataKeyRequest")?;
    let value = Object::new(&body, "upsertMetadataKeyRequest", "").string("value")?.unwrap_or_default().to_owned();
    write_metadata(&call, &BTreeMap::from([(call.path("key").to_owned(), Some(value))]), None)
}

pub(crate) async fn delete_metadata_key(call: Call) -> Result<Reply, Refusal> {
    write_metadata(&call, &BTreeMap::from([(call.path("key").to_owned(), None)]), None)
}

fn write_metadata(
    call: &Call,
    values: &BTreeMap<String, Option<String>>,
    version: Option<&str>,
) -> Result<Reply, Refusal> {
    call.engine.write(|world, now| world.merge_metadata(now, call.app(), call.id(), values, version))?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}

pub(crate) async fn lease(call: Call) -> Result<Reply, Refusal> {
    let (machine, look) = call.machine()?;
    let lease = machine.lease_at(look.now).ok_or_else(Refusal::lease_not_found)?;
    Ok(Reply::ok(&views::lease_envelope(lease, &machine.version)))
}

pub(crate) async fn take_lease(call: Call) -> Result<Reply, Refusal> {
    let map = decode::body(&call.body, "main.createLeaseRequest")?.unwrap_or_default();
    let body = Object::new(&map, "createLeaseRequest", "");
    let in_query =
        call.query("ttl").map(|text| text.parse::<i64>().map_err(|_| Refusal::invalid("ttl must be a number")));
    let ttl = body.integer("ttl")?.or(in_query.transpose()?);
    let description = body.string("description")?.or(call.query("description")).unwrap_or_default();
    let asked = TakeLease { ttl_s: ttl, owner: &call.caller.owner, description };
    let nonce = call.nonce.as_deref();
    let (lease, version) = call.gated(|world, now| world.take_lease(now, call.app(), call.id(), nonce, asked)).await?;
    Ok(Reply::json(StatusCode::CREATED, &views::lease_envelope(&lease, &version)))
}

pub(crate) async fn release_lease(call: Call) -> Result<Reply, Refusal> {
    let nonce = call.nonce.as_deref();
    call.gated(|world, now| world.release_lease(now, call.app(), call.id(), nonce)).await?;
    Ok(Reply::ok(&json!({ "status": "success", "data": { "ok": true } })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        assert_eq!(split_words("sh -c 'echo \"a b\"'  x"), ["sh", "-c", "echo \"a b\"", "x"]);
        assert_eq!(split_words("a '' b"), ["a", "", "b"]);
    }

    #[test]
    fn wait_timeouts() {
        let of = |text: &str| wait_timeout_ms(Some(text)).map_err(|refusal| refusal.error);
        assert_eq!(of("10"), Ok(10_000));
        assert_eq!(of("10s"), Ok(10_000));
        assert_eq!(of("60"), Ok(60_000));
        for bad in ["90", "0", "-1", "1m30s"] {
            assert!(of(bad).unwrap_err().contains("value must be inside range [1s, 1m0s]"), "{bad}");
        }
        assert!(of("x").unwrap_err().starts_with("invalid_argument:"));
    }
}
