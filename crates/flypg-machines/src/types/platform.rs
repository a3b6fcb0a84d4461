use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::open::nullable;
use super::{Extra, Guest};

/// Answer to `GET /v1/platform/regions`. The OpenAPI document has these keys in lower case, the live server in
/// Pascal case; both are read, Pascal case is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Regions {
    #[serde(rename = "Regions", alias = "regions", default, deserialize_with = "nullable")]
    pub regions: Vec<Region>,
    #[serde(rename = "Nearest", alias = "nearest", default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Region {
    #[serde(alias = "Code")]
    pub code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latitude: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longitude: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_available: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_paid_plan: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub geo_region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mpg_available: Option<bool>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Body of `POST /v1/platform/placements`: where would this fit?
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlacementQuery {
    #[serde(default, deserialize_with = "nullable")]
    pub org_slug: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// 0: up to the organisation's limit in each region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Guest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size_bytes: Option<u64>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, i64>,
    #[serde(flatten)]
    pub extra: Extra,
}

/// Answer to `POST /v1/platform/placements`; both key cases, like [`Regions`]. A region is there only if it has
/// room.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Placements {
    #[serde(rename = "Regions", alias = "regions", default, deserialize_with = "nullable")]
    pub regions: Vec<Placement>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    #[serde(rename = "Region", alias = "region")]
    pub region: String,
    #[serde(rename = "Count", alias = "count", default, deserialize_with = "nullable")]
    pub count: u64,
    #[serde(rename = "Concurrency", alias = "concurrency", default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
}
