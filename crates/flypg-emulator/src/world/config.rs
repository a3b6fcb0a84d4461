//! A machine's config: kept as it was sent, unknown keys and all, with a typed view of what the platform acts on.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::decode::{Object, go_duration_ms};
use super::hosts::Room;
use super::knobs::Knobs;
use super::refusal::Refusal;

/// A checked machine config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The JSON as clients read it back.
    pub raw: Map<String, Value>,
    pub image: String,
    pub guest: Guest,
    pub mount: Option<Mount>,
    pub env: BTreeMap<String, String>,
    pub command: Command,
    pub restart: Restart,
    pub stop: Stop,
    pub auto_destroy: bool,
    pub keep_root: bool,
    pub checks: Vec<Check>,
    pub files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    pub cpu_kind: String,
    pub cpus: u64,
    pub memory_mb: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub volume: String,
    pub path: String,
}

/// Overrides of the image's command line (`init`), or processes of their own (`processes`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub exec: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    /// With processes of their own, the rest only gives defaults.
    pub processes: Vec<Process>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub exec: Option<Vec<String>>,
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    No,
    Always,
    /// `retries` within five minutes.
    OnFailure {
        retries: u32,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub signal: String,
    pub timeout_ms: u64,
}

/// A health check, of the machine or of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub name: String,
    pub port: u16,
    /// `None` is a TCP check.
    pub http: Option<HttpCheck>,
    pub interval_ms: u64,
    pub timeout_ms: u64,
    pub grace_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpCheck {
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

/// A file to write before the start; its content is base64 or the name of a secret that holds base64.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub guest_path: String,
    pub raw_value: Option<String>,
    pub secret_name: Option<String>,
    pub mode: u32,
}

const TYPE: &str = "CreateMachineRequest";
/// The longest stop timeout Fly honours.
const MAX_STOP_MS: u64 = 300_000;
const DEFAULT_STOP_MS: u64 = 5_000;

impl Config {
    /// Checks a config as create and update do.
    ///
    /// # Errors
    /// 400.
    pub fn check(sent: &Map<String, Value>, knobs: &Knobs) -> Result<Self, Refusal> {
        let mut raw = sent.clone();
        raw.retain(|_, value| !value.is_null());
        let object = Object::new(sent, TYPE, "config");
        let image = object.string("image")?.unwrap_or_default().to_owned();
        if image.is_empty() {
            return Err(Refusal::invalid("config.image is required"));
        }
        let guest = guest(&object)?;
        raw.entry("init").or_insert_with(|| json!({}));
        if !raw.contains_key("guest") {
            let shape = json!({"cpu_kind": guest.cpu_kind, "cpus": guest.cpus, "memory_mb": guest.memory_mb});
            raw.insert("guest".to_owned(), shape);
        }
        if let Some(Value::Array(services)) = raw.get_mut("services").filter(|_| knobs.autostop_as_bool) {
            services.iter_mut().for_each(autostop_read_back);
        }
        let init = object.object("init", "fly.MachineInit")?;
        let command = command(&object, init)?;
        let text = |value: &Value, what: &str| {
            value.as_str().map(str::to_owned).ok_or_else(|| {
                Refusal::bad_request(&format!(
                    "json: cannot unmarshal non-string into Go struct field {TYPE}.config.{what} of type string"
                ))
            })
        };
        let string_map = |key: &str| -> Result<BTreeMap<String, String>, Refusal> {
            let map = object.object(key, "map[string]string")?;
            map.into_iter()
                .flatten()
                .map(|(name, value)| {
                    Ok((name.clone(), if value.is_null() { String::new() } else { text(value, key)? }))
                })
                .collect()
        };
        string_map("metadata")?;
        Ok(Self {
            image,
            guest,
            mount: mount(&object)?,
            env: string_map("env")?,
            command,
            restart: restart(&object)?,
            stop: stop(&object)?,
            auto_destroy: object.boolean("auto_destroy")?.unwrap_or(false),
            keep_root: keep_root(&object)?,
            checks: checks(&object)?,
            files: files(&object)?,
            raw,
        })
    }

