//! Machine leases: who may change a machine, until when.

use super::World;
use super::machine::{Lease, Machine};
use super::refusal::{Gate, Refusal};
use super::time::Millis;

/// What is asked of a lease.
#[derive(Clone, Copy, Debug, Default)]
pub struct TakeLease<'a> {
    /// Seconds; the knobs say what none and too many mean.
    pub ttl_s: Option<i64>,
    pub owner: &'a str,
    pub description: &'a str,
}

/// What a lease does to a call by someone without its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gated {
    /// Refused at once: update, start, restart, suspend, exec, cordon, uncordon, another lease.
    Refuse,
    /// Goes on when the lease ends: stop, destroy.
    Wait,
}

impl Machine {
    /// # Errors
    /// 409, or the time until which the call has to wait.
    pub fn gate(&self, now: Millis, nonce: Option<&str>, gated: Gated) -> Result<(), Gate> {
        let Some(lease) = self.lease_at(now).filter(|lease| nonce != Some(lease.nonce.as_str())) else { return Ok(()) };
        match gated {
            Gated::Wait => Err(Gate::Leased { until: lease.expires_at }),
            Gated::Refuse => Err(Gate::Refused(self.held(lease))),
        }
    }

    fn held(&self, lease: &Lease) -> Refusal {
        Refusal::lease_held(&self.id, &lease.owner, &lease.expires_at.rfc3339_seconds())
    }
}

impl World {
    pub(crate) fn new_lease(&mut self, now: Millis, ttl_s: Option<i64>, owner: &str, description: &str) -> Lease {
        let ttl = ttl_s.and_then(|ttl| u64::try_from(ttl).ok()).filter(|ttl| *ttl > 0);
        let ttl = ttl.unwrap_or(self.knobs.lease_default_ttl_s).min(self.knobs.lease_max_ttl_s);
        Lease {
            nonce: self.ids.nonce(),
            expires_at: now.after(ttl * 1000),
            owner: owner.to_owned(),
            description: description.to_owned(),
        }
    }

    /// Takes a lease, or with its nonce prolongs it (the nonce stays). Returns it with the machine's version.
    ///
    /// # Errors
    /// 404, 408 when the host does not answer, 409 when someone else holds it.
    pub fn take_lease(
        &mut self,
        now: Millis,
        app: &str,
        id: &str,
        nonce: Option<&str>,
        asked: TakeLease<'_>,
    ) -> Result<(Lease, String), Gate> {
        let machine = self.machine(now, app, id)?;
        machine.gate(now, nonce, Gated::Refuse)?;
        if !self.hosts.reachable(&machine.host) {
            return Err(Refusal::host_unreachable().into());
        }
        let held = machine.lease_at(now).cloned();
        let version = machine.version.clone();
        let mut lease = self.new_lease(now, asked.ttl_s, asked.owner, asked.description);
        if let Some(held) = held {
            lease.nonce = held.nonce;
            lease.owner = held.owner;
            if asked.description.is_empty() {
                lease.description = held.description;
            }
        }
        self.edit_machine(app, id)?.lease = Some(lease.clone());
        Ok((lease, version))
    }

    /// # Errors
    /// 404 without a lease, 400 without a nonce, 409 with the wrong one.
    pub fn release_lease(&mut self, now: Millis, app: &str, id: &str, nonce: Option<&str>) -> Result<(), Gate> {
        let machine = self.machine(now, app, id)?;
        let Some(lease) = machine.lease_at(now) else { return Err(Refusal::lease_not_found().into()) };
        match nonce {
            None => Err(Refusal::invalid("the fly-machine-lease-nonce header is required").into()),
            Some(nonce) if nonce != lease.nonce => Err(machine.held(lease).into()),
            Some(_) => {
                self.edit_machine(app, id)?.lease = None;
                Ok(())
            }
        }
    }
}
