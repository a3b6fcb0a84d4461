//! The Fly Machines API, typed. It knows nothing of what is built on top of it.

pub mod types;
