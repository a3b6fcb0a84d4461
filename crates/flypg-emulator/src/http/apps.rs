//! Apps, their secrets and their addresses.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::world::app::CreateApp;
use crate::world::decode::{self, Object};
use crate::world::ips::AssignIp;
use crate::world::refusal::Refusal;
use crate::world::secrets::{Secret, Secrets};

use super::auth::Token;
use super::call::Call;
use super::paging::Page;
use super::reply::Reply;
use super::views;

pub(crate) async fn list(call: Call) -> Result<Reply, Refusal> {
    let org = call.query("org_slug").unwrap_or_default();
    call.caller.may_use_org(org)?;
    let lag = call.lag_of_lists();
    let page = Page::asked(call.query("limit"), call.query("cursor"), 5000, call.engine.now())?;
    let names: Vec<String> = call.engine.read(|world, _| {
        let own = world.apps.values().filter(|app| app.org == org);
        own.map(|app| app.name.clone()).collect()
    });
    let mut apps: Vec<_> = names.iter().filter_map(|name| call.engine.app_at(name, lag).ok()).collect();
    if call.bent.empty_list {
        apps.clear();
    }
    if let Some(page) = &page {
        apps.retain(|app| app.created_at <= page.begun());
    }
    let total = apps.len();
    let (apps, next) = match &page {
        Some(page) => page.cut(apps, |app| app.name.clone()),
        None => (apps, None),
    };
    let mut body = json!({ "total_apps": total, "apps": apps.iter().map(|app| views::app(app)).collect::<Vec<_>>() });
    if let Some(next) = next {
        body["next_cursor"] = json!(next);
    }
    Ok(Reply::ok(&body))
}

pub(crate) async fn create(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.CreateAppRequest")?;
    let body = Object::new(&body, "CreateAppRequest", "");
    let text = |key: &str| body.string(key).map(|text| text.filter(|text| !text.is_empty()).map(str::to_owned));
    let org = text("org_slug")?.unwrap_or_default();
    call.caller.may_use_org(&org)?;
    // The docs say `app_name`, the spec and fly-go say `name`.
    let name = text("name")?.or(text("app_name")?).unwrap_or_default();
    let create = CreateApp { name, org, network: text("network")?, idempotency_key: text("idempotency_key")? };
    let (app, cookie) =
        call.engine.write(|world, now| world.create_app(now, create).map(|app| (app, world.knobs.affinity_cookie)))?;
    let mut body = views::app(&app);
    body["created_at"] = json!(app.created_at);
    let reply = Reply::json(StatusCode::CREATED, &body);
    Ok(match cookie {
        true => reply.header("set-cookie", &format!("fly_flaps_affinity={}; Path=/v1/apps/{}", app.id, app.name)),
        false => reply,
    })
}

pub(crate) async fn show(call: Call) -> Result<Reply, Refusal> {
    let app = call.engine.app_at(call.app(), call.lag_of_reads())?;
    Ok(Reply::ok(&views::app(&app)))
}

pub(crate) async fn destroy(call: Call) -> Result<Reply, Refusal> {
    call.engine.write(|world, now| world.delete_app(now, call.app()))?;
    Ok(Reply::empty(StatusCode::ACCEPTED))
}

pub(crate) async fn deploy_token(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.CreateAppDeployTokenRequest")?;
    Object::new(&body, "CreateAppDeployTokenRequest", "").duration_ms("expiry")?;
    let app = call.app().to_owned();
    let token = call.engine.write(|world, _| {
        world.app(&app)?;
        Ok::<_, Refusal>(format!("fm2_{:016x}{:016x}", world.draw(), world.draw()))
    })?;
    call.engine.auth.add(Token { token: token.clone(), org: None, app: Some(app) });
    Ok(Reply::ok(&json!({ "token": format!("FlyV1 {token}") })))
}

fn secret_body(name: &str, secret: &Secret, show: bool) -> Value {
    let mut body = json!({
        "name": name,
        "digest": secret.digest(),
        "created_at": secret.created_at.rfc3339_seconds(),
        "updated_at": secret.updated_at.rfc3339_seconds(),
    });
    if show {
        body["value"] = json!(secret.value);
    }
    body
}

fn secrets_body(secrets: &Secrets, show: bool) -> Vec<Value> {
    secrets.values.iter().map(|(name, secret)| secret_body(name, secret, show)).collect()
}

