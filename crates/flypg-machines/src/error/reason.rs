use super::Exchange;
use crate::types::{MachineState, StatusCode};

/// Why the server said no.
///
/// Fly's status enum decides where it is given; otherwise the text does, by what it contains: prefixes come and go
/// (`aborted:`, `failed_precondition:`), and one text is answered with several statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// No such Machine, volume, lease or key.
    NotFound,
    /// No such app; also when a call is about something in it.
    AppNotFound,
    /// The server does not know this path at all.
    NoSuchRoute,
    /// App names are unique on all of Fly.
    NameTaken,
    /// Somebody holds the Machine.
    LeaseHeld { owner: Option<String>, expires_at: Option<String> },
    /// A Machine of this name is there.
    AlreadyExists { machine_id: Option<String> },
    /// Another update is running, or came first.
    ConcurrentUpdate,
    /// The Machine is changing to a new version.
    Replacing,
    /// Not from the state that it is in.
    NotStartable { from: Option<MachineState> },
    /// It stopped just now.
    StillActive,
    /// It is starting or running: what was asked for is so.
    AlreadyStarting,
    /// A running Machine is not destroyed without force.
    NotDestroyable,
    /// Another Machine has the volume; without an id it is one that is being destroyed.
    VolumeClaimed { machine_id: Option<String> },
    /// The volume cannot be deleted while a Machine has it.
    VolumeBound { machine_id: Option<String> },
    /// One snapshot at a time.
    SnapshotScheduled { at: Option<String> },
    /// The Machine did not get there within the wait's timeout.
    WaitTimedOut { wanted: Option<String>, currently: Option<MachineState> },
    /// The region is full.
    RegionFull,
    /// The host is full, and the Machine could be placed on another.
    HostFull,
    /// The host is full, and a volume ties the Machine to it.
    VolumeHostFull,
    /// No region of this name.
    UnknownRegion,
    /// The organisation may not have more Machines.
    MachineLimit,
    /// Fly wants a payment method first.
    PaymentRequired,
    /// The registry does not have the image, or not yet.
    ImageNotFound,
    /// The guest cannot have this much memory, or this little.
    GuestSize,
    /// Nothing that this crate knows; see the text.
    Other,
}

impl Reason {
    /// Reads the reason out of an answer. Pure.
    pub(crate) fn of(http_status: u16, exchange: &Exchange) -> Self {
        match exchange.code {
            Some(StatusCode::NameTaken) => return Self::NameTaken,
            Some(StatusCode::InsufficientCapacity) => return Self::RegionFull,
            Some(StatusCode::VolumePlacementCapacity) => return Self::VolumeHostFull,
            Some(StatusCode::Unknown | StatusCode::Other(_)) | None => {}
        }
        let text = exchange.text.as_deref().or(exchange.raw_body.as_deref()).unwrap_or_default();
        // A page, in whatever words, is another server's: it does not know what there is on Fly.
        let page = exchange.text.is_none() && !text.trim_start().starts_with('{') && !text.trim().is_empty();
        Self::of_text(text).unwrap_or(match http_status {
            404 if page => Self::NoSuchRoute,
            404 => Self::NotFound,
            _ => Self::Other,
        })
    }

    fn of_text(text: &str) -> Option<Self> {
        // ASCII lower case keeps every byte where it was, so that positions serve both.
        let lower = text.to_ascii_lowercase();
        let has = |needle: &str| lower.contains(needle);
        let after = |marker: &str| lower.find(marker).map(|at| text[at + marker.len()..].trim());

        Some(if has("lease currently held by") {
            let rest = after("lease currently held by").unwrap_or_default();
            let (owner, expiry) = rest.split_once(',').unwrap_or((rest, ""));
            let expires_at = expiry.trim().strip_prefix("expires at").map(str::trim);
            Self::LeaseHeld { owner: given(owner), expires_at: expires_at.and_then(given) }
        } else if has("unique machine name violation") {
            Self::AlreadyExists { machine_id: after("machine id ").and_then(id) }
        } else if has("volume already claimed by machine") {
            Self::VolumeClaimed { machine_id: after("claimed by machine").and_then(id) }
        } else if has("volume is currently bound to machine") {
            Self::VolumeBound { machine_id: after("bound to machine:").and_then(id) }
        } else if has("snapshot is already scheduled") {
            Self::SnapshotScheduled { at: after("already scheduled at").and_then(given) }
        } else if has("machine failed to reach desired state") {
            let wanted = after("desired state,").and_then(|rest| given(rest.split(',').next()?));
            let currently = after("currently ").and_then(given).map(MachineState::from);
            Self::WaitTimedOut { wanted, currently }
        } else if has("still attempting to start") {
            Self::AlreadyStarting
        } else if has("still active") {
            Self::StillActive
        } else if has("unable to start machine from current state") {
            let from = after("current state:").map(|rest| rest.trim_matches('\'')).and_then(given);
            Self::NotStartable { from: from.map(MachineState::from) }
        } else if has("getting replaced") || has("is replacing") {
            Self::Replacing
        } else if has("concurrent update") {
            Self::ConcurrentUpdate
        } else if has("unable to destroy machine, not currently") {
            Self::NotDestroyable
        } else if has("existing volume id") && has("insufficient resources") {
            Self::VolumeHostFull
        } else if has("could not find a candidate host") || has("aborted: no capacity") {
            Self::RegionFull
        } else if has("could not reserve resource for machine")
            || has("deploys to this host are temporarily disabled")
            || has("available to fulfill request")
        {
            Self::HostFull
        } else if has("name has already been taken") {
            Self::NameTaken
        } else if has("reached its machine limit") {
            Self::MachineLimit
        } else if has("add a payment method") {
            Self::PaymentRequired
        } else if has("manifest_unknown") {
            Self::ImageNotFound
        } else if has("config.guest.memory_mb") {
            Self::GuestSize
        } else if has("page not found") {
            Self::NoSuchRoute
        } else if has("target region") && has("not found") {
            Self::UnknownRegion
        } else if has("could not find app") || has("app not found") {
            Self::AppNotFound
        } else if has("invalid machine id") || lower.starts_with("not_found:") {
            Self::NotFound
        } else {
            return None;
        })
    }

