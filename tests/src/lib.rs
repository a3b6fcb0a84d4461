//! What the rings of tests share: a Fly on this computer, clusters in it, and writers that keep count.

pub mod fly;
pub mod patience;
pub mod programs;
pub mod proxy;
pub mod sql;
pub mod writer;
