//! Values that are text with a grammar: names, sizes, percentages, images. Each has its pattern for the JSON Schema
//! and the function that decides; a test holds the two together.

use std::borrow::Cow;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use super::regions::REGIONS;
use crate::names::ClusterName;

/// Declares the types and `accepts`, which finds their functions by the name the schema refers to them by.
macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident { title: $title:literal, pattern: $pattern:expr,
        examples: [$($example:literal),+], accepts: $accepts:expr })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
            #[cfg_attr(test, derive(serde::Serialize))]
            pub(crate) struct $name(pub(crate) String);

            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!({
                        "type": "string",
                        "title": $title,
                        "description": concat!($($doc, "\n"),+).trim(),
                        "pattern": $pattern,
                        "examples": [$($example),+],
                    })
                }
            }
        )+

        /// Whether the text type that the schema calls `name` takes `text`. What has no grammar takes everything.
        pub(crate) fn accepts(name: &str, text: &str) -> bool {
            match name {
                $(stringify!($name) => $accepts(text),)+
                _ => true,
            }
        }

        #[cfg(test)]
        pub(crate) const PATTERNS: &[(&str, &str, &[&str])] =
            &[$((stringify!($name), $pattern, &[$($example),+])),+];
    };
}

texts! {
    /// Lower-case letters, digits and dashes, 3 to 63 of them, starting with a letter and not ending with a dash.
    Name {
        title: "a cluster name",
        pattern: "^[a-z][a-z0-9-]{1,61}[a-z0-9]$",
        examples: ["orders-db"],
        accepts: |text: &str| ClusterName::from_str(text).is_ok()
    }
    /// As `fly orgs list` shows it.
    OrganizationSlug {
        title: "the slug of a Fly organization",
        pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        examples: ["personal", "acme"],
        accepts: is_slug
    }
    /// Gigabytes as Fly counts them (1 GB = 1024 MB).
    VolumeSize {
        title: "a size in GB",
        pattern: "^[1-9][0-9]{0,5}GB$",
        examples: ["40GB"],
        accepts: |text: &str| gigabytes(text).is_some()
    }
    /// Megabytes or gigabytes as Fly counts them (1 GB = 1024 MB).
    MemorySize {
        title: "an amount of memory in MB or GB",
        pattern: "^[1-9][0-9]{0,6}(MB|GB)$",
        examples: ["4GB", "512MB"],
        accepts: |text: &str| megabytes(text).is_some()
    }
    /// Kilobytes, megabytes or gigabytes as PostgreSQL counts them (1 MB = 1024 kB).
    WalSize {
        title: "an amount of WAL in kB, MB or GB",
        pattern: "^[1-9][0-9]{0,8}(kB|MB|GB)$",
        examples: ["16MB"],
        accepts: |text: &str| bytes(text).is_some()
    }
    /// A whole number of per cent.
    Percentage {
        title: "a percentage",
        pattern: "^[1-9][0-9]{0,2}%$",
        examples: ["80%"],
        accepts: |text: &str| percent(text).is_some()
    }
    /// `[registry/]name[:tag][@sha256:digest]`; a digest is a pin.
    Image {
        title: "an image",
        pattern: concat!(
            "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?/)?",
            "[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*",
            "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?$"
        ),
        examples: ["registry.fly.io/acme-postgres:15", "flypg/postgres:15"],
        accepts: |text: &str| ImageParts::of(text).is_some()
    }
}

/// Where a group of nodes runs: one of Fly's regions.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub(crate) struct RegionCode(pub(crate) String);

impl JsonSchema for RegionCode {
    fn schema_name() -> Cow<'static, str> {
        "RegionCode".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let regions: Vec<_> =
            REGIONS.iter().map(|(code, place)| serde_json::json!({"const": code, "description": place})).collect();
        json_schema!({ "type": "string", "title": "a Fly region", "oneOf": regions, "examples": ["ord"] })
    }
}

/// The number before `unit`; no sign, no leading zero, at most `digits` digits.
fn number_before(text: &str, unit: &str, digits: usize) -> Option<u64> {
    let number = text.strip_suffix(unit)?;
    let good =
        (1..=digits).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
    good.then(|| number.parse().ok()).flatten()
}

