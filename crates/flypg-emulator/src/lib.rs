//! A Fly Machines API on one computer.
#![allow(missing_docs)]
pub mod world;