    /// The machine's metadata.
    #[must_use]
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let map = self.raw.get("metadata").and_then(Value::as_object);
        map.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
    }

    #[must_use]
    pub fn metadata_value(&self, key: &str) -> Option<&str> {
        self.raw.get("metadata")?.get(key)?.as_str()
    }

    /// Sets or (with `None` or an empty value) removes one metadata key.
    pub fn set_metadata(&mut self, key: &str, value: Option<&str>) {
        let value = value.filter(|value| !value.is_empty());
        let entry = self.raw.entry("metadata").or_insert_with(|| json!({}));
        let Some(map) = entry.as_object_mut() else { return };
        match value {
            Some(value) => drop(map.insert(key.to_owned(), json!(value))),
            None => drop(map.remove(key)),
        }
    }

    /// What the machine takes of its host.
    #[must_use]
    pub const fn room(&self) -> Room {
        Room { cpus: self.guest.cpus, memory_mb: self.guest.memory_mb, volume_gb: 0 }
    }
}

fn autostop_read_back(service: &mut Value) {
    let Some(autostop) = service.get_mut("autostop") else { return };
    match autostop.as_str() {
        Some("off") => *autostop = json!(false),
        Some("stop") => *autostop = json!(true),
        _ => {}
    }
}

fn guest(object: &Object<'_>) -> Result<Guest, Refusal> {
    let sent = object.object("guest", "fly.MachineGuest")?;
    let default = match object.string("size")? {
        Some(size) => preset(size).ok_or_else(|| Refusal::bad_request(&format!("invalid config.size, {size}")))?,
        None => ("shared".to_owned(), 1, None),
    };
    let (cpu_kind, cpus, memory) = match sent {
        Some(map) => {
            let guest = Object::new(map, TYPE, "config.guest");
            let positive = |key: &str| -> Result<Option<u64>, Refusal> {
                let Some(value) = guest.integer(key)?.filter(|value| *value != 0) else { return Ok(None) };
                let refused = || Refusal::bad_request(&format!("invalid config.guest.{key}, {value} is negative"));
                u64::try_from(value).map(Some).map_err(|_| refused())
            };
            let kind = guest.string("cpu_kind")?.filter(|kind| !kind.is_empty()).unwrap_or("shared").to_owned();
            (kind, positive("cpus")?.unwrap_or(1), positive("memory_mb")?)
        }
        None => default,
    };
    guest_rules(&cpu_kind, cpus, memory)
}

/// Fly's rules for CPU and memory.
///
/// # Errors
/// 400, with the texts measured on Fly.
pub fn guest_rules(cpu_kind: &str, cpus: u64, memory_mb: Option<u64>) -> Result<Guest, Refusal> {
    let (counts, least, most, step): (&[u64], _, _, _) = match cpu_kind {
        "shared" => (&[1, 2, 4, 6, 8], 256, 2048, 256),
        "performance" => (&[1, 2, 4, 6, 8, 10, 12, 14, 16], 2048, 8192, 2048),
        _ => return Err(Refusal::bad_request("invalid config.guest.cpu_kind, must be shared or performance")),
    };
    if !counts.contains(&cpus) {
        let text = format!("invalid config.guest.cpus, {cpus} is not a valid number of {cpu_kind} CPUs");
        return Err(Refusal::bad_request(&text));
    }
    let memory_mb = memory_mb.unwrap_or(least * cpus);
    let refuse = |text: String| Err(Refusal::bad_request(&format!("invalid config.guest.memory_mb, {text}")));
    if memory_mb < least * cpus {
        return refuse(format!("minimum required {} MiB", least * cpus));
    }
    if memory_mb > most * cpus {
        return refuse(format!("cannot exceed {} MiB", most * cpus));
    }
    if !memory_mb.is_multiple_of(step) {
        return refuse(format!("must be a multiple of {step} MiB"));
    }
    Ok(Guest { cpu_kind: cpu_kind.to_owned(), cpus, memory_mb })
}

fn preset(size: &str) -> Option<(String, u64, Option<u64>)> {
    let (kind, rest) = match size.strip_prefix("shared-cpu-") {
        Some(rest) => ("shared", rest),
        None => ("performance", size.strip_prefix("performance-")?),
    };
    Some((kind.to_owned(), rest.strip_suffix('x')?.parse().ok()?, None))
}