pub(crate) fn gigabytes(text: &str) -> Option<u32> {
    number_before(text, "GB", 6).and_then(|n| n.try_into().ok())
}

pub(crate) fn megabytes(text: &str) -> Option<u64> {
    number_before(text, "MB", 7).or_else(|| number_before(text, "GB", 7).map(|n| n * 1024))
}

pub(crate) fn bytes(text: &str) -> Option<u64> {
    [("kB", 10), ("MB", 20), ("GB", 30)]
        .into_iter()
        .find_map(|(unit, shift)| Some(number_before(text, unit, 9)? << shift))
}

pub(crate) fn percent(text: &str) -> Option<u32> {
    number_before(text, "%", 3).and_then(|n| n.try_into().ok())
}

fn is_slug(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&bytes.len())
        && alphanumeric(&bytes[0])
        && alphanumeric(&bytes[bytes.len() - 1])
        && bytes.iter().all(|b| alphanumeric(b) || *b == b'-')
}

/// An image reference, taken apart.
pub(crate) struct ImageParts<'a> {
    /// With the registry, if one is named.
    pub(crate) repository: &'a str,
    pub(crate) tag: Option<&'a str>,
}

impl<'a> ImageParts<'a> {
    /// The grammar of container image references, with the one digest algorithm that registries use.
    pub(crate) fn of(text: &'a str) -> Option<Self> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it, the registry's port.
        let name_start = rest.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match rest[name_start..].find(':') {
            Some(at) => (&rest[..name_start + at], Some(&rest[name_start + at + 1..])),
            None => (rest, None),
        };
        let good_digest = digest.is_none_or(|digest| {
            digest.strip_prefix("sha256:").is_some_and(|hex| {
                hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            })
        });
        (good_digest && tag.is_none_or(is_tag) && is_repository(repository)).then_some(Self { repository, tag })
    }
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    (1..=128).contains(&bytes.len())
        && !matches!(bytes[0], b'.' | b'-')
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_repository(text: &str) -> bool {
    let mut components = text.split('/');
    let first = components.next().unwrap_or_default();
    let more = text.contains('/');
    (is_path_component(first) || (more && is_registry(first))) && components.all(is_path_component)
}

/// Runs of letters and digits with separators between them, none at either end.
fn is_path_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'.' | b'_' | b'-'))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let bytes = host.as_bytes();
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|b| alphanumeric(b) || matches!(b, b'.' | b'-'))
        && port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()))
}

/// What was probably meant by `text`, which the type called `name` does not take.
pub(crate) fn repaired(name: &str, text: &str) -> Option<String> {
    let tight: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let dashed = text.trim().to_lowercase().replace(['_', '.', ' '], "-");
    let mut candidates = vec![tight.clone(), tight.to_lowercase(), dashed];
    if text.trim().contains(' ') {
        candidates.rotate_right(1); // words of a name are joined by dashes
    }
    let digits = tight.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = tight.split_at(digits);
    let number = number.trim_start_matches('0');
    let units: &[&str] = match unit.to_ascii_lowercase().as_str() {
        "k" | "kb" | "ki" | "kib" => &["kB"],
        "m" | "mb" | "mi" | "mib" => &["MB"],
        "g" | "gb" | "gi" | "gib" => &["GB"],
        "percent" => &["%"],
        "" => &["%", "GB", "MB"],
        "t" | "tb" | "ti" | "tib" => {
            if let Ok(terabytes) = number.parse::<u64>() {
                candidates.push(format!("{}GB", terabytes.saturating_mul(1024)));
            }
            &[]
        }
        _ => &[],
    };
    candidates.extend(units.iter().map(|unit| format!("{number}{unit}")));
    candidates.into_iter().find(|candidate| candidate != text && accepts(name, candidate))
}

/// The rule of a name in words, where its pattern alone would not be understood.
pub(crate) fn rule(name: &str) -> Option<&'static str> {
    match name {
        "Name" => Some(ClusterName::RULE),
        "OrganizationSlug" => Some("`fly orgs list` shows the slugs of your organizations"),
        "Image" => {
            Some("an image is written `registry/name:tag`, in lower case, and may end in `@sha256:` and a digest")
        }
        _ => None,
    }
}
