//! The names everything is found by. All of them are derived from the spec, so that a create whose answer was
//! lost is recognised at the next look.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that did not have the form it needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {kind}: {rule}")]
pub struct BadName {
    given: String,
    kind: &'static str,
    rule: &'static str,
}

macro_rules! string_serde {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    };
}

/// A cluster's name, which is also the name of its Fly app: `^[a-z][a-z0-9-]{1,61}[a-z0-9]$`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterName(String);

impl ClusterName {
    /// The rule in words, for diagnostics.
    pub const RULE: &str =
        "3 to 63 lower-case letters, digits and dashes, starting with a letter and not ending with a dash";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = BadName;

    fn from_str(s: &str) -> Result<Self, BadName> {
        let bytes = s.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        let good = (3..=63).contains(&bytes.len())
            && bytes[0].is_ascii_lowercase()
            && bytes.iter().all(inner)
            && bytes[bytes.len() - 1] != b'-';
        if good {
            Ok(Self(s.to_owned()))
        } else {
            Err(BadName { given: s.to_owned(), kind: "cluster name", rule: Self::RULE })
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
string_serde!(ClusterName);

/// A Fly region code: three lower-case letters, such as `ord`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(String);

impl Region {
    pub const RULE: &str = "three lower-case letters, such as `ord`";

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Region {
    type Err = BadName;

    fn from_str(s: &str) -> Result<Self, BadName> {
        if s.len() == 3 && s.bytes().all(|b| b.is_ascii_lowercase()) {
            Ok(Self(s.to_owned()))
        } else {
            Err(BadName { given: s.to_owned(), kind: "region code", rule: Self::RULE })
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
string_serde!(Region);

/// A node's name, `<region>-<ordinal>`: `ord-1`. Its Machine has this name and its volume is [`NodeName::volume`].
///
/// Ordinals start at 1 and are never reused while anything of that name is left: a lost node's successor takes the
/// next free one, because Fly may keep the old name taken.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName {
    pub region: Region,
    pub ordinal: u32,
}

impl NodeName {
    pub fn new(region: Region, ordinal: u32) -> Self {
        Self { region, ordinal }
    }

    /// The volume's name, `pg_ord_1`: a volume without a Machine still says whose data it holds.
    pub fn volume(&self) -> String {
        format!("pg_{}_{}", self.region, self.ordinal)
    }

    /// The node whose data a volume of this name holds.
    pub fn of_volume(volume: &str) -> Option<Self> {
        let (region, ordinal) = volume.strip_prefix("pg_")?.split_once('_')?;
        Self::from_parts(region, ordinal)
    }

    /// The physical replication slot that keeps WAL for this node on its upstream; also its `application_name`.
    pub fn slot(&self) -> String {
        format!("flypg_{}_{}", self.region, self.ordinal)
    }

    /// The node a replication slot or `application_name` of ours belongs to.
    pub fn of_slot(slot: &str) -> Option<Self> {
        let (region, ordinal) = slot.strip_prefix("flypg_")?.split_once('_')?;
        Self::from_parts(region, ordinal)
    }

    fn from_parts(region: &str, ordinal: &str) -> Option<Self> {
        if ordinal.starts_with('0') || !ordinal.bytes().all(|b| b.is_ascii_digit()) {
            return None; // `ord-01` would be a second spelling of `ord-1`
        }
        Some(Self { region: region.parse().ok()?, ordinal: ordinal.parse().ok()? })
    }
}

impl FromStr for NodeName {
    type Err = BadName;

    fn from_str(s: &str) -> Result<Self, BadName> {
        s.split_once('-').and_then(|(region, ordinal)| Self::from_parts(region, ordinal)).ok_or(BadName {
            given: s.to_owned(),
            kind: "node name",
            rule: "a region code, a dash and a number from 1, such as `ord-1`",
        })
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.region, self.ordinal)
    }
}
string_serde!(NodeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        for good in ["orders-db", "abc", "a-1"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "ab", "1db", "-db", "db-", "Orders", "or_ders", long.as_str(), "ördersdb"] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
        let node: NodeName = "ord-12".parse().unwrap();
        assert_eq!(node.volume(), "pg_ord_12");
        assert_eq!(NodeName::of_volume("pg_ord_12"), Some(node.clone()));
        assert_eq!(NodeName::of_slot(&node.slot()), Some(node));
        for bad in
            ["ord", "ord-", "ord-0", "ord-01", "ord-1x", "ORD-1", "ord-1-2", "ord--1", "ord-+1", "ord-4294967296"]
        {
            assert!(bad.parse::<NodeName>().is_err(), "{bad}");
        }
        for foreign in ["data", "pg_ord", "pg_ord_0", "pg_ord_1_2", "pg_data"] {
            assert_eq!(NodeName::of_volume(foreign), None, "{foreign}");
        }
    }
}
