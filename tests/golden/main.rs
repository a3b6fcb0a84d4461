//! A scenario in, a dry run out. Every scenario ends with what planning again says once the plan has been carried out:
//! quiet, or exactly what only the world or a person can release.
//!
//! `UPDATE_EXPECT=1 cargo test -p flypg-tests --test golden` rewrites what is expected.

mod create;
mod damage;
mod day_two;
mod properties;
mod removal;
mod scenario;
