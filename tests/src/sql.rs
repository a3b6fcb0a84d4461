//! Sessions with a node, through its doors.

use std::time::Duration;

use tokio_postgres::{Client, Config, NoTls};

/// Longer than a router holds a connection while there is no primary.
const CONNECT: Duration = Duration::from_secs(15);

/// A session as `postgres`. Its driving task ends with the connection.
pub async fn connect(host: &str, port: u16, password: &str) -> Result<Client, String> {
    let config = Config::new()
        .host(host)
        .port(port)
        .user("postgres")
        .dbname("postgres")
        .password(password)
        .connect_timeout(CONNECT)
        .to_owned();
    let opened = tokio::time::timeout(CONNECT, config.connect(NoTls)).await;
    let (client, connection) = opened.map_err(|_| "no session in time".to_owned())?.map_err(|e| describe(&e))?;
    tokio::spawn(connection);
    Ok(client)
}

/// The first column of the first row, as text.
pub async fn one(client: &Client, query: &str) -> Result<String, String> {
    use tokio_postgres::SimpleQueryMessage::Row;
    let messages = client.simple_query(query).await.map_err(|e| describe(&e))?;
    let row = messages.into_iter().find_map(|m| if let Row(row) = m { Some(row) } else { None });
    Ok(row.and_then(|row| row.get(0).map(str::to_owned)).unwrap_or_default())
}

/// Connects, asks once, and goes.
pub async fn ask(host: &str, port: u16, password: &str, query: &str) -> Result<String, String> {
    one(&connect(host, port, password).await?, query).await
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{}: {}", db.code().code(), db.message()),
        None => match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}