/// `min_version`, which fly-go calls `version`.
fn secrets_at_least(call: &Call) -> Result<Secrets, Refusal> {
    let wanted = call.number("min_version")?.or(call.number("version")?);
    let secrets = call.engine.app_at(call.app(), 0)?.secrets.clone();
    secrets.at_least(wanted)?;
    Ok(secrets)
}

pub(crate) async fn list_secrets(call: Call) -> Result<Reply, Refusal> {
    let secrets = secrets_at_least(&call)?;
    Ok(Reply::ok(&json!({ "secrets": secrets_body(&secrets, call.flag("show_secrets")) })))
}

pub(crate) async fn show_secret(call: Call) -> Result<Reply, Refusal> {
    let secrets = secrets_at_least(&call)?;
    let secret = secrets.values.get(call.path("name")).ok_or_else(Refusal::secret_not_found)?;
    Ok(Reply::ok(&secret_body(call.path("name"), secret, call.flag("show_secrets"))))
}

fn write_secrets(call: &Call, values: BTreeMap<String, Option<String>>) -> Result<(Secrets, u64), Refusal> {
    call.engine.write(|world, now| {
        world.app(call.app())?;
        let version = world.write_secrets(now, call.app(), values)?;
        Ok((world.app(call.app())?.secrets.clone(), version))
    })
}

pub(crate) async fn set_secret(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.SetAppSecretRequest")?;
    let value = Object::new(&body, "SetAppSecretRequest", "").string("value")?;
    let value = value.ok_or_else(|| Refusal::invalid("value is required"))?.to_owned();
    let name = call.path("name");
    let (secrets, version) = write_secrets(&call, BTreeMap::from([(name.to_owned(), Some(value))]))?;
    let secret = secrets.values.get(name).ok_or_else(Refusal::secret_not_found)?;
    let mut body = secret_body(name, secret, false);
    body["version"] = json!(version);
    body["Version"] = json!(version);
    Ok(Reply::json(StatusCode::CREATED, &body))
}

pub(crate) async fn update_secrets(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.AppSecretsUpdateRequest")?;
    let values = Object::new(&body, "AppSecretsUpdateRequest", "").object("values", "map[string]*string")?;
    let values = values.into_iter().flatten().map(|(name, value)| match value {
        Value::Null => Ok((name.clone(), None)),
        Value::String(text) => Ok((name.clone(), Some(text.clone()))),
        _ => Err(Refusal::bad_request(&format!(
            "json: cannot unmarshal non-string into Go struct field AppSecretsUpdateRequest.values.{name} of type string"
        ))),
    });
    let (secrets, version) = write_secrets(&call, values.collect::<Result<_, _>>()?)?;
    Ok(Reply::ok(&json!({ "secrets": secrets_body(&secrets, false), "version": version, "Version": version })))
}

pub(crate) async fn delete_secret(call: Call) -> Result<Reply, Refusal> {
    let (_, version) = write_secrets(&call, BTreeMap::from([(call.path("name").to_owned(), None)]))?;
    Ok(Reply::ok(&json!({ "version": version, "Version": version })))
}

pub(crate) async fn list_ips(call: Call) -> Result<Reply, Refusal> {
    let app = call.engine.app_at(call.app(), call.lag_of_lists())?;
    Ok(Reply::ok(&json!({ "ips": app.ips.iter().map(views::ip).collect::<Vec<_>>() })))
}

pub(crate) async fn assign_ip(call: Call) -> Result<Reply, Refusal> {
    let body = decode::required_body(&call.body, "main.assignIPRequest")?;
    let body = Object::new(&body, "assignIPRequest", "");
    let text = |key: &str| body.string(key).map(|text| text.map(str::to_owned));
    let assign = AssignIp {
        kind: text("type")?.unwrap_or_default(),
        region: text("region")?,
        org: text("org_slug")?,
        network: text("network")?,
        service_name: text("service_name")?,
    };
    let made = call.engine.write(|world, now| world.assign_ip(now, call.app(), assign))?;
    Ok(match made.as_slice() {
        [v4, v6] => {
            let mut body = views::ip(v4);
            body["ip"] = Value::Null;
            body["ip_pair"] = json!({ "v4": v4.ip, "v6": v6.ip });
            Reply::ok(&body)
        }
        made => Reply::ok(&made.first().map(views::ip)),
    })
}

pub(crate) async fn release_ip(call: Call) -> Result<Reply, Refusal> {
    call.engine.write(|world, _| world.release_ip(call.app(), call.path("ip")))?;
    Ok(Reply::empty(StatusCode::NO_CONTENT))
}
