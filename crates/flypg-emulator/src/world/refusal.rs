//! Every way the platform says no: status, text and `status` word as Fly's API gives them.

use serde::{Deserialize, Serialize};

/// A refused request, ready for the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{status}: {error}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The `error` of the body.
    pub error: String,
    /// The `status` word of the body: `insufficient_capacity`, `volume_placement_capacity`, `name_taken`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
}

/// A refusal, or a lease that the call has to outlast before it can go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Gate {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Stop and destroy by someone who does not hold the lease wait for its end.
    #[error("a lease holds this until {}", until.rfc3339())]
    Leased { until: super::time::Millis },
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident($($arg:ident),*) = $status:literal, $text:literal $(, $code:literal)?;)*) => {
        impl Refusal {
            $($(#[$doc])*
            #[must_use]
            pub fn $name($($arg: &str),*) -> Self {
                #[allow(unused_mut, unused_assignments)]
                let mut code = None;
                $(code = Some($code.to_owned());)?
                Self { status: $status, error: format!($text), code }
            })*
        }
    };
}

refusals! {
    app_not_found() = 404, "app not found";
    name_taken() = 422, "Validation failed: Name has already been taken", "name_taken";
    bad_app_name() = 422, "Validation failed: Name under 63 chars using numbers, lowercase letters and dashes";
    idempotency_key_used() = 422, "Validation failed: Idempotency key has already been used with another name";
    forbidden() = 403, "unauthorized";
    invalid(text) = 400, "invalid_argument: {text}";
    /// A 400 whose text Fly gives without a code word.
    bad_request(text) = 400, "{text}";
    unknown_region(code) = 400, "invalid_argument: target region {code} not found";
    machine_not_found() = 404, "not_found: machine not found";
    volume_not_found() = 404, "not_found: volume not found";
    snapshot_not_found() = 404, "not_found: snapshot not found";
    secret_not_found() = 404, "not_found: secret not found";
    ip_not_found() = 404, "not_found: ip assignment not found";
    metadata_not_found() = 404, "not_found: metadata key not found";
    lease_not_found() = 404, "lease not found";
    duplicate_name(id, name) = 409, "already_exists: unique machine name violation, machine ID {id} already exists with name \"{name}\"";
    not_startable(current) = 412, "failed_precondition: unable to start machine from current state: '{current}'";
    replacing_no_start() = 412, "failed_precondition: machine getting replaced, refusing to start";
    still_active() = 412, "failed_precondition: machine still active, refusing to start";
    already_starting() = 409, "aborted: machine still attempting to start";
    not_destroyable() = 412, "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created";
    not_allowed(verb, current) = 412, "failed_precondition: unable to {verb} machine from current state: '{current}'";
    concurrent_update() = 409, "machine is replacing: concurrent update in progress";
    stale_version(current) = 409, "aborted: machine version mismatch, current version is {current}";
    stale_metadata_version(current) = 412, "failed_precondition: machine_version mismatch, current version is {current}";
    lease_held(id, owner, until) = 409, "aborted: machine ID {id} lease currently held by {owner}, expires at {until}";
    volume_claimed(id) = 412, "failed_precondition: volume already claimed by machine {id}";
    volume_bound(id) = 412, "failed_precondition: volume is currently bound to machine: {id}";
    volume_going(id) = 412, "failed_precondition: volume {id} is being destroyed";
    snapshot_scheduled(at) = 412, "failed_precondition: snapshot is already scheduled at {at}";
    snapshot_unfinished(id) = 422, "snapshot {id} is not ready to restore";
    too_small(want, least) = 422, "volume size {want} GB is smaller than its source, {least} GB";
    no_region_capacity() = 422, "could not find a candidate host", "insufficient_capacity";
    no_volume_host_capacity(volume) = 412, "insufficient resources to create new machine with existing volume id '{volume}'", "volume_placement_capacity";
    no_host_capacity(what) = 409, "insufficient {what} available to fulfill request";
    no_volume_capacity() = 409, "aborted: no capacity";
    secrets_not_there(version) = 412, "failed_precondition: min_secrets_version {version} is not yet available";
    image_unknown(image) = 400, "invalid_argument: failed to get manifest {image}: MANIFEST_UNKNOWN: manifest unknown";
    host_unreachable() = 408, "deadline_exceeded: host did not answer in time";
    machine_limit() = 422, "Your organization has reached its machine limit. Please contact billing@fly.io";
    too_large() = 413, "http: request body too large";
    rate_limited() = 429, "rate limit exceeded";
    wait_timed_out(want, now) = 408, "deadline_exceeded: machine failed to reach desired state, {want}, currently {now}";
    wait_hopeless(want, now) = 400, "invalid_argument: machine is not going to reach state {want}, currently {now}";
    unauthenticated() = 401, "Authenticate: token validation error";
    closing() = 503, "unavailable: server is shutting down";
}