fn mount(object: &Object<'_>) -> Result<Option<Mount>, Refusal> {
    let mounts = object.array("mounts", "[]fly.MachineMount")?.unwrap_or_default();
    if mounts.len() > 1 {
        return Err(Refusal::invalid("config.mounts: a machine can have at most one volume"));
    }
    let Some(Value::Object(map)) = mounts.first() else { return Ok(None) };
    let mount = Object::new(map, TYPE, "config.mounts");
    let path = mount.string("path")?.unwrap_or_default();
    let volume = mount.string("volume")?.unwrap_or_default();
    if volume.is_empty() {
        return Err(Refusal::invalid("config.mounts[0].volume is required"));
    }
    if !path.starts_with('/') || path.trim_matches('/').is_empty() || path.split('/').any(|part| part == "..") {
        return Err(Refusal::invalid(&format!("config.mounts[0].path: cannot mount a volume at '{path}'")));
    }
    Ok(Some(Mount { volume: volume.to_owned(), path: path.to_owned() }))
}

fn command(object: &Object<'_>, init: Option<&Map<String, Value>>) -> Result<Command, Refusal> {
    let mut command = Command::default();
    if let Some(map) = init {
        let init = Object::new(map, TYPE, "config.init");
        command.exec = init.strings("exec")?.filter(|words| !words.is_empty());
        command.entrypoint = init.strings("entrypoint")?.filter(|words| !words.is_empty());
        command.cmd = init.strings("cmd")?.filter(|words| !words.is_empty());
    }
    for value in object.array("processes", "[]fly.MachineProcess")?.unwrap_or_default() {
        let Value::Object(map) = value else { continue };
        let process = Object::new(map, TYPE, "config.processes");
        let env = process.object("env", "map[string]string")?;
        command.processes.push(Process {
            exec: process.strings("exec")?.filter(|words| !words.is_empty()),
            entrypoint: process.strings("entrypoint")?.filter(|words| !words.is_empty()),
            cmd: process.strings("cmd")?.filter(|words| !words.is_empty()),
            env: env
                .into_iter()
                .flatten()
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
        });
    }
    Ok(command)
}

fn restart(object: &Object<'_>) -> Result<Restart, Refusal> {
    const RETRIES: u32 = 10;
    let Some(map) = object.object("restart", "fly.MachineRestart")? else {
        return Ok(Restart::OnFailure { retries: RETRIES });
    };
    let restart = Object::new(map, TYPE, "config.restart");
    let retries =
        restart.integer("max_retries")?.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
    match restart.string("policy")?.unwrap_or_default() {
        "no" => Ok(Restart::No),
        "always" => Ok(Restart::Always),
        "" | "on-failure" | "on-fail" => Ok(Restart::OnFailure { retries: retries.unwrap_or(RETRIES) }),
        other => Err(Refusal::invalid(&format!("config.restart.policy: unknown policy '{other}'"))),
    }
}

/// Signals of `stop_config` and of the stop and restart calls.
pub const STOP_SIGNALS: [&str; 7] = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM"];

fn stop(object: &Object<'_>) -> Result<Stop, Refusal> {
    let default = Stop { signal: "SIGINT".to_owned(), timeout_ms: DEFAULT_STOP_MS };
    let Some(map) = object.object("stop_config", "fly.StopConfig")? else { return Ok(default) };
    let stop = Object::new(map, TYPE, "config.stop_config");
    let signal = stop.string("signal")?.filter(|signal| !signal.is_empty()).unwrap_or("SIGINT");
    check_stop_signal(signal)?;
    let timeout_ms = stop.duration_ms("timeout")?.unwrap_or(DEFAULT_STOP_MS).min(MAX_STOP_MS);
    Ok(Stop { signal: signal.to_owned(), timeout_ms })
}

/// # Errors
/// 400 for a signal outside [`STOP_SIGNALS`].
pub fn check_stop_signal(signal: &str) -> Result<(), Refusal> {
    match STOP_SIGNALS.contains(&signal) {
        true => Ok(()),
        false => Err(Refusal::invalid(&format!("unsupported signal '{signal}'"))),
    }
}

/// `timeout` of stop and restart: a Go duration or a number of seconds. In milliseconds, at most 300 s.
///
/// # Errors
/// 400.
pub fn stop_timeout_ms(text: &str) -> Result<u64, Refusal> {
    let seconds = text.parse::<u64>().ok().map(|seconds| seconds.saturating_mul(1000));
    let ms = seconds.or_else(|| go_duration_ms(text));
    ms.map(|ms| ms.min(MAX_STOP_MS)).ok_or_else(|| Refusal::bad_request(&format!("time: invalid duration \"{text}\"")))
}

