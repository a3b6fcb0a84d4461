use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Extra;
use super::machine_call::Ack;

/// A hold on a Machine. Who knows the nonce may act on it; everyone who may read it can know the nonce.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    pub nonce: String,
    /// Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// An address for people, `<uuid>@tokens.fly.io` for tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The Machine's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// A lease as others may see it in lists: no nonce.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseSummary {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// The answer to acquire, refresh and read.
///
/// Reads the flat lease of the OpenAPI document and the `{"status":"success","data":…}` envelope that the server
/// sends; writes the envelope.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaseAnswer(pub Lease);

impl Serialize for LeaseAnswer {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Envelope<'a> {
            status: &'static str,
            data: &'a Lease,
        }
        Envelope { status: "success", data: &self.0 }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for LeaseAnswer {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Envelope { data: Lease },
            Flat(Lease),
        }
        Either::deserialize(from).map(|either| match either {
            Either::Envelope { data } | Either::Flat(data) => Self(data),
        })
    }
}

/// Body of `POST …/lease`. fly-go sends `?ttl=` and no body instead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AcquireLease {
    /// Seconds. The server's default is not documented: always send one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `DELETE …/lease`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseReleased {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Ack>,
    #[serde(flatten)]
    pub extra: Extra,
}
