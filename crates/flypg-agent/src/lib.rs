//! `flypg-agent`: the entrypoint of a Machine. It keeps one Postgres, is the only door to it, and answers the
//! controller.
//!
//! What to do is decided in `flypg-core` (`ledger`, `node`, `settings`); here it is seen and done.
//!
//! - [`node`] looks, asks core what to do next ([`local`] is what it decides by), does it ([`act`]) and waits. One task;
//!   nothing else starts or stops Postgres.
//! - [`store`] is the ledger on disk, [`data_dir`] and [`make`] the data directory, [`conf`] its configuration with the
//!   [`libraries`] that it names,
//!   [`postmaster`] and [`processes`] what runs on it, [`sql`] and [`roles`] what is asked of it, [`primary`] what is
//!   asked of its primary.
//! - [`reign`] brings a primary to an open gate and to a handover: the [`rule`] in every walsender, the [`marker`] of its
//!   epoch, the [`probe`] that it can write. [`end`] says where a recruit's WAL ends, or a stopped primary's, [`rewind`]
//!   makes a copy of that again; [`wal`] knows the files of both. [`report`] is what is told of all this.
//! - [`doors`] lets connections in: [`startup`] judges their first packet, [`routes`] and [`way`] say where they go,
//!   [`pump`] passes their bytes, chunk by chunk, under the conditions of their [`passage`]; [`wire`] is what must be
//!   understood of them, [`cancel`] what becomes of cancel requests. [`server_log`], by its [`lines`], is passed on, and
//!   tells what no answer does.
//! - [`gate`] says until when this node may answer, by the [`clock`] that nobody can set. [`lease`] resets what is still
//!   open when that time is over, and asks members for pledges while no controller answers.
//! - [`api`], [`metrics`] and [`call`] are how others see and steer the node, over [`http`]; [`shared`] is what all of
//!   them share.

pub mod account;
pub mod act;
pub mod api;
pub mod call;
pub mod cancel;
pub mod clock;
pub mod conf;
pub mod config;
pub mod data_dir;
pub mod doors;
pub mod end;
pub mod files;
pub mod gate;
pub mod http;
pub mod lease;
pub mod libraries;
pub mod lines;
pub mod local;
pub mod make;
pub mod marker;
pub mod metrics;
pub mod node;
pub mod passage;
pub mod postmaster;
pub mod primary;
pub mod probe;
pub mod processes;
pub mod pump;
pub mod pumps;
pub mod reign;
pub mod report;
pub mod rewind;
pub mod roles;
pub mod routes;
pub mod rule;
pub mod run;
pub mod seats;
pub mod server_log;
pub mod shared;
pub mod sql;
pub mod startup;
pub mod store;
pub mod wal;
pub mod way;
pub mod wire;

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