    /// The thing is not there, or the app that it would be in.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound | Self::AppNotFound)
    }

    /// There is no room. Elsewhere there may be.
    pub fn is_capacity(&self) -> bool {
        matches!(self, Self::RegionFull | Self::HostFull | Self::VolumeHostFull)
    }

    /// It passes by itself, within seconds or minutes: wait and look again.
    pub fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::LeaseHeld { .. }
                | Self::ConcurrentUpdate
                | Self::Replacing
                | Self::StillActive
                | Self::SnapshotScheduled { .. }
                | Self::WaitTimedOut { .. }
                | Self::ImageNotFound
                | Self::VolumeClaimed { machine_id: None }
        ) || matches!(self, Self::NotStartable { from: Some(from) } if !from.is_resting() || *from == MachineState::Created)
    }

    pub(super) fn suggestion(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoSuchRoute => "check that the address is that of a Machines API",
            Self::NameTaken => "choose another name: app names are unique on all of Fly",
            Self::LeaseHeld { .. } => "wait for the lease to end, or see who holds it with `fly machine leases view`",
            Self::AlreadyExists { .. } => "adopt that Machine, or choose another name",
            Self::NotDestroyable => "stop the Machine first, or force",
            Self::VolumeClaimed { machine_id: Some(_) } | Self::VolumeBound { .. } => {
                "destroy the Machine that has the volume, wait until it is gone, then try again"
            }
            Self::RegionFull => "choose another region, or a smaller Machine",
            Self::HostFull => "replace the Machine, so that it lands on another host",
            Self::VolumeHostFull => "fork the volume, which puts it on another host",
            Self::UnknownRegion => "see `fly platform regions`",
            Self::MachineLimit => "ask billing@fly.io for more Machines, or remove some",
            Self::PaymentRequired => "add a payment method to the organisation",
            Self::ImageNotFound => "check the image's name; right after a push, wait a minute",
            Self::GuestSize => "choose a memory size that the number of CPUs allows",
            Self::ConcurrentUpdate
            | Self::Replacing
            | Self::NotStartable { .. }
            | Self::StillActive
            | Self::VolumeClaimed { machine_id: None }
            | Self::SnapshotScheduled { .. } => "wait a moment and look again",
            Self::NotFound | Self::AppNotFound | Self::AlreadyStarting | Self::WaitTimedOut { .. } | Self::Other => {
                return None;
            }
        })
    }
}

