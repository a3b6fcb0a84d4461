//! The controller that stays: files come, break, mend and go; the endpoints tell of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flypg_controller::board::Board;
use flypg_controller::controller::{Controller, ControllerError};
use flypg_controller::http::{Shown, serve};
use flypg_controller::metrics::Metrics;
use flypg_controller::source::Watch;
use flypg_controller::vigil::Vigils;
use flypg_core::keys::Key;
use flypg_emulator::Knobs;
use flypg_tests::patience::eventually;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::rig::{Rig, text};

const LIMIT: Duration = Duration::from_secs(60);

struct Page {
    url: String,
    http: reqwest::Client,
}

impl Page {
    async fn get(&self, path: &str, token: Option<&str>) -> (u16, String) {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn clusters(&self) -> (Vec<String>, usize) {
        let (status, text) = self.get("/v1/clusters", Some("open sesame")).await;
        assert_eq!(status, 200, "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        let names = value["clusters"].as_array().unwrap().iter().map(|c| c["cluster"].as_str().unwrap().to_owned());
        (names.collect(), value["mistakes"].as_array().map_or(0, Vec::len))
    }

    async fn until(&self, names: &[&str], mistakes: usize) {
        eventually(&format!("{names:?} with {mistakes} mistakes"), LIMIT, || async {
            let seen = self.clusters().await;
            if seen.0 == names && seen.1 == mistakes { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }
}

/// A controller over a directory.
struct Stays {
    files: tempfile::TempDir,
    page: Page,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ControllerError>>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Stays {
    async fn start(rig: &Rig, gone_after: Duration, first: &str) -> Self {
        let files = tempfile::TempDir::new().unwrap();
        write(files.path(), "a.yaml", first);
        let (observer, actuator) = rig.controller().await;
        let (board, metrics) = (Arc::new(Board::default()), Arc::new(Metrics::new().unwrap()));
        let (vigils, events) = (Arc::<Vigils>::default(), rig.state.path().join("events"));
        let controller = Controller {
            store: observer.store.clone(),
            observer,
            actuator,
            master: Key::from_bytes([1; 32]),
            journals: rig.state.path().join("journal"),
            gone_after,
            board: Arc::clone(&board),
            events: events.clone(),
            vigils: Arc::clone(&vigils),
            metrics: Arc::clone(&metrics),
        };
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shown = Shown { board, vigils, events, metrics, token: Some("open sesame".to_owned()) };
        let serving = tokio::spawn(serve(listener, shown, stop.clone()));
        let running = tokio::spawn(controller.run(Watch::new(vec![files.path().to_owned()]), stop.clone()));
        let page = Page { url, http: reqwest::Client::builder().tls_certs_only([]).build().unwrap() };
        Self { files, page, stop, running, serving }
    }

    fn write(&self, name: &str, text: &str) {
        write(self.files.path(), name, text);
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
        self.serving.await.unwrap().unwrap();
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

#[tokio::test]
async fn it_follows_the_files_and_tells_of_them() {
    let rig = Rig::start(Knobs::default()).await;
    let stays = Stays::start(&rig, Duration::from_millis(300), &text("first-db", 1)).await;
    let page = &stays.page;
    page.until(&["first-db"], 0).await;
    eventually("it is ready", LIMIT, || async {
        match page.get("/readyz", None).await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    for token in [None, Some("wrong")] {
        assert_eq!(page.get("/v1/clusters", token).await.0, 401);
    }
    assert_eq!(page.get("/healthz", None).await.0, 200);
    assert_eq!(page.get("/v1/clusters/other-db/status", Some("open sesame")).await.0, 404);
    let (status, plan) = page.get("/v1/clusters/first-db/plan", Some("open sesame")).await;
    assert!(status == 200 && plan.contains("\"converged\""), "{plan}");
    let (_, metrics) = page.get("/metrics", None).await;
    assert!(metrics.contains("flypg_controller_clusters 1\n"), "{metrics}");

    // A mistake in one file stops nothing, and nothing is taken away because of it.
    stays.write("b.yaml", &text("second-db", 1));
    page.until(&["first-db", "second-db"], 0).await;
    stays.write("b.yaml", &text("second-db", 1).replace("preset", "present"));
    page.until(&["first-db", "second-db"], 1).await;
    stays.write("b.yaml", "# nothing any more\n");
    // Its Machine runs, and is stopped and destroyed; its volume and app follow.
    page.until(&["first-db"], 0).await;
    let gone = rig.client("spectator").send(flypg_machines::apps::get("second-db")).await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");

    stays.end().await;
    let journal = std::fs::read_to_string(rig.state.path().join("journal/first-db.jsonl")).unwrap();
    for line in journal.lines() {
        serde_json::from_str::<flypg_controller::journal::Entry>(line).expect("every line is an entry");
    }
    assert!(!journal.contains(&Key::from_bytes([1; 32]).of_cluster(&"first-db".parse().unwrap()).expose()));
}

#[tokio::test]
async fn a_file_that_is_being_written_takes_nothing_away() {
    let rig = Rig::start(Knobs::default()).await;
    let stays = Stays::start(&rig, Duration::from_secs(3600), &text("first-db", 1)).await;
    stays.page.until(&["first-db"], 0).await;
    let machine = async || {
        let client = rig.client("spectator");
        let machines = client.send(flypg_machines::machines::list("first-db", &Default::default())).await.unwrap();
        machines.items.first().map(|machine| (machine.id.clone(), machine.state.clone()))
    };
    let before = eventually("its Machine runs", LIMIT, || async {
        machine().await.filter(|(_, state)| *state == flypg_machines::types::MachineState::Started).ok_or(String::new())
    })
    .await;

    // Cut off, removed, without a directory, in an empty directory: each is a moment of somebody's save.
    let path = stays.files.path().to_owned();
    stays.write("a.yaml", "");
    stays.write("b.yaml", "# so that all of it was read\n{");
    stays.page.until(&["first-db"], 1).await;
    std::fs::remove_file(path.join("a.yaml")).unwrap();
    stays.write("b.yaml", &text("second-db", 1));
    stays.page.until(&["first-db", "second-db"], 0).await;
    std::fs::remove_dir_all(&path).unwrap();
    stays.page.until(&["first-db", "second-db"], 1).await;
    std::fs::create_dir(&path).unwrap();
    eventually("an empty directory is told of", LIMIT, || async {
        let (_, text) = stays.page.get("/v1/clusters", Some("open sesame")).await;
        if text.contains("holds no *.yaml file any more") { Ok(()) } else { Err(text) }
    })
    .await;
    stays.write("a.yaml", &text("first-db", 1));
    stays.write("b.yaml", &text("second-db", 1));
    stays.page.until(&["first-db", "second-db"], 0).await;
    assert_eq!(machine().await, Some(before), "it was left alone all the time");
    stays.end().await;
}
