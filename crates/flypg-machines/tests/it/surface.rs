//! Every call on one page: what is sent, whether it may be sent twice, and from which bucket it draws.

use std::fmt::Write;
use std::time::Duration;

use expect_test::expect;
use flypg_machines::lifecycle::{self, RestartMachine, Wait};
use flypg_machines::types::*;
use flypg_machines::{Idempotence, Request, apps, ips, leases, machines, metadata, orgs, platform, secrets, volumes};

#[derive(Default)]
struct Surface(String);

impl Surface {
    fn add<T>(&mut self, request: Request<T>) -> &mut Self {
        let repeat = match request.idempotence() {
            Idempotence::Read => "read",
            Idempotence::Repeatable => "repeatable",
            Idempotence::Once => "once",
        };
        let lease = if request.lease_nonce().is_some() { " lease" } else { "" };
        let timeout = request.min_timeout().map(|timeout| format!(" {}s", timeout.as_secs())).unwrap_or_default();
        let (method, path, bucket) = (request.method().as_str(), request.path(), request.bucket());
        writeln!(self.0, "{method:6} {path:40} {repeat:10} {bucket}{lease}{timeout}").unwrap();
        self
    }
}

#[test]
fn every_call() {
    let mut surface = Surface::default();
    surface
        .add(apps::create(&CreateApp { org_slug: "acme".to_owned(), ..Default::default() }))
        .add(apps::get("a"))
        .add(apps::list("acme", &Default::default()))
        .add(apps::delete("a", false))
        .add(machines::list("a", &Default::default()))
        .add(machines::create("a", &Default::default()))
        .add(machines::get("a", "m"))
        .add(machines::get_version("a", "m", "v"))
        .add(machines::update("a", "m", &Default::default()))
        .add(machines::destroy("a", "m", false))
        .add(machines::events("a", "m", None))
        .add(machines::versions("a", "m"))
        .add(lifecycle::start("a", "m"))
        .add(lifecycle::stop("a", "m", &Default::default()))
        .add(lifecycle::restart("a", "m", &RestartMachine::default()))
        .add(lifecycle::signal("a", "m", Signal::Hup))
        .add(lifecycle::cordon("a", "m"))
        .add(lifecycle::uncordon("a", "m"))
        .add(lifecycle::wait("a", "m", &Wait::until(WaitState::Settled, Duration::from_secs(30))))
        .add(lifecycle::exec("a", "m", &ExecRequest { timeout: Some(45), ..Default::default() }))
        .add(metadata::get("a", "m"))
        .add(metadata::patch("a", "m", &Default::default()))
        .add(metadata::patch("a", "m", &PatchMetadata { updated_at: Some("t".to_owned()), ..Default::default() }))
        .add(metadata::set("a", "m", "k/1", "v"))
        .add(metadata::delete("a", "m", "k/1"))
        .add(leases::acquire("a", "m", 60, None))
        .add(leases::refresh("a", "m", "n", 60))
        .add(leases::get("a", "m"))
        .add(leases::release("a", "m", "n"))
        .add(volumes::list("a", &Default::default()))
        .add(volumes::create("a", &Default::default()))
        .add(volumes::get("a", "v"))
        .add(volumes::update("a", "v", &Default::default()))
        .add(volumes::extend("a", "v", 20))
        .add(volumes::delete("a", "v"))
        .add(volumes::snapshots("a", "v"))
        .add(volumes::create_snapshot("a", "v"))
        .add(secrets::list("a", &Default::default()))
        .add(secrets::update("a", &Default::default()))
        .add(secrets::delete("a", "S"))
        .add(ips::list("a"))
        .add(ips::create("a", &Default::default()))
        .add(ips::delete("a", "fdaa::1"))
        .add(platform::regions())
        .add(platform::placements(&PlacementQuery { org_slug: "acme".to_owned(), ..Default::default() }))
        .add(orgs::machines("acme", &Default::default()));
    expect![[r#"
        POST   /v1/apps                                 once       apps.create acme
        GET    /v1/apps/a                               read       apps.get a
        GET    /v1/apps                                 read       apps.list acme
        DELETE /v1/apps/a                               repeatable apps.delete
        GET    /v1/apps/a/machines                      read       machines.list a
        POST   /v1/apps/a/machines                      once       machines.create a
        GET    /v1/apps/a/machines/m                    read       machines.get m
        GET    /v1/apps/a/machines/m                    read       machines.get m
        POST   /v1/apps/a/machines/m                    once       machines.update m
        DELETE /v1/apps/a/machines/m                    repeatable machines.destroy m
        GET    /v1/apps/a/machines/m/events             read       machines.events m
        GET    /v1/apps/a/machines/m/versions           read       machines.versions m
        POST   /v1/apps/a/machines/m/start              repeatable machines.start m
        POST   /v1/apps/a/machines/m/stop               repeatable machines.stop m
        POST   /v1/apps/a/machines/m/restart            once       machines.restart m
        POST   /v1/apps/a/machines/m/signal             once       machines.signal m
        POST   /v1/apps/a/machines/m/cordon             repeatable machines.cordon m
        POST   /v1/apps/a/machines/m/uncordon           repeatable machines.uncordon m
        GET    /v1/apps/a/machines/m/wait               read       machines.wait m 40s
        POST   /v1/apps/a/machines/m/exec               once       machines.exec m 55s
        GET    /v1/apps/a/machines/m/metadata           read       metadata.get m
        PATCH  /v1/apps/a/machines/m/metadata           repeatable metadata.patch m
        PATCH  /v1/apps/a/machines/m/metadata           once       metadata.patch m
        POST   /v1/apps/a/machines/m/metadata/k%2F1     repeatable metadata.set m
        DELETE /v1/apps/a/machines/m/metadata/k%2F1     repeatable metadata.delete m
        POST   /v1/apps/a/machines/m/lease              once       lease.acquire m
        POST   /v1/apps/a/machines/m/lease              repeatable lease.acquire m lease
        GET    /v1/apps/a/machines/m/lease              read       lease.get m
        DELETE /v1/apps/a/machines/m/lease              repeatable lease.release m lease
        GET    /v1/apps/a/volumes                       read       volumes.list a
        POST   /v1/apps/a/volumes                       once       volumes.create a
        GET    /v1/apps/a/volumes/v                     read       volumes.get v
        PUT    /v1/apps/a/volumes/v                     repeatable volumes.update v
        PUT    /v1/apps/a/volumes/v/extend              once       volumes.extend v
        DELETE /v1/apps/a/volumes/v                     repeatable volumes.delete v
        GET    /v1/apps/a/volumes/v/snapshots           read       snapshots.list v
        POST   /v1/apps/a/volumes/v/snapshots           once       snapshots.create v
        GET    /v1/apps/a/secrets                       read       secrets.list a
        POST   /v1/apps/a/secrets                       repeatable secrets.update a
        DELETE /v1/apps/a/secrets/S                     repeatable secrets.delete a
        GET    /v1/apps/a/ip_assignments                read       ips.list a
        POST   /v1/apps/a/ip_assignments                once       ips.create a
        DELETE /v1/apps/a/ip_assignments/fdaa%3A%3A1    repeatable ips.delete a
        GET    /v1/platform/regions                     read       platform.regions
        POST   /v1/platform/placements                  read       platform.placements acme
        GET    /v1/orgs/acme/machines                   read       orgs.machines acme
    "#]]
    .assert_eq(&surface.0);
}

#[test]
fn a_caller_who_knows_better_may_say_so() {
    let exec = lifecycle::exec("a", "m", &ExecRequest::default()).idempotent(Idempotence::Read);
    assert_eq!(exec.idempotence(), Idempotence::Read);
}
