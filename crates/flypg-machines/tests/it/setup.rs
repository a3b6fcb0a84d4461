//! What a client is made of.

use std::process::Command;

use flypg_machines::{Client, ClientConfig, ConfigError, TokenError, machines};

use crate::server::{Answer, Server};

#[test]
fn addresses_that_cannot_be_meant_are_refused() {
    for url in [
        "",
        "api.machines.dev",
        "127.0.0.1:4280",
        "ftp://x",
        "http://",
        "http://user:pw@x",
        "http://x?a=b",
        "http://x#y",
    ] {
        let error = Client::new(ClientConfig::new(url)).unwrap_err();
        assert!(matches!(error, ConfigError::Url(_) | ConfigError::UrlParts), "{url:?}: {error}");
        assert!(!error.to_string().contains("pw"));
    }
}

#[test]
fn tokens_that_cannot_be_sent_are_refused_without_showing_them() {
    for (token, expected) in [(" ", TokenError::Empty), ("se\ncret", TokenError::Characters)] {
        let error = Client::new(ClientConfig::new("http://127.0.0.1:1").with_token(token)).unwrap_err();
        assert!(matches!(&error, ConfigError::Token(found) if *found == expected), "{error:?}");
        assert!(!format!("{error:?}").contains("cret"));
    }
}

#[test]
fn a_user_agent_that_cannot_be_sent_is_refused() {
    let config = ClientConfig { user_agent: "a\nb".to_owned(), ..ClientConfig::new("http://127.0.0.1:1") };
    assert!(matches!(Client::new(config), Err(ConfigError::UserAgent)));
}

#[tokio::test]
async fn every_request_has_the_token_and_says_who_asks() {
    let server = Server::start([Answer::new(200, "[]")]).await;
    for (token, sent) in [("abc", "Bearer abc"), ("Bearer FlyV1 fm2_a,fm2_b", "FlyV1 fm2_a,fm2_b")] {
        let config = server.config().with_token(token);
        assert!(!format!("{config:?}").contains(token));
        let client = Client::new(config).unwrap();
        client.send(machines::list("orders-db", &Default::default())).await.unwrap();
        let seen = server.seen().pop().unwrap();
        assert_eq!(seen.headers["authorization"], sent);
        assert!(seen.headers["user-agent"].to_str().unwrap().starts_with("flypg/"));
        assert!(!format!("{client:?}").contains(token));
    }
    server.client().send(machines::list("orders-db", &Default::default())).await.unwrap();
    assert!(!server.seen().pop().unwrap().headers.contains_key("authorization"));
}

#[tokio::test]
async fn an_address_may_have_a_path_of_its_own() {
    let server = Server::start([Answer::new(200, "[]")]).await;
    for base in [format!("{}/proxy/fly", server.url), format!("{}/proxy/fly/", server.url)] {
        let client = Client::new(ClientConfig { base_url: base, ..server.config() }).unwrap();
        client.send(machines::list("orders-db", &Default::default())).await.unwrap();
        assert_eq!(server.seen().pop().unwrap().path_and_query, "/proxy/fly/v1/apps/orders-db/machines");
    }
}

/// A slim image has no certificates: an http address works there, an https one says what to install.
#[test]
fn certificates_are_needed_for_https_only() {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "setup::on_a_computer_without_certificates", "--ignored"])
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("SSL_CERT_DIR", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "run by certificates_are_needed_for_https_only, in an environment without any"]
fn on_a_computer_without_certificates() {
    let error = Client::new(ClientConfig::new("https://127.0.0.1:1")).unwrap_err();
    assert!(matches!(error, ConfigError::Tls(_)), "{error:?}");
    Client::new(ClientConfig::new("http://127.0.0.1:1")).unwrap();
}
