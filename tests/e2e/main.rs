//! The real binaries, the emulator over HTTP, real PostgreSQL.

mod cluster;
mod controller;
mod crash;
mod create;
mod day_two;
mod failover;
mod faults;
mod nodes;
mod reach;
