//! A loopback network of one's own: `127.<octet>.0.0/16`.

use std::io;
use std::net::{Ipv4Addr, TcpListener};

use crate::world::ips::AddressPlan;

/// The octet, held by listening on an address in it for as long as the emulator runs.
#[derive(Debug)]
pub(crate) struct Claim {
    octet: u8,
    _held: TcpListener,
}

/// The port held at `127.<octet>.255.254`, which no machine gets before 64,000 others did.
const PORT: u16 = 4280;
const FIRST: u8 = 64;
const LAST: u8 = 250;

impl Claim {
    pub(crate) const fn octet(&self) -> u8 {
        self.octet
    }

    fn new(octet: u8) -> io::Result<Self> {
        TcpListener::bind((Ipv4Addr::new(127, octet, 255, 254), PORT)).map(|held| Self { octet, _held: held })
    }
}

/// Claims the octet kept from before, or a free one.
///
/// # Errors
/// When the kept one is in use, or none is free.
pub(crate) fn claim(kept: Option<&AddressPlan>, seed: u64) -> Result<Claim, (String, io::Error)> {
    if let Some(AddressPlan::Loopback { octet }) = kept {
        return Claim::new(*octet)
            .map_err(|error| (format!("127.{octet}.0.0/16 is in use by another emulator"), error));
    }
    let span = u64::from(LAST - FIRST + 1);
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for n in 0..span {
        let octet = FIRST + ((seed.wrapping_add(n)) % span) as u8;
        match Claim::new(octet) {
            Ok(claim) => return Ok(claim),
            Err(error) => last = error,
        }
    }
    Err(("all of 127.64.0.0 to 127.250.0.0 are in use".to_owned(), last))
}
