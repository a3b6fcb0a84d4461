//! A Fly Machines API on one computer.
//!
//! `/v1` answers as Fly's does: statuses, bodies, error texts, leases, versions, waits, soft deletes, rate limits, reads
//! that lag behind. Below it machines are real processes ([`RuntimeKind::Process`]) or records ([`RuntimeKind::Model`]).
//! It knows nothing of what runs in the machines.
//!
//! - [`world`] is a pure state machine: commands and reports in, answers and effects out.
//! - [`runtime`] performs effects.
//! - The rest is the API, the disk, and the clock.
//!
//! ```no_run
//! # async fn start() -> Result<(), flypg_emulator::StartError> {
//! use flypg_emulator::{Config, Emulator, ImageTable, RuntimeKind};
//!
//! let emulator = Emulator::start(Config {
//!     data: Some("/tmp/fly".into()),
//!     runtime: RuntimeKind::Process,
//!     images: ImageTable::new().with("acme/sleeper", ["/bin/sleep", "1000000"]),
//!     ..Config::default()
//! })
//! .await?;
//! println!("FLY_FLAPS_BASE_URL={}", emulator.url());
//! emulator.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The process runtime
//!
//! A machine's root directory is `DATA/m/<machine>`; it is emptied at each start. What would be an absolute path in
//! the guest lies below it: the variable `FLY_EMULATOR_ROOT` names it, a volume mounted at `/data` is
//! `$FLY_EMULATOR_ROOT/data` (a symbolic link to `DATA/v/<volume>`), and `config.files` are written below it. Processes
//! see the computer's own file system otherwise, run as the emulator's user, and have an environment of their own:
//! `PATH`, `LANG`, `HOME`, `FLY_EMULATOR_ROOT`, then secrets, `config.env` and the `FLY_*` variables as on Fly. Output goes to
//! `DATA/log/<machine>.log`, which is cut when it grows beyond 8 MiB.
//!
//! Each machine has an address in `127.<octet>.0.0/16`, kept across restarts and told as `private_ip`; the octet belongs
//! to the data directory. Processes must listen on that address, not on `0.0.0.0`.
//!
//! With [`NetworkKind::Namespaces`] (root only) each machine is in a network namespace of its own instead, at an address
//! of Fly's form, `fdaa:<tag>:…`; the tag belongs to the data directory. The emulator's side is `fdaa:<tag>::1`, which
//! faults call `outside`. A machine that is killed or stands still is silence there, as it is on Fly: no reset, no end of a
//! connection. Everything is made with `ip` and `nft`, named `flypg-<tag>…`, and removed when the emulator stops.
//!
//! A snapshot or fork freezes the machine's processes while its volume is copied, so that the copy is of one moment, as
//! that of a block device is.
//!
//! Stopping the emulator ([`EmulatorHandle::shutdown`], SIGTERM of `flypg emulator`) stops all machines in order, and the
//! next emulator in the same directory starts them again. Killing it leaves the processes running, and the next one takes
//! them over (their exit codes are unknown, -1, because they are not its children). A machine whose processes died in
//! between follows its restart policy.
//!
//! # Faults
//!
//! `POST /_faults` with an `effect` adds a rule for requests ([`faults::Rule`]); with a `fault` it lets something happen
//! at once ([`world::faults::Fault`]). `GET /_faults` lists the rules with their counters, `DELETE /_faults/ID` and
//! `DELETE /_faults` remove them. Chances are drawn from [`Config::seed`]: with the same seed the same requests, in the same
//! order, meet the same faults.
//!
//! ```json
//! {"match": {"method": "POST", "path": "/v1/apps/*/machines"}, "effect": "lose_answer", "count": 1}
//! {"match": {"app": "orders-db"}, "effect": {"status": {"code": 503, "performed": true}}, "probability": 0.1}
//! {"effect": "lose_request"}             {"effect": {"delay": {"ms": 300}}}
//! {"effect": "empty_list", "count": 1}   {"effect": {"stale": {"ms": 2000}}}
//! {"effect": {"no_capacity": {"region": "ord"}}}
//! {"fault": "machine_dies", "machine": "3d8d413b29d089"}       {"fault": "migrate", "machine": "orders-db/ord-1"}
//! {"fault": "host_unreachable", "machine": "…", "processes": true}   {"fault": "host_back", "machine": "…"}
//! {"fault": "volume_lost", "volume": "vol_…"}                  {"fault": "freeze", "machine": "…"}  (and "thaw")
//! {"fault": "signal", "machine": "…", "signal": "SIGSTOP"}     {"fault": "signal", "machine": "…", "to": {"eldest": "postgres"}, "signal": "SIGKILL"}
//! {"fault": "partition", "machines": [["db/a"], ["db/b", "outside"]]}
//! {"fault": "cut", "from": ["db/a"], "to": ["db/b"], "loss": 0.3}   {"fault": "heal"}  (or with "machines")
//! {"fault": "slow_start", "machine": "…", "ms": 5000}          {"fault": "stuck", "machine": "…", "stuck": true}
//! {"fault": "region_full", "region": "ord"}                    {"fault": "host_full", "machine": "…"}
//! ```
//!
//! `GET /_knobs` and `PATCH /_knobs` read and change [`world::knobs::Knobs`], `GET /_world` dumps the world (secrets
//! included), `GET /_health` answers when it is up. None of these needs a token.
//!
//! # Not served
//!
//! Certificates, secret keys, Managed Postgres, tokens beyond `current`, `/.fly/api`: they answer 404 as unknown routes do.
//! Cuts answer 501 unless machines are in network namespaces: on one loopback interface there is nothing to cut.

mod emulator;
mod engine;
pub mod faults;
mod history;
mod http;
mod limits;
pub mod runtime;
mod store;
pub mod world;

pub use crate::emulator::{Config, Emulator, EmulatorHandle, NetworkKind, RuntimeKind, StartError};
pub use crate::http::auth::Token;
pub use crate::runtime::ImageTable;
pub use crate::store::StoreError;
pub use crate::world::knobs::Knobs;
