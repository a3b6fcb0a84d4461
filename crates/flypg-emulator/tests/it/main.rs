//! The emulator over HTTP, as a client of the real API meets it.

mod consistency;
mod contract;
mod disk;
mod faults;
mod harness;
mod leases;
mod namespaces;
mod processes;
mod restarts;
mod states;
mod strangers;
mod typed;
mod volumes;