fn given(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The identifier that a text goes on with. Shortly after a destroy it may be NUL bytes: none.
fn id(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    given(&text[..end])
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn reason(status: u16, body: &str) -> Reason {
        let exchange = Exchange::new(&Method::POST, "/v1").with_body(body.as_bytes());
        Reason::of(status, &exchange)
    }

    fn text(status: u16, text: &str) -> Reason {
        reason(status, &serde_json::json!({ "error": text }).to_string())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn leases_in_their_three_spellings() {
        let owner = some("9af60c27-ee17-55df-bb0a-4f369e59839a@tokens.fly.io");
        let held = Reason::LeaseHeld { owner, expires_at: some("2026-08-14T09:57:35Z") };
        let words = "machine ID 3d8d413b29d089 lease currently held by \
                     9af60c27-ee17-55df-bb0a-4f369e59839a@tokens.fly.io, expires at 2026-08-14T09:57:35Z";
        assert_eq!(text(409, &format!("aborted: {words}")), held);
        assert_eq!(text(409, words), held);
        let old = r#"{"status":"error","code":"invalid","message":"machine ID 3d lease currently held by
            ops@example.com, expires at 2022-10-20 19:59:06 +0000 UTC"}"#;
        assert_eq!(
            reason(409, &old.replace('\n', " ")),
            Reason::LeaseHeld { owner: some("ops@example.com"), expires_at: some("2022-10-20 19:59:06 +0000 UTC") }
        );
    }

    #[test]
    fn every_text_of_the_catalogue() {
        use MachineState::{Created, Stopped};
        let no_id = None;
        for (status, error, expected) in [
            (
                412,
                "failed_precondition: unable to start machine from current state: 'created'",
                Reason::NotStartable { from: Some(Created) },
            ),
            (412, "failed_precondition: machine getting replaced, refusing to start", Reason::Replacing),
            (412, "failed_precondition: machine still active, refusing to start", Reason::StillActive),
            (409, "aborted: machine still attempting to start", Reason::AlreadyStarting),
            (
                412,
                "failed_precondition: unable to destroy machine, not currently stopped, suspended, failed or created",
                Reason::NotDestroyable,
            ),
            (404, "not_found: machine not found", Reason::NotFound),
            (400, "invalid machine ID, 'x'", Reason::NotFound),
            (404, "lease not found", Reason::NotFound),
            (
                409,
                "already_exists: unique machine name violation, machine ID 3d8d413b29d089 already exists with name \"orders-db-1\"",
                Reason::AlreadyExists { machine_id: some("3d8d413b29d089") },
            ),
            (409, "aborted: machine update failed due to concurrent update", Reason::ConcurrentUpdate),
            (409, "machine is replacing: concurrent update in progress", Reason::Replacing),
            (400, "could not find app", Reason::AppNotFound),
            (404, "Could not find App", Reason::AppNotFound),
            (404, "app not found", Reason::AppNotFound),
            (
                412,
                "failed_precondition: volume already claimed by machine 908057ef21e487",
                Reason::VolumeClaimed { machine_id: some("908057ef21e487") },
            ),
            (
                412,
                "failed_precondition: volume already claimed by machine \0\0\0\0",
                Reason::VolumeClaimed { machine_id: no_id },
            ),
            (
                412,
                "failed_precondition: volume is currently bound to machine: 3d8d413b29d089",
                Reason::VolumeBound { machine_id: some("3d8d413b29d089") },
            ),
            (
                412,
                "failed_precondition: snapshot is already scheduled at 2026-11-20T19:30:43Z",
                Reason::SnapshotScheduled { at: some("2026-11-20T19:30:43Z") },
            ),
            (
                408,
                "deadline_exceeded: machine failed to reach desired state, started, currently stopped",
                Reason::WaitTimedOut { wanted: some("started"), currently: Some(Stopped) },
            ),
            (408, "machine failed to reach desired state", Reason::WaitTimedOut { wanted: None, currently: None }),
            (400, "invalid config.guest.memory_mb, minimum required 1024 MiB", Reason::GuestSize),
            (400, "target region xxx not found", Reason::UnknownRegion),
            (409, "insufficient CPUs available to fulfill request on the current host", Reason::HostFull),
            (
                409,
                "unknown: could not reserve resource for machine: insufficient memory available to fulfill request",
                Reason::HostFull,
            ),
            (409, "deploys to this host are temporarily disabled", Reason::HostFull),
            (409, "aborted: no capacity", Reason::RegionFull),
            (
                412,
                "insufficient resources to create new machine with existing volume id 'vol_1'",
                Reason::VolumeHostFull,
            ),
            (
                422,
                "Your organization has reached its machine limit. Please contact billing@fly.io",
                Reason::MachineLimit,
            ),
            (422, "To create more than 1 machine per app please add a payment method", Reason::PaymentRequired),
            (422, "Validation failed: Name has already been taken", Reason::NameTaken),
            (400, "MANIFEST_UNKNOWN: manifest unknown", Reason::ImageNotFound),
            (400, "json: cannot unmarshal array into Go value of type main.stopRequest", Reason::Other),
        ] {
            assert_eq!(text(status, error), expected, "{error}");
        }
    }

    #[test]
    fn the_status_enum_outranks_the_text() {
        for (code, expected) in [
            ("name_taken", Reason::NameTaken),
            ("insufficient_capacity", Reason::RegionFull),
            ("volume_placement_capacity", Reason::VolumeHostFull),
        ] {
            let body = format!(r#"{{"error":"aborted: machine still attempting to start","status":"{code}"}}"#);
            assert_eq!(reason(409, &body), expected);
        }
    }

    #[test]
    fn an_unknown_path_is_not_an_absent_thing() {
        assert_eq!(reason(404, "404 page not found\n"), Reason::NoSuchRoute);
        for page in ["<html><title>404 Not Found</title><hr>nginx</html>", "default backend - 404", "Not Found\n"] {
            assert_eq!(reason(404, page), Reason::NoSuchRoute, "{page}");
        }
        assert!(!Reason::NoSuchRoute.is_not_found());
        assert_eq!(reason(404, ""), Reason::NotFound);
    }
}
