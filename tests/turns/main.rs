//! The controller's loop in this process, against an emulator whose Machines are records: what one look costs, and
//! what becomes of calls that are lost, late or refused. Nodes and Postgres are tried in `e2e`.

mod acts;
mod looks;
mod proof;
mod rig;
mod stay;
