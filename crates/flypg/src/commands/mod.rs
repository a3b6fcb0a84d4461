//! One room per command.

pub(crate) mod connect;
pub(crate) mod controller;
pub(crate) mod emulator;
mod files;
pub(crate) mod generate;
pub(crate) mod reconcile;
pub(crate) mod schema;
pub(crate) mod status;
pub(crate) mod validate;
