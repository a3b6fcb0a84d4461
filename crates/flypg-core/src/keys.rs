//! Keys: one master key of the controller, one key per cluster, one password per role; each derived from the one
//! before by HKDF-SHA-256 (RFC 5869), so none is stored twice and none is lost.

use std::fmt;
use std::str::FromStr;

use hkdf::Hkdf;
use sha2::Sha256;

use crate::names::ClusterName;

/// 256 bits of secret. Never printed: its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a key is 64 hexadecimal digits")]
pub struct BadKey;

impl Key {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// For comparison in constant time and for sending; not for logs.
    pub fn expose(&self) -> String {
        hex(&self.0)
    }

    /// The key of one cluster, of which `self` is the controller's master key.
    pub fn of_cluster(&self, cluster: &ClusterName) -> Key {
        Key(self.derive(&format!("flypg/v1/cluster/{cluster}")))
    }

    /// The password of one of the roles that the agent makes, of which `self` is the cluster's key.
    pub fn password(&self, role: Role) -> String {
        hex(&self.derive(&format!("flypg/v1/role/{}", role.name()))[..20])
    }

    fn derive(&self, info: &str) -> [u8; 32] {
        let mut out = [0; 32];
        Hkdf::<Sha256>::new(Some(b"flypg"), &self.0)
            .expand(info.as_bytes(), &mut out)
            .expect("32 bytes is within what HKDF-SHA-256 can give");
        out
    }
}

/// The Postgres roles that the agent keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The agent's own superuser. No gate lets it in.
    Agent,
    /// Streams WAL, through the replication gate only.
    Replication,
    /// The person's: owner of the database `postgres`, and superuser as Fly Postgres users expect.
    Postgres,
}

impl Role {
    pub const fn name(self) -> &'static str {
        match self {
            Role::Agent => "flypg",
            Role::Replication => "flypg_replication",
            Role::Postgres => "postgres",
        }
    }
}

impl FromStr for Key {
    type Err = BadKey;

    fn from_str(s: &str) -> Result<Self, BadKey> {
        let digits = s.trim();
        if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(BadKey);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| BadKey)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| BadKey)?;
        }
        Ok(Key(bytes))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_stable_and_silent() {
        let master = Key::from_bytes([7; 32]);
        let orders = master.of_cluster(&"orders-db".parse().unwrap());
        let users = master.of_cluster(&"users-db".parse().unwrap());
        assert_ne!(orders, users);
        assert_ne!(orders.password(Role::Postgres), orders.password(Role::Agent));
        assert_ne!(orders.password(Role::Postgres), users.password(Role::Postgres));
        assert_eq!(orders.expose().parse::<Key>().unwrap(), orders);
        assert_eq!(format!("{orders:?}"), "Key(…)");
        // A change here would lock every running cluster out.
        assert_eq!(orders.password(Role::Postgres), "f237f98e84b1afe57e4ead635a6a0479931c2730");
        for bad in ["", "abc", &"g".repeat(64), &"0".repeat(63)] {
            assert_eq!(bad.parse::<Key>(), Err(BadKey));
        }
    }
}
