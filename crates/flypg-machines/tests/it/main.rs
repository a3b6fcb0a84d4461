//! The crate from outside: the documented examples, the spellings of the wire, and the sender against real sockets.

mod examples;
mod mutations;
mod odd_servers;
mod round_trip;
mod sender;
mod server;
mod setup;
mod spellings;
mod surface;
