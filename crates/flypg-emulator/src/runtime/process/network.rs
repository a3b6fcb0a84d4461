//! What the machines of the process runtime are connected by.

use std::io;
use std::path::Path;

use tokio::process::Command;

use crate::emulator::{NetworkKind, StartError};
use crate::world::ips::AddressPlan;
use crate::world::links::Links;

use super::namespaces::Namespaces;
use super::octet;

/// The network of one emulator.
#[derive(Debug)]
pub(crate) enum Network {
    /// One loopback interface for all; a machine is an address.
    Loopback(octet::Claim),
    /// A network namespace for each machine.
    Namespaces(Namespaces),
}

impl Network {
    /// Takes the network that this world has had before, or a free one.
    ///
    /// # Errors
    /// When the one from before is in use, none is free, or namespaces cannot be made here.
    pub(crate) fn claim(kind: NetworkKind, kept: Option<&AddressPlan>, seed: u64) -> Result<Self, StartError> {
        match kind {
            NetworkKind::Loopback => {
                octet::claim(kept, seed).map(Self::Loopback).map_err(|(text, source)| StartError::Octet(text, source))
            }
            NetworkKind::Namespaces => Namespaces::claim(kept, seed).map(Self::Namespaces),
        }
    }

    /// How machines get their addresses in it.
    pub(crate) const fn plan(&self) -> AddressPlan {
        match self {
            Self::Loopback(claim) => AddressPlan::Loopback { octet: claim.octet() },
            Self::Namespaces(namespaces) => AddressPlan::Namespaces { tag: namespaces.tag() },
        }
    }

    /// Connects a machine that is about to boot, as if it had never been there before. Blocks.
    pub(super) fn connect(&self, machine: &str, address: &str) -> io::Result<()> {
        match self {
            Self::Loopback(_) => Ok(()),
            Self::Namespaces(namespaces) => namespaces.connect(machine, address),
        }
    }

    /// From now on a machine neither hears nor says anything, as one that lost its power or stands still. Blocks.
    pub(super) fn darken(&self, machine: &str) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.darken(machine, true);
        }
    }

    /// The opposite of [`Network::darken`].
    pub(super) fn lighten(&self, machine: &str) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.darken(machine, false);
        }
    }

    /// Says how bad links are to be, and that all others are to be good; [`Network::apply`] makes them so.
    pub(super) fn want_links(&self, links: Links) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.want_links(links);
        }
    }

    /// Makes links what they are wanted to be. Blocks.
    pub(super) fn apply(&self) {
        if let Self::Namespaces(namespaces) = self
            && let Err(error) = namespaces.apply()
        {
            tracing::error!(%error, "the links between machines could not be changed");
        }
    }

    /// Removes what a machine had. Blocks.
    pub(super) fn discard(&self, machine: &str) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.discard(machine);
        }
    }

    /// Machines that an earlier emulator of this network connected.
    pub(super) fn connected(&self) -> Vec<String> {
        match self {
            Self::Loopback(_) => Vec::new(),
            Self::Namespaces(namespaces) => namespaces.connected(),
        }
    }

    /// Removes everything. Blocks.
    pub(super) fn remove(&self) {
        if let Self::Namespaces(namespaces) = self {
            namespaces.remove();
        }
    }

    /// A command that runs where the machine is.
    pub(super) fn command(&self, machine: &str, program: &Path) -> Command {
        match self {
            Self::Loopback(_) => Command::new(program),
            Self::Namespaces(namespaces) => namespaces.command(machine, program),
        }
    }
}
