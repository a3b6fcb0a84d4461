//! The [Fly Machines API](https://fly.io/docs/machines/api/), typed, and nothing that is built on top of it.
//!
//! Three rooms:
//!
//! * [`types`] are the bodies on the wire, both ways. Unknown fields and unknown enum values survive being read and
//!   written back, since an update replaces a Machine's whole configuration.
//! * [`machines`], [`volumes`], [`secrets`] and the others build [`Request`]s: values that say what would be sent,
//!   what the answer means, and whether sending it twice is the same as sending it once. They send nothing.
//! * [`Client`] sends them: within Fly's rate limits, with the token in the scheme it needs, again where that is
//!   safe, and never a create that may have happened.
//!
//! Every failure is an [`Error`] of one of three kinds, which are three things to do: **not done**, so try again;
//! **maybe done**, so look first; **refused**, so change the plan.
//!
//! ```no_run
//! use flypg_machines::types::{CreateMachine, MachineConfig};
//! use flypg_machines::{Client, ClientConfig, Error, Reason, machines};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::new(ClientConfig::default().with_token("FlyV1 fm2_…"))?;
//! let wanted = CreateMachine {
//!     name: Some("orders-db-1".to_owned()),
//!     config: MachineConfig { image: Some("registry.fly.io/orders-db:1".to_owned()), ..Default::default() },
//!     ..Default::default()
//! };
//! match client.send(machines::create("orders-db", &wanted)).await {
//!     Ok(machine) => println!("{} is {}", machine.id, machine.state),
//!     Err(Error::Refused { reason: Reason::AlreadyExists { machine_id }, .. }) => println!("{machine_id:?} it is"),
//!     Err(error) if error.may_have_happened() => println!("look for orders-db-1 before trying again"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```

mod auth;
pub mod bucket;
mod client;
mod cookie;
mod error;
mod request;
mod retry;
pub mod types;

pub use auth::TokenError;
pub use bucket::Limits;
pub use client::{Client, ClientConfig, ConfigError, NEXT_CURSOR, PUBLIC_API, REQUEST_ID};
pub use error::{BODY_KEPT, Cause, Error, Exchange, Reason, Source};
pub use request::{
    Idempotence, LEASE_NONCE, Page, Paged, Removal, Request, apps, ips, leases, lifecycle, machines, metadata, orgs,
    platform, secrets, volumes,
};
pub use retry::{Decision, decide};
