//! `cluster.yaml`: parsed into checked types.

mod types;

pub use types::*;