fn keep_root(object: &Object<'_>) -> Result<bool, Refusal> {
    let Some(map) = object.object("rootfs", "fly.MachineRootfs")? else { return Ok(false) };
    let persist = Object::new(map, TYPE, "config.rootfs").string("persist")?;
    Ok(matches!(persist, Some("restart" | "always")))
}

fn checks(object: &Object<'_>) -> Result<Vec<Check>, Refusal> {
    let mut found = Vec::new();
    if let Some(map) = object.object("checks", "map[string]fly.MachineCheck")? {
        for (name, value) in map {
            let Value::Object(map) = value else { continue };
            found.push(check(name.clone(), &Object::new(map, TYPE, "config.checks"), None)?);
        }
    }
    for (s, service) in object.array("services", "[]fly.MachineService")?.unwrap_or_default().iter().enumerate() {
        let Value::Object(map) = service else { continue };
        let service = Object::new(map, TYPE, "config.services");
        let port = service.integer("internal_port")?;
        for (c, value) in service.array("checks", "[]fly.MachineServiceCheck")?.unwrap_or_default().iter().enumerate() {
            let Value::Object(map) = value else { continue };
            let object = Object::new(map, TYPE, "config.services.checks");
            let kind = object.string("type")?.unwrap_or("tcp");
            let name = format!("servicecheck-{s:02}-{kind}-{}-{c}", port.unwrap_or(0));
            found.push(check(name, &object, port)?);
        }
    }
    Ok(found)
}

fn check(name: String, object: &Object<'_>, service_port: Option<i64>) -> Result<Check, Refusal> {
    let port = object.integer("port")?.or(service_port).and_then(|port| u16::try_from(port).ok());
    let Some(port) = port.filter(|port| *port > 0) else {
        return Err(Refusal::invalid(&format!("config.checks: check {name} has no valid port")));
    };
    let http = match object.string("type")?.unwrap_or_default() {
        "tcp" => None,
        "http" | "https" => Some(HttpCheck {
            method: object.string("method")?.unwrap_or("GET").to_uppercase(),
            path: object.string("path")?.unwrap_or("/").to_owned(),
            headers: check_headers(object)?,
        }),
        other => return Err(Refusal::invalid(&format!("config.checks: check {name} has unknown type '{other}'"))),
    };
    Ok(Check {
        name,
        port,
        http,
        interval_ms: object.duration_ms("interval")?.unwrap_or(15_000).max(100),
        timeout_ms: object.duration_ms("timeout")?.unwrap_or(10_000).max(10),
        grace_ms: object.duration_ms("grace_period")?.unwrap_or(0),
    })
}

fn check_headers(object: &Object<'_>) -> Result<Vec<(String, String)>, Refusal> {
    let mut headers = Vec::new();
    for value in object.array("headers", "[]fly.MachineHTTPHeader")?.unwrap_or_default() {
        let Value::Object(map) = value else { continue };
        let header = Object::new(map, TYPE, "config.checks.headers");
        for value in header.strings("values")?.unwrap_or_default() {
            headers.push((header.string("name")?.unwrap_or_default().to_owned(), value));
        }
    }
    Ok(headers)
}

fn files(object: &Object<'_>) -> Result<Vec<File>, Refusal> {
    let mut files = Vec::new();
    for value in object.array("files", "[]fly.File")?.unwrap_or_default() {
        let Value::Object(map) = value else { continue };
        let file = Object::new(map, TYPE, "config.files");
        let guest_path = file.string("guest_path")?.unwrap_or_default();
        if !guest_path.starts_with('/') || guest_path.split('/').any(|part| part == "..") {
            return Err(Refusal::invalid(&format!("config.files: guest_path '{guest_path}' must be absolute")));
        }
        files.push(File {
            guest_path: guest_path.to_owned(),
            raw_value: file.string("raw_value")?.map(str::to_owned),
            secret_name: file.string("secret_name")?.map(str::to_owned),
            mode: file
                .integer("mode")?
                .and_then(|mode| u32::try_from(mode).ok())
                .filter(|mode| *mode > 0)
                .unwrap_or(0o644),
        });
    }
    Ok(files)
}
