//! Real clusters, real faults, and an account of every write.
//!
//! A [`scenario::Scenario`] is a list of faults. [`run`] lets it befall a cluster of real processes while [`client`]s on
//! every side write and read through port 5432 and note each operation with its times. [`checker`] then compares what
//! they were told with what is there. Where this is root and the programs for it are installed, every node lives in a
//! network namespace, so that cuts are real and clients can be on either side of one; elsewhere only the scenarios
//! that need none of that run.

pub mod chance;
pub mod checker;
pub mod client;
pub mod clock;
pub mod drawn;
pub mod history;
pub mod map;
pub mod rig;
pub mod run;
pub mod scenario;
pub mod table;
