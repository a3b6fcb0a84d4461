use serde::{Deserialize, Serialize};

use super::Extra;
use super::open::{nullable, open_enum};

open_enum! {
    IpType {
        V4 = "v4",
        V6 = "v6",
        SharedV4 = "shared_v4",
        /// Flycast.
        PrivateV6 = "private_v6",
        EgressV4 = "egress_v4",
        EgressV6 = "egress_v6",
        EgressPair = "egress_pair",
    }
}

/// An address of an app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpAssignment {
    /// Absent for an `egress_pair`, which has `ip_pair`.
    #[serde(default)]
    pub ip: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_pair: Option<IpPair>,
    /// Not in the OpenAPI document, but in live answers.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub ip_type: Option<IpType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Flycast only: where it can be reached from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpNetwork>,
    #[serde(flatten)]
    pub extra: Extra,
}

impl IpAssignment {
    /// Whether this is a Flycast address: by its type, else by the 6PN prefix (as fly-go tells it).
    pub fn is_flycast(&self) -> bool {
        match &self.ip_type {
            Some(ip_type) => *ip_type == IpType::PrivateV6,
            None => self.ip.as_deref().is_some_and(|ip| ip.starts_with("fdaa:")),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpPair {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v4: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpNetwork {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_slug: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `GET …/ip_assignments`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct IpAssignments {
    #[serde(default, deserialize_with = "nullable")]
    pub ips: Vec<IpAssignment>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST …/ip_assignments`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AssignIp {
    #[serde(rename = "type")]
    pub ip_type: IpType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_slug: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}
