//! `flypg-agent`: the entrypoint of a Machine. It keeps one Postgres, is the only door to it, and answers the
//! controller. See ARCHITECTURE.md.

pub mod account;
pub mod act;
pub mod api;
pub mod call;
pub mod conf;
pub mod config;
pub mod data_dir;
pub mod doors;
pub mod files;
pub mod make;
pub mod metrics;
pub mod node;
pub mod postmaster;
pub mod processes;
pub mod pump;
pub mod roles;
pub mod routes;
pub mod run;
pub mod shared;
pub mod sql;
pub mod startup;
pub mod store;

/// An error and everything that led to it, in one line.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}
