//! IP assignments of apps, and the private addresses of machines.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::World;
use super::refusal::Refusal;
use super::regions;
use super::time::Millis;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpAssignment {
    pub ip: String,
    /// `v4`, `v6`, `shared_v4`, `private_v6`, `egress_v4`, `egress_v6`.
    pub kind: String,
    pub region: String,
    pub service_name: String,
    /// Network name and organisation, for Flycast only.
    pub network: Option<(String, String)>,
    pub created_at: Millis,
}

/// The body of `POST …/ip_assignments`.
#[derive(Clone, Debug, Default)]
pub struct AssignIp {
    pub kind: String,
    pub region: Option<String>,
    pub org: Option<String>,
    pub network: Option<String>,
    pub service_name: Option<String>,
}

/// How machines get addresses of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressPlan {
    /// `fdaa:…`, as on Fly; nothing listens there.
    SixPn,
    /// `127.<octet>.x.y`, where processes can listen. One octet per emulator.
    Loopback { octet: u8 },
    /// `fdaa:<tag>:…`, each machine in a network namespace of its own. One tag per emulator.
    Namespaces { tag: u16 },
}

/// Addresses given out, by number, so that none is given twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub plan: AddressPlan,
    next: u64,
    #[serde(skip)]
    taken: BTreeSet<String>,
}

impl Addresses {
    #[must_use]
    pub const fn new(plan: AddressPlan) -> Self {
        Self { plan, next: 0, taken: BTreeSet::new() }
    }

    /// Without the derived part.
    pub(crate) fn bare(&self) -> Self {
        Self { plan: self.plan.clone(), next: self.next, taken: BTreeSet::new() }
    }

    /// The next free address; a freed one is used again only after all others.
    pub(crate) fn take(&mut self, network: &str, host: &str) -> String {
        loop {
            let number = self.next;
            self.next += 1;
            let address = match self.plan {
                // fdaa (16) | network (32) | host (32) | machine (32) | 2
                AddressPlan::SixPn => {
                    let digest = |text: &str| Sha256::digest(text.as_bytes());
                    let (net, host) = (digest(network), digest(host));
                    format!(
                        "fdaa:{:x}:{:x}:a7b:{:x}:{:x}:{:x}:2",
                        u16::from(net[0]),
                        u16::from_be_bytes([net[1], net[2]]),
                        u16::from_be_bytes([host[0], host[1]]),
                        number >> 16 & 0xffff,
                        number & 0xffff
                    )
                }
                // fdaa (16) | emulator (16) | network (16) | 0a7b | host (16) | machine (32) | 2
                AddressPlan::Namespaces { tag } => {
                    let digest = |text: &str| Sha256::digest(text.as_bytes());
                    let (net, host) = (digest(network), digest(host));
                    let (net, host) = (u16::from_be_bytes([net[1], net[2]]), u16::from_be_bytes([host[0], host[1]]));
                    let (high, low) = ((number >> 16 & 0xffff) as u16, (number & 0xffff) as u16);
                    // As sockets write it, since somebody listens there and is heard from.
                    Ipv6Addr::new(0xfdaa, tag, net, 0xa7b, host, high, low, 2).to_string()
                }
                AddressPlan::Loopback { octet } => {
                    // .0 and .255 are left out: some software takes them for networks and broadcasts.
                    let (high, low) = (number / 254 % 256, number % 254 + 1);
                    format!("127.{octet}.{high}.{low}")
                }
            };
            if self.taken.insert(address.clone()) {
                return address;
            }
        }
    }

    pub(crate) fn give_back(&mut self, address: &str) {
        self.taken.remove(address);
    }

    pub(crate) fn reclaim(&mut self, address: &str) {
        self.taken.insert(address.to_owned());
    }
}

impl World {
    /// # Errors
    /// 404 for an unknown app, 400 for an unknown type or region.
    pub fn assign_ip(&mut self, now: Millis, app: &str, assign: AssignIp) -> Result<Vec<IpAssignment>, Refusal> {
        let (org, network) = {
            let app = self.app(app)?;
            (app.org.clone(), app.network.clone())
        };
        let region = assign.region.filter(|region| !region.is_empty());
        if let Some(region) = region.as_deref().filter(|region| *region != "global") {
            regions::find(region).ok_or_else(|| Refusal::unknown_region(region))?;
        }
        let kinds: &[&str] = match assign.kind.as_str() {
            "v4" => &["v4"],
            "v6" => &["v6"],
            "shared_v4" => &["shared_v4"],
            "private_v6" => &["private_v6"],
            "egress_v4" => &["egress_v4"],
            "egress_v6" => &["egress_v6"],
            "egress_pair" => &["egress_v4", "egress_v6"],
            other => return Err(Refusal::invalid(&format!("unknown ip assignment type '{other}'"))),
        };
        let flycast = assign.kind == "private_v6";
        let mut made = Vec::new();
        for kind in kinds {
            let bits = self.ids.bits();
            let ip = match *kind {
                "v4" | "egress_v4" => format!("137.66.{}.{}", bits >> 8 & 0xff, bits & 0xff),
                "shared_v4" => format!("66.241.{}.{}", 124 + (bits >> 8 & 1), bits & 0xff),
                "private_v6" => {
                    format!("fdaa:{:x}:{:x}:0:1::{:x}", bits & 0xff, bits >> 8 & 0xffff, (bits >> 32 & 0xff) + 2)
                }
                _ => format!("2a09:8280:1::{:x}:{:x}:0", bits >> 16 & 0xff, bits & 0xffff),
            };
            let name = |given: &Option<String>, own: &str| {
                given.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| own.to_owned())
            };
            made.push(IpAssignment {
                ip,
                kind: (*kind).to_owned(),
                region: region.clone().unwrap_or_else(|| "global".to_owned()),
                service_name: assign.service_name.clone().unwrap_or_default(),
                network: flycast.then(|| (name(&assign.network, &network), name(&assign.org, &org))),
                created_at: now,
            });
        }
        self.edit_app(app)?.ips.extend(made.iter().cloned());
        Ok(made)
    }

    /// # Errors
    /// 404.
    pub fn release_ip(&mut self, app: &str, ip: &str) -> Result<(), Refusal> {
        if !self.app(app)?.ips.iter().any(|assigned| assigned.ip == ip) {
            return Err(Refusal::ip_not_found());
        }
        self.edit_app(app)?.ips.retain(|assigned| assigned.ip != ip);
        Ok(())
    }
}
