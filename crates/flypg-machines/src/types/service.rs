use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::open::{is_false, nullable, open_enum};
use super::{Extra, GoDuration};

/// A port that Fly's proxy serves for the Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_port: Option<u16>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostart: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autostop: Option<Autostop>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_machines_running: Option<u32>,
    /// These gate routing, unlike the top-level ones.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    #[serde(flatten)]
    pub extra: Extra,
}

open_enum! {
    @type
    /// What the proxy does with an idle Machine. Written as a string; a server reads `off` and `stop` back as
    /// `false` and `true`, which is accepted.
    Autostop {
        Off = "off",
        Stop = "stop",
        Suspend = "suspend",
    }
}

impl Autostop {
    /// The spelling in the server's answers: `false`, `true`, `"suspend"`.
    pub fn as_answered(&self) -> serde_json::Value {
        match self {
            Self::Off => false.into(),
            Self::Stop => true.into(),
            other => other.as_str().into(),
        }
    }
}

impl<'de> Deserialize<'de> for Autostop {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct BoolOrText;

        impl Visitor<'_> for BoolOrText {
            type Value = Autostop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"off\", \"stop\", \"suspend\" or a bool")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Autostop, E> {
                Ok(if on { Autostop::Stop } else { Autostop::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Autostop, E> {
                Ok(Autostop::from(text))
            }
        }

        from.deserialize_any(BoolOrText)
    }
}

/// `port`, or `start_port` and `end_port`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Port {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_port: Option<u16>,
    /// Of `http`, `tls`, `pg_tls`, `proxy_proto`; none is raw TCP.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub force_https: bool,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Concurrency {
    /// `connections` or `requests`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_limit: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_limit: Option<u64>,
    #[serde(flatten)]
    pub extra: Extra,
}

open_enum! {
    CheckType {
        Tcp = "tcp",
        Http = "http",
    }
}

open_enum! {
    /// What a top-level check is for.
    CheckKind {
        Informational = "informational",
        /// Failing takes the Machine out of the load balancer's pool.
        Readiness = "readiness",
    }
}

/// A health check of a Machine or of one of its services. It never stops or restarts the Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub check_type: Option<CheckType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<GoDuration>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<GoDuration>,
    /// Top-level checks only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<CheckKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HttpHeader>,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub tls_skip_verify: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HttpHeader {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    #[serde(flatten)]
    pub extra: Extra,
}

open_enum! {
    CheckHealth {
        Passing = "passing",
        Warning = "warning",
        Critical = "critical",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckStatus {
    #[serde(default, deserialize_with = "nullable")]
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub status: CheckHealth,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The last change, not the last run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<String>,
    #[serde(flatten)]
    pub extra: Extra,
}
