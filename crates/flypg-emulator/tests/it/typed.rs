//! The project's own client, which shares no code with the emulator, understands it.

use flypg_machines::types::{CreateApp, CreateMachine, CreateVolume, MachineConfig, Mount, UpdateMachine};
use flypg_machines::{Client, ClientConfig, Error, Reason, apps, leases, machines, platform, volumes};

use crate::harness::Api;

#[tokio::test]
async fn the_typed_client() {
    let api = Api::model().await;
    let client = Client::new(ClientConfig::new(api.emulator.url()).with_token("test")).unwrap();
    let app = CreateApp { name: "orders-db".to_owned(), org_slug: "acme".to_owned(), ..CreateApp::default() };
    client.send(apps::create(&app)).await.unwrap();
    assert_eq!(client.send(apps::get("orders-db")).await.unwrap().name, "orders-db");
    let wanted = CreateVolume {
        name: "pg_ord_1".to_owned(),
        region: Some("ord".to_owned()),
        size_gb: Some(1),
        ..CreateVolume::default()
    };
    let volume = client.send(volumes::create("orders-db", &wanted)).await.unwrap();
    let mount = Mount { volume: Some(volume.id.clone()), path: Some("/data".to_owned()), ..Mount::default() };
    let config = MachineConfig {
        image: Some("registry.fly.io/orders-db:1".to_owned()),
        mounts: vec![mount],
        ..MachineConfig::default()
    };
    let wanted = CreateMachine { name: Some("ord-1".to_owned()), config: config.clone(), ..CreateMachine::default() };
    let made = client.send(machines::create("orders-db", &wanted)).await.unwrap();
    let again = client.send(machines::create("orders-db", &wanted)).await;
    assert!(
        matches!(&again, Err(Error::Refused { reason: Reason::AlreadyExists { machine_id }, .. }) if machine_id.as_ref() == Some(&made.id)),
        "{again:?}"
    );
    let lease = client.send(leases::acquire("orders-db", &made.id, 60, Some("test"))).await.unwrap();
    let update = UpdateMachine { config, ..UpdateMachine::default() };
    let held = client.send(machines::update("orders-db", &made.id, &update)).await;
    assert!(matches!(&held, Err(Error::Refused { reason: Reason::LeaseHeld { .. }, .. })), "{held:?}");
    let path = format!("/v1/apps/orders-db/machines/{}/wait?state=started&timeout=20", made.id);
    api.get(&path).await.expect(200);
    let update = machines::update("orders-db", &made.id, &update).lease(Some(&lease.nonce));
    let updated = client.send(update).await.unwrap();
    assert_ne!(updated.version, made.version);
    let regions = client.send(platform::regions()).await.unwrap();
    assert_eq!(regions.regions.len(), 18);
    api.emulator.shutdown().await;
}
