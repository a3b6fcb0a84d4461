//! The bodies of the Machines API, both ways: a client decodes what a server encodes with the same types.
//!
//! * Fields are optional wherever the API may leave them out, and an explicit `null` is the same as absence.
//! * Strings with a documented set of values are open enums; see [`MachineState`] for one.
//! * Objects that are read, changed and written back keep the fields this crate does not know in `extra`.
//! * Timestamps stay the RFC 3339 strings they are on the wire; those in milliseconds are integers.

mod app;
mod config;
mod container;
mod duration;
mod error_body;
mod event;
mod ip;
mod lease;
mod machine;
mod machine_call;
mod open;
mod org;
mod platform;
mod secret;
mod secrets;
mod service;
mod signal;
mod volume;

pub use app::*;
pub use config::*;
pub use container::*;
pub use duration::*;
pub use error_body::*;
pub use event::*;
pub use ip::*;
pub use lease::*;
pub use machine::*;
pub use machine_call::*;
pub use org::*;
pub use platform::*;
pub use secret::*;
pub use secrets::*;
pub use service::*;
pub use signal::*;
pub use volume::*;

/// Fields of an object that this crate does not know. They are written back as they were read.
pub type Extra = serde_json::Map<String, serde_json::Value>;
